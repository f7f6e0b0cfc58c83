"""A teacher behind an API: the most probable tokens that a server tells, and what it writes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from distill_lib.arguments import (
    as_stops,
    check_counts,
    check_ids,
    check_temperature,
    checked,
    told,
)
from distill_lib.masks import readable
from distill_lib.signals import Batch, as_batch

from .posting import Post, ServedError

__all__ = ["Served", "ServedError"]

T = TypeVar("T")
NAMED = "token_id:"  # how a server spells a token by its number
LEAST = -1e4  # a logarithm of 0; vLLM says -9999
OVER = 1e-3  # what rounding may leave beyond a probability of 1
FULL = {  # a server may have other defaults, which came with the model's files
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}


@checked
class Served:
    r"""A language model behind a server that speaks the protocol of OpenAI's completions, as vLLM.

    It tells the k most probable tokens of each position and their logarithms

    .. math:: \{(i, \log p_i)\}_{i \in S}, \qquad |S| = k

    and nothing of the others: what is left of 1 is the tail. So signals are ``top_ids`` and
    ``top_log_probs`` [..., L, k], at the place where the student's logits for the same token are,
    for ``terms.SparseKD(rest=False)``. Such answers cost money or time: ``Cache.build(path, served,
    data, what=("top_ids", "top_log_probs"))`` asks once, and goes on where it was interrupted.

    Texts are sent as ids, one a request, several requests at a time. The server must read the
    student's tokens, which is checked at each of them. It is asked for ``prompt_logprobs``, and to
    write one token, whose ``logprobs`` are those of the last position. How large k may be is the
    server's to say (vLLM: ``--max-logprobs``, 20 by default).

    Args:
        url: Where the API begins, such as ``http://localhost:8000/v1``.
        model: Its name there. Give other weights another name: it is all that is known of them.
        top: k.
        key: What the server knows its users by. It is sent to this address alone.
        echo: Ask with ``echo`` and ``logprobs`` instead, for servers without ``prompt_logprobs``.
        at_once: Requests that are under way at a time.
        **more: ``tries``, ``timeout``, ``most`` (bytes of an answer), ``pause``, ``sleep`` and
            ``clock``, as in :class:`distill_lib.teachers.posting.Post`.

    Raises:
        ServedError: when it is asked, for a server that does not answer, refuses, or answers
            wrongly: something else than JSON, other positions, other tokens, fewer than k,
            logarithms that are nan or above 0, too much.
        ValueError: another kind of url, a count below 1.

    Reference:
        The protocol is vLLM's, *OpenAI-compatible server*, documentation, 2026.

    Example:
        >>> from distill_lib.booktools.serving import serve
        >>> from distill_lib.models import SmallGPT
        >>> with serve(SmallGPT(16), "small", vocabulary=16, length=40) as url:
        ...     said = Served(url, "small", top=3)(torch.tensor([[7, 1, 4, 2]]))
        >>> said["top_ids"].shape, said["top_log_probs"].shape
        (torch.Size([1, 4, 3]), torch.Size([1, 4, 3]))
    """

    def __init__(
        self,
        url: str,
        model: str,
        top: int = 20,
        *,
        key: str | None = None,
        echo: bool = False,
        at_once: int = 8,
        **more: Any,
    ) -> None:
        check_counts(top=top, at_once=at_once)
        # of numpy they would be written in another way, to the server and in the fingerprint
        self.model, self.top, self.echo, self.at_once = model, int(top), echo, int(at_once)
        self._post: Post = Post(url.rstrip("/") + "/completions", key, **more)

    def __repr__(self) -> str:
        return f"Served({self._post.url!r}, {self.model!r}, top={self.top})"

    def to(self, device: torch.device | str) -> Served:
        """Nothing to move: answers go to where the batch's ids are."""
        return self

    def fingerprint(self) -> str:
        """The model's name and k; where the server stands may change."""
        return hashlib.sha256(repr(("Served", self.model, self.top)).encode()).hexdigest()

    # ---- what it tells of texts ----

    def __call__(self, batch: Batch | Tensor) -> dict[str, Tensor]:
        """The k most probable tokens of each position [..., L, k]; at padding, any."""
        ids, mask = _texts(batch)
        shape, device = (*ids.shape, self.top), ids.device
        ids, mask = ids.flatten(0, -2).cpu(), mask.flatten(0, -2).cpu()
        tokens = torch.arange(self.top).expand(*ids.shape, -1).contiguous()
        logs = torch.full(tokens.shape, -math.log(self.top))
        rows = [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
        for n, (names, numbers) in enumerate(self._all(self._tops, rows)):
            tokens[n, mask[n]] = torch.tensor(names)
            logs[n, mask[n]] = torch.tensor(numbers)
        return {
            "top_ids": tokens.view(shape).to(device),
            "top_log_probs": logs.view(shape).to(device),
        }

    def _tops(self, ids: list[int]) -> tuple[list[list[int]], list[list[float]]]:
        """Tokens and logarithms, k for each position of a text."""
        ask: dict[str, Any] = {"echo": True} if self.echo else {"prompt_logprobs": self.top}
        one = {"max_tokens": 1, "logprobs": self.top, "return_tokens_as_token_ids": True}
        choice = self._choice({"prompt": ids, "temperature": 1.0, **ask, **one})
        if choice.get("prompt_token_ids", ids) not in (ids, None):
            raise self._wrong("has read other tokens than were sent")
        before = [] if self.echo else choice.get("prompt_logprobs")
        last = choice.get("logprobs")
        last = last.get("top_logprobs") if isinstance(last, Mapping) else None
        if not isinstance(before, list) or not isinstance(last, list):
            missing = "prompt_logprobs" if not isinstance(before, list) else "logprobs"
            raise self._wrong(f"tells no {missing}; try echo={not self.echo}")
        rows = [*before, *last]
        if len(rows) != len(ids) + 1:
            raise self._wrong(
                f"tells {len(rows)} positions of a text of {len(ids)} tokens and one more: it "
                "counts tokens otherwise, or cuts texts"
            )
        found = [self._top(row) for row in rows[1:]]
        for place, token in enumerate(ids[1:], 1):
            if token not in found[place - 1]:
                raise self._wrong(
                    f"does not name token {token} at position {place}, which was sent: is it the "
                    "same tokenizer?"
                )
        best = [sorted(row.items(), key=lambda one: -one[1])[: self.top] for row in found]
        return [[k for k, _ in row] for row in best], [[v for _, v in row] for row in best]

    def _top(self, row: Any) -> dict[int, float]:
        """The logarithm of each token that is named at a position."""
        if not isinstance(row, Mapping):
            raise self._wrong(f"tells {told(row)} where tokens and logarithms were expected")
        found = {}
        for name, value in row.items():
            number = value.get("logprob") if isinstance(value, Mapping) else value
            token = str(name).removeprefix(NAMED)
            if not (token.isascii() and token.isdecimal() and len(token) < 10):
                raise self._wrong(
                    f"names tokens by their text, such as {token[:40]!r}, and two may have one "
                    f"text: it must know return_tokens_as_token_ids, which names them {NAMED}7"
                )
            if isinstance(number, bool) or not isinstance(number, (int, float)) or number > OVER:
                raise self._wrong(f"tells {told(number)} as a logarithm of a probability")
            if int(token) in found:
                raise self._wrong(f"names token {int(token)} twice at one position")
            found[int(token)] = min(float(max(number, LEAST)), 0.0)
        total = sum(map(math.exp, found.values()))
        if not total <= 1 + OVER:  # also where it is nan
            raise self._wrong(f"tells probabilities that sum to {total:g}")
        if len(found) < self.top:
            raise self._wrong(f"tells {len(found)} tokens of {self.top}: pass top={len(found)}")
        return found

    # ---- what it writes ----

    def write(
        self,
        prompts: Batch | Tensor,
        new: int,
        *,
        temperature: float = 1.0,
        stop: int | Sequence[int] = (),
        pad: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """What the server goes on with after prompts: ids [..., new].

        Nothing is cut off: no top-k, no nucleus, no penalty. So
        ``texts=lambda prompts, generator: served.write(prompts, 32, generator=generator)`` are the
        teacher's words of :class:`distill_lib.sequences.Completions`.

        Args:
            prompts: Ids [..., P], or a mapping with ``input_ids`` and ``attention_mask``.
            new: The most tokens to write.
            temperature: 0 takes the most probable token.
            stop: The token, or tokens, after which a text is over, beside the server's own.
            pad: What fills the places after that.
            generator: Of a seed for each text, so that the server can repeat itself.
        """
        check_counts(new=new)
        check_temperature(temperature)
        new = int(new)
        ends = as_stops(stop, pad)
        ids, mask = _texts(prompts)
        seeds = torch.randint(2**31, ids.shape[:-1], generator=generator).flatten().tolist()
        rows = [
            (row[kept].tolist(), seed)
            for row, kept, seed in zip(
                ids.flatten(0, -2).cpu(), mask.flatten(0, -2).cpu(), seeds, strict=True
            )
        ]
        ask = {"max_tokens": new, "temperature": float(temperature), "stop_token_ids": ends, **FULL}
        said = self._all(lambda row: self._words(row[0], {**ask, "seed": row[1]}), rows)
        words = torch.full((len(rows), new), pad)
        for n, text in enumerate(said):
            words[n, : len(text)] = torch.tensor(text)
        return words.view(*ids.shape[:-1], new).to(ids.device)

    def _words(self, prompt: list[int], ask: Mapping[str, Any]) -> list[int]:
        choice = self._choice({"prompt": prompt, "return_token_ids": True, **ask})
        words = choice.get("token_ids")
        if not isinstance(words, list) or not words:
            raise self._wrong(
                "tells no token_ids of what it wrote: it must know return_token_ids (vLLM does)"
            )
        if not all(type(word) is int and 0 <= word < 2**31 for word in words):
            raise self._wrong("wrote something else than ids")
        cut = choice.get("finish_reason") == "length" and len(words) < ask["max_tokens"]
        if cut or len(words) > ask["max_tokens"]:
            raise self._wrong(
                f"wrote {len(words)} tokens where {ask['max_tokens']} were asked for: is the text "
                "too long for it?"
            )
        return words

    # ---- asking ----

    def _choice(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = self._post({"model": self.model, "n": 1, **question})
        choices = answer.get("choices") if isinstance(answer, Mapping) else None
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            raise self._wrong(f"was expected to give one of 'choices', and gave {told(answer)}")
        return choices[0]

    def _wrong(self, what: str) -> ServedError:
        return ServedError(f"{self._post.url} {what}")

    def _all(self, ask: Callable[[Any], T], rows: Sequence[Any]) -> list[T]:
        """The answers to all rows, in order; the first failure ends it."""
        with ThreadPoolExecutor(min(self.at_once, len(rows))) as pool:
            try:
                return list(pool.map(ask, rows))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _texts(batch: Batch | Tensor) -> tuple[Tensor, Tensor]:
    """Ids [..., B, L], and where they are no padding."""
    named = {"input_ids": batch} if isinstance(batch, Tensor) else as_batch(batch)
    ids = named.get("input_ids", named.get("inputs"))
    if not isinstance(ids, Tensor) or ids.ndim < 2:
        raise TypeError(f"Served expected a batch with input_ids [..., B, L], got {told(ids)}")
    check_ids("input_ids", ids)
    mask = readable({"attention_mask": named.get("attention_mask")}, ids.device)["attention_mask"]
    mask = torch.ones_like(ids) if mask is None else mask
    if not isinstance(mask, Tensor) or mask.shape != ids.shape or not mask.bool().any(-1).all():
        raise ValueError(
            f"Served expected an attention_mask like input_ids {list(ids.shape)}, with a token in "
            f"each text, got {told(mask)}"
        )
    return ids, mask.bool()
