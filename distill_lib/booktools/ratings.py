"""The task of two chapters: sentences that many people rated, and linear students of them.

Nobody has to estimate how likely a sentence is to be called positive: it is the share of the people
who said so. Many students are trained at once, one for each list of targets and each strength of
the ridge penalty, as columns of one matrix.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distill_lib import KD, data, distill

__all__ = ["RIDGES", "LinearStudents", "Ratings", "fit", "hard", "logits"]

RIDGES = (0.03, 0.1, 0.3)
TEST, HELD_OUT = 2500, 700


class _Product(torch.autograd.Function):
    """A sparse or dense matrix of texts times a matrix of weights."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, texts: Any) -> Tensor:
        ctx.texts = texts
        return torch.from_numpy(texts @ weights.detach().cpu().numpy()).to(weights.device)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        back = torch.from_numpy(ctx.texts.T @ grads[0].cpu().numpy())
        return back.to(grads[0].device), None


class LinearStudents(nn.Module):
    """Students that are linear in the features and begin at zero: [copies, n, 2] logits."""

    def __init__(self, features: int, copies: int, ridges: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.zeros(features, copies) for _ in range(ridges))

    def forward(self, inputs: Any) -> Tensor:
        """Logits (-s/2, s/2) of both sides, s the sum of the weights of a text's words."""
        half: Tensor = _Product.apply(torch.cat(list(self.weights), 1), inputs).T / 2  # type: ignore[no-untyped-call]
        return torch.stack([-half, half], -1)


def fit(
    texts: Any,
    targets: Tensor,
    ridges: Sequence[float] = RIDGES,
    weight: Tensor | None = None,
    steps: int = 60,
    lr: float = 100.0,
    momentum: float = 0.9,
) -> LinearStudents:
    """One student for each list of targets and each ridge, by gradient descent on all texts.

    Args:
        texts: ``[n, features]``, sparse (scipy) or dense (numpy).
        targets: ``[R, n, 2]`` probabilities; a label is a target that is certain.
        ridges: Strengths of the penalty ``ridge / 2 * |w|²`` beside the sum of the losses.
        weight: ``[R, n]`` weights of the texts.
        steps: Steps of gradient descent with Nesterov's momentum.
        lr: Its rate.
        momentum: Its momentum.

    Raises:
        ValueError: Targets that are not ``[R, n, 2]``.
    """
    if targets.ndim != 3 or targets.shape[1:] != (texts.shape[0], 2):
        raise ValueError(
            f"targets are [R, {texts.shape[0]}, 2], one row for each text, got "
            f"{list(targets.shape)}."
        )
    many, n, features = len(ridges), targets.shape[1], texts.shape[1]
    # a feature that no text has keeps its weight of zero, so it need not be carried along
    seen = torch.from_numpy(np.flatnonzero(np.asarray(abs(texts).sum(0)).ravel()))
    texts = texts[:, seen.numpy()]
    students = LinearStudents(len(seen), len(targets), many)
    batch = {"inputs": texts, "log_p": targets.log().repeat(many, 1, 1)}
    if weight is not None:
        batch["weight"] = weight.repeat(many, 1)
    groups = [
        {"params": [w], "weight_decay": ridge / n}
        for w, ridge in zip(students.weights, ridges, strict=True)
    ]
    descent = torch.optim.SGD(groups, lr, momentum, nesterov=True)
    # the loss is a mean over all students, and each wants its own gradient
    objective = many * len(targets) * KD()
    teacher: Any = operator.itemgetter("log_p")
    distill(students, teacher, [batch], objective, steps=steps, optimizer=descent)
    whole = LinearStudents(features, len(targets), many)
    for weights, found in zip(whole.weights, students.cpu().weights, strict=True):
        weights.data[seen] = found.data
    return whole


@torch.no_grad()
def logits(students: LinearStudents, texts: Any) -> Tensor:
    """[ridges, R, n, 2]."""
    z: Tensor = students(texts)
    return z.view(len(students.weights), -1, *z.shape[1:])


def hard(p: Tensor, ties: Tensor | None = None) -> Tensor:
    """[..., 2] one-hot targets of the likelier side; where both are equal, those of ``ties``."""
    first = torch.stack([p[..., 0] >= p[..., 1], p[..., 0] < p[..., 1]], -1).to(p)
    return first if ties is None else torch.where(p[..., :1] == p[..., 1:], ties, first)


class Ratings:
    """The rated sentences, their features, and scores of students of them.

    Attributes:
        human: ``[n, 2]`` shares of the people on the negative and on the positive side.
        features: ``[n, features]`` tf-idf of words and neighboring words; it sees no label.
    """

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        names = ("train", "validation", "test", "ambiguous")
        train, validation, test, ambiguous = (data.load("movie_reviews", name) for name in names)
        self.reviews = train + validation + test + ambiguous
        self.human: Tensor = self.reviews.human
        bag = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, dtype=np.float32)
        self.features = bag.fit_transform(self.reviews.texts)

    def __len__(self) -> int:
        return len(self.reviews)

    def texts(self, at: Tensor) -> Any:
        """The features of some sentences."""
        return self.features[at.numpy()]

    def split(self, draw: int, n: int) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
        """Training, held-out and test sentences of one random split, and its generator."""
        generator = torch.Generator().manual_seed(draw)
        order = torch.randperm(len(self), generator=generator)
        first = TEST + HELD_OUT
        return order[first : first + n], order[TEST:first], order[:TEST], generator

    def one_rater(self, at: Tensor, generator: torch.Generator) -> Tensor:
        """[n, 2] labels, each the answer of one of the people who rated the sentence."""
        said = torch.bernoulli(self.human[at, 1], generator=generator)
        return torch.stack([1 - said, said], -1)

    def score(self, z: Tensor, at: Tensor) -> dict[str, Tensor]:
        """[...] accuracy, log loss, Brier score and calibration error of logits [..., n, 2]."""
        human, labels, log_q = self.human[at], self.reviews.labels[at], z.log_softmax(-1)
        clear = labels >= 0
        right = (z.argmax(-1) == labels)[..., clear].float()
        gap = log_q.exp()[..., 1] - human[:, 1]
        bins = torch.round(10 * log_q.exp()[..., 1]).long()
        total = torch.zeros(*gap.shape[:-1], 11).scatter_add(-1, bins, gap)
        return {
            "accuracy": 100 * right.mean(-1),
            "log loss": -(human * log_q).sum(-1).mean(-1),
            "Brier": 2 * gap.square().mean(-1),
            "calibration": total.abs().sum(-1) / len(at),
        }

    def choose(self, students: LinearStudents, held_out: Tensor, test: Tensor) -> dict[str, Tensor]:
        """[R] test scores of each list of targets, at its best ridge by held-out log loss."""
        loss = self.score(logits(students, self.texts(held_out)), held_out)["log loss"]
        at = loss.argmin(0), torch.arange(loss.shape[1])
        scores = self.score(logits(students, self.texts(test)), test)
        return {"held out": loss[at]} | {name: value[at] for name, value in scores.items()}
