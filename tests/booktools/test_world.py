"""Several world models at once are apart, and what is frozen or taken over is what it was."""

from __future__ import annotations

import pytest
import torch

from distill_lib.booktools.pendulum import STEPS, Episodes, Pictures, shrunk
from distill_lib.booktools.world import (
    Encoder,
    Frozen,
    Small,
    World,
    clone,
    drive,
    foresight,
    learn,
)

pytest.importorskip("gymnasium")


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    draw = torch.Generator().manual_seed(0)
    return Pictures(torch.rand(3, 28, 28, generator=draw))


def episodes(pictures: Pictures) -> Episodes:
    return Episodes.collect(lambda state: -state.sum(-1), pictures, 2, [0, 1])


def test_tokens_of_a_frozen_network_have_mean_0_and_deviation_1() -> None:
    net, seen = torch.nn.Flatten(), torch.rand(64, 1, 4, 4)
    tokens = Frozen(net, seen)(seen)
    torch.testing.assert_close(tokens.mean(0), torch.zeros(16), atol=1e-6, rtol=0)
    assert tokens.square().mean().item() == pytest.approx(1, abs=1e-5)


def test_a_model_learns_from_its_own_episodes_alone(pictures: Pictures) -> None:
    """The first of two does not change when the second is given other episodes."""
    some = episodes(pictures)
    pixels = shrunk(some.seen(pictures))
    weights = []
    for scale in (1.0, 0.0):
        world, along = World(2), Encoder(2)
        other = torch.stack([pixels[0], scale * pixels[1]])
        learn(world, some, other, along, steps=3, size=(2, 4))
        weights.append([p.detach() for p in (*world.parameters(), *along.parameters())])
    pairs = [*zip(*weights, strict=True)]
    for one, two in pairs:
        torch.testing.assert_close(one[0], two[0])
    assert any((one[1] != two[1]).any() for one, two in pairs)


def test_what_is_trained_alone_is_taken_over(pictures: Pictures) -> None:
    small = Small(seed=3)
    along = Encoder(3, seed=0).begin_with(small.encoder, 2)
    seen = pictures.look(torch.rand(5), torch.zeros(5, dtype=torch.long))
    with torch.no_grad():
        tokens = along(shrunk(seen).expand(3, -1, -1))
        want = small(seen[:, None])
    torch.testing.assert_close(tokens[0], want)
    torch.testing.assert_close(tokens[1], want)
    assert not torch.allclose(tokens[2], want)


def test_errors_and_returns_have_a_value_each(pictures: Pictures) -> None:
    some, world, encoder = episodes(pictures), World(2), Encoder(2)
    with torch.no_grad():
        tokens = encoder(shrunk(some.seen(pictures)).flatten(1, 2)).unflatten(1, (2, STEPS))
    error = foresight(world, some, tokens)
    assert error.shape == (2, 10) and (error > 0).all()
    policy = clone(world, some, tokens, steps=2)
    plays = drive(world, policy, pictures.look, lambda x: encoder(shrunk(x)), 3, 4, seed=0)
    assert plays.shape == (2, 4) and (plays < 0).all()
