"""Answers of the chapter: TinyBERT layer by layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_lib.booktools.exercises import Exercise

__all__ = ["EXERCISES"]


def _map_loss(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    keys = mask[:, None, None, :]
    gap = (student - teacher).square() * keys
    return (gap.sum(-1) / keys.sum(-1)).mean(1)


def _no_mask(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return (student - teacher).square().mean((1, 3))


def _over_all_keys(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return ((student - teacher).square() * mask[:, None, None, :]).mean((1, 3))


def _sum_of_heads(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return student.shape[1] * _map_loss(student=student, teacher=teacher, mask=mask)


def _queries_masked(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    gap = (student - teacher).square() * mask[:, None, :, None]
    return (gap.sum(-1) / mask.sum(-1)[:, None, None]).mean(1)


def _one_number(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return _map_loss(student=student, teacher=teacher, mask=mask)[mask.bool()].mean()


def _maps(draw: int) -> dict[str, Any]:
    """Attention maps [3, 2, 5, 5] of texts of 5, 3 and 2 tokens; nonsense where padding is."""
    generator = torch.Generator().manual_seed(draw)
    mask = (torch.arange(5) < torch.tensor([5, 3, 2])[:, None]).double()
    student, teacher = (
        torch.randn(3, 2, 5, 5, generator=generator, dtype=torch.float64).softmax(-1)
        for _ in range(2)
    )
    return {"student": student, "teacher": teacher, "mask": mask}


def _cut(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _related(x: Tensor, y: Tensor, width: float) -> Tensor:
    scores: Tensor = x @ y.transpose(-1, -2) / width**0.5
    return scores.softmax(-1)


def _relation(*, x: Tensor, heads: int) -> Tensor:
    cut = _cut(x, heads)
    return _related(cut, cut, cut.shape[-1])


def _unscaled(*, x: Tensor, heads: int) -> Tensor:
    cut = _cut(x, heads)
    return _related(cut, cut, 1)


def _whole_width(*, x: Tensor, heads: int) -> Tensor:
    cut = _cut(x, heads)
    return _related(cut, cut, x.shape[-1])


def _wrong_cut(*, x: Tensor, heads: int) -> Tensor:
    cut = x.reshape(*x.shape[:2], -1, heads).permute(0, 3, 1, 2)
    return _related(cut, cut, cut.shape[-1])


def _between_dimensions(*, x: Tensor, heads: int) -> Tensor:
    turned = _cut(x, heads).transpose(-1, -2)
    return _related(turned, turned, turned.shape[-2])


def _vectors(draw: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(draw)
    x = torch.randn(2, 5, 12, generator=generator, dtype=torch.float64)
    return {"x": x, "heads": (3, 2, 4)[draw % 3]}


EXERCISES = [
    Exercise(
        id="ex-tinybert-1",
        right=(71.9 - 70.2) / (79.5 - 70.2),
        tolerance=2e-3,
        wrong={
            71.9 / 79.5: "this is the percentage of the teacher, most of which needs no teacher.",
            71.9 / 77.0: "this compares two students; the gap is between no teacher and teacher.",
            (77.0 - 70.2) / (79.5 - 70.2): "this is TinyBERT's share; DistilBERT's is asked for.",
            (71.9 - 70.2) / 70.2: "divide by the gap, teacher minus the network without one.",
            71.9 - 70.2: "these are the points gained; their share of the gap is asked for.",
        },
        hint="Points gained over the network without a teacher, divided by teacher minus network.",
    ),
    Exercise(
        id="ex-tinybert-2",
        kind="callable",
        right=_map_loss,
        inputs=_maps,
        wrong={
            _no_mask: "padding counts as a key: the loss changes with the length of the batch.",
            _over_all_keys: "padded keys are zero in the sum but still in the denominator.",
            _sum_of_heads: "the heads are summed; take their mean, or the weight depends on them.",
            _queries_masked: "the mask lies on the rows; which keys count is asked, the columns.",
            _one_number: "right on average, but the objective takes the mean: return [B, L].",
        },
        hint="Square the difference, sum over the keys that are no padding, divide by their "
        "number, and take the mean over heads.",
    ),
    Exercise(
        id="ex-tinybert-3",
        kind="callable",
        right=_relation,
        inputs=_vectors,
        wrong={
            _unscaled: "the division by the root of the width of a relation head is missing.",
            _whole_width: "divide by the root of the width of one relation head, not of all.",
            _wrong_cut: "the width is cut the other way: a head is a run of neighboring numbers.",
            _between_dimensions: "this relates dimensions to each other; relate the tokens.",
        },
        hint="Cut the last axis into heads, multiply tokens with tokens, divide, softmax.",
    ),
    Exercise(
        id="ex-tinybert-4",
        right=25 * 384 + 12 * 25 * 25,
        wrong={
            25 * 384: "this is the hidden state alone; the twelve maps are 25 by 25 each.",
            12 * 25 * 25: "these are the maps alone; the state is 25 by 384.",
            25 * 384 + 25 * 25: "each of the twelve heads has a map of its own.",
            384 + 12 * 25 * 25: "the state has 384 numbers for each token.",
            25 * 384 + 12 * 25: "a map has a row for each token, not only one.",
        },
        hint="Tokens times width, and heads times tokens times tokens.",
    ),
]
