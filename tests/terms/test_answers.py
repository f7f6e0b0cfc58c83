"""KD: where its classes are, which signals and temperatures it takes, and what it refuses."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import DKD, KD, Schedule, linear, losses
from distill_lib.signals import accepts

ON_CLASSES = [
    *(losses.kl, losses.reverse_kl, losses.jsd, losses.soft_cross_entropy, losses.tvd),
    *(losses.nll, losses.policy_kl, losses.mse_logits, losses.bernoulli_kl),
]
SOFTMAX = ON_CLASSES[:7]


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, dtype=torch.float64), torch.randn(*shape, dtype=torch.float64)


# ---- where the classes are ----


@pytest.mark.parametrize("loss", ON_CLASSES, ids=lambda f: f.__name__)
@given(
    shape=st.lists(st.integers(2, 4), min_size=2, max_size=4),
    axis=st.integers(0, 3),
    order=st.permutations(range(3)),
)
def test_the_other_axes_are_items_in_any_order(
    loss: Any, shape: list[int], axis: int, order: list[int]
) -> None:
    """Wherever the classes are, it is the loss with the classes last, item by item."""
    axis %= len(shape)
    z, v = pair(*shape)
    want = loss(student=z.movedim(axis, -1), teacher=v.movedim(axis, -1)).mean()
    for named in (axis, axis - len(shape)):
        torch.testing.assert_close(KD(loss, axis=named)(z, v)[0], want)
    items = [i for i in range(len(shape)) if i != axis]
    turned = [axis, *[items[i] for i in order if i < len(items)]]
    z, v = z.permute(turned), v.permute(turned)
    torch.testing.assert_close(KD(loss, axis=0)(z, v)[0], want)


def test_one_teacher_of_images_serves_several_students() -> None:
    z, v = torch.randn(3, 2, 5, 4, 6), torch.randn(2, 5, 4, 6)
    each = [KD(axis=1)(one, v)[0] for one in z]
    for axis in (1, -3):
        torch.testing.assert_close(KD(axis=axis)(z, v)[0], sum(each) / 3)


def test_decoupled_distillation_of_images() -> None:
    z, v = pair(2, 5, 4, 6)
    y = torch.randint(0, 5, (2, 4, 6))
    y[0, 0] = 255
    loss, _ = DKD(axis=1, ignore_index=255)(z, v, {"labels": y.byte()})
    kept = y != 255
    z, v = (x.movedim(1, -1)[kept] for x in (z, v))
    torch.testing.assert_close(loss, DKD()(z, v, {"labels": y[kept]})[0])


@pytest.mark.parametrize("ignore", [-100, 255])
def test_a_pixel_that_is_left_out_teaches_nothing(ignore: int) -> None:
    """Also where the teacher has no number for it, and where height and classes are as many."""
    z, v = pair(2, 4, 4, 4)
    z.requires_grad_()
    y = torch.zeros(2, 4, 4, dtype=torch.long)
    y[0, 1, 2] = ignore
    v[0, :, 1, 2] = float("nan")
    loss, _ = KD(axis=1, ignore_index=ignore)(z, v, {"labels": y})
    loss.backward()
    kept = y != ignore
    want = losses.kl(student=z.movedim(1, -1)[kept], teacher=v.movedim(1, -1)[kept]).mean()
    torch.testing.assert_close(loss, want)
    assert z.grad is not None and z.grad.isfinite().all()
    assert (z.grad[0, :, 1, 2] == 0).all()


@pytest.mark.parametrize("loss", SOFTMAX, ids=lambda f: f.__name__)
def test_a_softmax_over_what_may_be_no_classes_is_refused(loss: Any) -> None:
    z, v = pair(2, 5, 4, 6)
    with pytest.raises(ValueError, match=r"which axis of the logits \[2, 5, 4, 6\]"):
        KD(loss)(z, v)
    with pytest.raises(ValueError, match="one number an item"):
        KD(loss)(z[0, 0, :, :1], v[0, 0, :, :1])
    with pytest.raises(ValueError, match="one number an item"):
        KD(partial(loss))(z[0, 0, 0], v[0, 0, 0])
    KD(loss)(z[0], v[0], {"labels": torch.zeros(5, 4)})


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_a_yes_or_no_has_one_number_an_item(shape: tuple[int, ...]) -> None:
    z, v = pair(6, 1)
    mask = torch.tensor([1, 0, 1, 1, 0, 1])
    for loss in (losses.bernoulli_kl, losses.mse_logits):
        found, _ = KD(loss)(z.view(shape), v.view(shape), {"mask": mask})
        torch.testing.assert_close(found, loss(student=z, teacher=v)[mask.bool()].mean())


def test_a_missing_label_of_several_does_not_silence_the_teacher() -> None:
    z, v = pair(4, 3)
    y = torch.tensor([[0, 1, -100]] * 4)
    term = KD(losses.bernoulli_kl, temperature=3)
    assert torch.equal(term(z, v, {"labels": y})[0], term(z, v)[0])


def test_maps_need_no_axis_and_take_none() -> None:
    z, v = pair(2, 3, 4, 5)
    loss, _ = KD(losses.channel_kl, temperature=4)(z, v)
    want = 16 * losses.channel_kl(student=z, teacher=v, temperature=4.0).mean()
    torch.testing.assert_close(loss, want)
    with pytest.raises(TypeError, match="leave out axis="):
        KD(losses.channel_kl, axis=1)


# ---- signals and temperatures of both sides ----


@pytest.mark.parametrize("on", [("dist", "logits"), ["dist", "logits"]])
def test_student_and_teacher_may_speak_under_two_names(on: Any) -> None:
    z, v = pair(4, 3)
    term = KD(temperature=4, on=on)
    said = {"dist": z, "logits": torch.zeros(4, 3)}
    torch.testing.assert_close(term(said, {"logits": v})[0], KD(temperature=4)(z, v)[0])
    assert term.reads == {"student": ("dist",), "teacher": ("logits",)}
    assert str(term) == "KL(T=4, dist~logits)"


@given(mine=st.floats(0.25, 8), theirs=st.floats(0.25, 8))
def test_two_temperatures_are_two_softmaxes_and_their_product(mine: float, theirs: float) -> None:
    z, v = pair(4, 3)
    loss, _ = KD(temperature=(mine, theirs))(z, v)
    want = mine * theirs * losses.kl(student=z / mine, teacher=v / theirs).mean()
    torch.testing.assert_close(loss, want)
    same, _ = KD(temperature=(mine, mine))(z, v)
    assert torch.equal(same, KD(temperature=mine)(z, v)[0])


def test_two_temperatures_may_be_schedules() -> None:
    term = KD(temperature=(linear(8, 1), 0.5))
    assert str(term) == "KL(T=(8→1, 0.5))" and "T'=0.5" in term.latex()
    z, v = pair(4, 3)
    want = KD(temperature=(4.5, 0.5))(z, v)[0]
    torch.testing.assert_close(term(z, v, progress=0.5)[0], want)


# ---- refused at once ----


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: KD(4), TypeError, "expected a loss first, got 4; write temperature=4"),
        (lambda: KD(linear(4, 1)), TypeError, "write temperature=4→1"),
        (lambda: KD("kl"), TypeError, r"expected a loss, got 'kl'; for example losses\.kl"),
        (lambda: KD(torch.nn.functional.kl_div), TypeError, "kl_div takes no student= and teach"),
        (lambda: KD(T=4), TypeError, "no argument 'T'; the temperature is temperature="),
        (lambda: DKD(T=4), TypeError, "no argument 'T'; the temperature is temperature="),
        (lambda: KD(temperature=-1), ValueError, "expected numbers > 0, got -1"),
        (lambda: KD(temperature=0), ValueError, "expected numbers > 0, got 0"),
        (lambda: KD(temperature=linear(1, -1)), ValueError, "expected numbers > 0, got 1→-1"),
        (lambda: KD(temperature=(1, 0)), ValueError, "expected numbers > 0, got 0"),
        (lambda: KD(temperature=(1, 2, 3)), TypeError, "temperature is one for both or a pair"),
        (lambda: KD(on=("a", "b", "c")), TypeError, "on is one for both or a pair"),
        (lambda: KD(on=""), TypeError, "on is one for both or a pair"),
        (lambda: KD(losses.mse_logits, temperature=(1, 2)), ValueError, "takes no temperature"),
    ],
)
def test_what_makes_no_term(make: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_a_temperature_may_fall_to_zero_at_the_end_of_a_schedule() -> None:
    """Training never gets there: its last step is before the end."""
    z, v = pair(4, 3)
    term = KD(temperature=Schedule(lambda s: 1 - s, "1→0"))
    assert term(z, v, progress=0.9)[0] > 0
    with pytest.raises(ValueError, match="temperature expected a number > 0"):
        term(z, v, progress=1.0)


def test_a_loss_may_take_any_keyword() -> None:
    def loss(*, student: Tensor, teacher: Tensor, **options: float) -> Tensor:
        return options["wide"] * (student - teacher).abs().mean(-1)

    z, v = pair(4, 3)
    torch.testing.assert_close(KD(loss, wide=2.0)(z, v)[0], 2 * (z - v).abs().mean())


# ---- temperatures that rounding drowns ----


@pytest.mark.parametrize("loss", [loss for loss in SOFTMAX if accepts(loss, "temperature")])
@given(power=st.floats(-1, 40), seed=st.integers(0, 99), both=st.booleans())
def test_a_high_temperature_is_computed_or_refused(
    loss: Any, power: float, seed: int, both: bool
) -> None:
    """In float32 the value is that of float64 to a twentieth, at every temperature it accepts."""
    torch.manual_seed(seed)
    z, v = 3 * torch.randn(8, 10), 3 * torch.randn(8, 10)
    T = 10.0**power
    term = 1.0 * KD(loss, temperature=T if both else (T, 4.0))
    batch = {"inputs": z, "labels": torch.zeros(8, dtype=torch.long)}
    try:
        found, _ = term({"logits": z}, {"logits": v}, batch)
    except ValueError as error:
        assert "center=True" in str(error)
        assert (T if both else (4 * T) ** 0.5) > 900
        return
    exact, _ = term({"logits": z.double()}, {"logits": v.double()}, batch)
    assert found.item() == pytest.approx(exact.item(), rel=0.05)


def test_the_way_out_of_a_high_temperature_is_its_limit() -> None:
    """Half the squared difference of centered logits, which the message names."""
    z, v = pair(8, 10)
    with pytest.raises(ValueError, match="center=True"):
        KD(temperature=1e4)(z.float(), v.float())
    limit, _ = (0.5 * KD(losses.mse_logits, center=True))(z, v)
    high, _ = KD(temperature=1e5)(z, v)
    assert high.item() == pytest.approx(limit.item(), rel=1e-3)
