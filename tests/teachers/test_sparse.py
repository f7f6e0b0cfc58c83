"""The k most probable classes of any teacher."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distill_lib import Ensemble, Teacher, losses
from distill_lib.teachers import TopK


def test_it_keeps_a_part_of_any_teacher() -> None:
    models = [nn.Linear(4, 9), nn.Linear(4, 9)]
    batch = {"inputs": torch.randn(5, 4)}
    for teacher in (Teacher(models[0]), Ensemble(models)):
        said = TopK(teacher, 3)(batch)
        want = losses.top_k(teacher(batch)["logits"] if isinstance(teacher, Ensemble) else
                            teacher(batch), 3)  # fmt: skip
        for got, one in zip(said.values(), want, strict=True):
            assert torch.equal(got, one) and not got.requires_grad


def test_its_models_are_the_teachers_and_move_with_it() -> None:
    model = nn.Linear(4, 9)
    sparse = TopK(model, 3)
    assert list(sparse.models()) == [model] and sparse.to("cpu") is sparse


def test_it_reveals_the_signal_that_it_reads() -> None:
    model = nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 2))
    sparse = TopK(model, 3, on="0")
    undo = sparse.reveal(["top_ids"])
    assert sparse({"inputs": torch.zeros(5, 4)})["top_ids"].shape == (5, 3)
    undo()
    with pytest.raises(KeyError):
        sparse({"inputs": torch.zeros(5, 4)})


@pytest.mark.parametrize("k", [0, 9])
def test_k_leaves_something_in_and_out(k: int) -> None:
    with pytest.raises(ValueError, match="k"):
        TopK(nn.Linear(4, 9), k)({"inputs": torch.zeros(5, 4)})
