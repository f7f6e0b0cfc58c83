"""What all losses keep: per-item values, types, gradients, keywords, messages, examples."""

from __future__ import annotations

import doctest
import importlib
import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_lib import losses

LOGITS = (
    *("kl", "reverse_kl", "jsd", "soft_cross_entropy", "tvd", "mse_logits", "dkd", "dist"),
    "bernoulli_kl",
)
MAPS = (
    *("hint", "cosine", "attention_transfer", "similarity", "rkd_distance", "rkd_angle"),
    "channel_kl",
    "pkt",
)
# these compare an item with its own answer only
ALONE = ("hint", "cosine", "attention_transfer", "channel_kl")
SEPARATE = tuple(n for n in (*LOGITS, *ALONE) if n != "dist")
BOUNDED_BY_ENTROPY = "soft_cross_entropy"


def inputs(name: str, items: int = 6, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (items, 5) if name in LOGITS else (items, 3, 2, 2)
    got = {
        who: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for who in ("student", "teacher")
    }
    if name == "dkd":
        got["labels"] = torch.randint(5, (items,), generator=generator)
    return got


def call(name: str, **arguments: Any) -> Tensor:
    value = getattr(losses, name)(**arguments)
    assert isinstance(value, Tensor)
    return value


@pytest.mark.parametrize("name", [*LOGITS, *MAPS])
def test_a_value_an_item(name: str) -> None:
    values = call(name, **inputs(name))
    assert values.shape == (6,)
    assert values.std() > 0


@pytest.mark.parametrize("name", SEPARATE)
def test_an_item_does_not_depend_on_the_batch_it_came_in(name: str) -> None:
    given = inputs(name)
    whole = call(name, **given)
    halves = [
        call(name, **{k: x[part] for k, x in given.items()}) for part in (slice(2), slice(2, 6))
    ]
    torch.testing.assert_close(torch.cat(halves), whole)


@pytest.mark.parametrize("name", [*LOGITS, *MAPS])
def test_gradients_in_both_arguments_equal_finite_differences(name: str) -> None:
    given = inputs(name, items=4)
    z, v = (given.pop(who).requires_grad_() for who in ("student", "teacher"))
    assert torch.autograd.gradcheck(lambda a, b: call(name, student=a, teacher=b, **given), (z, v))


@pytest.mark.parametrize("name", [*LOGITS, *MAPS])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name: str) -> None:
    given = inputs(name)
    z = given.pop("student")
    given["teacher"] = z
    student = z.clone().requires_grad_()
    values = call(name, student=student, **given)
    if name == BOUNDED_BY_ENTROPY:
        values = values - call(name, student=z, **given)
    assert values.abs().max() < 1e-12
    (grad,) = torch.autograd.grad(values.sum(), student)
    assert grad.abs().max() < 1e-6


@pytest.mark.parametrize("name", [*LOGITS, *MAPS])
def test_gradient_descent_lowers_it(name: str) -> None:
    given = inputs(name)
    student = given.pop("student").requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.02)
    floor = call(name, student=given["teacher"], **given).mean().item()
    seen = []
    for _ in range(200):
        value = call(name, student=student, **given).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        seen.append(value.item() - floor)
    assert seen[-1] < 0.3 * seen[0]
    assert seen[-1] >= -1e-9


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [*LOGITS, *MAPS])
def test_half_precision_is_computed_in_float32(name: str, half: torch.dtype) -> None:
    given = inputs(name, dtype=half)
    got = call(name, **given)
    assert got.dtype == torch.float32
    exact = {k: x.double() if x.is_floating_point() else x for k, x in given.items()}
    torch.testing.assert_close(got.double(), call(name, **exact), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e4])
@pytest.mark.parametrize("given_in", [torch.float32, None])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [*LOGITS, *MAPS])
def test_autocast_neither_rounds_nor_overflows(
    name: str, half: torch.dtype, given_in: torch.dtype | None, size: float
) -> None:
    given = {
        k: (size * x).to(given_in or half) if x.is_floating_point() else x
        for k, x in inputs(name).items()
    }
    given["student"].requires_grad_()
    wanted = call(name, **given)
    with torch.autocast("cpu", half):
        values = call(name, **given)
    assert values.dtype == torch.float32 and values.isfinite().all()
    torch.testing.assert_close(values, wanted, rtol=1e-5, atol=1e-6)
    (grad,) = torch.autograd.grad(values.sum(), given["student"])
    assert grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*LOGITS, *MAPS])
