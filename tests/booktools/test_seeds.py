"""Every seed of a page goes through one place, where it can be shifted."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from distill_lib.booktools import seeds

# What a page may seed, each drawn from once; {s} is the seed.
DRAWS = """
import json, random, sys
import gymnasium, numpy as np, torch
from sklearn.utils import check_random_state
from distill_lib import data
from distill_lib.booktools import env_report
env_report()
s, drawn = int(sys.argv[1]), {}
torch.manual_seed(s); drawn["torch"] = torch.randn(2).tolist()
drawn["generator"] = torch.randn(2, generator=torch.Generator().manual_seed(s)).tolist()
drawn["device"] = torch.randn(2, generator=torch.Generator("cpu").manual_seed(s)).tolist()
drawn["numpy"] = np.random.default_rng(s).normal(size=2).tolist()
np.random.seed(s); drawn["legacy"] = np.random.rand(2).tolist()
drawn["state"] = np.random.RandomState(s).rand(2).tolist()
drawn["sklearn"] = check_random_state(s).rand(2).tolist()
random.seed(s); drawn["random"] = random.random()
env = gymnasium.make("CartPole-v1"); drawn["gymnasium"] = env.reset(seed=s)[0].tolist()
drawn["stored"] = torch.randn(2, generator=data.dataset._generator("x", stored=True)).tolist()
env_report(); drawn["report"] = torch.randn(2).tolist()
print(json.dumps(drawn))
"""


def drawn(seed: int, shift: int) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRAWS, str(seed)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, seeds.VARIABLE: str(shift)},
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_shift_is_the_seed_moved_everywhere_but_in_what_is_stored():
    plain, moved, shifted = drawn(3, 0), drawn(1003, 0), drawn(3, 1000)
    fixed = {"stored", "report"}
    assert {k: v for k, v in shifted.items() if k not in fixed} == {
        k: v for k, v in moved.items() if k not in fixed
    }
    assert plain["stored"] == shifted["stored"]
    assert plain["report"] != shifted["report"]
    assert all(plain[name] != shifted[name] for name in plain if name != "stored")


@pytest.mark.parametrize("word", ["-1", "1.5", "many"])
def test_a_shift_is_a_whole_number(monkeypatch, word):
    monkeypatch.setenv(seeds.VARIABLE, word)
    with pytest.raises(ValueError, match="expected a whole number"):
        seeds.shift_seeds()


def test_without_the_variable_nothing_is_touched(monkeypatch):
    import torch

    monkeypatch.delenv(seeds.VARIABLE, raising=False)
    before = torch.Generator, torch.manual_seed
    assert seeds.shift_seeds() == 0
    assert before == (torch.Generator, torch.manual_seed)
