"""The one loop: any student, any teacher, any batches, any objective, on 🤗 Accelerate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from distill_lib.objective import Objective, Term
from distill_lib.progress import bar
from distill_lib.signals import Forward
from distill_lib.teachers.live import Source

from . import resume as resuming
from .batches import check_batch, check_batches, unreadable
from .before import check_settings
from .epochs import EachEpoch, Epochs
from .history import History
from .processes import together
from .rates import Rate
from .run import Optimizer, Run
from .shares import as_said, length, walk

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["History", "distill"]

NOTHING = (
    "there is nothing to train on. A DataLoader with drop_last=True gives none of fewer items than "
    "a batch has"
)


def distill(
    student: nn.Module,
    teacher: Source | nn.Module | None,
    batches: Iterable[Any],
    objective: Objective | Term,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    lr: Rate | None = None,
    optimizer: Optimizer | None = None,
    clip_norm: float | None = None,
    accelerator: Accelerator | None = None,
    checkpoint: str | Path | None = None,
    save_every: int | None = None,
    resume: bool = True,
    seed: int | None = None,
    forward: Forward | None = None,
    each_epoch: EachEpoch | None = None,
    keep_best: str | None = None,
    patience: int | None = None,
) -> History:
    r"""Train a student to minimize an objective.

    .. math:: \theta \leftarrow \theta - \eta(s)\, \nabla_\theta L(s), \qquad
       s = \text{step} / \text{steps}

    Device, mixed precision, several processes and gradient accumulation are the accelerator's: give
    ``Accelerator(mixed_precision="bf16", gradient_accumulation_steps=4, log_with="tensorboard",
    project_dir="runs")`` for all of them. Denominators are those of the whole step, so the gradient
    does not depend on how a batch was cut. Several processes take the batches in turns and do what
    one does with as many times the accumulation, for any number of batches; a loader that is
    already shared out, by ``accelerator.prepare`` or a ``DistributedSampler``, is taken as it is.
    Running statistics of batch normalization are those of the first process, as always under DDP.
    All draw batches from one stream of random numbers, and everything else, such as dropout, each
    from its own. When one fails or dies, the others end with an error that names it. A student may
    be sharded (FSDP2) by ``fully_shard`` or the accelerator; checkpoints hold whole tensors.
    Relations between items, which a cut would change, are refused where a step is cut, unless a
    term says ``within_micro_batch=True``. Labels of a causal language model of 🤗 Transformers are
    moved to where it answers them, as by :func:`distill_lib.aligned`.

    The student is in train mode, except for frozen parts in eval mode, such as a fixed batch
    normalization. Afterwards every module is in the mode that it was in, and no hook is left.

    Progress :math:`s` runs from 0 to 1 once in a call, so schedules do too: a loop around
    ``distill(…, epochs=1)`` would begin each of them anew. To look at the student as it learns,
    call once, with all epochs, and give ``each_epoch``. It is called after every walk over
    ``batches`` and at the end, with the number of that epoch, 1 for the first, and the history; its
    numbers stand in the history and go to the trackers. Modes, random generators and the order of
    the batches are put back, so that training is the same with it and without. The models are then
    on the accelerator's device, where :func:`~distill_lib.evaluate` asks them. Of several
    processes all call it, and the numbers of the first count.

    Args:
        student: The model to train, in place. It is brought to the accelerator's device, and in the
            end to where it was, as is the teacher: put it on the GPU yourself to have it stay.
        teacher: A teacher; a module becomes a :class:`distill_lib.Teacher`; None where no term
            asks. It may share frozen weights with the student. A quantized one, one spread by a
            device map, and one that is already on an accelerator stay where they are.
        batches: Any iterable of batches that can be walked again: a DataLoader,
            ``dataset.batches()``, rollouts. Batches are mappings or ``(inputs, labels)`` pairs.
        objective: A sum of terms. Its projectors are trained along.
        epochs: Walks over ``batches``, counted by their length, which has to be right; or
        steps: optimizer steps. Give one of the two.
        lr: Learning rate, a number or a schedule of progress. By default 1e-3, or the rate that a
            given optimizer came with. Of several parameter groups it is the highest rate; the
            others stay in proportion. A given optimizer has its own rates again afterwards. Or a
            scheduler of torch on the given optimizer, or a function from the optimizer to one,
            ``lambda optimizer: StepLR(optimizer, 100)``: it is stepped after every optimizer step,
            ``ReduceLROnPlateau`` after every epoch with the number of ``keep_best``.
        optimizer: An instance, or a function from parameters to one; AdamW by default, on the CPU
            with ``fused=True``.
        clip_norm: Largest norm of the gradient.
        accelerator: 🤗 Accelerate's; by default one for the best device there is.
        checkpoint: A file that training can resume from, written after each epoch and at the end.
        save_every: Also write it after so many steps.
        resume: Go on from ``checkpoint`` where it exists, with as many processes as made it, the
            same accumulation and as many batches in an epoch.
        seed: Seeds Python, NumPy and torch first.
        forward: ``forward(student, batch)`` for students that are not called as ``model(inputs)``.
        each_epoch: ``each_epoch(epoch, history)``: a mapping of numbers, or None where it did not
            look, as in ``lambda epoch, history: evaluate(student, validation)``.
        keep_best: The name of one of its numbers; ``"-nll"`` where smaller is better. In the end
            student and projectors, and an average of the student, are those of its best epoch, the
            first of equal ones.
        patience: Stop after so many epochs that were no better. Schedules still run over all the
            epochs or steps that were asked for.

    Returns:
        What happened, step by step.

    Raises:
        TypeError: ``each_epoch`` gave something else; a learning rate that is none; batches that
            are none, such as a data set or one batch, or that the models cannot read.
        ValueError: neither or both of epochs and steps; an optimizer that forgets parameters, or
            has a scheduler that would be overridden; a teacher that is the student or shares what
            is trained; a checkpoint of another training; a number for ``keep_best``
            that is not there, or nan; single items; a walk that is longer or shorter than its
            length said.
        OSError: a checkpoint that cannot be written, before the first step.
        FloatingPointError: a loss that is not finite, or beyond 1e18, where squares of gradients
            no longer fit.
        RuntimeError: another process failed, or is gone.

    Example:
        >>> import torch
        >>> from distill_lib import CE, KD, cosine, evaluate, warmup
        >>> _ = torch.manual_seed(0)
        >>> data = [{"inputs": torch.randn(8, 4)} for _ in range(5)]
        >>> history = distill(nn.Linear(4, 3), nn.Linear(4, 3), data, KD(), epochs=2)
        >>> len(history), history["kd"][0] > history["kd"][-1]
        (10, True)
        >>> student, batches = nn.Linear(4, 3), [(torch.eye(4), torch.arange(4) % 3)]
        >>> history = distill(student, None, batches, CE(), epochs=9, lr=warmup(0.1, cosine(1, 0)),
        ...     each_epoch=lambda epoch, history: evaluate(student, batches), keep_best="-nll")
        >>> evaluate(student, batches)["nll"] == min(history["nll"])
        True
    """
    check_settings(
        epochs=epochs,
        steps=steps,
        clip_norm=clip_norm,
        checkpoint=checkpoint,
        save_every=save_every,
        resume=resume,
        seed=seed,
        forward=forward,
        patience=patience,
    )
    watch = Epochs(each_epoch, keep_best, patience)
    run = Run(student, teacher, objective, accelerator, forward)
    try:
        with together(run.streams, run.wrapped):
            total, said = _total_steps(run, batches, epochs, steps)
            run.prepare(optimizer, lr, clip_norm)
            watch.check(run.rates)
            saver = run.saver(checkpoint, batches) if checkpoint else None
            if saver is not None and each_epoch is not None:
                saver.parts = {**saver.parts, "epochs": watch}
            at = saver.load() if saver is not None and resume else resuming.Start()
            run.rates.check(total - at.step)
            if saver is not None and at.step < total:  # a training that is done writes nothing
                saver.check()
                run.check_place(saver.path, copies=1 if keep_best is None else 2)
            if at.step == 0:
                run.seed_everything(seed)
            return _walk(run, batches, total, said, saver, at, save_every, watch)
    finally:
        run.undo.close()


def _walk(
    run: Run,
    batches: Iterable[Any],
    total: int,
    said: int | None,
    saver: resuming.Saver | None,
    at: resuming.Start,
    save_every: int | None,
    watch: Epochs,
) -> History:
    """All steps from where ``at`` stands; a walk has as many batches as ``said``, if given."""
    whole = None if said is None else math.ceil(said / run.accumulation)
    history = History(at.records)
    run.logged = len(at.records)
    if at.step >= total or watch.stopped:
        run.streams.set(at.rng)
    with bar(itertools.repeat(None), "distill", total) as shown:
        shown.update(at.step)
        for epoch in itertools.count(at.epoch):
            if at.step >= total or watch.stopped:
                break
            begun = saver.begin_epoch() if saver is not None else None
            drawn = at.skip
            for drawn, group in _groups(run, batches, at, said):
                record = _step(run, group, at.step / total)
                at.step += 1
                history.add(at.step, record)
                run.log(history)
                shown.update()
                if at.step >= total and drawn != whole:
                    place = (epoch, drawn, begun)
                    getattr(batches, "broken_off", lambda: None)()
                    break
                due = save_every and at.step % save_every == 0 and at.step < total
                if saver is not None and due:
                    saver.save(at.step, epoch, drawn, begun, history)
            else:
                place = (epoch + 1, 0, run.streams.state())
                if drawn == 0 or at.skip:
                    before = f" after {at.skip} steps of an epoch that were done before"
                    raise ValueError(f"batches gave nothing{before * (at.skip > 0)}: {NOTHING}")
            history.settle()
            run.log(history)
            watch.over(run, batches, epoch + 1, at.step, history)
            if saver is not None:
                saver.save(at.step, *place, history)
    watch.finish(run)
    return history


def _groups(
    run: Run, batches: Iterable[Any], at: resuming.Start, said: int | None
) -> Iterator[tuple[int, list[tuple[Any, bool]]]]:
    """How many groups were drawn, and the last; after a resume, those already used are dropped."""
    number, drawn = 0, walk(run.accelerator, batches, run.streams)
    drawn = drawn if said is None else as_said(drawn, said)
    while group := list(itertools.islice(drawn, run.accumulation)):
        number += 1
        if number > at.skip:
            yield number, group
        elif number == at.skip:
            run.streams.set(at.rng)
            at.skip = 0


def _step(run: Run, group: list[tuple[Any, bool]], progress: float) -> dict[str, Any]:
    """A step; where a model cannot read a batch, its words are not all that is said."""
    for batch, _ in group:
        check_batch(batch)
    try:
        return run.step(group, progress)
    except (TypeError, AttributeError, IndexError, ValueError) as error:
        # who wrote a forward knows what it reads
        asked = [] if run.forward is not None else [batch for batch, _ in group]
        reason = next(filter(None, (unreadable(batch, error) for batch in asked)), None)
        if reason is None:
            raise
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{reason} ({type(error).__name__}: {error})") from error


def _total_steps(
    run: Run, batches: Iterable[Any], epochs: int | None, steps: int | None
) -> tuple[int, int | None]:
    """How many steps there will be, and the batches of a walk where these were counted by them."""
    if (epochs is None) == (steps is None):
        raise ValueError(
            f"give epochs or steps, one of the two; got epochs={epochs}, steps={steps}"
        )
    check_batches(batches)
    if isinstance(batches, Iterator):
        raise TypeError(
            "batches can be walked only once (it is an iterator); pass the list, the DataLoader, "
            "or an object whose __iter__ begins anew"
        )
    if steps is not None:
        return steps, None
    assert epochs is not None
    try:
        rounds = length(run.accelerator, batches)
    except TypeError:
        raise ValueError(
            "batches has no length, so epochs cannot be counted in steps; give steps="
        ) from None
    if rounds == 0:
        raise ValueError(f"batches is empty: {NOTHING}")
    # a source that knows its place in a walk may be in the middle of one
    said = None if getattr(batches, "midway", False) else rounds
    return epochs * math.ceil(rounds / int(run.accumulation)), said
