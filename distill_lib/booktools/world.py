"""Small world models in the manner of Dreamer, several at once, and what is made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.booktools.pendulum import STEPS, Episodes, begin, shrunk, swing

__all__ = [
    "Encoder",
    "Frozen",
    "Layer",
    "Policy",
    "Small",
    "World",
    "clone",
    "drive",
    "foresight",
    "learn",
]

Tokens = Callable[[Tensor], Tensor]


class Layer(nn.Module):
    """S linear layers at once: [S, N, i] to [S, N, o]."""

    def __init__(self, several: int, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()

        def drawn(*shape: int) -> nn.Parameter:
            both = 2 * torch.rand(several, *shape, generator=generator) - 1
            return nn.Parameter(both / math.sqrt(inputs))

        self.weight, self.bias = drawn(inputs, outputs), drawn(1, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The layers' outputs."""
        return torch.baddbmm(self.bias, x, self.weight)


def _two(several: int, sizes: tuple[int, int, int], generator: torch.Generator) -> nn.Sequential:
    first, hidden, last = sizes
    layers = (Layer(several, first, hidden, generator), Layer(several, hidden, last, generator))
    return nn.Sequential(layers[0], nn.SiLU(), layers[1])


class Encoder(nn.Module):
    """S small encoders at once: pictures of 16 × 16 pixels, [S, N, 256], to tokens [S, N, 32]."""

    def __init__(self, several: int, seed: int = 0) -> None:
        super().__init__()
        self.net = _two(several, (256, 64, 32), torch.Generator().manual_seed(seed))

    def forward(self, pixels: Tensor) -> Tensor:
        """The tokens."""
        tokens: Tensor = self.net(2 * pixels - 0.8)  # about mean 0 and deviation 1
        return tokens

    def begin_with(self, other: Encoder, count: int) -> Encoder:
        """The first so many take over the weights of one that was trained alone."""
        with torch.no_grad():
            for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
                mine[:count] = theirs
        return self


