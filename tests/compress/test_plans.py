"""Plans: they narrow, and do nothing else."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutants import mutants, odd_json
from safetensors.torch import save, save_file
from torch import nn

from distill_lib.checkpoints import CheckpointError
from distill_lib.compress import load_pruned, plan_of, save_pruned, shrink


def build(width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 5, 1))


PLAN = json.loads(json.dumps(plan_of(build(), build(6))))


def looks(model: nn.Module) -> Any:
    """All that a plan could change."""
    plain = (int, float, str, tuple, type(None))
    return (
        {k: v.shape for k, v in model.state_dict().items()},
        {n: {k: v for k, v in vars(m).items() if isinstance(v, plain)} for n, m in
         model.named_modules()},
        {n: sorted(vars(m)) for n, m in model.named_modules()},
    )  # fmt: skip


def refused(plan: Any) -> bool:
    model = build()
    before = looks(model)
    try:
        shrink(model, plan)
    except CheckpointError:
        assert looks(model) == before
        return True
    after = looks(model)
    assert before[2] == after[2], "an attribute was added or taken away"
    assert all(v.numel() <= before[0][k].numel() for k, v in model.state_dict().items())
    return False


def test_a_plan_is_followed(tmp_path: Path) -> None:
    small = build(6)
    save_pruned(small, tmp_path / "m.safetensors", PLAN)
    again = load_pruned(build, tmp_path / "m.safetensors")
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(again.eval()(x), small.eval()(x)) and again[0].out_channels == 6


@pytest.mark.parametrize(
    "plan",
    [
        None, 3, [], {}, {"shapes": {}}, {"shapes": [], "sizes": {}}, {"shapes": {}, "sizes": 3},
        {"shapes": {"0.weight": [2**40, 3, 3, 3]}, "sizes": {}},
        {"shapes": {"0.weight": [9, 3, 3, 3]}, "sizes": {}},
        {"shapes": {"0.weight": [-1, 3, 3, 3]}, "sizes": {}},
        {"shapes": {"0.weight": [True, 3, 3, 3]}, "sizes": {}},
        {"shapes": {"0.weight": "abcd"}, "sizes": {}}, {"shapes": {"forward": []}, "sizes": {}},
        {"shapes": {"0.training": []}, "sizes": {}}, {"shapes": {}, "sizes": {"": {"_modules": 5}}},
        {"shapes": {}, "sizes": {"0": {"forward": 1}}}, {"shapes": {}, "sizes": {"7": {}}},
        {"shapes": {}, "sizes": {"0": {"__class__": [1]}}},
        {"shapes": {}, "sizes": {"0": {"__dict__": 1}}}, {"shapes": {}, "sizes": {"0": {"new": 1}}},
        {"shapes": {}, "sizes": {"0": {"weight": 3}}}, {"shapes": {}, "sizes": {"0": [1]}},
        {"shapes": {}, "sizes": {"0": {"training": 1}}},
        {"shapes": {}, "sizes": {"0": {"padding_mode": 1}}},
        {"shapes": {}, "sizes": {"0": {"padding": 1}}},
        {"shapes": {}, "sizes": {"0": {"padding": [2**40, 1]}}},
        {"shapes": {}, "sizes": {"0": {"out_channels": 2**40}}},
    ],
)  # fmt: skip
def test_what_does_not_narrow_is_refused_and_changes_nothing(plan: Any) -> None:
    assert refused(plan)


@given(st.integers(0, 2**32))
def test_changed_plans_narrow_or_are_refused(seed: int) -> None:
    refused(odd_json(copy.deepcopy(PLAN), random.Random(seed)))


def test_mutants_are_read_or_refused(tmp_path: Path) -> None:
    path, rnd, bad = tmp_path / "m.safetensors", random.Random(0), 0
    state = {k: v.contiguous() for k, v in build(6).state_dict().items()}
    files = list(mutants(save(state, {"plan": json.dumps(PLAN)}), 150))
    texts = [json.dumps(odd_json(PLAN, rnd)) for _ in range(100)] + ["[" * 9000, "x", "9" * 5000]
    files += [save(state, {"plan": text}) for text in texts]
    for data in files:
        path.write_bytes(data)
        try:
            load_pruned(build, path)
        except CheckpointError:
            bad += 1
    assert bad > 200


def test_a_weight_that_is_used_twice_stays_one(tmp_path: Path) -> None:
    def tied(width: int = 8) -> nn.Sequential:
        model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
        model[1].weight = model[0].weight
        return model

    small = shrink(tied(), plan_of(tied(), tied(6)))
    assert small[0].weight is small[1].weight and small[0].weight.shape == (6, 6)


def test_weights_of_other_shapes_than_the_plan_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"0.weight": torch.zeros(1)}, path, {"plan": json.dumps(PLAN)})
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_pruned(build, path)
