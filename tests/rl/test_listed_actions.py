"""Spaces of actions that no policy speaks of: what the refusal advises works as it is written."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_lib.rl import evaluate
from distill_lib.zoo import Policy


class Asks(gym.Env[Any, Any]):
    """One step that is worth 1 where its action is one of the space."""

    def __init__(self, space: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = Box(-1, 1, (2,), np.float32), space
        self.done: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.done.append(np.asarray(action))
        good = self.action_space.contains(np.asarray(action).astype(self.action_space.dtype))
        return np.zeros(2, np.float32), float(good), True, False, {}


def spaces() -> st.SearchStrategy[gym.Space[Any]]:
    shapes = st.sampled_from([(2, 2), (1, 2), (3, 1)])
    drawn = st.tuples(shapes, st.integers(0, 9), st.booleans())

    def heads(one: tuple[tuple[int, int], int, bool]) -> gym.Space[Any]:
        shape, seed, moved = one
        rng = np.random.default_rng(seed)
        start = rng.integers(-3, 4, shape) if moved else None
        return MultiDiscrete(rng.integers(1, 4, shape), start=start)

    binary = st.sampled_from([3, (2, 2), (1, 3)]).map(MultiBinary)
    return st.one_of(drawn.map(heads), binary)


@given(space=spaces())
@settings(max_examples=25, deadline=None)
def test_all_combinations_are_listed_once(space: gym.Space[Any]) -> None:
    env = Asks(space)
    with pytest.raises(ValueError, match="list its") as error:
        evaluate(Policy(2, 4), lambda: env, 1)
    _, _, advice = str(error.value).partition("combinations: ")
    listed = eval(advice, {"gym": gym, "np": np, "env": env})
    count = int(listed.action_space.n)
    assert isinstance(listed.action_space, Discrete)
    for action in range(count):
        listed.reset(seed=0)
        assert listed.step(action)[1] == 1.0
    assert len({done.tobytes() for done in env.done}) == count
    assert evaluate(Policy(2, count), lambda: listed, 1).mean == 1.0
