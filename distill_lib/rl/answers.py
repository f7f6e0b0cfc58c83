"""The teacher of rollouts: its answers, kept since the states were visited."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from distill_lib.signals import Signals, as_batch

from .acting import ask

if TYPE_CHECKING:
    from .rollouts import Rollouts

__all__ = ["Answers", "rows_at"]


def rows_at(values: Tensor, index: Tensor) -> Tensor:
    """``values[index]``, in half the time where the index is a list."""
    return values.index_select(0, index) if index.ndim == 1 else values[index]


class Answers:
    """The teacher of the rollouts: what it said of each state when the state was visited."""

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts = rollouts

    def __call__(self, batch: Any) -> Signals:
        named, home = as_batch(batch), self.rollouts
        if not isinstance(named.get("index"), Tensor):
            raise ValueError(
                "the teacher of rollouts knows states by batch['index'], as the batches of its "
                f"rollouts have it; this batch has {', '.join(named) or 'nothing'}. Of other "
                "states ask the policy itself"
            )
        if home.augment is not None:
            # a changed state has another answer
            shape = named["index"].shape
            inputs = named["inputs"].flatten(0, len(shape) - 1)
            said = ask(home.policy, inputs, named["index"].flatten())
            return {k: v.unflatten(0, shape) for k, v in said.items()}
        index = cast(Tensor, named["index"])
        at = index - home.dropped if home.dropped else index
        if home.dropped and index.numel() and int(at.min()) < 0:
            raise ValueError(
                f"the batch has states of a round that is no longer in the buffer (keep="
                f"{home.keep}), and with them went the teacher's answers: ask before the next "
                "round, or keep more"
            )
        return {
            k.removeprefix("answer/"): rows_at(v, at.to(v.device)).to(index.device)
            for k, v in home.buffer.items()
            if k.startswith("answer/")
        }

    def fingerprint(self) -> str:
        name = f"rollouts of {self.rollouts.policy.fingerprint()}"
        return hashlib.sha256(name.encode()).hexdigest()

    def models(self) -> Iterator[nn.Module]:
        yield from getattr(self.rollouts.policy, "models", lambda: ())()
