"""Speculative decoding: a small model writes ahead, a large one keeps what it would have said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib.arguments import as_stops, check_counts, check_temperature, checked, told
from distill_lib.masks.tokens import base
from distill_lib.models import SmallGPT
from distill_lib.signals import eval_mode

from .readers import check_reader, leftwards, logits_of
from .sampling import Prompts, padded, probabilities

__all__ = [
    "Speculation",
    "chances",
    "check_vocabularies",
    "leftover",
    "speculate",
    "together",
    "verified",
]


@dataclass(frozen=True)
class Speculation:
    """What was proposed and kept, text by text; made by :func:`speculate`.

    Attributes:
        proposed: [..., B] proposals that the target judged; those after a refusal are not among
            them.
        accepted: [..., B] how many of these it kept.
        expected: [..., B] the sum of the probabilities with which they are kept.
        calls: [..., B] forward passes of the target.
        tokens: [..., B] tokens written.
        by_draft: [..., B, new] 1 where a proposal of the draft stands in the text. Each call ends
            with a token of the target, unless the text is over before.
    """

    proposed: Tensor
    accepted: Tensor
    expected: Tensor
    calls: Tensor
    tokens: Tensor
    by_draft: Tensor

    @property
    def acceptance(self) -> Tensor:
        """[...] the share of judged proposals that were kept."""
        return self.accepted.sum(-1) / self.proposed.sum(-1)

    @property
    def expected_acceptance(self) -> Tensor:
        """[...] the mean of Σ min(p, q), which is 1 − TV, where proposals were judged."""
        return self.expected.sum(-1) / self.proposed.sum(-1)

    @property
    def tokens_a_call(self) -> Tensor:
        """[...] tokens written for each forward pass of the target."""
        return self.tokens.sum(-1) / self.calls.sum(-1)


@checked
def leftover(p: Tensor, q: Tensor) -> Tensor:
    r"""Where to draw from after a refusal: what the target has above the draft.

    .. math:: r = \frac{(p - q)_+}{\sum_i (p_i - q_i)_+}

    Args:
        p: [..., V] probabilities of the target.
        q: [..., V] probabilities of the draft.

    Returns:
        [..., V] probabilities; ``p`` where the two are equal, for then nothing is refused.

    Raises:
        ValueError: other numbers than probabilities; two vocabularies.

    Example:
        >>> leftover(torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.7, 0.1, 0.2]))
        tensor([0., 1., 0.])
    """
    _check_chances(p, q)
    rest = (p - q).clamp_min(0)
    total = rest.sum(-1, keepdim=True)
    return torch.where(total > 0, rest / total, p)


@checked
def verified(
    p: Tensor, q: Tensor, proposed: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""Keep a beginning of the proposals, and say one token more.

    Proposal :math:`x_j \sim q_j` is kept with probability :math:`\min(1, p_j(x_j) / q_j(x_j))`. The
    first that is not kept is replaced by a draw from :func:`leftover`, and those after it are
    dropped; after k kept ones, one more is drawn from :math:`p_{k+1}`.

    Args:
        p: [..., k + 1, V] probabilities of the target.
        q: [..., k, V] probabilities of the draft.
        proposed: [..., k] its tokens, drawn from ``q``.
        generator: Of the random numbers.

    Returns:
        How many are kept [...], and the token after them [...].

    Raises:
        ValueError: other numbers than probabilities; other shapes; a token that is none.

    Reference:
        Leviathan, Kalman and Matias, *Fast inference from transformers via speculative decoding*,
        2023, algorithm 1.

    Example:
        >>> p, q = torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([[0.5, 0.5]])
        >>> [x.item() for x in verified(p, q, torch.tensor([1]))]
        [1, 1]
    """
    _check_chances(p, q)
    k, shape = proposed.shape[-1] if proposed.ndim else 0, tuple(proposed.shape)
    if q.shape[:-1] != shape or p.shape[:-1] != (*shape[:-1], k + 1) or not k:
        raise ValueError(
            f"verified expected p [..., k + 1, V], q [..., k, V] and k proposals, got "
            f"{list(p.shape)}, {list(q.shape)} and {told(proposed)}"
        )
    known = (proposed >= 0) & (proposed < p.shape[-1])
    if proposed.is_floating_point() or not bool(known.all()):
        raise ValueError(f"verified expected tokens from 0 to {p.shape[-1] - 1}, got {proposed}")
    return _judged(p, q, proposed.long(), generator)


