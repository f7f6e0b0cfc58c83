"""Scores of whatever is brought: the numbers by hand, or a refusal that names the way out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import Ensemble, Peers, Stacked, Teacher, agreement, evaluate, sanity
from distill_lib.evaluation import calibration_error

SAYS = nn.Identity()
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SEEDS = st.integers(0, 10_000)
# items, and where their classes may be
PLACES: list[tuple[tuple[int, ...], list[int]]] = [((6,), [1, -1, 0]), ((4, 3), [1, -1, 2]),
          ((2, 3, 3), [1, -1, -3])]  # fmt: skip


def naive(z: Tensor, y: Tensor, bins: int = 15) -> dict[str, Any]:
    """[n, C] logits and [n] class numbers, item by item."""
    p = z.double().softmax(-1)
    rows = [[0, 0.0] for _ in range(bins)]
    for row, label in zip(p, y.tolist(), strict=True):
        sure = row.max().item()
        at = min(int(sure * bins), bins - 1)
        rows[at][1] += float(row.argmax().item() == label) - sure
    return {
        "accuracy": sum(float(r.argmax() == t) for r, t in zip(p, y, strict=True)) / len(y),
        "nll": -sum(math.log(r[t]) for r, t in zip(p, y, strict=True)) / len(y),
        "ece": sum(abs(gap) for _, gap in rows) / len(y),
        "n": len(y),
    }


def split(batch: dict[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    parts = {k: v.split(size) for k, v in batch.items()}
    return [dict(zip(parts, one, strict=True)) for one in zip(*parts.values(), strict=True)]


def called(model: Any, batch: Any) -> Any:
    return batch["said"]


@given(SEEDS, st.sampled_from(PLACES), st.data())
def test_every_layout_mask_and_label_gives_the_same_numbers(
    seed: int, places: tuple[tuple[int, ...], list[int]], data: Any
) -> None:
    """Classes anywhere, a mask of items or of places, labels of any kind that leave some out."""
    torch.manual_seed(seed)
    items, axes = places
    axis, dtype = data.draw(st.sampled_from(axes)), data.draw(st.sampled_from(DTYPES))
    ignore = data.draw(st.sampled_from([None, 255, -1]))
    z = (3 * torch.randn(*items, 4)).to(dtype)
    y = torch.randint(0, 4, items)
    out = torch.rand(items) < 0.2
    mask = torch.rand(items[: data.draw(st.integers(1, len(items)))]) < 0.7
    mask.flatten()[0], out.flatten()[0] = True, False
    counted = mask.reshape(*mask.shape, *[1] * (len(items) - mask.ndim)).expand(items)
    kept = counted & ~out
    want = naive(z.float()[kept], y[kept])
    other = (3 * torch.randn(*items, 4)).to(dtype)
    batch = {"said": z.movedim(-1, axis), "labels": y.masked_fill(out, ignore or -100)}
    batch |= {"mask": mask, "theirs": other.movedim(-1, axis)}
    size = data.draw(st.integers(1, 6)) if axis != 0 else 6
    batches = split(batch, size) if axis != 0 else [batch]
    found = evaluate(SAYS, batches, called, axis=axis, ignore_index=ignore)
    assert found["accuracy"] == pytest.approx(want["accuracy"])
    assert found["nll"] == pytest.approx(want["nll"], rel=1e-4) and found["n"] == want["n"]
    if len(items) == 1:
        assert found["ece"] == pytest.approx(want["ece"], abs=1e-5)
        given = torch.where(kept, y, -100)
        assert calibration_error(z, given).item() == pytest.approx(want["ece"], abs=1e-5)
    same = agreement(SAYS, lambda b: b["theirs"], batches, called, axis=axis)
    # a mask has the last word where no label is asked
    assert same == pytest.approx((z.argmax(-1) == other.argmax(-1))[counted].double().mean().item())


@given(SEEDS, st.sampled_from(["labels", "regression"]), st.booleans(), st.integers(1, 6))
def test_masks_count_for_labels_and_numbers(seed: int, task: str, whole: bool, size: int) -> None:
    torch.manual_seed(seed)
    z, y = torch.randn(6, 3), torch.randint(0, 2, (6, 3)).float()
    mask = torch.rand(6, 3) < 0.6 if whole else torch.rand(6) < 0.6
    mask[0] = True
    kept = mask if whole else mask[:, None].expand(6, 3)
    dirty = z.masked_fill(~kept, math.nan)  # what is left out may be no number
    batches = split({"inputs": dirty, "labels": y, "mask": mask.int()}, size)
    found = evaluate(SAYS, batches, task=task)
    right = ((z > 0) == (y > 0.5))[kept].double().mean().item()
    wanted = {
        "labels": {
            "accuracy": right,
            "nll": F.binary_cross_entropy_with_logits(z[kept], y[kept]).item(),
        },
        "regression": {"mae": (z - y)[kept].abs().mean(), "mse": (z - y)[kept].square().mean()},
    }
    for name, value in wanted[task].items():
        assert found[name] == pytest.approx(float(value), rel=1e-5)
    assert found["n"] == kept.sum()
    if task == "labels":
        assert agreement(SAYS, lambda b: b["inputs"], batches, task=task) == 1.0


@given(SEEDS, st.sampled_from(["classes", "soft", "labels", "regression"]))
def test_float64_is_kept(seed: int, task: str) -> None:
    """Numbers apart by less than the last digit of float32 are apart."""
    torch.manual_seed(seed)
    near = 1e9 + torch.randint(0, 2, (8, 3)).double() / 4
    near[:, 0] = 1e9 + 1 / 8 + torch.randint(0, 2, (8,)).double() / 4
    y = near.argmax(-1)
    if task == "regression":
        assert evaluate(SAYS, [(near, near.clone())], task=task)["mae"] == 0
    elif task == "labels":
        tiny = 1e-60 * (near - 1e9 - 0.1)
        assert evaluate(SAYS, [(tiny, (tiny > 0).int())], task=task)["accuracy"] == 1
    else:
        labels = y if task == "classes" else F.one_hot(y, 3).double()
        assert evaluate(SAYS, [(near, labels)])["accuracy"] == 1
        assert agreement(SAYS, lambda b: -b["inputs"], [(near, labels)]) == 0


BAD = st.sampled_from([math.nan, math.inf])
ASKS: dict[str, Any] = {
    "classes": lambda z, y: evaluate(SAYS, [(z, y)]),
    "soft": lambda z, y: evaluate(SAYS, [(z, F.one_hot(y, 4).float())]),
    "images": lambda z, y: evaluate(SAYS, [(z.T[None], y[None])], axis=1),
    "labels": lambda z, y: evaluate(SAYS, [(z, F.one_hot(y, 4))], task="labels"),
    "regression": lambda z, y: evaluate(SAYS, [(z, y[:, None].expand(8, 4))], task="regression"),
    "agreement": lambda z, y: agreement(SAYS, SAYS, [(z, y)]),
    "agreement of labels": lambda z, y: agreement(SAYS, SAYS, [(z, y)], task="labels"),
    "calibration": calibration_error,
    "sanity": lambda z, y: sanity(SAYS, [(z, y)]),
}


@given(st.sampled_from(sorted(ASKS)), BAD, st.integers(0, 7), st.integers(0, 3))
def test_answers_that_are_no_numbers_are_refused(ask: str, bad: float, i: int, c: int) -> None:
    z = torch.randn(8, 4)
    z[i, c] = bad
    with pytest.raises(ValueError, match=r"3\.1% of the .*logits are not finite: half precision"):
        ASKS[ask](z, torch.arange(8) % 4)


@pytest.mark.parametrize("ask", sorted(ASKS))
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_answers_that_are_no_real_numbers_are_refused(ask: str, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=r"logits as real numbers, got .*class numbers, where log"):
        ASKS[ask](torch.ones(8, 4).to(dtype), torch.arange(8) % 4)


@pytest.mark.parametrize("ask", sorted(set(ASKS) - {"regression"}))
def test_a_class_that_is_never_named_may_be_minus_infinity(ask: str) -> None:
    z, y = 5 * F.one_hot(torch.arange(8) % 3, 4) - 2.5, torch.arange(8) % 3
    z[:, 3] = -math.inf
    found = ASKS[ask](z, y)
    if isinstance(found, dict):
        assert found["accuracy"] == 1 and math.isfinite(found["nll"])
    else:
        assert 0 <= float(found) <= 1
    if "labels" not in ask:
        z[2] = -math.inf
        with pytest.raises(ValueError, match="are not finite"):
            ASKS[ask](z, y)


Z, Y = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5
HOT, L, R = F.one_hot(Y, 5), {"task": "labels"}, {"task": "regression"}
TEXT = torch.zeros(4, 7).long()


@pytest.mark.parametrize(
    ("batches", "asked", "words"),
    [
        ([(Z[:1], 2)], {}, "a label an item, got one number"),
        ([(Z, Y), (Z, HOT)], {}, "of one kind; the first has .*a class an item.*distributions"),
        ([(Z, Y), (Z[:, :4], Y % 4)], {}, "of one kind; the first has classes 5.*classes 4"),
        ([(Z, HOT), (Z[:, :1], HOT[:, :1])], L, "of one kind; the first has labels 5"),
        ([(Z, HOT)], {"task": "labels", "axis": 5}, "have no axis 5"),
        ([(Z, Y)], {"axis": -3}, "have no axis -3"),
        ([(Z[:0], Y[:0])], {}, "the batches have no items"),
        ([(Z[:0], HOT[:0])], L, "the batches have no items"),
        ([(Z[:0], Z[:0])], R, "the batches have no items"),
        ([{"inputs": Z, "labels": Y, "mask": torch.zeros(6)}], {}, "masks leave out all"),
        ([{"inputs": Z, "labels": HOT, "mask": torch.zeros(6)}], L, "masks leave out all"),
        ([{"inputs": Z, "labels": Z, "mask": torch.zeros(6, 5)}], R, "masks leave out all"),
        ([{"inputs": Z, "labels": Y, "mask": torch.ones(4)}], {}, "mask .4. says nothing"),
        ([(Z, HOT * math.nan)], L, "got nan to nan; leave out"),
        ([(Z, Z * math.nan)], R, "not finite; leave out .* ignore_index="),
        ([(Z, 2 * HOT)], {}, 'do not sum to 1; .*task="labels", for numbers task="regression"'),
        ([(torch.ones(4, 7, 3), TEXT)], {}, "say axis=1 for logits .B, C, L., axis=-1 for"),
        ([(torch.ones(4, 4, 3), torch.zeros(4).long())], {}, r"expect labels \(4, 4\).*Stacked"),
        ([(Z[:, :1], Y)], {}, 'one number an item.*say task="labels"'),
    ],
)
def test_what_evaluate_refuses(batches: Any, asked: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(SAYS, batches, **asked)


def test_an_empty_batch_among_others_changes_nothing() -> None:
    for labels, asked in ((Y, {}), (HOT, {}), (HOT, L), (Z, R)):
        alone = evaluate(SAYS, [(Z, labels)], **asked)
        assert evaluate(SAYS, [(Z, labels), (Z[:0], labels[:0])], **asked) == alone
    assert agreement(SAYS, SAYS, [(Z, Y), (Z[:0], Y[:0])]) == 1.0


def test_what_is_not_known_of_labels_is_left_out_by_nan() -> None:
    y = HOT.float()
    y[2] = math.nan
    assert evaluate(SAYS, [(Z, y)], task="labels", ignore_index=math.nan)["n"] == 25
    assert evaluate(SAYS, [(Z, y)], task="regression", ignore_index=math.nan)["n"] == 25


# ---- networks in one, and where the classes are ----


@given(SEEDS, st.integers(2, 4), st.integers(1, 5), st.integers(1, 5))
def test_networks_are_known_from_the_model(seed: int, nets: int, items: int, size: int) -> None:
    """As many items as networks, or a last batch that is smaller, changes nothing."""
    torch.manual_seed(seed)
    ones, one = [nn.Linear(3, 2) for _ in range(nets)], nn.Linear(3, 2)
    x, y = torch.randn(items, 3), torch.randint(0, 2, (items,))
    batches = [*zip(x.split(size), y.split(size), strict=True)]
    many = Stacked(ones, ndim=2)
    want = [agreement(each, one, batches) for each in ones]
    right = [evaluate(each, batches)["accuracy"] for each in ones]
    for model in (many, Teacher(many), Peers(ones), nn.Sequential(many)):
        assert agreement(model, one, batches) == pytest.approx(want)
        assert agreement(one, model, batches) == pytest.approx(want)
        assert evaluate(model, batches)["accuracy"] == pytest.approx(right)
    mean = evaluate(Ensemble([many], space="logit"), batches)
    assert mean["accuracy"] == pytest.approx(right)
    own = [{"inputs": torch.stack([x] * nets), "index": torch.arange(items).expand(nets, items),
            "mask": torch.ones(nets, items)}]  # fmt: skip
    assert agreement(many, one, own) == pytest.approx(want)


@given(SEEDS, st.integers(1, 4), st.integers(2, 4), st.integers(1, 4), st.integers(1, 4))
def test_places_are_items_wherever_the_classes_are(
    seed: int, b: int, c: int, places: int, size: int
) -> None:
    torch.manual_seed(seed)
    s, t, y = torch.randn(b, places, c), torch.randn(b, places, c), torch.zeros(b, places).long()
    want = (s.argmax(-1) == t.argmax(-1)).double().mean().item()

    def asked(axis: int | None, last: bool, labels: bool = True) -> Any:
        named = {"s": s if last else s.mT, "t": t if last else t.mT}
        batches = split({**named, **({"labels": y} if labels else {})}, size)
        return agreement(lambda x: x["s"], lambda x: x["t"], batches, axis=axis)

    assert asked(1, False) == pytest.approx(want)
    assert asked(-1, True) == pytest.approx(want)
    assert asked(None, True, labels=False) == pytest.approx(want)
    if places == c:
        with pytest.raises(ValueError, match=r"agreement: which axis .* Say axis=1"):
            asked(None, True)
    else:
        assert asked(None, True) == pytest.approx(want)
    with pytest.raises(ValueError, match=r"agreement: which axis .* Say axis=1"):
        asked(None, False)
    first = evaluate(SAYS, [(s.mT, y)], axis=1)
    for name, value in evaluate(SAYS, [(s, y)], axis=-1).items():
        assert value == pytest.approx(first[name], nan_ok=True)


def test_tokens_with_the_axis_named_leave_padding_out() -> None:
    table, ids = nn.Embedding(9, 5), torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    batch = {"input_ids": ids, "labels": ids % 5, "attention_mask": (ids < 7).int()}

    def last(model: Any, b: Any) -> Any:
        return model(b["input_ids"])

    asked = evaluate(table, [batch], last)
    assert asked["n"] == 6 and evaluate(table, [batch], last, axis=-1) == asked
    assert evaluate(table, [batch], lambda m, b: last(m, b).mT, axis=1) == asked
    yes = {**batch, "labels": F.one_hot(ids % 5, 5).float()}
    assert evaluate(table, [yes], last, task="labels")["n"] == 30
    numbers = {**batch, "labels": torch.randn(2, 4, 5)}
    assert evaluate(table, [numbers], last, task="regression")["n"] == 30


@pytest.mark.parametrize("asked", [{}, {"axis": 1}, {"axis": 2}, L, R])
def test_places_of_several_networks_are_evaluated_one_by_one(asked: Any) -> None:
    nets = Stacked([nn.Conv1d(2, 3, 1) for _ in range(4)], ndim=3)
    batch = (torch.randn(4, 2, 5), torch.zeros(4, 5).long())
    with pytest.raises(ValueError, match=r"which axis|unstack|count from the end"):
        evaluate(nets, [batch], **asked)
    found = agreement(nets, nets, [batch], axis=-2)
    assert found == [1.0] * 4
    assert agreement(nets, nets.unstack()[2], [batch], axis=-2)[2] == 1.0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([(Z[:0], Y[:0])], "nothing to compare"),
        ([{"inputs": Z, "mask": torch.zeros(6)}], "nothing to compare"),
        ([{"inputs": Z, "mask": torch.ones(4)}], "mask .4. says nothing"),
        ([(Z[:, :1], Y)], 'one number an item.*say task="labels"'),
    ],
)
def test_what_agreement_refuses(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        agreement(SAYS, SAYS, given)
    with pytest.raises(ValueError, match="agreement: task is one of 'classes', 'labels'"):
        agreement(SAYS, SAYS, given, task="regression")


# ---- calibration ----


@pytest.mark.parametrize(
    ("logits", "labels", "bins", "error", "words"),
    [
        (Z, Y[:1], 15, ValueError, r"expect labels \(6,\), got \(1,\)"),
        (Z, Y[:, None], 15, ValueError, r"expect labels \(6,\), got \(6, 1\)"),
        (Z, Y + 7, 15, ValueError, r"from 7 to 11, the model has classes 0 to 4; .* as -100"),
        (Z, Y + 0.3, 15, TypeError, "class numbers of int64"),
        (Z, Z, 15, ValueError, "do not sum to 1"),
        (Z, None, 15, TypeError, "labels as a tensor"),
        (Z[:0], Y[:0], 15, ValueError, "no items"),
        (Z, Y * 0 - 100, 15, ValueError, "every label is -100"),
        (Z[:, :1], Y * 0, 15, ValueError, r"one number an item.*F\.pad\(logits, \(1, 0\)\)"),
        (Z[None], Y, 15, ValueError, r"expected logits \[N, C\].*flatten"),
        (Z, Y, 0, ValueError, "bins expected a whole number of 1 or more"),
        (Z, Y, 2.5, ValueError, "bins to be a whole number"),
        (Z.tolist(), Y, 15, TypeError, "logits to be a tensor"),
    ],
)
def test_what_calibration_error_refuses(
    logits: Any, labels: Any, bins: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        calibration_error(logits, labels, bins)


@given(SEEDS, st.sampled_from(DTYPES), st.integers(1, 20), st.integers(1, 60))
def test_labels_of_any_kind_give_one_calibration(
    seed: int, dtype: torch.dtype, bins: int, n: int
) -> None:
    torch.manual_seed(seed)
    z, y = (3 * torch.randn(n, 4)).to(dtype), torch.randint(0, 4, (n,))
    want = naive(z.float(), y, bins)["ece"]
    kinds = (y, y.tolist(), y.numpy(), y.to(torch.uint8), F.one_hot(y, 4), F.one_hot(y, 4).float())
    more = torch.cat([z, z[:1]]), torch.cat([y, torch.tensor([-100])])
    for logits, labels in (*((z, kind) for kind in kinds), more):
        found = calibration_error(logits, labels, bins).item()
        assert 0 <= found <= 1 and found == pytest.approx(want, abs=1e-5)
    yes = z[:, 0].float()
    two = calibration_error(F.pad(yes[:, None], (1, 0)), (y > 1).long()).item()
    both = torch.stack([-yes, yes], -1) / 2
    assert two == pytest.approx(naive(both, (y > 1).long())["ece"], abs=1e-5)


# ---- sanity ----


@given(SEEDS, st.integers(1, 5))
def test_sanity_reads_labels_as_evaluate_does(seed: int, size: int) -> None:
    torch.manual_seed(seed)
    y = torch.cat([torch.arange(3), torch.randint(0, 3, (9,))])
    z = 3.0 * F.one_hot(y, 3)
    z[:1] = z[:1].roll(1, -1)
    shown = [*zip(z.split(size), y.split(size), strict=True)]
    majority = y.bincount().max().item() / 12
    if majority >= 11 / 12:
        return
    want = sanity(SAYS, shown)
    assert want["majority"] == majority and want["accuracy"] == pytest.approx(11 / 12)
    for hot in (F.one_hot(y, 3), F.one_hot(y, 3).double()):
        assert sanity(SAYS, [*zip(z.split(size), hot.split(size), strict=True)]) == pytest.approx(
            want
        )
    images = [(z.view(3, 2, 2, 3).movedim(-1, 1), y.view(3, 2, 2))]
    found = sanity(SAYS, images, axis=1)
    assert found["majority"] == majority and found["accuracy"] == want["accuracy"]
    named = [{"inputs": z, "classes": torch.where(y == y[0], 255, y)}]
    if len({*y.tolist()} - {y[0].item()}) > 1:
        known = (y != y[0]).sum().item()
        found = sanity(SAYS, named, labels="classes", ignore_index=255)
        assert found["n"] == known and found["accuracy"] == 1


def test_sanity_of_a_yes_or_no() -> None:
    z, y = torch.tensor([[3.0], [-3.0], [3.0]] * 6), torch.tensor([1, 0, 1] * 6)
    with pytest.raises(ValueError, match=r'one number an item.*a yes or no, say task="labels"$'):
        sanity(SAYS, [(z, y)])
    found = sanity(SAYS, [(z, y)], task="labels")
    assert found["accuracy"] == 1 and found["majority"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="answers the same to everything"):
        sanity(SAYS, [(z.abs(), y)], task="labels")
    with pytest.raises(ValueError, match=r"accuracy 0\.000 is not above"):
        sanity(SAYS, [(-z, y)], task="labels")
    with pytest.raises(ValueError, match="sanity: task is one of 'classes', 'labels'"):
        sanity(SAYS, [(z, y)], task="regression")


def test_sanity_of_several_networks_and_of_what_a_mask_leaves_out() -> None:
    nets = Stacked([nn.Linear(3, 3) for _ in range(2)], ndim=2)
    with pytest.raises(ValueError, match=r"take one at a time, such as each of model.unstack"):
        sanity(nets, [(torch.randn(6, 3), torch.arange(6) % 3)])
    z = torch.eye(3)
    z[2] = math.nan
    batch = {"inputs": z, "labels": torch.arange(3), "mask": torch.tensor([1, 1, 0])}
    assert sanity(SAYS, [batch])["n"] == 2
