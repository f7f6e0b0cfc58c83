"""How our pilot was made: folding and whole numbers change no choice but by their rounding."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from challenge import entries
from distill_lib import compress, zoo

FILE = Path(__file__).resolve().parents[2] / "teachers/challenge_lander.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("challenge_lander", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def net():
    made = zoo.Policy(8, 4, ()).normalize_as(zoo.load_teacher("lunarlander_ppo"))
    torch.nn.init.normal_(made.net[0].weight)
    torch.nn.init.normal_(made.net[0].bias)
    return made


@pytest.fixture
def seen(net):
    return net.obs_mean + net.obs_var.sqrt() * torch.randn(500, 8)


def test_a_folded_pilot_says_the_same_of_raw_observations(script, net, seen):
    numbers = script.folded(net)
    said = seen @ numbers[:, :8].T + numbers[:, 8]
    torch.testing.assert_close(said, net(seen)["logits"], atol=1e-4, rtol=1e-4)


def test_whole_numbers_choose_the_same_where_they_are_fine(script, net, seen):
    chosen = net(seen)["logits"].argmax(1)
    kept = {
        largest: (script.pilot_of(script.whole(script.folded(net), largest))(seen)["logits"])
        .argmax(1)
        .eq(chosen)
        .float()
        .mean()
        for largest in (2, 60)
    }
    assert kept[2] < kept[60] and kept[60] > 0.95


def test_whole_numbers_are_small_and_zero_where_they_can(script, net):
    found = script.whole(script.folded(net), 3)
    assert found.dtype == torch.int8 and found.shape == (4, 9)
    assert found.abs().max() <= 6
    for column in found.T:
        assert (column == 0).sum() == torch.unique(column, return_counts=True)[1].max()


def test_the_packed_pilot_is_the_one_that_was_tried(script, net, seen, tmp_path):
    numbers = script.whole(script.folded(net), 3)
    size = compress.save_packed(script.entry(numbers), tmp_path / "x")
    assert size == script.packed(numbers)
    again = entries.load(tmp_path / "x", "lander")
    assert torch.equal(again(seen)["logits"], script.pilot_of(numbers)(seen)["logits"])