def _judged(
    p: Tensor, q: Tensor, proposed: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """:func:`verified` of what was computed here."""
    px, qx = (d.gather(-1, proposed.unsqueeze(-1)).squeeze(-1) for d in (p[..., :-1, :], q))
    chance = _uniform(px, generator)
    kept = (chance * qx < px).long().cumprod(-1).sum(-1)
    after = torch.cat([leftover(p[..., :-1, :], q), p[..., -1:, :]], -2)
    at = kept[..., None, None].expand(*kept.shape, 1, p.shape[-1])
    return kept, _drawn(after.gather(-2, at).squeeze(-2), generator)


def speculate(
    target: nn.Module,
    draft: nn.Module,
    prompts: Prompts,
    new: int,
    *,
    ahead: int = 4,
    temperature: float = 1.0,
    stop: int | Sequence[int] | None = None,
    pad: int = 0,
    generator: torch.Generator | None = None,
) -> tuple[dict[str, Tensor], Speculation]:
    r"""Let the target go on with prompts while a draft writes ahead.

    The draft writes ``ahead`` tokens, and the target reads them in one forward pass and keeps a
    beginning of them (:func:`verified`). Whatever the draft is, the text has exactly the
    distribution of the target's own, as :func:`distill_lib.sequences.sample` draws it; a good draft
    makes more tokens a call. Texts of a batch keep their own lengths. What counts here are the
    calls: each reads the whole text again, without a cache of keys and values.

    Args:
        target: A causal model of 🤗 Transformers, or a :class:`distill_lib.models.SmallGPT`.
        draft: Another, with the same vocabulary. Of S stacked networks, each writes with the
            target: texts are [S, B, P + new].
        prompts: As in :func:`distill_lib.sequences.sample`.
        new: The most tokens to write.
        ahead: How many tokens the draft proposes at a time.
        temperature: Of both; 0 takes the most probable token.
        stop: The token, or tokens, after which a text is over. It belongs to the text.
        pad: What fills shorter prompts, on their left, and the places after a text is over.
        generator: Of the random numbers, on any device.

    Returns:
        The mapping of :func:`distill_lib.sequences.sample`, and a :class:`Speculation`.

    Raises:
        ValueError: two vocabularies; stacks of different sizes; a temperature below 0; logits that
            are nan, or -inf for every token; a model with an encoder, or one that reads in both
            directions; ids that a model does not know, or texts that are too long for it.
        TypeError: prompts that are no ids.

    Reference:
        Leviathan, Kalman and Matias, *Fast inference from transformers via speculative decoding*,
        2023; Chen et al., *Accelerating large language model decoding with speculative sampling*,
        2023.

    Example:
        >>> target, draft = SmallGPT(16, seed=0), SmallGPT(16, width=8, layers=1, seed=1)
        >>> found, record = speculate(target, draft, torch.tensor([[3, 1, 4]]), 8)
        >>> found["input_ids"].shape, bool(record.calls <= 8)
        (torch.Size([1, 11]), True)
    """
    check_counts(new=new, ahead=ahead)
    check_temperature(temperature)
    ids, mask = together(target, draft, *padded(prompts, pad))
    ends = torch.tensor(as_stops(stop, pad), dtype=torch.int64, device=mask.device)
    at = first = mask.sum(-1)  # where the next token of each text goes
    end, width = first + new, ids.shape[-1] + new
    # texts begin at the left: what stands after them changes nothing, and none needs a mask
    text = F.pad(ids.gather(-1, leftwards(mask)), (0, new + ahead + 1))
    by_draft, step = torch.zeros_like(text), torch.arange(ahead + 1, device=mask.device)
    proposed, accepted, calls = (torch.zeros_like(first) for _ in range(3))
    expected = torch.zeros_like(first, dtype=torch.float64)
    with torch.no_grad(), eval_mode([target, draft]):
        check_vocabularies(target, draft, text)
        while bool((at < end).any()):
            place = at.unsqueeze(-1) + step
            q = _written_ahead(draft, text, width, place[..., :-1], temperature, generator)
            p = chances(target, text[..., :width], place, temperature).double()
            kept, last = _judged(p, q, text.gather(-1, place[..., :-1]), generator)
            text.scatter_(-1, (at + kept).unsqueeze(-1), last.unsqueeze(-1))
            by_draft.scatter_(-1, place, (step < kept.unsqueeze(-1)).long())
            over = torch.isin(text.gather(-1, place), ends).cumsum(-1)
            before = (over == 0).sum(-1)  # tokens before the first stop
            gained = torch.minimum(torch.minimum(kept, before) + 1, end - at)
            judged = gained.clamp_max(ahead)
            shared = torch.minimum(p[..., :-1, :], q).sum(-1)
            proposed, accepted = proposed + judged, accepted + torch.minimum(kept, gained)
            expected = expected + (shared * (step[:-1] < judged.unsqueeze(-1))).sum(-1)
            calls, at = calls + (gained > 0).long(), at + gained
            end = torch.where(before < gained, at, end)
    place = first.unsqueeze(-1) + torch.arange(new, device=mask.device)
    live = (place < at.unsqueeze(-1)).long()
    written = text.gather(-1, place).masked_fill(live == 0, pad)
    found = {
        "input_ids": torch.cat([ids, written], -1),
        "attention_mask": torch.cat([mask, live], -1),
        "completion_mask": torch.cat([torch.zeros_like(mask), live], -1),
    }
    by_draft = by_draft.gather(-1, place) * live
    return found, Speculation(proposed, accepted, expected, calls, live.sum(-1), by_draft)


def together(target: nn.Module, draft: nn.Module, *texts: Tensor) -> tuple[Tensor, ...]:
    """[..., B, L] where the target is; with the axis of stacked networks, if one of them is."""
    models = [base(model) for model in (target, draft)]
    stacks = {m.seeds for m in models if isinstance(m, SmallGPT) and m.seeds is not None}
    lead = tuple(texts[0].shape[:-2])
    if len(stacks) > 1 or (stacks and lead not in ((), tuple(stacks))):
        raise ValueError(
            f"stacks of {sorted(stacks)} networks and texts {list(texts[0].shape)} do not fit: "
            "take one network, model.one(0), or texts [S, B, L] for S of them"
        )
    lead, device = tuple(stacks) or lead, next(target.parameters()).device
    return tuple(x.to(device).expand(*lead, *x.shape[-2:]).contiguous() for x in texts)


def _written_ahead(
    draft: nn.Module,
    text: Tensor,
    width: int,
    place: Tensor,
    temperature: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Let the draft put its tokens into the text at ``place``; what it drew from, [..., k, V]."""
    asked = []
    for at in torch.split(place, 1, -1):
        asked.append(chances(draft, text[..., :width], at, temperature).double())
        text.scatter_(-1, at, _drawn(asked[-1], generator))
    return torch.cat(asked, -2)


def chances(model: nn.Module, text: Tensor, place: Tensor, temperature: float) -> Tensor:
    """[..., B, m, V] probabilities of what stands at ``place`` [..., B, m]."""
    logits = logits_of(model, text[..., : int(place.max())])
    at = (place - 1).clamp_max(logits.shape[-2] - 1).unsqueeze(-1)
    logits = logits.gather(-2, at.expand(*at.shape[:-1], logits.shape[-1]))
    return probabilities(logits, temperature)


def _check_chances(*chances: Tensor) -> None:
    """Probabilities [..., V] of one vocabulary."""
    for p in chances:
        real = p.is_floating_point() and p.ndim > 0 and p.shape[-1] == chances[0].shape[-1]
        gap = 1e-2 if p.itemsize < 4 else 1e-3
        if not real or not bool(((p >= 0).all(-1) & ((p.sum(-1) - 1).abs() <= gap)).all()):
            shapes = " and ".join(told(one) for one in chances)
            raise ValueError(
                f"expected probabilities [..., V] of one vocabulary, at least 0 and 1 together, "
                f"got {shapes}; of logits take logits.softmax(-1)"
            )


def _drawn(p: Tensor, generator: torch.Generator | None) -> Tensor:
    """A token [...] from probabilities [..., V]."""
    device = p.device if generator is None else generator.device
    drawn = torch.multinomial(p.reshape(-1, p.shape[-1]).to(device), 1, generator=generator)
    return drawn.view(p.shape[:-1]).to(p.device)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    drawn = torch.rand(like.shape, dtype=like.dtype, device=device, generator=generator)
    return drawn.to(like.device)


def check_vocabularies(target: nn.Module, draft: nn.Module, ids: Tensor) -> None:
    """Both know the same number of tokens, asked about one, and these ids among them."""
    one = torch.zeros_like(ids[..., :1, :1])
    mine, theirs = (logits_of(model, one).shape[-1] for model in (target, draft))
    for model in (target, draft):
        check_reader(model, ids)
    if mine != theirs:
        raise ValueError(
            f"the target knows {mine} tokens and the draft {theirs}: one id is not the same word "
            "in both. Take a draft with the target's tokenizer, or cut both to the ids that they "
            "share"
        )
