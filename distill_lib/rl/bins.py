"""Real actions as numbered ones: bins for each coordinate, or a codebook of whole actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from distill_lib.arguments import checked, told
from distill_lib.losses import full_precision

__all__ = ["Discretized", "DiscretizedPolicy", "codebook"]


def centers_of(space: gym.Space[Any], bins: int | None, codes: Tensor | None, ends: bool) -> Tensor:
    """[A, n] what n bins stand for, for each coordinate; or the codes [K, A], looked at.

    Raises:
        ValueError: not exactly one of the two, fewer than two bins, codes that do not fit, a space
            that is no bounded Box of real numbers.
    """
    if not isinstance(space, Box) or np.dtype(space.dtype).kind != "f" or len(space.shape) != 1:
        raise ValueError(
            f"what is discretized is a flat Box of real actions, got the space {space}"
        )
    if (bins is None) == (codes is None):
        raise ValueError(
            f"give bins, for each coordinate, or codes, whole actions [K, A]; got bins={bins} and "
            f"codes={'None' if codes is None else told(codes)}"
        )
    if codes is not None:
        if codes.ndim != 2 or len(codes) < 2 or codes.shape[1:] != space.shape:
            raise ValueError(
                f"codes are two actions or more, [K, {space.shape[0]}]; got {told(codes)}"
            )
        if not codes.is_floating_point() or not bool(codes.isfinite().all()):
            raise ValueError(f"codes are finite real numbers, got {told(codes)}")
        return codes.detach().float()
    if bins is None or bins < 2:
        raise ValueError(f"bins is at least 2, got {bins}")
    if not space.is_bounded():
        raise ValueError(f"bins divide a bounded space, got {space}; give codes instead")
    low, high = (torch.as_tensor(x, dtype=torch.float32) for x in (space.low, space.high))
    if not bool((high - low).isfinite().all()):  # of bounds that only look like some
        raise ValueError(
            f"bins divide a bounded space, and {space} is too wide; give codes instead"
        )
    count = torch.arange(bins)
    part = count / (bins - 1) if ends else (count + 0.5) / bins
    return low.unsqueeze(-1) + part * (high - low).unsqueeze(-1)


@checked
class Discretized(gym.ActionWrapper[Any, Any, Any]):
    r"""An environment of real actions that takes numbered ones.

    With ``bins`` each coordinate has n evenly spaced values, and an action names one of each: a
    MultiDiscrete of A heads. From bound to bound they are

    .. math:: a_i = l_i + \frac{k_i}{n - 1}\,(h_i - l_i),

    at most half a gap from any action. Without ``ends`` they are the middles of n equal bins,
    :math:`l_i + (k_i + \frac12)(h_i - l_i) / n`: a little nearer on average, and never at the
    bounds, where many policies are most of the time. With ``codes`` an action names one of K whole
    actions: a Discrete.

    Args:
        env: An environment with a flat, bounded Box of real actions.
        bins: n, values for each coordinate.
        codes: [K, A], such as :func:`codebook` finds them.
        ends: Whether the outermost values are the bounds.

    Raises:
        ValueError: not exactly one of the two, codes or a space that do not fit.

    Example:
        >>> env = Discretized(gym.make("Pendulum-v1"), bins=4)
        >>> env.action(np.array([0]))
        array([-2.], dtype=float32)
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        bins: int | None = None,
        codes: Tensor | None = None,
        ends: bool = True,
    ) -> None:
        super().__init__(env)
        self.centers: np.ndarray = centers_of(env.action_space, bins, codes, ends).numpy()
        self.factored: bool = codes is None
        self.action_space = (
            gym.spaces.MultiDiscrete([self.centers.shape[1]] * len(self.centers))
            if self.factored
            else gym.spaces.Discrete(len(self.centers))
        )

    def action(self, action: Any) -> np.ndarray:
        """The real action of a number, or of a number for each coordinate.

        Raises:
            ValueError: what is no action of this environment.
        """
        named = np.asarray(action)
        if named.dtype.kind not in "iu" or not self.action_space.contains(
            named.astype(np.int64)
            if self.factored
            else np.int64(named)
            if named.ndim == 0
            else named
        ):
            raise ValueError(f"an action of {self.action_space} was expected, got {told(action)}")
        heads = np.arange(len(self.centers))
        chosen = self.centers[heads, named] if self.factored else self.centers[int(named)]
        inner: Any = self.env.action_space
        return np.asarray(np.clip(chosen, inner.low, inner.high), inner.dtype)


