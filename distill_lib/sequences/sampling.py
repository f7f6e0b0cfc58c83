"""Text that a model writes, from prompts of any lengths: exactly its distribution, nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import as_stops, check_counts, check_temperature, told
from distill_lib.losses import full_precision
from distill_lib.masks import readable
from distill_lib.masks.tokens import base, learned_prompts
from distill_lib.models import SmallGPT
from distill_lib.signals import accepts, eval_mode

from .readers import check_length, check_reader, first_place, goes_on, leftwards, logits_of

__all__ = ["Prompts", "padded", "probabilities", "sample", "writes"]

Prompts = Tensor | Sequence[Tensor] | Mapping[str, Any]


def sample(
    model: nn.Module,
    prompts: Prompts,
    new: int,
    *,
    temperature: float = 1.0,
    stop: int | Sequence[int] | None = None,
    pad: int = 0,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    r"""Let a causal language model go on with prompts, token by token.

    .. math:: y_t \sim \mathrm{softmax}\big(z(x, y_{<t}) / T\big)

    Nothing is cut off: no top-k, no nucleus, no penalty, and no setting that came with the model's
    files. The model is in eval mode meanwhile, and then in the mode that it was in. One that cannot
    go on with padded texts by what it keeps of them, such as Mamba, reads them anew for each token.

    Args:
        model: A causal model of 🤗 Transformers, or a :class:`distill_lib.models.SmallGPT`.
        prompts: Ids [..., B, P]; or a list of B texts [P_i] of any lengths; or a mapping with
            ``input_ids`` and ``attention_mask``, padded on either side, as tokenizers give it. S
            stacked networks go on with [B, P], each for itself, or with [S, B, P].
        new: The most tokens to write.
        temperature: :math:`T`; 0 takes the most probable token.
        stop: The token, or tokens, after which a text is over. It belongs to the text.
        pad: What fills shorter prompts, on their left, and the places after a text is over.
        generator: Of the random numbers, on any device.

    Returns:
        ``input_ids`` [..., B, P + new], prompts and what was written; ``attention_mask``, 0 at
        padding; ``completion_mask``, 1 where the model wrote.

    Raises:
        ValueError: a temperature below 0; a stop that is no id; prompts that are empty; logits that
            are nan; a model with an encoder, or one that reads in both directions or by PEFT's
            virtual tokens; ids that it does not know, or texts that are too long for it.
        TypeError: prompts that are no ids.

    Example:
        >>> model = SmallGPT(16)
        >>> prompts = [torch.tensor([3, 1]), torch.tensor([7])]
        >>> sample(model, prompts, 4, temperature=0)["input_ids"].shape
        torch.Size([2, 6])
    """
    check_counts(new=new)
    check_temperature(temperature)
    stops = as_stops(stop, pad)
    ids, mask = padded(prompts, pad)
    inner, device = base(model), next(model.parameters()).device
    ids, mask = ids.to(device), mask.to(device)
    if isinstance(inner, SmallGPT) and inner.seeds is not None and ids.ndim == 2:
        ids, mask = (x.expand(inner.seeds, *x.shape) for x in (ids, mask))
    ends = torch.tensor(stops, dtype=torch.int64, device=device)
    said, live = [], []
    alive = torch.ones(ids.shape[:-1], dtype=torch.bool, device=device)
    with torch.no_grad(), eval_mode([model]):
        asked = writes(model)
        check_reader(model, ids)
        logits = asked(ids, mask)
        for step in range(new):
            token = _drawn(logits, temperature, generator)
            said.append(token.masked_fill(~alive, pad))
            live.append(alive)
            alive = alive & ~torch.isin(token, ends)
            if step + 1 < new:
                if not alive.any():
                    left = new - step - 1
                    said += [torch.full_like(token, pad)] * left
                    live += [alive] * left
                    break
                logits = asked(said[-1].unsqueeze(-1), live[-1].long().unsqueeze(-1))
    written = torch.stack(live, -1).long()
    return {
        "input_ids": torch.cat([ids, torch.stack(said, -1)], -1),
        "attention_mask": torch.cat([mask, written], -1),
        "completion_mask": torch.cat([torch.zeros_like(mask), written], -1),
    }


def _drawn(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """A token [..., B] for the logits [..., B, V]."""
    p = probabilities(logits, temperature)
    if temperature == 0:
        return p.argmax(-1)
    if generator is not None and generator.device != p.device:
        p = p.to(generator.device)  # one stream of numbers, whatever the model runs on
    drawn = torch.multinomial(p.flatten(0, -2), 1, generator=generator)
    return drawn.view(logits.shape[:-1]).to(logits.device)


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """[..., V] what tokens are drawn from, in full precision; one token alone at temperature 0.

    Raises:
        ValueError: logits that say nothing.
    """
    logits = full_precision(logits)
    if bool(logits.isnan().any()) or not bool((logits > -math.inf).any(-1).all()):
        raise ValueError(
            "the logits are nan, or -inf for every token: there is nothing to draw from"
        )
    if temperature == 0:
        best = torch.zeros_like(logits)
        return best.scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    softened = logits / temperature
    most = softened.amax(-1)
    if not bool(most.isfinite().all()):  # so small a temperature that numbers end
        if bool(logits.isposinf().any()):
            raise ValueError("the logits are inf for a token: there is nothing to draw from")
        least = max(temperature, torch.finfo(logits.dtype).tiny)
        softened = (logits - logits.amax(-1, keepdim=True)) / least
    return softened.softmax(-1)


def padded(prompts: Prompts, pad: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and mask [..., B, P] of prompts, with all padding on the left.

    Raises:
        ValueError: a prompt without a token, or with a number below 0; a mask that is to be added.
        TypeError: something else than ids.
    """
    if isinstance(prompts, Mapping):
        if not isinstance(prompts.get("input_ids"), Tensor):
            raise TypeError(
                "prompts expected a mapping with tensors input_ids and attention_mask, got "
                f'{told(dict(prompts))}: tokenizer(texts, padding=True, return_tensors="pt")'
            )
        ids = prompts["input_ids"]
        given = {"attention_mask": prompts.get("attention_mask")}
        mask = readable(given, ids.device)["attention_mask"]
        mask = torch.ones_like(ids) if mask is None else mask
    elif isinstance(prompts, Tensor):
        ids, mask = prompts, torch.ones_like(prompts)
    else:
        ids, mask = _as_one(prompts, pad)
    words = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if not words or ids.ndim < 2 or not ids.numel() or mask.shape != ids.shape:
        raise TypeError(
            f"prompts expected ids [..., B, P] with a mask of the same shape, got {told(ids)} and "
            f"{told(mask)}"
        )
    if not bool(mask.any(-1).all()):
        raise ValueError("a prompt is empty: begin it with a token, such as the one for a start")
    # a stable sort of the mask moves padding to the left, wherever it was
    order = mask.bool().long().argsort(dim=-1, stable=True)
    mask = mask.bool().long().gather(-1, order)
    ids = ids.long().gather(-1, order).masked_fill(mask == 0, pad)
    if int(ids.min()) < 0:
        raise ValueError(
            f"prompts expected ids from 0 on, got {int(ids.min())}: leave out what is no token by "
            "an attention_mask that is 0 there"
        )
    return ids, mask


