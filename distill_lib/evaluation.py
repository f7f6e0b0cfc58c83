"""What a model is worth, how far two models agree, and whether a teacher can teach at all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .arguments import check_counts, checked
from .signals import Forward, as_batch
from .terms.classes import as_labels, class_axis
from .terms.items import UNSTACK, Asked, Said, check_finite, walk
from .terms.scores import TASKS, Score, calibration_error, number

__all__ = ["agreement", "calibration_error", "evaluate", "linear_cka", "sanity"]


@checked
def evaluate(
    model: Asked,
    batches: Iterable[Any],
    forward: Forward | None = None,
    *,
    task: str = "classes",
    axis: int | None = None,
    on: str = "logits",
    labels: str = "labels",
    ignore_index: float | None = None,
) -> dict[str, Any]:
    r"""What a model is worth on labels, at temperature 1.

    ==============  ================================================================================
    ``classes``     one class of many: ``accuracy``, ``nll`` (nats), ``ece``, ``n``; for soft labels
                    the accuracy is that of the likeliest class. For images, with a label a pixel,
                    ``accuracy``, ``nll``, ``iou`` of each class, their mean ``miou``, ``n``
    ``labels``      independent labels, or one yes or no: ``accuracy`` over all labels,
                    ``label_accuracy`` of each, ``nll`` (nats a label), ``n`` labels
    ``regression``  ``mae`` and ``mse`` over all numbers, ``n`` numbers
    ==============  ================================================================================

    A class that neither labels nor answers name has no ``iou`` (nan), and is left out of the mean;
    a label that is never known has no ``label_accuracy`` (nan). The model is asked in eval mode and
    left in the mode it was in. Nothing counts that ``batch["mask"]`` leaves out, one entry an item,
    a place or a label, nor a text's padding; every token of a text is an item, and
    ``batch["weight"]`` is not asked.

    Args:
        model: A module, or a teacher.
        batches: Batches with labels.
        forward: ``forward(model, batch)``, as in :func:`distill_lib.distill`.
        task: One of the above.
        axis: The axis of the classes, 1 for images [B, C, H, W]. By default the last.
        on: The model's signal.
        labels: The name of the labels in a batch.
        ignore_index: Labels equal to it are left out; by default -100, in regression nothing.

    Returns:
        As above. For several networks in one (:class:`distill_lib.Stacked`, ``Peers``),
        ``accuracy``, ``nll`` and ``ece`` of classes are lists.

    Raises:
        ValueError: no batches, no labels, or nothing that counts; labels outside the classes or not
            finite; answers that are nan or +inf; one class; shapes or masks that do not fit;
            batches of different kinds; an unknown task.
        TypeError: answers that are no real numbers, labels that are no class numbers.

    Example:
        >>> from torch import nn
        >>> evaluate(nn.Identity(), [(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))])["accuracy"]
        1.0
    """
    _check_task("evaluate", task, TASKS)
    score = TASKS[task]("evaluate", axis, ignore_index)
    walk("evaluate", {"model": model}, batches, forward, on, _adds(score, labels), labels)
    return score.result()


def _check_task(who: str, task: str, tasks: Iterable[str]) -> None:
    if task not in tasks:
        raise ValueError(f"{who}: task is one of {', '.join(map(repr, tasks))}, got {task!r}")


def _adds(score: Score, key: str) -> Callable[[list[Said]], None]:
    """What adds a batch to a score."""

    def take(said: list[Said]) -> None:
        (one,) = said
        if one.batch.get(key) is None:
            raise ValueError(
                f"{one.who} needs labels: a batch is (inputs, labels) or has a {key!r} entry"
            )
        labels = as_labels(one.batch[key], one.who)
        if not labels.ndim:
            raise ValueError(f"{one.who} expected {key!r} with a label an item, got one number")
        score.add(one, labels)

    return take


@checked
def agreement(
    student: Asked,
    teacher: Asked,
    batches: Iterable[Any],
    forward: Forward | None = None,
    *,
    task: str = "classes",
    axis: int | None = None,
    on: str = "logits",
) -> Any:
    r"""The share of items on which two models give the same answer.

    .. math:: \frac1n \sum_i \mathbf 1 [\arg\max z_i = \arg\max v_i]

    It is not accuracy: a student can be as good as its teacher and err elsewhere. Items are left
    out as for :class:`distill_lib.KD`: by ``batch["mask"]``, by padding, and by labels of -100
    where they have one entry a token or a place.

    Args:
        student: A module or a teacher.
        teacher: A module or a teacher.
        batches: Walked once; both models see the same batch, so that it may be shuffled.
        forward: ``forward(model, batch)``, for modules that are not called as ``model(inputs)``.
        task: ``"classes"``, or ``"labels"``: the share of equal signs, of independent logits.
        axis: The axis of the classes, 1 for images [B, C, H, W]. By default the last.
        on: The signal of both.

    Returns:
        A number in [0, 1]; a list for several networks in one (:class:`distill_lib.Stacked`).

    Raises:
        ValueError: no batches, or nothing that counts; different classes, one class, a doubt about
            their axis; answers that are nan or +inf; a mask that does not fit.
        TypeError: answers that are no real numbers.

    Reference:
        Stanton et al., *Does knowledge distillation really work?*, 2021.

    Example:
        >>> from torch import nn
        >>> agreement(nn.Identity(), nn.Identity(), [(torch.eye(3), torch.arange(3))])
        1.0
    """
    _check_task("agreement", task, ("classes", "labels"))
    chosen = _choices if task == "classes" else _signs
    same: list[Tensor] = []
    count: list[Tensor] = []

    def take(said: list[Said]) -> None:
        (mine, shape, kept), (yours, other, also) = (chosen(one, axis) for one in said)
        if shape != other:
            raise ValueError(
                f"student and teacher answered with {tuple(shape)} and {tuple(other)} items x "
                "classes; agreement needs the same classes in the same order"
            )
        first, second = (one.answers.shape[: one.networks] for one in said)
        several = first or second
        if (second and several != second) or (count and count[0].shape != several):
            raise ValueError(
                f"agreement: {list(first)} networks beside {list(second)}: give one model, or as "
                "many in every batch as the other side has"
            )
        equal = mine == yours
        counted = (kept & also).expand(equal.shape)
        equal = equal & counted
        same.append(equal.flatten(len(several)).sum(-1))
        count.append(counted.flatten(len(several)).sum(-1))

    walk("agreement", {"student": student, "teacher": teacher}, batches, forward, on, take)
    n = torch.stack(count).sum(0)
    if not bool(n.all()):
        raise ValueError(
            "agreement: masks leave out all there is, or the batches have no items: there is "
            "nothing to compare"
        )
    return number(torch.stack(same).sum(0).double() / n)


def _choices(said: Said, axis: int | None) -> tuple[Tensor, torch.Size, Tensor]:
    """[*networks, *items] the likeliest classes, [*items, C], and which of them count."""
    labels = said.batch.get("labels")
    logits, _ = said.classes(axis, labels)
    shape = logits.shape[said.networks :]
    items, of_text = shape[:-1], said.of_text(shape[:-1])
    square = isinstance(labels, Tensor) and labels.shape == items and items[1:] == shape[-1:]
    if axis is None and square and not of_text:
        raise ValueError(
            f"agreement: which axis of the logits {list(said.answers.shape)} beside labels "
            f"{list(items)} is the classes? Say axis=1 for [B, C, L], axis=-1 for [B, L, C]"
        )
    kept = said.kept(items, of_text, labels, labeled=False)
    check_finite(logits[kept.expand(logits.shape[:-1])], said.whose)
    return logits.argmax(-1), shape, kept


def _signs(said: Said, axis: int | None) -> tuple[Tensor, torch.Size, Tensor]:
    """[*networks, *items, C] which labels are a yes, [*items, C], and which of them count."""
    z, labels = said.answers, said.batch.get("labels")
    if axis is not None:
        class_axis(z.shape, axis, None, said.who)
    z = z if z.ndim > said.networks + 1 else z.unsqueeze(-1)
    shape = z.shape[said.networks :]
    of_text = said.of_text(shape[:-1])
    kept = said.kept(shape, of_text, labels, labeled=not of_text)
    check_finite(z[kept.expand(z.shape)], said.whose, "labels")
    return z > 0, shape, kept


@torch.no_grad()
@checked
def linear_cka(one: Tensor, other: Tensor) -> float:
    r"""How alike two layers are on the same items, whatever their widths.

    .. math:: \frac{\lVert X^\top Y \rVert_F^2}
       {\lVert X^\top X \rVert_F\, \lVert Y^\top Y \rVert_F}

    with one flattened item a row of :math:`X` and :math:`Y`, columns centered. Invariant to shifts,
    rotations and scale of either side, not to other linear maps. With fewer items than features
    even unrelated layers are alike: take several times as many items, or pool maps first.

    Args:
        one: [N, ...], what a layer says of N items.
        other: [N, ...], of any width.

    Returns:
        From 0 to 1; 0 where a side is the same for all items.

    Raises:
        ValueError: other items, fewer than two, or numbers that are not finite.

    Reference:
        Kornblith et al., *Similarity of neural network representations revisited*, 2019.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]])
        >>> round(linear_cka(x, 3 * x.flip(1) + 1), 6)
        1.0
    """
    if min(one.ndim, other.ndim) < 2 or len(one) != len(other) or len(one) < 2:
        raise ValueError(
            "linear_cka expected two signals [N, ...] of the same items, at least 2, got "
            f"{list(one.shape)} and {list(other.shape)}"
        )
    x, y = ((z := side.flatten(1).double()) - z.mean(0) for side in (one, other))
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise ValueError("linear_cka: a signal has entries that are not finite numbers")
    # by items or by features, whichever table is smaller: both forms have the same norms
    if max(x.shape[1], y.shape[1]) > len(x):
        x, y = x @ x.T, y @ y.T
        cross, own = (x * y).sum(), x.norm() * y.norm()
    else:
        cross, own = (x.T @ y).square().sum(), (x.T @ x).norm() * (y.T @ y).norm()
    return float(cross / own) if own > 0 else 0.0


@checked
def sanity(
    teacher: Asked,
    batches: Iterable[Any],
    at_least: float | None = None,
    limit: int = 20,
    forward: Forward | None = None,
    *,
    task: str = "classes",
    axis: int | None = None,
    on: str = "logits",
    labels: str = "labels",
    ignore_index: float | None = None,
) -> dict[str, Any]:
    """Catch a failing teacher before it teaches.

    Looks at the first batches: finite logits, the same answer twice, more than one answer,
    labels within the classes, and an accuracy above that of always naming the commonest class, or
    of each label the commoner answer.

    Args:
        teacher: A teacher, or a module (asked in eval mode).
        batches: Batches with labels.
        at_least: Accuracy that the teacher must reach.
        limit: How many batches are looked at.
        forward: ``forward(model, batch)``, for modules that are not called as ``model(inputs)``.
        task: ``"classes"``, or ``"labels"`` for independent labels and for a yes or no, as
            :func:`evaluate` has it.
        axis: The axis of the classes, 1 for images [B, C, H, W]. By default the last.
        on: The teacher's signal.
        labels: The name of the labels in a batch.
        ignore_index: Labels equal to it are left out; by default -100.

    Returns:
        The result of :func:`evaluate`, with ``majority``.

    Raises:
        ValueError: what is wrong, and what it usually means.
        TypeError: answers that are no real numbers, labels that are no class numbers.

    Example:
        >>> from torch import nn
        >>> sanity(nn.Identity(), [(torch.eye(3), torch.arange(3))])["accuracy"]
        1.0
    """
    check_counts(limit=limit)
    _check_task("sanity", task, ("classes", "labels"))
    shown = [as_batch(batch) for batch in itertools.islice(iter(batches), limit)]
    score = TASKS[task]("sanity", axis, ignore_index)
    add = _adds(score, labels)
    answers: list[Tensor] = []
    again: list[Tensor] = []

    def take(said: list[Said]) -> None:
        if said[0].networks:
            raise ValueError(f"sanity: answers {list(said[0].answers.shape)} {UNSTACK}")
        add(said)
        answers.append(said[0].answers)

    for each in (take, lambda said: again.append(said[0].answers)):
        walk("sanity", {"teacher": teacher}, shown, forward, on, each, labels)
    # what a mask leaves out may be nan, which equals nothing
    pairs = ((a.nan_to_num(), b.nan_to_num()) for a, b in zip(answers, again, strict=True))
    if not all(torch.equal(a, b) for a, b in pairs):
        raise ValueError(
            "the teacher answers the same batch differently each time: dropout in train mode, "
            "random augmentation inside the model, or sampling. Targets must be deterministic"
        )
    result = score.result()
    true, told = score.habits()
    if result["n"] > len(told) and bool((told.amax(-1) == told.sum(-1)).all()):
        named = f"class {int(told.argmax())}" if task == "classes" else "the same"
        raise ValueError(
            f"the teacher answers {named} to everything: a head that was never trained or loaded, "
            "or inputs that are not normalized as it expects (Teacher(preprocess=…))"
        )
    majority = (true.amax(-1).sum().double() / true.sum()).item()
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
