"""A model that names a mask among its arguments is given it; labels are kept from all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distill_lib import CE, Teacher, agreement, capture, evaluate
from distill_lib.signals import call


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(9, 6), nn.Linear(6, 4)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        kept = torch.ones_like(ids) if mask is None else mask
        mean = (self.words(ids) * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
        return self.head(mean)


BATCH = {
    "ids": torch.tensor([[1, 2, 3], [4, 5, 6]]),
    "mask": torch.tensor([[1, 1, 0], [1, 0, 0]]),
    "labels": torch.tensor([1, 2]),
}


def test_a_mask_that_the_model_names_is_its_own() -> None:
    net = Reader().eval()
    want = net(BATCH["ids"], BATCH["mask"])
    assert torch.equal(call(net, BATCH), want)
    assert torch.equal(call(capture(net, "words"), BATCH)["logits"], want)
    assert torch.equal(Teacher(net)(BATCH), want)
    loss = nn.functional.cross_entropy(want, BATCH["labels"])
    assert evaluate(net, [BATCH])["nll"] == pytest.approx(loss.item(), rel=1e-6)
    assert CE()(call(net, BATCH), batch=BATCH)[0].item() == pytest.approx(loss.item(), rel=1e-6)


def test_a_model_that_edits_its_input_is_named_in_a_comparison() -> None:
    edits = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2))
    batch = [{"inputs": torch.randn(4, 3)}]
    with pytest.raises(ValueError, match=r"changes batch\['inputs'\] in place"):
        agreement(edits, nn.Linear(3, 2), batch)
