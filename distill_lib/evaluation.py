"""What a model is worth, how far two models agree, and whether a teacher can teach at all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import check_counts, checked, told
from .masks import IGNORE, about, kept_of
from .masks.tokens import aligned, decoder_inputs, said_by
from .signals import Forward, Signals, as_batch, call, eval_mode, pick, place
from .teachers.live import Source, models_of
from .terms.classes import as_labels, class_axis, classes_last, needs_classes
from .terms.scores import TASKS, calibration_error, number

__all__ = ["agreement", "calibration_error", "evaluate", "linear_cka", "sanity"]

Asked = nn.Module | Source | Callable[[Any], Signals]
Models = Sequence[Asked]


@torch.no_grad()
def _walk(
    models: Models,
    batches: Iterable[Any],
    forward: Forward | None,
    on: str,
    take: Callable[[list[Tensor], Any], None],
    labels: str = "labels",
    dense: bool = False,
) -> None:
    """Give what each model says of a batch, and the labels where there are any, to ``take``.

    Of tokens, those that count are given as so many items, unless an axis was named (``dense``).
    """
    empty = True
    for model in models:
        if isinstance(model, type):
            raise TypeError(f"expected a module or a teacher, got {told(model)}")
    first = next((m for model in models for m in models_of(model)), None)
    with eval_mode(models):
        for batch in batches:
            named, empty = aligned(batch, first), False
            said = [
                call(model, decoder_inputs(place(named, model), model), forward)
                if isinstance(model, nn.Module)
                else model(named)
                for model in models
            ]
            for one in said:  # a wrapper around a causal model does not tell beforehand
                said_by(one, named)
            answers = [pick(one, on).float().cpu() for one in said]
            found = named.get(labels)
            kept = None if dense else _tokens(answers[0], named, labels)
            if kept is not None:
                answers = [one[kept] if one.shape[:2] == kept.shape else one for one in answers]
                if isinstance(found, Tensor) and found.shape == kept.shape:
                    found = found.cpu()[kept]
            take(answers, found)
    if empty:
        raise ValueError("batches is empty: there is nothing to evaluate on")


def _tokens(logits: Tensor, batch: Mapping[str, Any], labels: str) -> Tensor | None:
    """[B, L] which tokens count, where the logits [B, L, C] are those of a text's tokens."""
    shape, index = logits.shape[:2], batch.get("index")
    keys = ("input_ids", "decoder_input_ids", "attention_mask")
    found = (batch.get(key) for key in keys)
    of_text = any(isinstance(x, Tensor) and x.shape == shape for x in found)
    if logits.ndim != 3 or not of_text or (isinstance(index, Tensor) and index.ndim > 1):
        return None
    view = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in batch.items()}
    known = {**view, "labels": view.get(labels)}
    kept = kept_of(shape, True, about(known, ("logits",), labeled=True))
    return torch.ones(shape, dtype=torch.bool) if kept is None else kept


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

    A class that neither labels nor answers name has no ``iou`` (nan), and is left out of the mean.
    The model is asked in eval mode and left in the mode it was in.

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
        As above. For several networks in one (:class:`distill_lib.Stacked`), ``accuracy``, ``nll``
        and ``ece`` of classes are lists.

    Raises:
        ValueError: no batches, no labels, labels outside the classes, one class, shapes that do
            not fit, an unknown task.

    Example:
        >>> evaluate(nn.Identity(), [(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))])["accuracy"]
        1.0
    """
    if task not in TASKS:
        raise ValueError(f"task is one of {', '.join(map(repr, TASKS))}, got {task!r}")
    score = TASKS[task](axis, ignore_index)

    def take(said: list[Tensor], found: Any) -> None:
        if found is None:
            raise ValueError(
                f"evaluate needs labels: a batch is (inputs, labels) or has a {labels!r} entry"
            )
        score.add(said[0], as_labels(found, "evaluate").cpu())

    _walk([model], batches, forward, on, take, labels, dense=axis is not None)
    found: dict[str, Any] = score.result()
    return found


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

    It is not accuracy: a student can be as good as its teacher and err elsewhere.

    Args:
        student: A module or a teacher.
        teacher: A module or a teacher.
        batches: Walked once; both models see the same batch, so that it may be shuffled.
        forward: ``forward(model, batch)``, for modules that are not called as ``model(inputs)``.
        task: ``"classes"``, or ``"labels"``: the share of equal signs, of independent logits.
        axis: The axis of the classes, 1 for images [B, C, H, W]. By default the last.
        on: The signal of both.

    Returns:
        A number in [0, 1]; a list for several networks in one.

    Raises:
        ValueError: no batches, different classes, one class.

    Reference:
        Stanton et al., *Does knowledge distillation really work?*, 2021.

    Example:
        >>> agreement(nn.Identity(), nn.Identity(), [(torch.eye(3), torch.arange(3))])
        1.0
    """
    same: list[Tensor] = []

    def take(said: list[Tensor], labels: Any) -> None:
        z, v = (_items(one, task, axis) for one in said)
        if z.shape[-2:] != v.shape[-2:]:
            raise ValueError(
                f"student and teacher answered with {tuple(z.shape[-2:])} and "
                f"{tuple(v.shape[-2:])} items x classes; agreement needs the same classes "
                "in the same order"
            )
        if task == "labels":
            same.append(((z > 0) == (v > 0)).float().mean(-1))
        else:
            same.append((z.argmax(-1) == v.argmax(-1)).float())

    _walk([student, teacher], batches, forward, on, take, dense=axis is not None)
    return number(torch.cat(same, dim=-1).mean(-1))


