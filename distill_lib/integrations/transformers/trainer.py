"""``transformers.Trainer``, with a teacher and an objective."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer

from distill_lib.masks.tokens import aligned
from distill_lib.objective import Objective, Step, Term
from distill_lib.signals import DESCRIPTIVE, call, capture, layers_among, tell
from distill_lib.teachers.live import Source
from distill_lib.training.run import Run

from . import asking, beside, checks

__all__ = ["DistillationTrainer"]


class DistillationTrainer(Trainer):
    r"""``transformers.Trainer`` with a teacher and an objective; all else is as documented there.

    .. math:: \theta \leftarrow \theta - \eta\, \nabla_\theta \sum_t w_t(s)\,
       \frac{\sum_{m} \sum_{i \in K_{t,m}} \ell_{t,i}}{\sum_m |K_{t,m}|}, \qquad
       s = \frac{\texttt{global\_step}}{\texttt{max\_steps}}

    with the kept items :math:`K_{t,m}` of term :math:`t` in micro-batch :math:`m` of the step, over
    all processes: the gradient does not depend on how the step was cut. Overridden are

    - ``compute_loss``: the objective. Labels never reach the student, so that it does not compute
      its own loss; those of causal language models are shifted by one, as their own loss does;
    - ``get_batch_samples``: what the micro-batches of a step are, for the denominators;
    - ``create_optimizer`` and ``create_accelerator_and_postprocess``: the objective's projectors
      are trained along, and clipped with the student;
    - ``prediction_step``: a loss on data without labels, from the terms that need none;
    - ``train`` and ``evaluation_loop``: the teacher's inner layers are told until their end; with
      ``model_init`` each training begins with the projectors that the first began with;
    - ``log``: the parts of the objective;
    - ``save_model``, ``_load_from_checkpoint`` and ``_load_best_model``: projectors, and the
      fingerprint of the teacher, in two small files beside the student. The teacher itself is in
      no checkpoint (an :class:`~distill_lib.EMA`, which moves, is).

    Inner layers, hidden states and attentions that the objective names are turned on. Columns of
    the data set that only the teacher's ``forward`` takes go to the teacher alone; ``mask``,
    ``weight``, ``human`` and ``index`` speak to the objective and to caches. Sharded students
    (FSDP, DeepSpeed) are for objectives without projectors.

    Args:
        *args: As for ``Trainer``.
        teacher: A teacher; a module becomes a :class:`~distill_lib.Teacher`; None where no term
            asks.
        objective: A sum of terms.
        teacher_tokenizer: Is compared with ``processing_class``; see :func:`check_tokenizers`.
        **kwargs: As for ``Trainer``.

    Raises:
        TypeError: an objective that is none.
        FloatingPointError: in training, a loss that is not finite, or beyond 1e18.
        ValueError: a teacher that is the student, or has other classes or another tokenizer; a
            label or token out of range; attentions of a model that does not compute them; an
            optimizer that forgets projectors; a checkpoint of another teacher or objective; a loss
            given in another way than by the objective; under DDP, weights without a part in it.

    Example:
        >>> import tempfile
        >>> from transformers import BertConfig, BertForSequenceClassification, TrainingArguments
        >>> from distill_lib import CE, KD
        >>> def bert(width):
        ...     return BertForSequenceClassification(BertConfig(
        ...         vocab_size=30, hidden_size=width, num_hidden_layers=1, num_attention_heads=2,
        ...         intermediate_size=width, max_position_embeddings=8))
        >>> data = [{"input_ids": [2, i, 3], "labels": i % 2} for i in range(4, 12)]
        >>> settings = TrainingArguments(
        ...     tempfile.mkdtemp(), per_device_train_batch_size=2, gradient_accumulation_steps=4,
        ...     max_steps=2, logging_steps=2, save_strategy="no", report_to=[], disable_tqdm=True,
        ...     dataloader_pin_memory=False)
        >>> trainer = DistillationTrainer(
        ...     bert(4), settings, train_dataset=data, teacher=bert(8),
        ...     objective=0.5 * CE() + 0.5 * KD(temperature=2))
        >>> trainer.train().global_step  # doctest: +ELLIPSIS
        {'loss': ..., 'ce': ..., 'kd': ...}
        {'train_runtime': ...}
        2
    """

    model: Any
    optimizer: Any
    args: Any
    model_init: Any
    state: Any
    # else the Trainer would divide by the accumulation once more
    loss_is_scaled_for_ga: bool = True

    def __init__(
        self,
        *args: Any,
        teacher: Source | nn.Module | None,
        objective: Objective | Term,
        teacher_tokenizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.compute_loss_func is not None or self.args.label_smoothing_factor:
            raise ValueError(
                "the loss is the objective: compute_loss_func and label_smoothing_factor would be "
                "ignored; write CE(label_smoothing=0.1), or a Term of your own, into the objective"
            )
        if teacher_tokenizer is not None:
            checks.check_tokenizers(self.processing_class, teacher_tokenizer)
        run = Run(self.model, teacher, objective, self.accelerator, None)
        self._identity = functools.cache(run.identity)  # hashing the teacher takes a while
        self.teacher: Any = run.teacher
        self.objective: Objective = run.objective.to(self.args.device)
        self._loss_of: nn.Module = self.objective
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}
        self._looked = False
        self._initial: dict[str, Any] = {}
        self.model_accepts_loss_kwargs = True  # says the same to older releases
        self.label_names: list[str] = self.label_names or ["labels"]
        self.can_return_loss = True  # so that data without labels have one
        self._introduce()

    def _introduce(self) -> None:
        """Make teacher, student and data fit for what the objective reads."""
        if hasattr(self.teacher, "to"):
            self.teacher.to(self.args.device)
        reads = self.objective.reads("student")
        with asking.revealed(self.teacher, self.objective.reads("teacher")):
            pass  # or it says now that it cannot
        tell(self.model, reads)()
        self._layers = layers_among(self.model, reads)
        checks.check_layers(self._layers, self.args.n_gpu)
        if hasattr(self.teacher, "update"):
            self.add_callback(asking.Follow(self.teacher))
        seeing = checks.seeing(self.teacher)
        if "logits" in self.objective.reads("teacher"):
            checks.check_classes(self.model, self.teacher)
        # a column of the data must neither be dropped nor reach the wrong model
        mine, *others = [checks.columns(model) for model in (self.model, *seeing)]
        theirs = others[0] if others and "input_ids" in mine & others[0] else mine
        self._not_for = {"student": theirs - mine, "teacher": mine - theirs}
        self._set_signature_columns_if_needed()
        known: Any = self._signature_columns
        known += [*self._not_for["student"], *DESCRIPTIVE]

    # ---- the loss ----

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, *args: Any
    ) -> tuple[list[Any], Any]:
        """The micro-batches of a step, and they once more in the place of the number of items."""
        self.objective.zero_grad()  # the Trainer does it for the student only
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, *args)
        # gradients are averaged over processes: the denominator is the average count
        average = functools.partial(self.accelerator.reduce, reduction="mean")
        alone = self.accelerator.num_processes == 1
        return batches, Step([self._named(b) for b in batches], None if alone else average)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The objective of a micro-batch, as its share of the step that it belongs to."""
        step = num_items_in_batch if isinstance(num_items_in_batch, Step) else None
        batch = self._named(inputs)
        progress = min(self.state.global_step / max(self.state.max_steps, 1), 1.0)
        objective = self.objective if step is not None else asking.answerable(self.objective, batch)
        loss_of = objective if step is None else self._loss_of
        with self.accelerator.autocast():
            said, outputs = self._student_says(model, batch)
            asked = self.teacher is not None and objective.needs_teacher(progress)
            taught = self._teacher_says(batch) if asked else None
            loss, parts = loss_of(said, taught, batch, progress=progress, denom=step)
        if step is not None:
            checks.check_learnable(loss, parts, self.state.global_step)
            self._look_once(model, loss)
            for name, part in parts.items():
                self._sums[name] = self._sums[name] + part if name in self._sums else part
                self._counts[name] = self._counts.get(name, 0.0) + 1 / len(step.batches)
        return (loss, outputs) if return_outputs else loss

    def _look_once(self, model: nn.Module, loss: Tensor) -> None:
        """In the first step, look for what would end the second without a word of ours."""
        waits = isinstance(model, DistributedDataParallel)
        if waits and not (self._looked or self.args.gradient_checkpointing):
            checks.check_reached(loss, self.model)
        self._looked = True

    def _named(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The batch, with each label where it is predicted."""
        return dict(aligned(inputs, self.model))

    def _student_says(
        self, model: nn.Module, batch: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """All signals, and those that the student has of itself."""
        config = getattr(self.model, "config", None)
        both = ("hidden_states", "attentions")
        extra = {k for k in both if not getattr(config, f"output_{k}", False)} | {*self._layers}
        undo = tell(self.model, self.objective.reads("student"))
        inputs = {k: v for k, v in batch.items() if k not in self._not_for["student"]}
        view = capture(self.model, *self._layers) if self._layers else None
        try:
            if view is None:
                output: Any = call(model, inputs)
                said = {"logits": output} if isinstance(output, Tensor) else dict(output)
            else:
                view.model = model  # wrapped, maybe; the layers inside are the same
                said = cast(dict[str, Any], call(view, inputs))
        finally:
            if view is not None:
                view.release()
            undo()
        return said, {k: v for k, v in said.items() if k not in extra}

    def _teacher_says(self, batch: Mapping[str, Any]) -> Any:
        inputs = {k: v for k, v in batch.items() if k not in self._not_for["teacher"]}
        checks.check_ids(inputs, self.teacher)
        with asking.revealed(self.teacher, self.objective.reads("teacher")):
            return self.teacher(inputs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, Any, Any]:
        """A step of evaluation; the loss of data without labels is that of terms that need none."""
        names = self.label_names
        if any(inputs.get(name) is None for name in names):
            self.label_names = []  # so that the Trainer asks for a loss all the same
        try:
            loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
            return loss, logits, labels if self.label_names else None
        finally:
            self.label_names = names

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's, with the teacher's inner layers told."""
        with asking.inner(self.teacher, self.objective.reads("teacher")):
            return super().evaluation_loop(*args, **kwargs)

    # ---- training the projectors, logging ----

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's; with ``model_init`` each training begins with the projectors of the first.

        Raises:
            ValueError: a projector that had no weights yet when the first training began.
        """
        with asking.inner(self.teacher, self.objective.reads("teacher")):
            if self.model_init is not None:
                beside.begin(self._initial, self._parts())
            return super().train(*args, **kwargs)

    def create_optimizer(self, *args: Any) -> Any:
        """The Trainer's, and the objective's parameters in it."""
        given = self.optimizer is not None
        super().create_optimizer(*args)
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        learning = {n: p for n, p in self.objective.named_parameters() if p.requires_grad}
        forgotten = {n: p for n, p in learning.items() if id(p) not in held}
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        checks.check_projectors(learning, forgotten if given else {}, sharded)
        decaying = set(self.get_decay_parameter_names(self.objective))
        for decay, among in ((self.args.weight_decay, True), (0.0, False)):
            params = [p for n, p in forgotten.items() if (n in decaying) is among]
            if params:
                self.optimizer.add_param_group({"params": params, "weight_decay": decay})
        if learning and self.accelerator.num_processes > 1:
            # a term may have weight 0 for a while, and its projector then no gradient
            self._loss_of = DistributedDataParallel(self.objective, find_unused_parameters=True)
        return self.optimizer

    def create_accelerator_and_postprocess(self) -> None:
        """The Trainer's, through which all releases clip; they name the student's parameters."""
        super().create_accelerator_and_postprocess()
        clip = self.accelerator.clip_grad_norm_
        self.accelerator.clip_grad_norm_ = lambda params, *args, **kwargs: clip(
            [*params, *self.objective.parameters()], *args, **kwargs
        )

    def log(self, logs: dict[str, float], *args: Any) -> None:
        """The Trainer's, with the mean of each part since the last time beside the loss."""
        if "loss" in logs:
            for name, total in self._sums.items():
                mean = self.accelerator.reduce(total / self._counts[name], reduction="mean")
                logs[name] = float(mean)
            self._sums, self._counts = {}, {}
        super().log(logs, *args)

    # ---- checkpoints ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The student as the Trainer saves it, and what belongs to the objective beside it.

        Raises:
            ValueError: a student that ``from_pretrained`` could not read again. Checkpoints of the
                training itself are written all the same: it goes on from them.
        """
        if not _internal_call:
            checks.check_rebuilt(self.accelerator.unwrap_model(self.model))
        if self.args.should_save:
            folder = Path(self.args.output_dir if output_dir is None else output_dir)
            # as in training, where the files are read
            with asking.inner(self.teacher, self.objective.reads("teacher")):
                beside.write(folder, self._identity(), self._parts())
        super().save_model(output_dir, _internal_call)

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"objective": self.objective}
        if hasattr(self.teacher, "load_state_dict"):
            parts["teacher"] = self.teacher
        return parts

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any) -> None:
        beside.read(Path(resume_from_checkpoint), self._identity(), self._parts())
        super()._load_from_checkpoint(resume_from_checkpoint, *args)

    def _load_best_model(self) -> None:
        beside.read(Path(self.state.best_model_checkpoint), self._identity(), self._parts())
        super()._load_best_model()
