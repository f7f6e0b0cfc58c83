"""From what a policy says to what it does."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from distill_lib.arguments import checked, told
from distill_lib.signals import Forward, Signals, as_batch, call, eval_mode
from distill_lib.signals.said import as_signals
from distill_lib.stacked import Stacked
from distill_lib.ties import home

from .spaces import check_action_space

__all__ = ["act", "ask", "asking", "check_actions", "signal_of", "two_views"]

Say = Callable[[Tensor, Tensor | None], Mapping[str, Any]]


def signal_of(signals: Signals) -> str:
    """``gaussian``, ``mean`` or ``logits``: the signal that tells what to do.

    Raises:
        KeyError: when there is none of them.
        TypeError: what is no signals.
    """
    if isinstance(signals, Tensor):
        return "logits"
    if not isinstance(signals, Mapping):
        raise TypeError(f"a policy says logits, or signals by name; got {told(signals)}")
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
            An action whose logit is -inf is never taken.
        noise: n ≥ 0, the temperature of the behavior, a number or one an item [...]. 0 is greedy,
            1 the policy as it was trained.
        generator: For draws that can be repeated.

    Returns:
        [...] integers, or [..., A] real numbers, not clipped.

    Raises:
        ValueError: a noise that is negative or infinite, noise for a policy that says only a mean,
            an answer that is not finite, shapes that do not fit.
        TypeError: an answer or a noise that is no real number.

    Example:
        >>> act({"logits": torch.tensor([[0.0, 2.0, 1.0]])})
        tensor([1])
    """
    name = signal_of(signals)
    said = signals if isinstance(signals, Tensor) else signals[name]
    _check_said(name, said, noise, generator)
    # one sum instead of a look at each; only where that is infinite they are looked at
    # (an action of logit -inf is masked, and one has to be left)
    if not math.isfinite(said.sum().item()) and not bool(
        (said.amax(-1) if name == "logits" else said).isfinite().all()
    ):
        raise ValueError(
            "the policy's answer is not finite: broken weights, or observations far from those "
            "that it was normalized for"
        )
    least, most = noise.aminmax() if isinstance(noise, Tensor) else (noise, noise)
    if not (least >= 0 and most < math.inf):
        worst = float(least if not least >= 0 else most)
        raise ValueError(f"noise expected numbers ≥ 0, got {worst}; 0 is greedy, all are finite")
    noisy = bool((noise > 0).any()) if isinstance(noise, Tensor) else noise > 0
    if not noisy:
        if name == "logits":
            return said.argmax(-1)
        return said if name == "mean" else said.chunk(2, -1)[0]
    if name == "mean":
        raise ValueError(
            "noise needs a standard deviation, and the policy says only a mean; let it say "
            "'gaussian', the mean and the log standard deviation one after the other"
        )
    n = torch.as_tensor(noise, dtype=said.dtype, device=said.device)
    if name == "logits":
        # the largest of logits plus Gumbel noise is a draw from their softmax
        u = torch.rand(said.shape, generator=generator, device=said.device).clamp_min(1e-20)
        return (said - n.unsqueeze(-1) * (-u.log()).log()).argmax(-1)
    mean, log_std = said.chunk(2, -1)
    draw = torch.randn(mean.shape, generator=generator, device=said.device)
    return mean + n.unsqueeze(-1) * log_std.exp() * draw


def _check_said(name: str, said: Any, noise: Any, generator: Any) -> None:
    """Real numbers, an action at least, and a noise that is one number, or one an item."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator expected a torch.Generator, got {told(generator)}")
    if not isinstance(said, Tensor) or not said.is_floating_point():
        raise TypeError(f"a policy says {name} as a tensor of real numbers, got {told(said)}")
    if not said.ndim or not said.shape[-1]:
        raise ValueError(f"a policy says {name} of one action at least, got {told(said)}")
    if name == "gaussian" and said.shape[-1] % 2:
        raise ValueError(
            "a policy says gaussian as [..., 2A], the mean and the log standard deviation of each "
            f"action one after the other; got {told(said)}"
        )
    if not isinstance(noise, Tensor):
        if not isinstance(noise, Real) or isinstance(noise, bool):
            raise TypeError(
                f"noise expected a number, or a tensor of one an item, got {told(noise)}"
            )
        return
    items = said.shape[:-1]
    if noise.is_complex() or noise.dtype == torch.bool:
        raise TypeError(f"noise expected real numbers, got {told(noise)}")
    # not broadcast: of [N] it could not be told whether the heads are meant, where there are N
    if (noise.ndim and noise.shape != items) or not noise.numel():
        raise ValueError(
            f"noise expected a number an item {list(items)}, got {told(noise)}: expand it first"
        )


@checked
def ask(policy: Any, observations: Tensor, index: Tensor | None = None) -> Mapping[str, Any]:
    """What a policy says of observations, as a mapping, without gradient.

    Args:
        policy: A module, or a teacher that takes batches.
        observations: [N, D], or [N, ...] of the environment's shape and type; [S, N, ...] for S
            stacked policies.
        index: Ids of the items, for teachers that look answers up.

    Raises:
        ValueError: a policy that cannot read observations of this shape or type.
        TypeError: an answer that is neither a tensor nor a mapping.
    """
    with asking(policy) as say:
        return say(observations, index)


@contextlib.contextmanager
def asking(policy: Any) -> Iterator[Say]:
    """:func:`ask` for a whole walk: the policy's modes are changed and set back once."""
    module = policy if isinstance(policy, nn.Module) else None
    if not callable(policy) or isinstance(policy, type):
        raise ValueError(f"a policy is a module or a teacher, got {told(policy)}")
    device = home(module) if module is not None else None

    def say(observations: Tensor, index: Tensor | None = None) -> Mapping[str, Any]:
        home = observations.device
        try:
            with torch.no_grad():
                if module is not None:
                    there = observations if device is None else observations.to(device)
                    said = call(module, {"inputs": there})
                else:
                    batch = {"inputs": observations}
                    said = policy(batch if index is None else {**batch, "index": index})
        except (RuntimeError, IndexError) as error:
            raise ValueError(_unread(observations, error)) from error
        said = {"logits": said} if isinstance(said, Tensor) else said
        if not isinstance(said, Mapping):
            raise TypeError(
                f"a policy says logits, or signals by name; got a {type(said).__name__}"
            )
        # environments live on the CPU, and so does what is done in them
        return {k: v.to(home) if isinstance(v, Tensor) else v for k, v in said.items()}

    with eval_mode([policy]):
        yield say


