"""TRL's ``DistillationTrainer``, with an objective."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.integrations.transformers.trainer import DistillationTrainer as Ours
from distill_lib.masks import IGNORE
from distill_lib.masks.tokens import aligned
from distill_lib.objective import Objective, Step, Term
from distill_lib.teachers.live import Source

from .needs import trainer

__all__ = ["DistillationTrainer"]

Theirs: Any = trainer("trl", "DistillationTrainer")


class DistillationTrainer(Ours, Theirs):  # type: ignore[misc]
    r"""TRL's stable ``DistillationTrainer``: the student writes, and the objective is minimized.

    TRL samples the completions and cuts the step into micro-batches; the rest is as in
    :class:`distill_lib.integrations.transformers.DistillationTrainer`: projectors and
    discriminators are trained along and kept in checkpoints, any teacher serves, and each term is
    divided by its own count over the whole step. ``KD(losses.reverse_kl)`` is what TRL does by
    default.

    TRL's ``beta`` has no say here, nor has its ``temperature`` in the loss: it is that of sampling
    alone. Its loss never holds all logits of a batch; this one does.

    Args:
        model: As for TRL.
        teacher_model: As for TRL; may be left out where ``teacher`` is given.
        objective: A sum of terms.
        teacher: Another teacher than ``teacher_model``, such as an :class:`~distill_lib.Ensemble`.
        teacher_tokenizer: Is compared with ``processing_class``.
        **settings: As for TRL: ``args``, ``train_dataset`` with a column ``prompt``, …

    Raises:
        ModuleNotFoundError: no TRL.
        ValueError: as the trainer of ours; no teacher where a term asks.
    """

    def __init__(
        self,
        model: Any,
        teacher_model: Any = None,
        *,
        objective: Objective | Term,
        teacher: Source | nn.Module | None = None,
        teacher_tokenizer: Any = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            model,
            teacher_model,
            teacher=teacher_model if teacher is None else teacher,
            objective=objective,
            teacher_tokenizer=teacher_tokenizer,
            **settings,
        )

    def get_batch_samples(self, *args: Any) -> tuple[list[Any], Any]:
        """The prompts of a step: who reads them is not known before the words are there."""
        self.objective.zero_grad()
        found: tuple[list[Any], Any] = super(Ours, self).get_batch_samples(*args)
        return found

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The objective of a micro-batch of what was written, as its share of the step."""
        step = None
        if self.model.training:
            average = functools.partial(self.accelerator.reduce, reduction="mean")
            alone = self.accelerator.num_processes == 1
            written = [self._named(part) for part in self._buffered_inputs]
            step = Step(written, None if alone else average)
        return super().compute_loss(model, inputs, return_outputs, step)

    def _named(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Prompts and completions in one, with a label for each word that the student wrote."""
        if "prompt_ids" not in inputs:
            return dict(inputs)
        parts = ("prompt", "completion")
        ids = torch.cat([inputs[f"{part}_ids"] for part in parts], 1)
        mask = torch.cat([inputs[f"{part}_mask"] for part in parts], 1)
        written: Tensor = inputs.get("tool_mask", torch.ones_like(inputs["completion_mask"]))
        kept = inputs["completion_mask"] * written
        asked = torch.zeros_like(inputs["prompt_mask"])
        labels = ids.masked_fill(torch.cat([asked, kept], 1) == 0, IGNORE)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return dict(aligned(batch, self.model))

    prediction_step = Theirs.prediction_step
