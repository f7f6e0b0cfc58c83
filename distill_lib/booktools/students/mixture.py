r"""``{student} mixture``: noisy labels and a biased teacher, mixed with a weight :math:`\lambda`.

Handwritten digits, odd or even, by a linear student that sees 16 numbers of an image. One label in
five is wrong. The teacher has learned from 60 correct labels, other images and no more.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from distill_lib.booktools.sliders import _fragment
from distill_lib.booktools.students import Figure

if TYPE_CHECKING:  # the tools of the book are there before torch is
    from torch import Tensor

__all__ = ["COUNTS", "DRAWS", "LAMBDAS", "figure", "fits", "lessons", "solved"]

LAMBDAS, COUNTS, DRAWS = tuple(i / 20 for i in range(21)), (50, 200, 1000), 12
WRONG, TAUGHT, RIDGE = 0.2, 60, 1e-3


def solved(x: Tensor, p: Tensor) -> Tensor:
    """[m, d] weights of the best students of m targets p [m, n] for odd, by Newton's method."""
    import torch

    w = torch.zeros(len(p), x.shape[-1], dtype=x.dtype)
    for _ in range(12):  # to a gradient of 1e-15
        q = torch.sigmoid(w @ x.T)
        slope = (q - p) @ x / len(x) + RIDGE * w
        curve = ((q * (1 - q))[:, :, None] * x).mT @ x / len(x)
        curve += RIDGE * torch.eye(x.shape[-1], dtype=x.dtype)
        w = w - torch.linalg.solve(curve, slope)
    return w


def _images(split: str) -> tuple[Tensor, Tensor]:
    """[n, 17] pixels of 4 x 4 and a one, and whether the digit is odd."""
    import torch

    from distill_lib import data

    digits = data.load("digits", split=split)
    small = torch.nn.functional.avg_pool2d(digits.inputs, 2).flatten(1).double()
    return torch.nn.functional.pad(small, (0, 1), value=1.0), digits.labels % 2


@cache
def lessons() -> list[dict[str, Tensor]]:
    """For each draw: images, their noisy labels, the teacher's weights, and the exam."""
    import torch

    (x, y), (exam, truth) = _images("train"), _images("test")
    draw, found = torch.Generator().manual_seed(0), []
    for _ in range(DRAWS):
        order = torch.randperm(len(x), generator=draw)
        own, lesson = order[:TAUGHT], order[TAUGHT : TAUGHT + max(COUNTS)]
        wrong = torch.rand(len(lesson), generator=draw) < WRONG
        found.append(
            {
                "x": x[lesson],
                "labels": torch.where(wrong, 1 - y[lesson], y[lesson]),
                "teacher": solved(x[own], y[own][None].double())[0],
                "exam": exam,
                "truth": truth,
            }
        )
    return found


@cache
def fits() -> list[dict[str, Any]]:
    """For each weight of the teacher: percent of test images that the students have wrong."""
    import torch

    mix = torch.tensor(LAMBDAS, dtype=torch.float64)[:, None]
    wrong = torch.zeros(len(COUNTS), len(LAMBDAS), dtype=torch.float64)
    for one in lessons():
        said = torch.sigmoid(one["x"] @ one["teacher"])
        for k, n in enumerate(COUNTS):
            target = (1 - mix) * one["labels"][:n] + mix * said[:n]
            odd = solved(one["x"][:n], target) @ one["exam"].T > 0
            wrong[k] += 100 * (odd != one["truth"].bool()).double().mean(-1) / DRAWS
    return [{"wrong": row.tolist()} for row in wrong.T]


def figure() -> Figure:
    """The figure: three curves over the weight, and their lowest places."""
    teachers = [
        100 * ((one["exam"] @ one["teacher"] > 0) != one["truth"].bool()).double().mean().item()
        for one in lessons()
    ]
    config = {
        "label": "Weight of the teacher λ",
        "positions": LAMBDAS,
        "start": 10,
        "counts": COUNTS,
        "fits": fits(),
        "teacher": sum(teachers) / DRAWS,
    }
    fallback = "The error of students against the weight of their teacher, for few and many labels."
    return Figure(_fragment("dlMixture", "knobs.js", config, fallback))
