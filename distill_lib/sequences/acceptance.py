"""How much a draft is worth, read off texts that the target wrote, without speculation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib.arguments import check_counts, check_temperature, told
from distill_lib.masks import IGNORE, following, kept_of, readable
from distill_lib.signals import eval_mode

from .drafts import chances, check_vocabularies, together
from .readers import leftwards

__all__ = ["acceptance", "tokens_a_call"]

ROWS = 32  # texts of which two models' probabilities are in memory at once


def acceptance(
    target: nn.Module,
    draft: nn.Module,
    batch: Mapping[str, Any] | Tensor,
    *,
    temperature: float = 1.0,
) -> Tensor:
    r"""How often a draft's proposals would be kept, on average over the tokens of texts.

    .. math:: \alpha = \frac1n \sum_{t=1}^n \sum_i \min\big(p_t(i), q_t(i)\big)
       = 1 - \frac1n \sum_{t=1}^n \mathrm{TV}(p_t, q_t)

    It is the mass that two models share, and symmetric. Proposals are judged in contexts of the
    target's own text; on other texts it is another number.

    Args:
        target: A causal model of 🤗 Transformers, or a :class:`distill_lib.models.SmallGPT`.
        draft: Another, with the same vocabulary.
        batch: Ids [..., B, L], or a mapping with ``input_ids``, ``attention_mask``, and
            ``shift_labels`` (or ``labels``), which are -100 where nothing counts. Without labels
            every token counts that follows another. A ``mask``, one a text or beside the answers,
            leaves out others.
        temperature: Of both, as in :func:`speculate`.

    Returns:
        The mean over the tokens that count, a number, or [S] for S stacked networks.

    Raises:
        ValueError: two vocabularies; stacks of different sizes; nothing that counts; a mask or
            labels of another shape; a model that is not causal, or does not know the ids.
        TypeError: no ids.

    Example:
        >>> from distill_lib import losses
        >>> from distill_lib.models import SmallGPT
        >>> p, q, ids = SmallGPT(16), SmallGPT(16, seed=1), torch.tensor([[3, 1, 4, 1, 5]])
        >>> tv = losses.tvd(student=q(ids)[:, :-1], teacher=p(ids)[:, :-1]).mean()
        >>> torch.allclose(acceptance(p, q, ids), 1 - tv)
        True
    """
    shared, _, kept = _compared(target, draft, batch, temperature)
    return (shared * kept).sum((-2, -1)) / kept.sum((-2, -1))


def tokens_a_call(
    target: nn.Module,
    draft: nn.Module,
    batch: Mapping[str, Any] | Tensor,
    *,
    ahead: int = 4,
    temperature: float = 1.0,
) -> Tensor:
    r"""Tokens that :func:`speculate` writes in a call, computed from texts of the target.

    Given a text, the proposal at token t, if there was one, was kept with probability
    :math:`r_t = \min(1, q_t(x_t) / p_t(x_t))`, whatever happened before. So the calls that are
    needed from token t on are

    .. math:: C_t = 1 + \sum_{m=1}^{k} r_t \cdots r_{t+m-2}\, (1 - r_{t+m-1})\, C_{t+m}
       + r_t \cdots r_{t+k-1}\, C_{t+k+1},

    from one forward pass of each model.

    Args:
        target: Who wrote the texts.
        draft: Another, with the same vocabulary.
        batch: As in :func:`acceptance`; the tokens that count follow one another.
        ahead: k, how many tokens the draft proposes at a time.
        temperature: Of both, and of the texts.

    Returns:
        Tokens over expected calls, a number, or [S] for S stacked networks.

    Raises:
        ValueError: as :func:`acceptance`; a token that the target never says; tokens that count
            with others between them.

    Example:
        >>> from distill_lib.models import SmallGPT
        >>> model, ids = SmallGPT(16), torch.tensor([[3, 1, 4, 1, 5, 9]])
        >>> tokens_a_call(model, model, ids, ahead=4).item()  # five tokens in one call
        5.0
    """
    check_counts(ahead=ahead)
    _, ratio, kept = _compared(target, draft, batch, temperature)
    if bool((ratio.isnan() & kept).any()):
        raise ValueError("the target gives a token of these texts no chance: it did not write them")
    begins = kept[..., 1:] & ~kept[..., :-1]
    if bool((begins.sum(-1) + kept[..., :1].sum(-1) > 1).any()):
        raise ValueError(
            "tokens that count have others between them, and a call writes what follows at once: "
            "give each answer of a conversation as a text of its own"
        )
    size = kept.shape[-1]
    order = kept.long().argsort(dim=-1, stable=True)  # what counts ends at the right
    r = F.pad(ratio.clamp_max(1).gather(-1, order), (0, ahead))
    calls = torch.zeros(*r.shape[:-1], size + ahead + 1, dtype=r.dtype, device=r.device)
    for t in reversed(range(size)):
        rest = calls[..., t + ahead + 1]
        for j in reversed(range(t, t + ahead)):
            rest = r[..., j] * rest + (1 - r[..., j]) * calls[..., j + 1]
        calls[..., t] = 1 + rest
    count = kept.sum(-1, keepdim=True)
    return count.sum((-2, -1)) / calls.gather(-1, size - count).sum((-2, -1))


def _compared(
    target: nn.Module, draft: nn.Module, batch: Mapping[str, Any] | Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """[..., B, L - 1] Σ min(p, q), q over p of the token that follows, and which of these count."""
    check_temperature(temperature)
    given = batch if isinstance(batch, Mapping) else {"input_ids": batch}
    ids, shifted = given.get("input_ids"), given.get("shift_labels")
    real = isinstance(ids, Tensor) and (ids.is_floating_point() or ids.dtype == torch.bool)
    if not isinstance(ids, Tensor) or real or ids.ndim < 2:
        raise TypeError(f"batch expected input_ids [..., B, L], got {told(ids)}")
    named = given if shifted is None else {**given, "labels": shifted, "shift": 1}
    read = readable(named, ids.device)
    mask, labels = read.get("attention_mask"), read.get("labels")
    mask = torch.ones_like(ids) if mask is None else mask.bool().long()
    labels = following(ids.long(), IGNORE) if labels is None else labels.long()
    if read.get("labels") is not None and not read.get("shift"):
        labels = following(labels, IGNORE)
    if read.get("mask") is not None:
        seen = kept_of(ids.shape, False, {"mask": read["mask"]})
        if seen is None:
            raise ValueError(
                f"a mask {list(read['mask'].shape)} says nothing of ids {list(ids.shape)}; give "
                "one a text, or one a place that answers"
            )
        labels = labels.masked_fill(~seen, IGNORE)
    if not mask.shape == labels.shape == ids.shape:
        raise ValueError(
            f"batch expected mask and labels of the shape of the ids {list(ids.shape)}, got "
            f"{list(mask.shape)} and {list(labels.shape)}"
        )
    left = leftwards(mask)  # texts begin at the left, as they are written
    ids, mask, labels = together(target, draft, *(x.gather(-1, left) for x in (ids, mask, labels)))
    ids = ids.long().masked_fill(mask == 0, 0)  # what stands at padding may be no id
    kept = (labels[..., :-1] != IGNORE) & mask[..., 1:].bool()
    if not bool(kept.any(-1).any(-1).all()):
        raise ValueError("no token counts: all labels are -100, or no text has two tokens")
    every = torch.arange(1, ids.shape[-1], device=ids.device)
    parts = []
    with torch.no_grad(), eval_mode([target, draft]):
        check_vocabularies(target, draft, ids)
        for some in torch.split(ids, ROWS, -2):
            place = every.expand(*some.shape[:-1], -1)
            p, q = (chances(model, some, place, temperature) for model in (target, draft))
            px, qx = (d.gather(-1, some[..., 1:].unsqueeze(-1)).squeeze(-1) for d in (p, q))
            ratio = (qx / px).masked_fill(px == 0, math.nan)
            parts.append((torch.minimum(p, q).sum(-1), ratio))
    shared, ratio = (torch.cat(found, -2) for found in zip(*parts, strict=True))
    return shared, ratio, kept
