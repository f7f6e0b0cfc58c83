"""Answers of the page: from texts to a server."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _filled(rows: list[list[int]], pad: int, left: bool = False, longest: int = 0) -> Tensor:
    longest = longest or max(map(len, rows))
    made = []
    for row in rows:
        more = longest - len(row)
        ids = [pad] * more + row if left else row + [pad] * more
        ones = [0] * more + [1] * len(row) if left else [1] * len(row) + [0] * more
        made.append((ids, ones))
    return torch.tensor([[ids for ids, _ in made], [ones for _, ones in made]])


def _padded(*, rows: list[list[int]], pad: int) -> Tensor:
    return _filled(rows, pad)


def _at_the_left(*, rows: list[list[int]], pad: int) -> Tensor:
    return _filled(rows, pad, left=True)


def _with_zeros(*, rows: list[list[int]], pad: int) -> Tensor:
    return _filled(rows, 0)


def _all_ones(*, rows: list[list[int]], pad: int) -> Tensor:
    ids, mask = _filled(rows, pad)
    return torch.stack([ids, torch.ones_like(mask)])


def _turned(*, rows: list[list[int]], pad: int) -> Tensor:
    ids, mask = _filled(rows, pad)
    return torch.stack([ids, 1 - mask])


def _by_value(*, rows: list[list[int]], pad: int) -> Tensor:
    ids, _ = _filled(rows, pad)
    return torch.stack([ids, (ids != pad).long()])


def _fixed(*, rows: list[list[int]], pad: int) -> Tensor:
    return _filled(rows, pad, longest=32)


def _rows(draw: int) -> dict[str, Any]:
    """Ids in which the padding's number also occurs as a token."""
    return {"rows": [[5, 7 + draw, 9], [6, 3], [8, 1 + draw, 4, 3, 2]], "pad": 3}


TABLE, INNER = 30_522 * 384, 6 * 32
WHOLE = 3 * (384 * INNER + INNER) + INNER * 384 + 384

EXERCISES = [
    Exercise(
        id="ex-from_texts_to_a_server-1",
        right=TABLE / 1e6,
        tolerance=1e-3,
        wrong={
            4 * TABLE / 1e6: "this is the table in floats of four bytes; int8 has one byte.",
            TABLE / 2**20: "these are mebibytes; a megabyte is 10^6 bytes.",
            TABLE: "these are bytes; divide by 10^6.",
            30_522 * 384 / 8e6: "int8 has eight bits, which are one byte a weight.",
        },
        hint="Pieces times width times one byte.",
    ),
    Exercise(
        id="ex-from_texts_to_a_server-2",
        right=WHOLE,
        wrong={
            4 * (384 * 384 + 384): "this is the layer with its twelve heads.",
            4 * (384 * INNER + INNER): "the projection back has 384 biases, one for each output.",
            4 * (INNER * INNER + INNER): "the width of the states stays 384; only the heads go.",
            2 * (384 * 384 + 384): "the last projection keeps its 384 biases: they are not halved.",
            3 * (384 * INNER + INNER): "the projection back is missing.",
            4 * 384 * INNER: "the biases are missing.",
        },
        hint="Three matrices from 384 to 192 with 192 biases, one from 192 to 384 with 384.",
    ),
    Exercise(
        id="ex-from_texts_to_a_server-3",
        kind="callable",
        right=_padded,
        inputs=_rows,
        wrong={
            _at_the_left: "the padding is at the left; the positions of the words would move.",
            _with_zeros: "the fill is 0; use the id that is given as pad.",
            _all_ones: "the mask says that padding is text.",
            _turned: "the mask is the wrong way round: 1 is for tokens, 0 for padding.",
            _by_value: "the mask asks for the id; a token with the number of the padding is lost.",
            _fixed: "filled up to a fixed length; the longest row of the batch is enough.",
        },
        hint="Fill each row up to the longest; the mask has a one for each token of the row.",
    ),
]
