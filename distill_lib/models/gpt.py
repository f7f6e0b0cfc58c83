"""A small GPT, alone or several in one: small enough to train in seconds on a processor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib.arguments import check_counts, checked, told

__all__ = ["SmallGPT"]

# keys and values of the tokens read so far, a pair for each layer, and which tokens are padding
Past = dict[Any, Any]


@checked
class SmallGPT(nn.Module):
    r"""Decoder-only transformers in the manner of GPT-2, one or S side by side.

    .. math:: h_0 = E[x] + P, \quad h \leftarrow h + \mathrm{Att}(\mathrm{LN}(h)), \quad
       h \leftarrow h + \mathrm{MLP}(\mathrm{LN}(h)), \quad z = \mathrm{LN}(h)\, W

    S networks with their own weights are one module: their matrices have a leading axis, and each
    is trained exactly as it would be alone. With Adam, which is elementwise, S seeds cost little
    more than one.

    Args:
        vocabulary: Number of tokens, V.
        width: Of the embeddings, a multiple of ``heads``.
        layers: Blocks.
        heads: Attention heads.
        length: The longest text, in tokens.
        seeds: S, the number of networks; None for a single one without the axis.
        seed: Of the initial weights.

    Shape:
        ids [B, L], the same for all, or [S, B, L]; a mask of the same shape is 0 at padding. Logits
        [S, B, L, V]. A single network answers [..., L, V] for ids [..., L].

    Raises:
        ValueError: sizes that do not fit; ids beyond the vocabulary; texts that are too long, or of
            another number of networks.

    Reference:
        Radford et al., *Language models are unsupervised multitask learners*, 2019.

    Example:
        >>> SmallGPT(16, seeds=5)(torch.zeros(2, 7, dtype=torch.int64)).shape
        torch.Size([5, 2, 7, 16])
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 32,
        layers: int = 2,
        heads: int = 2,
        length: int = 40,
        seeds: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_counts(
            vocabulary=vocabulary, width=width, layers=layers, heads=heads, length=length,
            seeds=1 if seeds is None else seeds,
        )  # fmt: skip
        if width % heads:
            raise ValueError(f"width expected a multiple of heads, got {width} and {heads}")
        self.vocabulary, self.width, self.heads, self.length = vocabulary, width, heads, length
        self.seeds: int | None = seeds
        size = 1 if seeds is None else seeds
        draw = torch.Generator().manual_seed(seed)

        def normal(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(size, *shape, generator=draw) * std)

        self.tokens: nn.Parameter = normal(vocabulary, width, std=0.5)
        self.places: nn.Parameter = normal(length, width, std=0.5)
        self.head: nn.Parameter = normal(width, vocabulary, std=width**-0.5)
        deep = 2 * layers  # what is added to the stream is smaller, the more is added
        self.blocks: nn.ModuleList = nn.ModuleList(
            nn.ParameterDict(
                {
                    "qkv": normal(width, 3 * width, std=width**-0.5),
                    "out": normal(width, width, std=(deep * width) ** -0.5),
                    "up": normal(width, 4 * width, std=width**-0.5),
                    "bias": nn.Parameter(torch.zeros(size, 1, 4 * width)),
                    "down": normal(4 * width, width, std=(4 * deep * width) ** -0.5),
                }
            )
            for _ in range(layers)
        )

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        """Logits; with ``past``, a dict, those of tokens that follow what it holds."""
        x, shape = self._stacked(input_ids, "ids")
        if x.dtype == torch.bool:
            raise ValueError(f"SmallGPT expected ids as integers, got {told(input_ids)}")
        past = {} if past is None else past
        mask = None
        if attention_mask is not None or "mask" in past:
            given = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            mask = self._stacked(given, "a mask")[0].bool()
            if mask.shape != x.shape:
                raise ValueError(
                    f"SmallGPT expected a mask of the shape of the ids, got {told(given)} beside "
                    f"{told(input_ids)}"
                )
        return self._answers(x.long(), mask, past).view(*shape, self.vocabulary)

    def _stacked(self, ids: Tensor, what: str) -> tuple[Tensor, tuple[int, ...]]:
        """[S, B, L], and the shape of the answers without the vocabulary."""
        real = isinstance(ids, Tensor) and (ids.is_floating_point() or ids.is_complex())
        if not isinstance(ids, Tensor) or real or ids.ndim < 2 or not ids.numel():
            raise ValueError(f"SmallGPT expected {what} [..., B, L], as integers, got {told(ids)}")
        if self.seeds is None:
            return ids.reshape(1, -1, ids.shape[-1]), tuple(ids.shape)
        if ids.ndim == 2:
            ids = ids.expand(self.seeds, *ids.shape)
        if ids.ndim != 3 or len(ids) != self.seeds:
            raise ValueError(f"{self.seeds} networks, but {what} {list(ids.shape)}")
        return ids, tuple(ids.shape)

    def _answers(self, x: Tensor, mask: Tensor | None, past: Past) -> Tensor:
        size, batch, length = x.shape
        if int(x.min()) < 0 or int(x.max()) >= self.vocabulary:
            raise ValueError(
                f"ids run from {x.min()} to {x.max()} in {self.vocabulary} tokens, 0 to "
                f"{self.vocabulary - 1}: is it the same tokenizer?"
            )
        before = past.get("length", 0)
        if (total := before + length) > self.length:
            raise ValueError(f"a text of {total} tokens, in a model of at most {self.length}")
        past["length"] = total
        seen: Tensor | None = None
        if before and length > 1:  # is_causal would count from the left
            seen = torch.ones(length, total, dtype=torch.bool, device=x.device).tril(before)
        place = torch.arange(before, total, device=x.device).expand(size, batch, length)
        if mask is not None:
            read = past.get("mask", mask.new_ones(size, batch, before))
            mask = torch.cat([read, mask], -1)
            past["mask"] = mask
            place = (mask.long().cumsum(-1) - 1).clamp_min(0)[..., before:]
            seen = self._seen(mask, before).flatten(0, 1).unsqueeze(1)
        flat = [i.reshape(size, -1, 1).expand(-1, -1, self.width) for i in (x, place)]
        h = self.tokens.gather(1, flat[0]) + self.places.gather(1, flat[1])
        for number, block in enumerate(cast(Iterable[nn.ParameterDict], self.blocks)):
            q, k, v = self._heads(_normal(h) @ block["qkv"], size * batch)
            if number in past:
                k, v = (torch.cat(pair, -2) for pair in zip(past[number], (k, v), strict=True))
            past[number] = (k, v)
            causal = seen is None and length > 1
            a = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=causal)
            h = h + a.transpose(1, 2).reshape(size, -1, self.width) @ block["out"]
            h = h + F.gelu(_normal(h) @ block["up"] + block["bias"]) @ block["down"]
        return _normal(h) @ self.head

    def _heads(self, x: Tensor, rows: int) -> tuple[Tensor, ...]:
        """Queries, keys and values [S·B, heads, L, width of a head]."""
        each = self.width // self.heads
        parts: Tensor = x.view(rows, -1, 3, self.heads, each).permute(2, 0, 3, 1, 4)
        return parts.unbind(0)

    @staticmethod
    def _seen(mask: Tensor, before: int) -> Tensor:
        """[S, B, L, all] which tokens each one sees: itself, and those before it but padding."""
        total = mask.shape[-1]
        at = torch.arange(total, device=mask.device)
        earlier, itself = at <= at[before:, None], at == at[before:, None]
        return (mask.unsqueeze(-2) & earlier) | itself

    def one(self, i: int) -> SmallGPT:
        """Network ``i`` alone, with copies of its weights."""
        size = 1 if self.seeds is None else self.seeds
        if not 0 <= i < size:
            raise ValueError(f"{size} networks are numbered from 0 to {size - 1}, got {i}")
        return self._with({k: v[i : i + 1] for k, v in self.state_dict().items()}, None)

    def copies(self, seeds: int) -> SmallGPT:
        """A single network ``seeds`` times, side by side."""
        check_counts(seeds=seeds)
        if self.seeds not in (None, 1):
            raise ValueError(f"{self.seeds} networks: take one of them first, model.one(0)")
        state = {k: v.expand(seeds, *v.shape[1:]) for k, v in self.state_dict().items()}
        return self._with(state, seeds)

    def _with(self, state: dict[str, Tensor], seeds: int | None) -> SmallGPT:
        made = SmallGPT(
            self.vocabulary, self.width, len(self.blocks), self.heads, self.length, seeds
        )
        made.load_state_dict(state)
        return made.to(self.head.device, self.head.dtype).train(self.training)


def _normal(h: Tensor) -> Tensor:
    return F.layer_norm(h, h.shape[-1:])
