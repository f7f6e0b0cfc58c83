"""The fused divergence: that of the logits, in value, gradient and precision, in less memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import losses
from distill_lib.losses import fused_divergence

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "kl": (losses.kl, {}),
    "reverse_kl": (losses.reverse_kl, {}),
    "jsd": (losses.jsd, {"beta": 0.3}),
    "normalized jsd": (losses.jsd, {"beta": 0.3, "normalized": True}),
    "jsd at 0": (losses.jsd, {"beta": 0.0, "normalized": True}),
    "jsd at 1": (losses.jsd, {"beta": 1.0, "normalized": True}),
}
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
        ],
    ),
]
Sides = dict[str, Tensor]


def sides(
    dtype: torch.dtype = torch.float64, device: str = "cpu", classes: int = 11, bias: bool = True
) -> Sides:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(device, dtype)

    found = {
        "student": normal(3, 5, 4),
        "teacher": normal(3, 5, 6),
        "student_head": normal(classes, 4),
        "teacher_head": normal(classes, 6),
    }
    biases = {"student_bias": normal(classes), "teacher_bias": normal(classes)}
    return {**found, **biases} if bias else found


def grown(given: Sides) -> list[Tensor]:
    return [x.requires_grad_() for name, x in given.items() if name.startswith("student")]


def by_logits(given: Sides, loss: Any, temperature: float, **options: Any) -> Tensor:
    z, v = (
        given[who] @ given[f"{who}_head"].T + given.get(f"{who}_bias", 0.0)
        for who in ("student", "teacher")
    )
    found: Tensor = loss(student=z, teacher=v, temperature=temperature, **options)
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weights", ["alike", "unlike"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_logits(
    name: str, temperature: float, bias: bool, masked: bool, weights: str, device: str
) -> None:
    loss, options = CASES[name]
    given = sides(bias=bias, device=device)
    wanted = grown(given)
    mask = torch.rand(3, 5, device=device) < 0.6 if masked else None
    got = fused_divergence(
        **given, loss=loss, temperature=temperature, mask=mask, chunk=4, **options
    )
    want = by_logits(given, loss, temperature, **options)
    want = want if mask is None else want * mask
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)
    factors = torch.full((3, 5), 0.25) if weights == "alike" else torch.rand(3, 5)
    factors = factors.to(want)
    grads = [torch.autograd.grad((x * factors).sum(), wanted) for x in (got, want)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_finite_differences(name: str) -> None:
    loss, options = CASES[name]
    given = sides(classes=5)
    names = [k for k in given if k.startswith("student")]

    def call(*changed: Tensor) -> Tensor:
        now = {**given, **dict(zip(names, changed, strict=True))}
        return fused_divergence(**now, loss=loss, temperature=1.5, chunk=4, **options)

    assert torch.autograd.gradcheck(call, grown(given))


@given(st.integers(1, 40), st.integers(0, 15), st.integers(2, 30))
def test_law_the_chunk_does_not_matter(chunk: int, left: int, classes: int) -> None:
    given = sides(classes=classes)
    mask = torch.ones(15, dtype=torch.bool)
    mask[:left] = False
    mask = mask.view(3, 5)
    got, one = (fused_divergence(**given, mask=mask, chunk=n) for n in (chunk, 1))
    torch.testing.assert_close(got, one, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("weights", ["alike", "unlike"])
def test_backward_twice_is_backward_twice(weights: str, times: int) -> None:
    given = sides()
    wanted = grown(given)
    factors = torch.ones(3, 5) if weights == "alike" else torch.rand(3, 5)
    value = (fused_divergence(**given, chunk=4) * factors).sum()
    (by_logits(given, losses.kl, 1.0) * factors).sum().backward()
    want = [times * x.grad for x in wanted if x.grad is not None]
    for x in wanted:
        x.grad = None
    for _ in range(times):
        value.backward(retain_graph=True)
    torch.testing.assert_close([x.grad for x in wanted], want)


def test_nothing_reaches_the_teacher() -> None:
    given = {k: x.requires_grad_() for k, x in sides().items()}
    fused_divergence(**given).sum().backward()
    assert all((x.grad is None) == k.startswith("teacher") for k, x in given.items())


@pytest.mark.parametrize("only", ["student", "student_head", "student_bias", "nothing"])
def test_only_what_is_wanted_gets_a_gradient(only: str) -> None:
    given = sides()
    for name, x in given.items():
        x.requires_grad_(name == only)
    value = fused_divergence(**given).sum()
    if only == "nothing":
        assert not value.requires_grad
        return
    value.backward()
    assert [k for k, x in given.items() if x.grad is not None] == [only]


def test_a_second_derivative_is_refused() -> None:
    given = sides()
    (h, *_) = grown(given)
    (grad,) = torch.autograd.grad(fused_divergence(**given).square().sum(), h, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_what_is_masked_is_not_computed() -> None:
    """Not even nan harms there, and an empty batch has gradients of 0."""
    given = sides()
    given["student"][0] = math.nan
    given["teacher"][0] = math.inf
    wanted = grown(given)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[0] = False
    value = fused_divergence(**given, mask=mask)
    assert (value[0] == 0).all()
    value.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in wanted)
    nothing = fused_divergence(**given, mask=mask & False)
    grads = torch.autograd.grad(nothing.sum(), wanted)
    assert all((g == 0).all() for g in grads)


@pytest.mark.parametrize("name", CASES)
def test_excluded_classes_cost_nothing(name: str) -> None:
    loss, options = CASES[name]
    given = sides()
    given["student_bias"][8:] = given["teacher_bias"][8:] = -math.inf
    fewer = {k: x[:8] if k.endswith(("head", "bias")) else x for k, x in given.items()}
    wanted = grown(given)
    got = fused_divergence(**given, loss=loss, **options)
    torch.testing.assert_close(got, fused_divergence(**fewer, loss=loss, **options))
    grads = torch.autograd.grad(got.sum(), wanted)
    assert all(g.isfinite().all() for g in grads)
    assert (grads[1][8:] == 0).all() and (grads[2][8:] == 0).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_computed_in_float32(name: str, half: torch.dtype, device: str) -> None:
    loss, options = CASES[name]
    given = sides(half, device, classes=200)
    wanted = grown(given)
    with torch.autocast(device, dtype=torch.bfloat16):  # which must not reach it
        got = fused_divergence(**given, loss=loss, chunk=4, **options)
    exact = {k: x.detach().double() for k, x in given.items()}
    reference = grown(exact)
    want = by_logits(exact, loss, 1.0, **options)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)
    grads = torch.autograd.grad(got.mean(), wanted)
    exacts = torch.autograd.grad(want.mean(), reference)
    for g, e in zip(grads, exacts, strict=True):
        assert g.dtype == half
        torch.testing.assert_close(g.double(), e, rtol=2e-2, atol=1e-4)


def test_float32_equals_float64_for_all_three() -> None:
    given = sides(torch.float32, classes=5000)
    for loss, options in CASES.values():
        wanted = grown(given)
        exact = {k: x.detach().double() for k, x in given.items()}
        got = fused_divergence(**given, loss=loss, **options)
        want = by_logits(exact, loss, 1.0, **options)
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-6)
        grads = torch.autograd.grad(got.mean(), wanted)
        reference = grown(exact)
        exacts = torch.autograd.grad(by_logits(exact, loss, 1.0, **options).mean(), reference)
        for g, e in zip(grads, exacts, strict=True):
            torch.testing.assert_close(g.double(), e, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_head": torch.zeros(12, 6)}, r"11 and 12 classes.*teacher_head\[:C\].*align"),
        ({"student_head": torch.zeros(11, 5)}, r"student's hidden states \[\.\.\., D\]"),
        ({"teacher_bias": torch.zeros(3)}, "teacher's hidden states"),
        ({"teacher": torch.zeros(3, 4, 6)}, "same positions"),
        ({"mask": torch.ones(3, 4)}, r"mask \[3, 5\]"),
        ({"temperature": 0.0}, "temperature"),
        ({"chunk": 0}, "chunk"),
        ({"loss": losses.tvd}, r"losses\.kl, losses\.reverse_kl and losses\.jsd.*tvd"),
        ({"loss": losses.jsd, "beta": 2.0}, "beta"),
        ({"loss": losses.jsd, "beta": 0.0}, "0 for every student"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fused_divergence(**{**sides(bias="teacher_bias" in change), **change})


def test_an_option_of_another_loss_is_refused() -> None:
    with pytest.raises(TypeError, match="kl takes no argument 'beta'"):
        fused_divergence(**sides(), beta=0.5)


def test_logits_never_exist_as_a_whole() -> None:
    """Counted by the allocator: a tenth of one matrix of logits, gradients of the head aside."""
    from torch.profiler import ProfilerActivity, profile

    n, classes, width = 1024, 4096, 8
    h, head = torch.randn(n, width).requires_grad_(), torch.randn(classes, width).requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        sides = {"student_head": head, "teacher_head": head.detach()}
        fused_divergence(student=h, teacher=-h, **sides, chunk=16).mean().backward()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    assert 0 < most < 4 * n * classes / 10
