"""Files hold the numbers that a tensor stands for; what has none is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib.checkpoints import CheckpointError
from distill_lib.compress import (
    Masks,
    Pruned,
    gradual,
    load_packed,
    load_pruned,
    save_packed,
    save_pruned,
)

PLAN: dict[str, dict[str, object]] = {"shapes": {}, "sizes": {}}
VIEWS = {
    "plain": lambda z: z,
    "conjugate": lambda z: z.conj(),
    "negative": lambda z: z.conj().imag,
    "both": lambda z: torch.view_as_real(z.conj().resolve_conj()),
    "transposed": lambda z: z.conj().mT,
}


def holding(numbers: Tensor) -> nn.Module:
    model = nn.Linear(2, 2)
    model.register_buffer("numbers", numbers)
    return model


@settings(max_examples=25, deadline=None)
@given(view=st.sampled_from([*VIEWS]), shape=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_views_come_back_as_the_numbers_that_they_stand_for(
    view: str, shape: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("files")
    model = holding(VIEWS[view](torch.randn(*shape, dtype=torch.complex64)))
    like = torch.zeros_like(model.numbers).resolve_conj().resolve_neg()
    save_pruned(model, folder / "m.safetensors", PLAN)
    pruned = load_pruned(lambda: holding(like.clone()), folder / "m.safetensors")
    save_packed(model, folder / "m.packed")
    packed = load_packed(holding(like.clone()), folder / "m.packed")
    for found in (pruned, packed):
        assert torch.equal(found.numbers, model.numbers)


def test_a_model_without_numbers_is_neither_written_nor_read(tmp_path: Path) -> None:
    model, path = nn.Linear(2, 2, device="meta"), tmp_path / "m.packed"
    with pytest.raises(ValueError, match=r"'weight' is on the meta device.*to_empty"):
        save_packed(model, path)
    with pytest.raises(ValueError, match=r"'weight' is on the meta device.*to_empty"):
        save_pruned(model, tmp_path / "m.safetensors", PLAN)
    assert not [*tmp_path.iterdir()]
    full = nn.Linear(2, 2)
    save_packed(full, path)
    save_pruned(full, tmp_path / "m.safetensors", PLAN)
    with pytest.raises(CheckpointError, match="'weight' is on the meta device"):
        load_packed(model, path)
    with pytest.raises(CheckpointError, match="'weight' is on the meta device"):
        load_pruned(lambda: copy.deepcopy(model), tmp_path / "m.safetensors")
    assert torch.equal(load_packed(model.to_empty(device="cpu"), path).weight, full.weight)


def test_no_masks_remove_nothing() -> None:
    assert Masks().sparsity == 0.0 and repr(Masks()) == "Masks(0 weights, 0.0 % removed)"
    net = nn.Linear(4, 3)
    with Pruned(net, gradual(0.0, 0.8), steps=20) as pruned:
        assert pruned.masks.sparsity == 0.0