def test_other_types_stay_as_they_are(name: str, dtype: torch.dtype) -> None:
    assert call(name, **inputs(name, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("name", [*LOGITS, "hint", "cosine"])
def test_a_half_student_may_learn_from_a_full_teacher(name: str) -> None:
    given = inputs(name)
    given["student"] = given["student"].to(torch.bfloat16).requires_grad_()
    given["teacher"] = given["teacher"].float()
    values = call(name, **given)
    assert values.dtype == torch.float32
    (grad,) = torch.autograd.grad(values.sum(), given["student"])
    assert grad.dtype == torch.bfloat16 and grad.isfinite().all()


@pytest.mark.parametrize("name", [*LOGITS, *MAPS])
def test_nobody_can_swap_the_arguments(name: str) -> None:
    given = inputs(name)
    with pytest.raises(TypeError, match="positional"):
        getattr(losses, name)(*given.values())
    kinds = {p.kind for p in inspect.signature(getattr(losses, name)).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    assert "reduction" not in inspect.signature(getattr(losses, name)).parameters


@pytest.mark.parametrize("name", [*LOGITS, *MAPS])
def test_a_models_output_is_refused_with_the_way_to_its_tensor(name: str) -> None:
    given: dict[str, Any] = inputs(name)
    given["teacher"] = {"logits": given["teacher"]}
    with pytest.raises(TypeError, match=rf"{name} expected two tensors.*dict.*output\.logits"):
        call(name, **given)


@pytest.mark.parametrize("name", LOGITS)
def test_other_classes_are_never_padded(name: str) -> None:
    given = inputs(name)
    given["teacher"] = torch.zeros(6, 7)
    with pytest.raises(
        ValueError,
        match=rf"{name}: student logits \[6, 5\] and teacher logits \[6, 7\].*5 and 7.*"
        r"padded or cut silently.*teacher\[\.\.\., classes\]",
    ):
        call(name, **given)


@pytest.mark.parametrize("shape", [(4, 5), (1, 5), (2, 6, 5)])
@pytest.mark.parametrize("name", ["kl", "mse_logits", "dkd"])
def test_other_items_are_never_broadcast(name: str, shape: tuple[int, ...]) -> None:
    given = inputs(name)
    given["teacher"] = torch.zeros(shape)
    with pytest.raises(ValueError, match="not the same items; show both the same batch"):
        call(name, **given)


def test_one_answer_for_several_students_has_to_fit_their_items() -> None:
    with pytest.raises(ValueError, match=r"\[4, 5\].*leave out its leading axes only"):
        losses.kl(student=torch.zeros(2, 6, 5), teacher=torch.zeros(4, 5))


def test_labels_in_the_teachers_place_are_recognized() -> None:
    with pytest.raises(TypeError, match=r"torch\.int64: if they are labels, use CE"):
        losses.kl(student=torch.zeros(6, 5), teacher=torch.zeros(6, dtype=torch.long))


@pytest.mark.parametrize("name", [n for n in LOGITS if n not in ("dkd", "dist")])
def test_one_teacher_serves_several_students(name: str) -> None:
    given = inputs(name)
    students = torch.stack([given["student"], 2 * given["student"], -given["student"]])
    got = call(name, student=students, teacher=given["teacher"])
    want = [call(name, student=s, teacher=given["teacher"]) for s in students]
    torch.testing.assert_close(got, torch.stack(want))


@pytest.mark.parametrize("name", [*LOGITS, *MAPS])
def test_it_runs_under_vmap(name: str) -> None:
    given = inputs(name)
    stacked = {k: torch.stack([x, x.roll(1, 0)]) for k, x in given.items()}
    got = torch.func.vmap(lambda arguments: call(name, **arguments))(stacked)
    torch.testing.assert_close(got[0], call(name, **given))


def test_a_whole_batch_of_masked_items_costs_nothing() -> None:
    nothing = torch.full((2, 3), -math.inf, requires_grad=True)
    value = losses.kl(student=nothing, teacher=nothing.detach()).sum()
    value.backward()
    assert value.item() == 0
    assert nothing.grad is not None and (nothing.grad == 0).all()


def test_the_public_names_are_all_documented() -> None:
    assert sorted(losses.__all__) == losses.__all__
    for name in losses.__all__:
        text = inspect.getdoc(getattr(losses, name)) or ""
        for section in ("Args:", "Returns:", "Example:", ">>>"):
            assert section in text, (name, section)
        if name != "full_precision":
            assert ".. math::" in text and "Reference:" in text and "Raises:" in text, name


@pytest.mark.parametrize("module", ["_common", "features", "response", "structure"])
def test_examples_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"distill_lib.losses.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