def _unread(observations: Tensor, error: Exception) -> str:
    kind = "" if observations.is_floating_point() else f" of {observations.dtype}"
    way = (
        "Teacher and environment must agree on the observation; where the teacher saw more, give "
        "it its own group (rl.Privileged)"
    )
    if kind:
        way += (
            ". Integers come as the environment says them: a network of real numbers takes "
            "gym.wrappers.DtypeObservation(env, np.float32), after FlattenObservation where they "
            "count things apart (one-hot), or x.float() in its forward; images may want x / 255"
        )
    return (
        f"the policy could not be asked about observations {list(observations.shape)}{kind}: "
        f"{str(error).splitlines()[0]}. {way}"
    )


def size_of(policy: Any) -> int | None:
    """How many stacked policies there are; None for a single one."""
    return policy.size if isinstance(policy, Stacked) else None


def check_actions(
    signals: Mapping[str, Any], space: gym.Space[Any], who: str, items: Sequence[int] | None = None
) -> None:
    """Whether the answers are actions of the space, one an observation.

    Args:
        signals: What the policy said.
        space: Of the environment's actions.
        who: Named in the error.
        items: [N] or [S, N], the observations that it was asked about.

    Raises:
        ValueError: another number of actions, another kind, or answers of another shape.
        TypeError: answers that are no tensor.
    """
    check_action_space(space)
    name = signal_of(signals)
    if not isinstance(signals[name], Tensor):
        raise TypeError(f"the {who} says {name!r} as {told(signals[name])}, expected a tensor")
    shape = list(signals[name].shape)
    if isinstance(space, gym.spaces.MultiDiscrete):
        _check_heads(signals[name], name, space, who, items)
        return
    if items is not None and shape[:-1] != list(items):
        raise ValueError(
            f"the {who} says {name!r} of shape {shape} for {list(items)} observations, expected "
            "one row each; a network for flat observations takes gym.wrappers.FlattenObservation"
        )
    width, odd = divmod(shape[-1], 2 if name == "gaussian" else 1)
    if isinstance(space, gym.spaces.Discrete):
        kind, wanted, good = f"{space.n} discrete actions", int(space.n), name == "logits"
    else:
        wanted = torch.Size(space.shape or ()).numel()
        kind, good = f"{wanted} real actions", name != "logits"
    if not good or width != wanted or odd:
        said = f"{width}{' and a half' * odd}"
        raise ValueError(
            f"the environment takes {kind}, the {who} says {name!r} for {said}: it is a policy "
            "for another action space. Actions cannot be mapped by a learned layer (it would learn "
            "to undo the error); use a policy trained for these actions"
        )


def _check_heads(
    said: Tensor, name: str, space: gym.spaces.MultiDiscrete, who: str, items: Sequence[int] | None
) -> None:
    """Logits for every head, [..., A, n]; where heads differ, what they lack is masked."""
    counts = torch.as_tensor(space.nvec)
    wanted = [*(said.shape[:-2] if items is None else items), len(counts), int(counts.max())]
    if name != "logits" or list(said.shape) != wanted:
        raise ValueError(
            f"the environment takes {space}, one number for each of {len(counts)} heads: expected "
            f"'logits' of shape {wanted}, the {who} says {name!r} of shape {list(said.shape)}"
        )
    lacking = torch.arange(wanted[-1]) >= counts.unsqueeze(-1)
    if not bool((said[..., lacking] == -math.inf).all()):
        raise ValueError(
            f"the heads of {space} have different numbers of actions, and the {who} gives a chance "
            "to actions that are not there: set their logits to -inf"
        )


@checked
def two_views(change: Callable[[Tensor], Tensor]) -> Forward:
    """A ``forward`` for :func:`distill_lib.distill` that also asks about a changed observation.

    Args:
        change: From observations to observations, such as one that adds noise.

    Returns:
        ``forward(model, batch)``, whose signals have a second set under ``view``; see
        :class:`distill_lib.Consistency`. The batch stays as it is, whatever ``change`` does in
        place.

    Example:
        >>> from distill_lib.zoo import Policy
        >>> said = two_views(lambda o: o + 0.1)(Policy(4, 2), {"inputs": torch.zeros(3, 4)})
        >>> sorted(said)
        ['logits', 'view']
    """

    def forward(model: nn.Module, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        seen = as_batch(batch)["inputs"]
        plain = as_signals(model(seen))
        changed = as_signals(model(change(seen.clone() if isinstance(seen, Tensor) else seen)))
        plain = {"logits": plain} if isinstance(plain, Tensor) else dict(plain)
        changed = {"logits": changed} if isinstance(changed, Tensor) else dict(changed)
        return {**plain, "view": changed}

    return forward
