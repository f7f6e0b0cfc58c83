"""One student, several environments: their rollouts take turns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from distill_lib.arguments import checked
from distill_lib.signals import Signals, as_batch

from .rollouts import Rollouts

__all__ = ["Tasks"]


@checked
class Tasks:
    """The rollouts of several environments, batch by batch in turn.

    Each batch carries ``task``, the name of its environment, by which the student chooses its
    layers (``forward=lambda m, b: m(b["inputs"], b["task"])``), and ``tasks.teacher`` the teacher.

    Args:
        rollouts: Rollouts by name, with the same number of updates.

    Raises:
        ValueError: none at all, one twice, or numbers of updates that differ.

    Reference:
        Parisotto, Ba and Salakhutdinov, *Actor-Mimic*, 2016; Rusu et al., *Policy distillation*,
        2016.
    """

    midway = True

    def __init__(self, rollouts: Mapping[str, Rollouts]) -> None:
        if not rollouts:
            raise ValueError("Tasks expected the rollouts of at least one environment, got none")
        if len({id(one) for one in rollouts.values()}) < len(rollouts):
            raise ValueError(
                f"two of {', '.join(rollouts)} are the same rollouts: make one for each"
            )
        updates = {name: len(one) for name, one in rollouts.items()}
        if len(set(updates.values())) > 1:
            raise ValueError(f"tasks take turns, so their updates must be equal; got {updates}")
        self.rollouts: dict[str, Rollouts] = dict(rollouts)
        self.teacher: _Teachers = _Teachers(self.rollouts)

    def __len__(self) -> int:
        return sum(len(one) for one in self.rollouts.values())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        walks = {name: iter(one) for name, one in self.rollouts.items()}
        while walks:
            for name in list(walks):
                batch = next(walks[name], None)
                if batch is None:
                    del walks[name]
                else:
                    yield {**batch, "task": name}

    def state_dict(self) -> dict[str, Any]:
        """Of every task."""
        return {name: one.state_dict() for name, one in self.rollouts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Of every task.

        Raises:
            ValueError: the state is of other tasks.
        """
        if state.keys() != self.rollouts.keys():
            raise ValueError(
                f"a state of the tasks {', '.join(state) or 'none'}; these are "
                f"{', '.join(self.rollouts)}"
            )
        for name, one in self.rollouts.items():
            one.load_state_dict(state[name])


class _Teachers:
    """Each task's own teacher."""

    def __init__(self, rollouts: Mapping[str, Rollouts]) -> None:
        self.rollouts = rollouts

    def __call__(self, batch: Any) -> Signals:
        named = as_batch(batch)
        if named.get("task") not in self.rollouts:
            raise ValueError(
                f"the teacher of tasks knows them by batch['task'], one of "
                f"{', '.join(self.rollouts)}; this batch has {', '.join(named)}"
            )
        return self.rollouts[named["task"]].teacher(batch)

    def fingerprint(self) -> str:
        names = [(name, one.teacher.fingerprint()) for name, one in self.rollouts.items()]
        return hashlib.sha256(repr(names).encode()).hexdigest()

    def models(self) -> Iterator[nn.Module]:
        for one in self.rollouts.values():
            yield from one.teacher.models()