class Small(nn.Module):
    """One small encoder as other encoders are called: [N, 1, 28, 28] to tokens [N, 32]."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.encoder = Encoder(1, seed)

    def forward(self, pictures: Tensor) -> Tensor:
        """The tokens."""
        tokens: Tensor = self.encoder(shrunk(pictures[:, 0])[None])[0]
        return tokens


class Frozen(nn.Module):
    """A network without its last layers, frozen, its tokens with mean 0 and deviation 1."""

    middle: Tensor
    spread: Tensor

    def __init__(self, network: nn.Module, pictures: Tensor) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        with torch.no_grad():
            tokens = network(pictures)
        self.register_buffer("middle", tokens.mean(0))
        self.register_buffer("spread", (tokens - self.middle).square().mean().sqrt())

    def forward(self, pictures: Tensor) -> Tensor:
        """[N, 1, 28, 28] to [N, 32]."""
        tokens: Tensor = (self.network(pictures) - self.middle) / self.spread
        return tokens


class World(nn.Module):
    """S world models at once: a recurrent state h, a latent z, a decoder, a reward head.

    z is Gaussian with variance 1; its mean is the posterior's where there is a token, and the
    prior's where the model imagines. Between the two, KL is half the squared distance.
    """

    def __init__(self, several: int, seed: int = 0, token: int = 32, state: int = 64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.several, self.state, latent = several, state, 16
        self.inputs = Layer(several, latent + 1, 3 * state, generator)
        self.recurrent = Layer(several, state, 3 * state, generator)
        self.prior = _two(several, (state, 64, latent), generator)
        self.posterior = _two(several, (state + token, 64, latent), generator)
        self.decoder = _two(several, (state + latent, 64, 256), generator)
        self.reward = _two(several, (state + latent, 64, 1), generator)

    def begin(self, count: int) -> tuple[Tensor, Tensor]:
        """The state before anything was seen."""
        return torch.zeros(self.several, count, self.state), torch.zeros(self.several, count, 16)

    def step(self, h: Tensor, z: Tensor, torque: Tensor) -> Tensor:
        """The next recurrent state: a GRU whose input is the latent and the torque."""
        given, kept = self.inputs(torch.cat([z, torque[..., None]], -1)), self.recurrent(h)
        (a, b, c), (d, e, f) = given.chunk(3, -1), kept.chunk(3, -1)
        update = torch.sigmoid(b + e - 1)
        return update * torch.tanh(c + torch.sigmoid(a + d) * f) + (1 - update) * h

    def see(self, h: Tensor, token: Tensor) -> Tensor:
        """The posterior's mean."""
        mean: Tensor = self.posterior(torch.cat([h, token], -1))
        return mean

    def observe(self, tokens: Tensor, torques: Tensor, noise: bool = False) -> tuple[Tensor, ...]:
        """States, posterior means and latents [S, N, T, ·] of tokens [S, N, T, D]."""
        h, z = self.begin(tokens.shape[1])
        rows = []
        for token, torque in zip(tokens.unbind(2), torques.unbind(2), strict=True):
            h = self.step(h, z, torque)
            mean = self.see(h, token)
            z = mean + torch.randn_like(mean) if noise else mean
            rows.append((h, mean, z))
        return tuple(torch.stack(column, 2) for column in zip(*rows, strict=True))

    def imagine(self, h: Tensor, z: Tensor, torques: Tensor) -> Tensor:
        """Features [S, N, T, ·] without pictures."""
        rows = []
        for torque in torques.unbind(2):
            h = self.step(h, z, torque)
            z = self.prior(h)
            rows.append(torch.cat([h, z], -1))
        return torch.stack(rows, 2)

    def loss(self, tokens: Tensor, torques: Tensor, pixels: Tensor, rewards: Tensor) -> Tensor:
        """[S], DreamerV3's world-model loss with this latent: KL both ways, picture, reward."""
        h, mean, z = (x.flatten(1, 2) for x in self.observe(tokens, torques, noise=True))
        prior, features = self.prior(h), torch.cat([h, z], -1)
        dynamics = 0.5 * (prior - mean.detach()).square().sum(-1)
        representation = 0.5 * (prior.detach() - mean).square().sum(-1)
        picture = 0.5 * (self.decoder(features) - pixels.flatten(1, 2)).square().sum(-1)
        reward = 0.5 * (self.reward(features)[..., 0] - rewards.flatten(1) / 4).square()
        free = dynamics.clamp_min(1) + 0.1 * representation.clamp_min(1)
        loss: Tensor = (free + picture + reward).mean(1)
        return loss


