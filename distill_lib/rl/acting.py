"""From what a policy says to what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from distill_lib.signals import Forward, Signals
from distill_lib.stacked import Stacked

__all__ = ["act", "ask", "check_actions", "signal_of", "two_views"]


def signal_of(signals: Signals) -> str:
    """``gaussian``, ``mean`` or ``logits``: the signal that tells what to do.

    Raises:
        KeyError: when there is none of them.
    """
    if isinstance(signals, Tensor):
        return "logits"
    for name in ("gaussian", "mean", "logits"):
        if name in signals:
            return name
    raise KeyError(
        "a policy says 'logits' for discrete actions, 'gaussian' or 'mean' for real ones; "
        f"this one says: {', '.join(signals) or 'nothing'}"
    )


def act(
    signals: Signals, noise: float | Tensor = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    r"""What a policy does.

    .. math:: \text{discrete: } a \sim \mathrm{softmax}(z / n) \qquad
       \text{real: } a = \mu + n\,\sigma\,\varepsilon

    Args:
        signals: What the policy said: ``logits`` [..., A], or ``gaussian`` [..., 2A], or ``mean``.
        noise: n ≥ 0, the temperature of the behavior, a number or one an item [...]. 0 is greedy,
            1 the policy as it was trained.
        generator: For draws that can be repeated.

    Returns:
        [...] integers, or [..., A] real numbers, not clipped.

    Raises:
        ValueError: a negative noise, noise for a policy that says only a mean, an answer that is
            not finite.

    Example:
        >>> act({"logits": torch.tensor([[0.0, 2.0, 1.0]])})
        tensor([1])
    """
    name = signal_of(signals)
    said = signals if isinstance(signals, Tensor) else signals[name]
    if not bool(said.isfinite().all()):
        raise ValueError(
            "the policy's answer is not finite: broken weights, or observations far from those "
            "that it was normalized for"
        )
    n = torch.as_tensor(noise, dtype=said.dtype, device=said.device)
    if bool((n < 0).any()):
        raise ValueError(f"noise expected numbers ≥ 0, got {n.min().item()}; 0 is greedy")
    noisy = bool((n > 0).any())
    if name == "logits":
        best = said.argmax(-1)
        if not noisy:
            return best
        # the largest of logits plus Gumbel noise is a draw from their softmax
        u = torch.rand(said.shape, generator=generator, device=said.device).clamp_min(1e-20)
        return (said - n.unsqueeze(-1) * (-u.log()).log()).argmax(-1)
    if not noisy:
        return said if name == "mean" else said.chunk(2, -1)[0]
    if name == "mean":
        raise ValueError(
            "noise needs a standard deviation, and the policy says only a mean; let it say "
            "'gaussian', the mean and the log standard deviation one after the other"
        )
    mean, log_std = said.chunk(2, -1)
    draw = torch.randn(mean.shape, generator=generator, device=said.device)
    return mean + n.unsqueeze(-1) * log_std.exp() * draw


@torch.no_grad()
def ask(policy: Any, observations: Any, index: Tensor | None = None) -> Mapping[str, Any]:
    """What a policy says of observations, as a mapping, without gradient.

    Args:
        policy: A module, or a teacher that takes batches.
        observations: [N, D]; [S, N, D] for S stacked policies.
        index: Ids of the items, for teachers that look answers up.

    Raises:
        ValueError: a policy that cannot read observations of this shape.
    """
    modules = policy.modules() if isinstance(policy, nn.Module) else iter(())
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        if isinstance(policy, nn.Module):
            device = next((p.device for p in policy.parameters()), observations.device)
            said = policy(observations.to(device))
        else:
            batch = {"inputs": observations}
            said = policy(batch if index is None else {**batch, "index": index})
    except RuntimeError as error:
        raise ValueError(
            f"the policy could not be asked about observations {list(observations.shape)}: "
            f"{str(error).splitlines()[0]}. Teacher and environment must agree on the "
            "observation; where the teacher saw more, give it its own group (rl.Privileged)"
        ) from error
    finally:
        for module in training:
            module.training = True
    said = {"logits": said} if isinstance(said, Tensor) else said
    # environments live on the CPU, and so does what is done in them
    return {k: v.to(observations.device) if isinstance(v, Tensor) else v for k, v in said.items()}


def size_of(policy: Any) -> int | None:
    """How many stacked policies there are; None for a single one."""
    return policy.size if isinstance(policy, Stacked) else None


def check_actions(signals: Mapping[str, Any], space: gym.Space[Any], who: str) -> None:
    """Whether the answers are actions of the space.

    Raises:
        ValueError: another number of actions, or another kind.
    """
    name = signal_of(signals)
    width = signals[name].shape[-1] // (2 if name == "gaussian" else 1)
    if isinstance(space, gym.spaces.Discrete):
        kind, wanted, good = f"{space.n} discrete actions", int(space.n), name == "logits"
    elif isinstance(space, gym.spaces.Box):
        wanted = int(torch.Size(space.shape).numel())
        kind, good = f"{wanted} real actions", name != "logits"
    else:
        raise ValueError(f"actions are Discrete or Box, got the space {space}")
    if not good or width != wanted:
        raise ValueError(
            f"the environment takes {kind}, the {who} says {name!r} for {width}: it is a policy "
            "for another action space. Actions cannot be mapped by a learned layer (it would learn "
            "to undo the error); use a policy trained for these actions"
        )


def two_views(change: Callable[[Tensor], Tensor]) -> Forward:
    """A ``forward`` for :func:`distill_lib.distill` that also asks about a changed observation.

    Args:
        change: From observations to observations, such as one that adds noise.

    Returns:
        ``forward(model, batch)``, whose signals have a second set under ``view``; see
        :class:`distill_lib.Consistency`.

    Example:
        >>> from distill_lib.zoo import Policy
        >>> said = two_views(lambda o: o + 0.1)(Policy(4, 2), {"inputs": torch.zeros(3, 4)})
        >>> sorted(said)
        ['logits', 'view']
    """

    def forward(model: nn.Module, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        plain, changed = model(batch["inputs"]), model(change(batch["inputs"]))
        plain = {"logits": plain} if isinstance(plain, Tensor) else dict(plain)
        changed = {"logits": changed} if isinstance(changed, Tensor) else dict(changed)
        return {**plain, "view": changed}

    return forward