@checked
class DiscretizedPolicy(nn.Module):
    r"""A Gaussian policy, asked about numbered actions.

    Its logits are its own logarithmic densities of the actions that the numbers stand for, so that
    near actions are the more likely, and the nearest is the best:

    .. math:: z_{ik} = -\frac{(\mu_i - c_{ik})^2}{2 \sigma_i^2} \quad\text{(bins)} \qquad
       z_k = -\sum_i \frac{(\mu_i - c_{ki})^2}{2 \sigma_i^2} \quad\text{(codes)}

    The mean is clipped to the space first, as environments do.

    Args:
        policy: Says ``gaussian``, or ``mean`` where ``std`` is given.
        space: The Box of its actions.
        bins: For each coordinate; logits are [..., A, n].
        codes: [K, A]; logits are [..., K].
        std: σ of all coordinates, in place of the policy's own.
        ends: As in :class:`Discretized`.

    Raises:
        ValueError: as :class:`Discretized`; a ``std`` that is not positive; later, an answer for
            another number of actions.
        KeyError: a policy without ``gaussian``, or without ``mean``.

    Example:
        >>> from distill_lib.zoo import Policy
        >>> space = gym.spaces.Box(-1, 1, (3,))
        >>> coarse = DiscretizedPolicy(Policy(11, 3, continuous=True), space, bins=16)
        >>> coarse(torch.zeros(5, 11))["logits"].shape
        torch.Size([5, 3, 16])
    """

    def __init__(
        self,
        policy: nn.Module,
        space: gym.Space[Any],
        bins: int | None = None,
        codes: Tensor | None = None,
        std: float | None = None,
        ends: bool = True,
    ) -> None:
        super().__init__()
        if std is not None and not 0 < std < float("inf"):
            raise ValueError(f"std expected a number > 0, got {std}")
        self.policy, self.std = policy, std
        self.factored: bool = codes is None
        self.centers: Tensor
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("centers", centers_of(space, bins, codes, ends))
        for name in ("low", "high"):
            bound = torch.as_tensor(getattr(space, name), dtype=torch.float32)
            self.register_buffer(name, bound)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Logits of the numbered actions."""
        said = self.policy(inputs)
        name = "gaussian" if self.std is None else "mean"
        if not isinstance(said, Mapping) or name not in said:
            raise KeyError(
                f"a policy that is discretized says {name!r}"
                + ("; or give std= for one that says only a mean" if self.std is None else "")
            )
        count = len(self.low)
        wanted = 2 * count if self.std is None else count
        if said[name].shape[-1:] != (wanted,):
            raise ValueError(
                f"the space has {count} action{'s' * (count > 1)}, so {name!r} is expected to be "
                f"[..., {wanted}]; the policy says {list(said[name].shape)}: use the space that it "
                "was trained for"
            )
        if self.std is None:
            mean, log_std = said["gaussian"].chunk(2, -1)
            std = log_std.exp()
        else:
            mean, std = said["mean"], torch.full_like(said["mean"], self.std)
        mean = mean.clamp(self.low, self.high)
        if self.factored:
            away = (mean.unsqueeze(-1) - self.centers) / std.unsqueeze(-1)
            return {"logits": -away.square() / 2}
        away = (mean.unsqueeze(-2) - self.centers) / std.unsqueeze(-2)
        return {"logits": -away.square().sum(-1) / 2}


@checked
def codebook(actions: Tensor, size: int, seed: int = 0, steps: int = 30) -> Tensor:
    r"""Whole actions that stand for many: k-means, begun as k-means++.

    .. math:: \min_{c_1, \dots, c_K} \sum_n \min_k \lVert a_n - c_k \rVert^2

    Args:
        actions: [N, A], such as a teacher's, clipped to their bounds.
        size: K.
        seed: Of the first codes.
        steps: Of Lloyd's iteration.

    Returns:
        [K, A], of half precision as float32.

    Raises:
        ValueError: fewer actions than codes, or actions that are not finite.

    Reference:
        Arthur and Vassilvitskii, *k-means++: the advantages of careful seeding*, 2007.

    Example:
        >>> codebook(torch.tensor([[0.0], [0.2], [1.0]]), 2).sort(0).values
        tensor([[0.1000],
                [1.0000]])
    """
    if actions.ndim != 2 or not actions.is_floating_point() or not bool(actions.isfinite().all()):
        raise ValueError(f"actions are finite real numbers [N, A], got {told(actions)}")
    if size < 1 or steps < 0 or len({*map(tuple, actions.tolist())}) < size:
        raise ValueError(
            f"{size} codes from {steps} steps need as many different actions, got {told(actions)}"
        )
    actions, draw = full_precision(actions), torch.Generator().manual_seed(int(seed))
    book = actions[torch.randint(len(actions), (1,), generator=draw)]
    for _ in range(size - 1):
        away = distances(actions, book).min(-1).values
        book = torch.cat([book, actions[away.multinomial(1, generator=draw)]])
    for _ in range(steps):
        nearest = distances(actions, book).argmin(-1)
        sums = torch.zeros_like(book).index_add_(0, nearest, actions)
        counts = nearest.bincount(minlength=size).unsqueeze(-1)
        book = torch.where(counts > 0, sums / counts.clamp_min(1), book)
    return book


def distances(actions: Tensor, book: Tensor) -> Tensor:
    """[N, K] squared distances."""
    return (actions.unsqueeze(-2) - book).square().sum(-1)
