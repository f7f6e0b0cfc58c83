"""Students that teach each other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import checked
from distill_lib.signals import Batch, Signals, pick

from .shown import Shown

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
            ValueError: a model that changes its input, which the others are shown too.
        """
        shown = Shown({**kwargs, "inputs": args})
        said = []
        for model in self.models:
            said.append(pick(model(*args, **kwargs), "logits", "peer"))
            shown.check("peer", model, "begin its forward(x) with x = x.clone()")
        logits = torch.stack(said)
        self._said = logits.detach()
        return logits

    def others(self) -> _Others:
        """The teacher's side of the cohort."""
        return _Others(self)


class _Others:
    """What the other peers said of the batch that the cohort has just seen."""

    def __init__(self, cohort: Peers) -> None:
        self.cohort = cohort

    def __call__(self, batch: Batch) -> Signals:
        said = self.cohort._said
        if said is None:
            raise RuntimeError("the cohort has seen no batch yet: call it before its others()")
        k = len(said)
        said = said.float() if said.dtype.itemsize < 4 else said
        logp = said.log_softmax(-1).unsqueeze(0).expand(k, *said.shape).clone()
        logp[torch.arange(k), torch.arange(k)] = float("-inf")
        return logp.logsumexp(1) - torch.log(torch.tensor(k - 1.0, device=said.device))

    def fingerprint(self) -> str:
        return hashlib.sha256(f"peers {len(self.cohort.models)}".encode()).hexdigest()
