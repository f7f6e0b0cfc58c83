"""Texts read by two tokenizers at once, for :class:`distill_lib.terms.SpanKD`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distill_lib.arguments import checked, told
from distill_lib.losses import align
from distill_lib.masks import IGNORE

__all__ = ["first_pieces", "two_tokenizers"]


@checked
def two_tokenizers(texts: Sequence[str], student: Any, teacher: Any) -> dict[str, Tensor]:
    """A batch of texts in the tokens of both, with the spans that the two spell alike.

    Labels and spans stand where they are answered, one place before the token; the span that holds
    the first token of either side, which nobody answers, is left out. Padding is on the right.

    Args:
        texts: B texts, of at least two tokens.
        student: A fast tokenizer of 🤗 Transformers.
        teacher: Another one.

    Returns:
        ``input_ids``, ``attention_mask``, ``shift_labels``, ``labels`` (the same) and ``spans``
        [B, L] of the student; those of the teacher [B, L'], as ``teacher_input_ids``, ….

    Raises:
        ValueError: a tokenizer that tells no offsets; no texts, or one without a token.

    Example:
        >>> from distill_lib.sequences import reference_text, train_tokenizer
        >>> small, large = (train_tokenizer(reference_text(), n) for n in (300, 512))
        >>> batch = two_tokenizers(["return the value"], small, large)
        >>> batch["spans"].max() == batch["teacher_spans"].max()
        tensor(True)
    """
    if not texts:
        raise ValueError("two_tokenizers expected texts, got none")
    for who, tokenizer in (("student", student), ("teacher", teacher)):
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"the {who}'s {type(tokenizer).__name__} tells no offsets: two_tokenizers expected "
                "a fast tokenizer, such as AutoTokenizer gives"
            )
    columns: dict[str, list[list[int]]] = {}
    for text in texts:
        read = [one(text, return_offsets_mapping=True) for one in (student, teacher)]
        if not all(len(one["input_ids"]) for one in read):
            raise ValueError(
                f"two_tokenizers expected texts of at least two tokens, got {text!r}: leave it out"
            )
        both = align(*([end for _, end in one["offset_mapping"]] for one in read))
        unseen = max(-1, *(int(spans[0]) for spans in both))
        for who, one, spans in zip(("", "teacher_"), read, both, strict=True):
            found = torch.where(spans > unseen, spans - unseen - 1, IGNORE).tolist()
            ids = list(one["input_ids"])
            rows = {
                "input_ids": ids,
                "attention_mask": [1] * len(ids),
                "labels": [*ids[1:], IGNORE],
                "spans": [*found[1:], IGNORE],
            }
            for name, row in rows.items():
                columns.setdefault(f"{who}{name}", []).append(row)
    fills = {"labels": IGNORE, "spans": IGNORE}
    batch = {
        name: _padded(rows, fills.get(name.removeprefix("teacher_"), 0))
        for name, rows in columns.items()
    }
    return {**batch, "shift_labels": batch["labels"]}


def _padded(rows: list[list[int]], fill: int) -> Tensor:
    length = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows])


@checked
def first_pieces(student: Any, teacher: Any) -> Tensor:
    """With which token of the student each token of the teacher begins.

    Where the teacher's tokens are made of the student's, as with a shorter list of the same merges,
    the mass of the teacher's tokens that begin with a piece is exactly the mass of the piece.

    Args:
        student: A tokenizer of 🤗 Transformers.
        teacher: Another one.

    Returns:
        [C'], a token of the student for each of the teacher's; -1 for one that is no text alone,
        and for a special one, such as an end, that the student does not have by that name.

    Raises:
        TypeError: no tokenizer.

    Example:
        >>> from distill_lib.sequences import reference_text, train_tokenizer
        >>> small, large = (train_tokenizer(reference_text(), n) for n in (300, 512))
        >>> pieces = first_pieces(small, large)
        >>> small.decode(pieces[large("import").input_ids[0]])
        'i'
    """
    for who, tokenizer in (("student", student), ("teacher", teacher)):
        if not callable(getattr(tokenizer, "get_vocab", None)):
            raise TypeError(f"{who} expected a tokenizer of Transformers, got {told(tokenizer)}")
    mine = student.get_vocab()
    known, special = teacher.get_vocab(), {*getattr(teacher, "all_special_ids", ())}
    pieces = torch.full((max(known.values()) + 1,), -1)
    for name, token in known.items():
        if name in mine:
            pieces[token] = mine[name]
            continue
        if token in special:  # its name is spelled with letters, and it is none of them
            continue
        ids = student(teacher.decode([token]), add_special_tokens=False)["input_ids"]
        # else it is no text alone, such as half of a character
        if ids and name.startswith(student.convert_ids_to_tokens(ids[0])):
            pieces[token] = ids[0]
    return pieces