def _items(logits: Tensor, task: str, axis: int | None) -> Tensor:
    """[..., N, C] logits; where the classes were named, all else is items."""
    if task not in ("classes", "labels"):
        raise ValueError(f"agreement is of 'classes' or of 'labels', got task={task!r}")
    logits = logits.unsqueeze(-1) if logits.ndim == 1 else logits
    logits = classes_last(logits, class_axis(logits.shape, axis, None, "agreement"))
    if task == "classes":
        needs_classes("agreement", logits)
    return logits if axis is None else logits.flatten(0, -2)


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
) -> dict[str, Any]:
    """Catch a failing teacher before it teaches.

    Looks at the first batches: finite logits, the same answer twice, more than one answer,
    labels within the classes, and an accuracy above that of always naming the commonest class.

    Args:
        teacher: A teacher, or a module (asked in eval mode).
        batches: Batches with labels.
        at_least: Accuracy that the teacher must reach.
        limit: How many batches are looked at.
        forward: ``forward(model, batch)``, for modules that are not called as ``model(inputs)``.

    Returns:
        The result of :func:`evaluate`, with ``majority``.

    Raises:
        ValueError: what is wrong, and what it usually means.

    Example:
        >>> sanity(nn.Identity(), [(torch.eye(3), torch.arange(3))])["accuracy"]
        1.0
    """
    check_counts(limit=limit)
    shown = [as_batch(batch) for batch in itertools.islice(iter(batches), limit)]
    logits = _logits(teacher, shown, forward)
    if not logits.isfinite().all():
        share = 1 - logits.isfinite().float().mean().item()
        raise ValueError(
            f"{share:.1%} of the teacher's logits are not finite: half precision that overflows, "
            "broken weights, or inputs that are not what it was trained on (Teacher(preprocess=…))"
        )
    if not torch.equal(logits, _logits(teacher, shown, forward)):
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
    result = evaluate(teacher, shown, forward)
    labels = torch.cat([as_labels(batch["labels"], "sanity").cpu().flatten() for batch in shown])
    known = labels[labels != IGNORE]
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


def _logits(model: Asked, batches: list[Any], forward: Forward | None) -> Tensor:
    logits: list[Tensor] = []
    _walk([model], batches, forward, "logits", lambda said, _: logits.append(said[0]))
    return torch.cat(logits, dim=-2)
