"""Students that teach each other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import checked
from distill_lib.masks.axes import class_axis
from distill_lib.signals import Batch, Signals, pick

from .shown import Shown, named_of

__all__ = ["Peers"]


@checked
class Peers(nn.Module):
    r"""Students that teach each other: deep mutual learning.

    As a student, a cohort of K models says ``logits`` of shape [K, B, C], one objective for all.
    As a teacher, :meth:`others` gives each model the mean of what the others just said:

    .. math:: v_k = \log \tfrac{1}{K-1} \sum_{j \ne k} \mathrm{softmax}(z_j)

    Args:
        models: At least two modules with the same classes.

    Raises:
        ValueError: fewer than two models.

    Reference:
        Zhang et al., *Deep mutual learning*, 2018.

    Example:
        >>> cohort = Peers([nn.Linear(4, 3), nn.Linear(4, 3)])
        >>> batch = {"inputs": torch.zeros(5, 4)}
        >>> cohort(batch["inputs"]).shape, cohort.others()(batch).shape
        (torch.Size([2, 5, 3]), torch.Size([2, 5, 3]))
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(models) < 2:
            raise ValueError(f"Peers expected at least two models, got {len(models)}")
        self.models: nn.ModuleList = nn.ModuleList(models)
        self._said: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """[K, B, C] logits of all models.

        Raises:
            ValueError: a model that changes its input, which the others are shown too; logits of
                unlike shapes.
        """
        shown = Shown({**kwargs, "inputs": args})
        said: list[Tensor] = []
        for model in self.models:
            said.append(pick(model(*args, **kwargs), "logits", "peer"))
            shown.check("peer", model, "begin its forward(x) with x = x.clone()")
        if len({one.shape for one in said}) > 1:
            raise ValueError(
                f"Peers expected logits of one shape, got {[list(one.shape) for one in said]}: "
                "peers name the same classes"
            )
        logits = torch.stack(said)
        self._said = logits.detach()
        return logits

    @checked
    def others(self, axis: int | None = None) -> _Others:
        """The teacher's side of the cohort.

        Args:
            axis: The axis of the classes in what one peer says, 1 for images [B, C, H, W]. By
                default the last; where the shapes leave a doubt, it has to be said.
        """
        return _Others(self, axis)


class _Others:
    """What the other peers said of the batch that the cohort has just seen."""

    def __init__(self, cohort: Peers, axis: int | None = None) -> None:
        self.cohort = cohort
        self.axis = axis

    def __call__(self, batch: Batch) -> Signals:
        said = self.cohort._said
        if said is None:
            raise RuntimeError("the cohort has seen no batch yet: call it before its others()")
        k = len(said)
        said = said.float() if said.dtype.itemsize < 4 else said
        logp = said.log_softmax(self._axis(said.shape, batch))
        logp = logp.unsqueeze(0).expand(k, *said.shape).clone()
        logp[torch.arange(k), torch.arange(k)] = float("-inf")
        return logp.logsumexp(1) - torch.log(torch.tensor(k - 1.0, device=said.device))

    def _axis(self, shape: torch.Size, batch: Any) -> int:
        """The axis of the classes, from the end."""
        named, who = named_of(batch), "Peers.others"
        at = class_axis(shape[1:], self.axis, named.get("labels"), who, named)
        if len(shape) < 3 or shape[at] < 2:
            raise ValueError(
                f"{who}: logits {list(shape)} hold one number an item, whose softmax is 1: write "
                "a yes or no as two classes, F.pad(logits, (1, 0))"
            )
        return at

    def fingerprint(self) -> str:
        return hashlib.sha256(f"peers {len(self.cohort.models)}".encode()).hexdigest()
