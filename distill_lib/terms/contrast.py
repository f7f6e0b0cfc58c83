"""An item's teacher among strangers: contrast with a memory bank."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib.arguments import check_counts, checked, told
from distill_lib.losses import full_precision
from distill_lib.losses._common import check_tensors, unit
from distill_lib.masks import IGNORE, masks_of
from distill_lib.objective import Term
from distill_lib.signals import Signals

from .given import both, mapped

__all__ = ["CRD"]


@checked
class CRD(Term):
    r"""Contrastive representation distillation: know the item that the teacher saw among others.

    Both signals are flattened, projected by a linear layer of their own and normalized:
    :math:`s_b, t_b \in \mathbb R^D`. Two *banks* hold such vectors of all :math:`N` items, from
    when they were last seen. Against a bank :math:`m` of the other side, with
    :math:`K` items of other classes drawn for :math:`b`,

    .. math:: h(x, y) = \sigma\!\left( \tfrac{\langle x, y \rangle}{\tau} - c - \log K \right),
       \qquad \ell_b = -\log h(s_b, m^t_b) - \sum_{k=1}^K \log\bigl(1 - h(s_b, m^t_k)\bigr)
       \; + \; \text{the same of } (t_b, m^s)

    where :math:`c` is the logarithm of the mean of :math:`e^{\langle x, y \rangle / \tau}` in the
    first batch. Afterwards the rows of the batch's items become
    :math:`\mu\, m_b + (1 - \mu)\, x_b`, normalized. The projection of the teacher's signal is
    trained; the teacher is not. Both projections, the banks and :math:`c` are in checkpoints. An
    item that a mask leaves out does not enter a bank.

    Args:
        student: Path of the student's signal, such as ``"layer3"``.
        teacher: Path of the teacher's; the same by default.
        index: [N] the ids of the items to learn from, as in ``batch["index"]``.
        labels: [N] their classes, so that strangers are of other classes. Without them every other
            item is a stranger; so it is to an item whose label is -100.
        width: :math:`D`.
        negatives: :math:`K`.
        temperature: :math:`\tau`.
        momentum: :math:`\mu`, in [0, 1).
        seed: Of the banks before the first batch.

    Raises:
        ValueError: ids that are not different whole numbers [N] with N at least 2, other labels,
            one class only, numbers out of their range; in a batch, no ids, or unknown ones.

    Reference:
        Tian, Krishnan and Isola, *Contrastive representation distillation*, 2020.

    Example:
        >>> term = CRD("logits", index=torch.arange(6), width=4, negatives=3)
        >>> batch = {"index": torch.tensor([1, 4])}
        >>> loss, _ = term(torch.randn(2, 5), torch.randn(2, 7), batch)
        >>> loss.requires_grad, tuple(term.bank_teacher.shape)
        (True, (6, 4))
    """

    key = "crd"

    def __init__(
        self,
        student: str,
        teacher: str | None = None,
        *,
        index: Tensor,
        labels: Tensor | None = None,
        width: int = 128,
        negatives: int = 4096,
        temperature: float = 0.07,
        momentum: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        theirs = student if teacher is None else teacher
        if not (student and theirs):
            raise ValueError(f"CRD has nothing to compare: {student!r} and {theirs!r}; name layers")
        check_counts(width=width, negatives=negatives)
        if not 0 < temperature < math.inf or not 0 <= momentum < 1:
            raise ValueError(
                "CRD expected temperature > 0 and momentum in [0, 1), got "
                f"{temperature} and {momentum}; 0.07 and 0.5 are the authors'"
            )
        ids, order, end, size = _strangers(index, labels)
        for name, value in (("ids", ids), ("order", order), ("end", end), ("size", size)):
            self.register_buffer(name, value)
        draw = torch.Generator().manual_seed(seed)
        for name in ("bank_student", "bank_teacher"):
            rows = torch.randn(len(ids), width, generator=draw)
            self.register_buffer(name, F.normalize(rows, dim=-1))
        self.register_buffer("offsets", torch.full((2,), math.nan))
        self.project: nn.Module = nn.LazyLinear(width)
        self.project_teacher: nn.Module = nn.LazyLinear(width)
        self.paths: tuple[str, str] = (student, theirs)
        self.negatives = negatives
        self.temperature = temperature
        self.momentum = momentum
        self.reads: Mapping[str, tuple[str, ...]] = {"student": (student,), "teacher": (theirs,)}

    ids: Tensor
    order: Tensor
    end: Tensor
    size: Tensor
    bank_student: Tensor
    bank_teacher: Tensor
    offsets: Tensor

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[B]; in train mode the banks take in the items."""
        mine, theirs = both(student, teacher, *self.paths)
        check_tensors(self.text(), mine, theirs)
        at = self._places(batch.get("index"), len(mine) if mine.ndim > 1 else -1, len(theirs))
        s, t = self._shown("project", mine), self._shown("project_teacher", theirs)
        kept = masks_of(mine.shape[:1], False, {"mask": batch.get("mask")}).get("mask")
        others = self._drawn(at)
        values = self._contrast(0, s, self.bank_teacher, at, others, kept)
        values = values + self._contrast(1, t, self.bank_student, at, others, kept)
        if self.training and torch.is_grad_enabled():
            self._remember(self.bank_student, s, at, kept)
            self._remember(self.bank_teacher, t, at, kept)
        return values

    def _shown(self, name: str, signal: Tensor) -> Tensor:
        """[B, D] of length 1."""
        flat = full_precision(signal.flatten(1))
        found = mapped(self.text(), name, self.get_submodule(name), flat)
        return unit(full_precision(found))

    def _places(self, index: Any, mine: int, theirs: int) -> Tensor:
        """[B] the rows of a batch's items in the banks."""
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            index = torch.as_tensor(index, device=self.ids.device)  # also of Python and NumPy
        whole = isinstance(index, Tensor) and not (index.is_floating_point() or index.is_complex())
        fits = whole and index.ndim == 1 and index.dtype != torch.bool
        if not fits or not len(index) == mine == theirs:
            got = list(index.shape) if fits else told(index)
            raise ValueError(
                f'{self.text()} finds items in its banks by batch["index"], [B] whole numbers for '
                f"signals of B items; got index {got} for {mine} and {theirs} items. Batches of "
                "data.Dataset have it; several students as one need a CRD each"
            )
        index = index.long().contiguous()
        at = torch.searchsorted(self.ids, index).clamp_max(len(self.ids) - 1)
        if not torch.equal(self.ids[at], index):
            unknown = index[self.ids[at] != index][:6].tolist()
            raise ValueError(f"{self.text()} has no items {unknown}; name all ids in index=")
        return at

    def _drawn(self, at: Tensor) -> Tensor:
        """[B, K] items of other classes: in ``order`` they begin where the item's class ends."""
        most = (len(self.ids) - self.size[at]).unsqueeze(-1)
        step = (torch.rand(len(at), self.negatives, device=at.device) * most).long()
        return self.order[(self.end[at].unsqueeze(-1) + step.clamp_max(most - 1)) % len(self.ids)]

    def _contrast(
        self, side: int, x: Tensor, bank: Tensor, at: Tensor, others: Tensor, kept: Tensor | None
    ) -> Tensor:
        rows = bank[torch.cat([at.unsqueeze(-1), others], -1)].to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            scores = (rows @ x.unsqueeze(-1)).squeeze(-1) / self.temperature
        if self.offsets[side].isnan():
            seen = scores.detach() if kept is None else scores.detach()[kept]
            if not seen.numel():  # nobody to measure by: a batch that counts nothing
                return 0.0 * scores.sum(-1)
            self.offsets[side] = seen.flatten().logsumexp(0) - math.log(seen.numel())
        scores = scores - self.offsets[side] - math.log(self.negatives)
        return F.softplus(-scores[:, 0]) + F.softplus(scores[:, 1:]).sum(-1)

    @torch.no_grad()
    def _remember(self, bank: Tensor, x: Tensor, at: Tensor, kept: Tensor | None) -> None:
        if kept is not None:
            x, at = x[kept], at[kept]
        old = bank[at]
        bank[at] = F.normalize(self.momentum * old + (1 - self.momentum) * x.to(old), dim=-1)

    def text(self) -> str:
        """Such as ``crd(layer3)``."""
        mine, theirs = self.paths
        return f"crd({mine if mine == theirs else f'{mine}~{theirs}'})"

    def latex(self) -> str:
        """The typeset term."""
        inside = self.text().removeprefix("crd").replace("_", r"\_")
        return rf"\mathrm{{crd}}\mathtt{{{inside}}}"


def _strangers(index: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The ids sorted, and how to draw items of other classes.

    Returns:
        [N] ids; [N] items sorted by class; of each item, where its class ends in that order, and
        how many items it has.
    """
    whole = index.dtype == torch.int64 and index.ndim == 1
    if not whole or len(index) < 2 or len(torch.unique(index)) < len(index):
        raise ValueError(
            "CRD expected index as different whole numbers [N] with N at least 2, got "
            f"{list(index.shape)} of {index.dtype}; data.Dataset has them, or torch.arange(N)"
        )
    index = index.detach().cpu()
    places = index.argsort()
    classes = torch.arange(len(index))
    if labels is not None:
        if labels.shape != index.shape or labels.dtype != torch.int64:
            raise ValueError(
                f"CRD expected labels {list(index.shape)} of int64, one an id, got "
                f"{list(labels.shape)} of {labels.dtype}"
            )
        labels = labels.detach().cpu()[places]
        classes = torch.where(labels == IGNORE, labels.max() + 1 + classes, labels)
    _, classes, sizes = torch.unique(classes, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ValueError("CRD needs strangers, and all items are of one class; leave out labels=")
    return index[places], classes.argsort(stable=True), sizes.cumsum(0)[classes], sizes[classes]
