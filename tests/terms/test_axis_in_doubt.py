"""Which axis is the classes: asked where two readings fit, whatever the labels are brought as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib import BCE, CE, KD, Ensemble, distill, evaluate

LENGTH = 5
LOGITS = torch.randn(2, LENGTH, LENGTH, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(2 * LENGTH).view(2, LENGTH) % LENGTH


def with_ce(axis: int | None, logits: Tensor, batch: dict[str, Any]) -> Tensor:
    return CE(axis=axis)(logits, batch=batch)[0]


def with_kd(axis: int | None, logits: Tensor, batch: dict[str, Any]) -> Tensor:
    return KD(axis=axis)(logits, logits.flip(0), batch)[0]


def with_ensemble(axis: int | None, logits: Tensor, batch: dict[str, Any]) -> Tensor:
    members = [lambda _: {"logits": logits}, lambda _: {"logits": logits.flip(0)}]
    return Ensemble(members, axis=axis)(batch)["logits"]


ALL = pytest.mark.parametrize("ask", [with_ce, with_kd, with_ensemble])
Ask = Callable[[int | None, Tensor, dict[str, Any]], Tensor]


@ALL
def test_as_many_classes_as_places_are_asked_about(ask: Ask) -> None:
    with pytest.raises(ValueError, match=r"which axis of the logits \[2, 5, 5\] .* axis=1"):
        ask(None, LOGITS, {"labels": LABELS})
    places, tokens = (ask(axis, LOGITS, {"labels": LABELS}) for axis in (1, -1))
    assert not torch.allclose(places, tokens)
    turned = ask(-1, LOGITS.mT, {"labels": LABELS})
    torch.testing.assert_close(places, turned.mT if turned.ndim > 1 else turned)


@ALL
@pytest.mark.parametrize(
    "told",
    [
        {"input_ids": LABELS},
        {"inputs": LABELS},
        {"attention_mask": torch.ones(2, LENGTH)},
        {"index": torch.arange(2 * LENGTH).view(2, LENGTH)},
        {"shift": 0},
    ],
)
def test_texts_and_several_students_leave_no_doubt(ask: Ask, told: dict[str, Any]) -> None:
    batch = {"labels": LABELS, **told}
    torch.testing.assert_close(ask(None, LOGITS, batch), ask(-1, LOGITS, batch))


def test_soft_labels_tell_their_classes_themselves() -> None:
    logits, soft = torch.randn(3, 3, 3), torch.eye(3)
    found = CE()(logits, batch={"labels": soft})[0]
    each = [F.cross_entropy(one, soft) for one in logits]
    torch.testing.assert_close(found, torch.stack(each).mean())


@ALL
@pytest.mark.parametrize("brought", [Tensor.tolist, Tensor.numpy, Tensor.int])
def test_labels_that_say_so_are_heard_as_lists_and_arrays(ask: Ask, brought: Any) -> None:
    with pytest.raises(ValueError, match="which axis"):
        ask(None, torch.randn(2, 3, LENGTH), {"labels": brought(LABELS % 3)})


@pytest.mark.parametrize("brought", [Tensor.tolist, Tensor.numpy, Tensor.int])
def test_labels_under_a_name_of_their_own_leave_out_as_lists_too(brought: Any) -> None:
    z, v, y = torch.randn(2, 4, 3), torch.randn(2, 4, 3), torch.arange(8).view(2, 4) % 3
    y[:, 2:] = -100
    term = KD(labels="words")
    found, want = (term(z, v, {"words": one})[0] for one in (brought(y), y))
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(found, KD()(z[:, :2], v[:, :2])[0])
    assert term(z, v, {"words": ["so", "to", "say"]})[0] == KD()(z, v)[0]  # none that is a label


SPARSE: list[Callable[[Tensor, Any], Any]] = [
    lambda z, y: CE()(z, batch={"labels": y}),
    lambda z, y: BCE()(z, batch={"labels": y}),
    lambda z, y: KD()(z, z, {"labels": y}),
    lambda z, y: CE(labels="mine")(z, batch={"mine": y}),
    lambda z, y: KD(labels="mine")(z, z, {"mine": y}),
    lambda z, y: evaluate(nn.Identity(), [(z, y)]),
    lambda z, y: evaluate(nn.Identity(), [{"inputs": z, "mine": y}], labels="mine"),
    lambda z, y: distill(nn.Linear(3, 3), nn.Linear(3, 3), [(z, y)], CE() + KD(), steps=1),
    lambda z, y: CE()(z, batch={"labels": torch.zeros(4).long(), "mask": y}),
    lambda z, y: CE()(z, batch={"labels": torch.zeros(4).long(), "weight": y}),
]


@pytest.mark.parametrize("ask", SPARSE)
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_labels_and_masks_are_refused_with_the_way_out(ask: Any, layout: Any) -> None:
    labels = F.one_hot(torch.arange(4) % 3, 3).float().to_sparse(layout=layout)
    with pytest.raises(TypeError, match=r"to_dense\(\)"):
        ask(torch.randn(4, 3), labels)


def test_lists_of_numbers_of_numpy_are_labels() -> None:
    labels = [np.int64(0), np.int64(2)]
    z = torch.randn(2, 3)
    want = F.cross_entropy(z, torch.tensor([0, 2]))
    torch.testing.assert_close(CE(labels="mine")(z, batch={"mine": labels})[0], want)