def _as_one(texts: Iterable[Tensor], pad: int) -> tuple[Tensor, Tensor]:
    rows = list(texts)
    for row in rows:
        if not isinstance(row, Tensor) or row.ndim != 1 or row.is_floating_point():
            raise TypeError(f"prompts expected texts [P_i] of ids in a list, got {told(row)}")
    if not rows:
        raise ValueError("prompts expected at least one text, got none")
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)
    return ids, (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()


class writes:
    """The logits of the next token, of a text that grows.

    What was read is not read again, but by models that cannot go on with padded texts.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, inner = model, base(model)
        self.inner: Any = inner
        self.small = isinstance(inner, SmallGPT)
        if getattr(getattr(inner, "config", None), "is_encoder_decoder", False):
            raise ValueError(
                f"{type(inner).__name__} has an encoder: write with its own generate(), and give "
                "the words as labels"
            )
        if learned_prompts(model):
            raise ValueError(
                f"{type(inner).__name__} is tuned by virtual tokens, which PEFT puts in front of "
                "every part of a text that is read: write with its own generate(), and give the "
                "words as texts"
            )
        self.placed = not self.small and accepts(inner.forward, "position_ids")
        self.first: int = 0 if self.small else first_place(inner)
        self.past: Any = {} if self.small else None
        self.mask: Tensor | None = None
        self.anew: bool | None = None  # whether whole texts are read for each token

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[..., B, V] after the tokens [..., B, L], of which those with mask 0 are padding."""
        if self.small:
            # what follows a text that is over changes no other: only padding of prompts is told
            plain = "mask" not in self.past if self.past else bool(mask.all())
            logits: Tensor = self.model(ids, None if plain else mask, self.past)
            return logits[..., -1, :]
        if self.anew is None:
            self.anew = not goes_on(writes(self.model)._on, self.inner, ids)
        if self.anew:
            return self._anew(ids, mask)
        return self._on(ids.flatten(0, -2), mask.flatten(0, -2)).view(*ids.shape[:-1], -1)

    def _anew(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[..., B, V], of whole texts that begin at the left."""
        if self.mask is not None:
            ids, mask = torch.cat([self.past, ids], -1), torch.cat([self.mask, mask], -1)
        self.past, self.mask = ids, mask
        logits = logits_of(self.model, ids.gather(-1, leftwards(mask)))
        last = (mask.sum(-1) - 1)[..., None, None].expand(*mask.shape[:-1], 1, logits.shape[-1])
        return logits.gather(-2, last).squeeze(-2)

    def _on(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, V], with the keys and values of what was read before."""
        self.mask = mask if self.mask is None else torch.cat([self.mask, mask], -1)
        check_length(self.inner, self.mask)
        more = {}
        if self.placed:
            place = (self.mask.cumsum(-1) - 1).clamp_min(0)[:, -ids.shape[1] :]
            more["position_ids"] = place + self.first
        said = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            past_key_values=self.past,
            use_cache=True,
            **more,
        )
        self.past = said.past_key_values
        last: Tensor = said.logits[:, -1]
        return last
