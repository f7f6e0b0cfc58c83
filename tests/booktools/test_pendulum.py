"""The pendulum of the page "Frozen encoders" is Gymnasium's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from distill_lib.booktools.pendulum import STEPS, Episodes, Pictures, Scenes, shrunk, swing

gym = pytest.importorskip("gymnasium")


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    draw = torch.Generator().manual_seed(0)
    return Pictures(torch.rand(3, 28, 28, generator=draw))


def episodes(pictures: Pictures) -> Episodes:
    return Episodes.collect(lambda state: -state.sum(-1), pictures, 2, [0, 1])


def test_it_swings_as_gymnasium_does() -> None:
    env: Any = gym.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    draw = np.random.default_rng(0)
    for _ in range(50):
        state = draw.uniform([-10, -8], [10, 8])
        torque = draw.uniform(-3, 3)
        env.state = state
        _, reward, *_ = env.step(np.array([torque]))
        mine, earned = swing(torch.tensor(state), torch.tensor(torque))
        np.testing.assert_allclose(mine, env.state, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(earned, reward, rtol=1e-6)


def test_a_picture_is_a_bright_rod_before_a_background(pictures: Pictures) -> None:
    up, down = pictures.look(torch.tensor([0.0, math.pi]), torch.tensor([0, 0]))
    assert up[:12].sum() > down[:12].sum() and up[16:].sum() < down[16:].sum()
    rod = pictures.rods[0]
    torch.testing.assert_close(up[rod == 1], rod[rod == 1])
    behind = rod == 0
    torch.testing.assert_close(up[behind], 0.6 * pictures.backgrounds[0][behind])
    again = pictures.look(torch.tensor(2 * math.pi), torch.tensor(0))
    assert torch.equal(again, up)


def test_episodes_keep_their_background_and_know_the_torque_before(pictures: Pictures) -> None:
    some = episodes(pictures)
    assert some.states.shape == (2, 2, STEPS, 2)
    assert (some.backgrounds == some.backgrounds[..., :1]).all()
    assert (some.before[..., 0] == 0).all()
    torch.testing.assert_close(some.before[..., 1:], some.torques[..., :-1] / 2)
    after, reward = swing(some.states[..., :-1, :], some.torques[..., :-1])
    torch.testing.assert_close(after, some.states[..., 1:, :])
    torch.testing.assert_close(reward, some.rewards[..., :-1])
    assert shrunk(some.seen(pictures)).shape == (2, 2, STEPS, 256)


@pytest.mark.parametrize(("about", "classes"), [("rod", 36), ("garment", 3)])
def test_scenes_come_again(pictures: Pictures, about: str, classes: int) -> None:
    scenes = Scenes(pictures, about, torch.arange(3), batches=2)
    first, again = [*scenes], [*scenes]
    assert len(scenes) == len(first) == 2
    assert torch.equal(first[1]["inputs"], again[1]["inputs"])
    assert first[0]["labels"].max() < classes and len(first[0]["labels"].unique()) > 1
