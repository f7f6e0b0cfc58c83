"""What a model is worth, how far two models agree, and whether a teacher can teach at all."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .masks import IGNORE
from .signals import Forward, as_batch, call, eval_mode, pick, place
from .teachers.live import Source

__all__ = ["agreement", "calibration_error", "evaluate", "sanity"]


@torch.no_grad()
def _answers(
    models: Sequence[nn.Module | Source], batches: Iterable[Any], forward: Forward | None = None
) -> tuple[list[Tensor], Tensor | None]:
    """[..., N, C] logits of each model and [N] labels, where there are any, in one walk."""
    logits: list[list[Tensor]] = [[] for _ in models]
    labels = []
    with eval_mode(models):
        for batch in batches:
            named = as_batch(batch)
            for model, mine in zip(models, logits, strict=True):
                if isinstance(model, nn.Module):
                    said = call(model, place(named, model), forward)
                else:
                    said = model(named)
                mine.append(pick(said, "logits").float().cpu())
            if isinstance(named.get("labels"), Tensor):
                labels.append(named["labels"].cpu())
    if not logits[0]:
        raise ValueError("batches is empty: there is nothing to evaluate on")
    if any(one.ndim != 1 for one in labels):
        raise ValueError(
            f"expected one label an item, got labels of shape {tuple(labels[0].shape)}; for "
            "tokens, flatten logits and labels in forward= and in the batch"
        )
    return [torch.cat(mine, dim=-2) for mine in logits], torch.cat(labels) if labels else None


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    r"""Expected calibration error: how far confidence is from accuracy.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} \left| \mathrm{acc}_b - \mathrm{conf}_b \right|

    over bins of equal width of the largest probability, at temperature 1.

    Args:
        logits: [N, C].
        labels: [N].
        bins: Number of bins.

    Returns:
        A scalar in [0, 1].

    Reference:
        Guo et al., *On calibration of modern neural networks*, 2017.

    Example:
        >>> round(calibration_error(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])).item(), 4)
        0.0
    """
    confidence, answer = logits.softmax(-1).max(-1)
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    gap = (answer == labels).to(confidence) - confidence
    return torch.zeros(bins, dtype=gap.dtype).index_add(0, bin_of, gap).abs().sum() / len(labels)


def _number(value: Tensor) -> Any:
    return value.tolist()


def evaluate(
    model: nn.Module | Source, batches: Iterable[Any], forward: Forward | None = None
) -> dict[str, Any]:
    r"""Accuracy, negative log-likelihood and calibration of a classifier, at temperature 1.

    The model is asked in eval mode and left in the mode it was in.

    Args:
        model: A module, or a teacher.
        batches: Batches with labels; items labelled -100 are left out.
        forward: ``forward(model, batch)``, as in :func:`distill_lib.distill`.

    Returns:
        ``accuracy``, ``nll`` (nats), ``ece`` and ``n``. For several networks in one
        (:class:`distill_lib.Stacked`), the first three are lists.

    Raises:
        ValueError: no batches, no labels, or labels outside the classes.

    Example:
        >>> evaluate(nn.Identity(), [(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))])["accuracy"]
        1.0
    """
    (logits,), labels = _answers([model], batches, forward)
    if labels is None:
        raise ValueError(
            "evaluate needs labels: a batch is (inputs, labels) or has a 'labels' entry"
        )
    kept = labels != IGNORE
    logits, labels = logits[..., kept, :], labels[kept]
    if not len(labels):
        raise ValueError("every label is -100: there is nothing to evaluate on")
    classes = logits.shape[-1]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, "
            f"the model has classes 0 to {classes - 1}"
        )
    logp = logits.log_softmax(-1)
    right = (logits.argmax(-1) == labels).float()
    nll = -logp.gather(-1, labels.expand(logp.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    flat = logits.reshape(-1, *logits.shape[-2:])
    ece = torch.stack([calibration_error(one, labels) for one in flat]).view(logits.shape[:-2])
    return {
        "accuracy": _number(right.mean(-1)),
        "nll": _number(nll.mean(-1)),
        "ece": _number(ece),
        "n": len(labels),
    }


def agreement(
    student: nn.Module | Source, teacher: nn.Module | Source, batches: Iterable[Any]
) -> Any:
    r"""The share of items on which two models give the same answer.

    .. math:: \frac1n \sum_i \mathbf 1 [\arg\max z_i = \arg\max v_i]

    It is not accuracy: a student can be as good as its teacher and err elsewhere.

    Args:
        student: A module or a teacher.
        teacher: A module or a teacher.
        batches: Walked once; both models see the same batch, so that it may be shuffled.

    Returns:
        A number in [0, 1]; a list for several networks in one.

    Raises:
        ValueError: no batches, or different classes.

    Reference:
        Stanton et al., *Does knowledge distillation really work?*, 2021.

    Example:
        >>> agreement(nn.Identity(), nn.Identity(), [(torch.eye(3), torch.arange(3))])
        1.0
    """
    (mine, theirs), _ = _answers([student, teacher], batches)
    if mine.shape[-2:] != theirs.shape[-2:]:
        raise ValueError(
            f"student and teacher answered with {tuple(mine.shape[-2:])} and "
            f"{tuple(theirs.shape[-2:])} items x classes; agreement needs the same classes in the "
            "same order"
        )
    return _number((mine.argmax(-1) == theirs.argmax(-1)).float().mean(-1))


def sanity(
    teacher: nn.Module | Source,
    batches: Iterable[Any],
    at_least: float | None = None,
    limit: int = 20,
) -> dict[str, Any]:
    """Catch a failing teacher before it teaches.

    Looks at the first batches: finite logits, the same answer twice, more than one answer,
    labels within the classes, and an accuracy above that of always naming the commonest class.

    Args:
        teacher: A teacher, or a module (asked in eval mode).
        batches: Batches with labels.
        at_least: Accuracy that the teacher must reach.
        limit: How many batches are looked at.

    Returns:
        The result of :func:`evaluate`, with ``majority``.

    Raises:
        ValueError: what is wrong, and what it usually means.

    Example:
        >>> sanity(nn.Identity(), [(torch.eye(3), torch.arange(3))])["accuracy"]
        1.0
    """
    shown = [as_batch(batch) for batch in itertools.islice(iter(batches), limit)]
    (logits,), labels = _answers([teacher], shown)
    if not logits.isfinite().all():
        share = 1 - logits.isfinite().float().mean().item()
        raise ValueError(
            f"{share:.1%} of the teacher's logits are not finite: half precision that overflows, "
            "broken weights, or inputs that are not what it was trained on (Teacher(preprocess=…))"
        )
    if not torch.equal(logits, _answers([teacher], shown)[0][0]):
        raise ValueError(
            "the teacher answers the same batch differently each time: dropout in train mode, "
            "random augmentation inside the model, or sampling. Targets must be deterministic"
        )
    answers = logits.argmax(-1)
    if len(logits) > 1 and (answers == answers[0]).all():
        raise ValueError(
            f"the teacher answers class {int(answers[0])} to everything: a head that was "
            "never trained or loaded, or inputs that are not normalized as it expects "
            "(Teacher(preprocess=…))"
        )
    result = evaluate(teacher, shown)
    known = labels[labels != IGNORE] if labels is not None else torch.empty(0)
    majority = known.bincount().max().item() / len(known)
    if result["accuracy"] <= majority:
        raise ValueError(
            f"the teacher's accuracy {result['accuracy']:.3f} is not above that of always naming "
            f"the commonest class ({majority:.3f}): labels in another order (id2label), another "
            "task, or an untrained model"
        )
    if at_least is not None and result["accuracy"] < at_least:
        raise ValueError(
            f"the teacher's accuracy {result['accuracy']:.3f} on {result['n']} items is below "
            f"{at_least}; check its card, its preprocessing and the data before distilling"
        )
    return {**result, "majority": majority}