def learn(
    world: World,
    episodes: Episodes,
    pixels: Tensor,
    tokens: Tensor | Encoder,
    steps: int,
    seed: int = 0,
    rate: float = 5e-3,
    share: float = 1.0,
    size: tuple[int, int] = (16, 12),
) -> None:
    """Train world models, each on its own episodes, with an encoder that is trained along or not.

    Args:
        world: S of them.
        episodes: Of S experiments.
        pixels: [S, E, 200, 256].
        tokens: [S, E, 200, 32] of a frozen encoder, or encoders to train along.
        steps: Of Adam, with a rate that falls to 0.
        seed: Of the windows and of the noise.
        rate: At the start.
        share: Of that rate, for encoders that are trained along.
        size: Windows in a batch, and their length.
    """
    torch.manual_seed(seed)
    groups: list[Any] = [{"params": list(world.parameters()), "lr": rate}]
    if isinstance(tokens, Encoder):
        groups.append({"params": list(tokens.parameters()), "lr": share * rate})
    params = [p for group in groups for p in group["params"]]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    several, many = pixels.shape[:2]
    which, (count, length) = torch.arange(several)[:, None, None], size
    for _ in range(steps):
        one = torch.randint(many, (several, count, 1))
        at = torch.randint(STEPS - length + 1, (several, count, 1)) + torch.arange(length)
        seen = pixels[which, one, at]
        if isinstance(tokens, Encoder):
            given = tokens(seen.flatten(1, 2)).unflatten(1, (count, length))
        else:
            given = tokens[which, one, at]
        torques, rewards = episodes.before[which, one, at], episodes.rewards[which, one, at]
        loss = world.loss(given, torques, seen, rewards).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(params, 100.0 * several)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def foresight(
    world: World, episodes: Episodes, tokens: Tensor, seen: int = 10, ahead: int = 10
) -> Tensor:
    """Error of the predicted reward, [S, ahead], as a share of the rewards' variance.

    The model sees ten pictures, then only the torques. Four such windows an episode.
    """
    found = []
    for start in (20, 60, 100, 150):
        past, then = slice(start, start + seen), slice(start + seen, start + seen + ahead)
        h, mean, _ = world.observe(tokens[:, :, past], episodes.before[:, :, past])
        features = world.imagine(h[:, :, -1], mean[:, :, -1], episodes.before[:, :, then])
        said = 4 * world.reward(features.flatten(1, 2)).unflatten(1, features.shape[1:3])[..., 0]
        found.append((said - episodes.rewards[:, :, then]).square().mean(1))
    return torch.stack(found).mean(0) / episodes.rewards.var()


class Policy(nn.Module):
    """S policies at once: features of a world model, standardized, to a torque."""

    def __init__(self, features: Tensor, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        several, _, width = features.shape
        self.middle, self.spread = features.mean(1, True), features.std(1, keepdim=True) + 1e-3
        layers = (Layer(several, width, 64, generator), _two(several, (64, 64, 1), generator))
        self.net = nn.Sequential(layers[0], nn.SiLU(), layers[1])

    def forward(self, features: Tensor) -> Tensor:
        """[S, N, F] to [S, N]."""
        torque: Tensor = self.net((features - self.middle) / self.spread)
        return torque[..., 0]


def clone(
    world: World, episodes: Episodes, tokens: Tensor, steps: int = 600, seed: int = 0
) -> Policy:
    """Policies on the features of frozen world models, taught by the expert's torques."""
    with torch.no_grad():
        h, mean, _ = world.observe(tokens, episodes.before)
    features, aims = torch.cat([h, mean], -1).flatten(1, 2), episodes.expert.flatten(1)
    torch.manual_seed(seed)
    policy = Policy(features, seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    which = torch.arange(len(features))[:, None]
    for _ in range(steps):
        some = torch.randint(features.shape[1], (len(features), 256))
        loss = (policy(features[which, some]) - aims[which, some]).square().mean(1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return policy


@torch.no_grad()
def drive(
    world: World,
    policy: Policy,
    look: Callable[[Tensor, Tensor], Tensor],
    encode: Tokens,
    backgrounds: int,
    count: int,
    seed: int,
) -> Tensor:
    """Returns [S, count] of the policies, which see pictures; all from the same starts.

    Args:
        world: S world models.
        policy: S policies on their features.
        look: From angles and backgrounds to pictures.
        encode: From pictures [S, count, 28, 28] to tokens.
        backgrounds: How many there are.
        count: Episodes.
        seed: Of the starts and the backgrounds.
    """
    generator = torch.Generator().manual_seed(seed)
    state = begin(count, generator).expand(world.several, -1, -1)
    behind = torch.randint(backgrounds, (count,), generator=generator)
    (h, z), torque = world.begin(count), torch.zeros(world.several, count)
    total = torch.zeros(world.several, count)
    for _ in range(STEPS):
        tokens = encode(look(state[..., 0], behind.expand(world.several, -1)))
        h = world.step(h, z, torque)
        z = world.see(h, tokens)
        applied = policy(torch.cat([h, z], -1)).clamp(-2, 2)
        state, reward = swing(state, applied)
        total, torque = total + reward, applied / 2
    return total
