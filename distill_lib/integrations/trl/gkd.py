"""TRL's experimental ``GKDTrainer``, with an objective."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from torch import nn

from distill_lib.integrations.transformers.trainer import DistillationTrainer as Ours
from distill_lib.objective import Objective, Term
from distill_lib.teachers.live import Source

from .needs import trainer

__all__ = ["GKDTrainer"]

Theirs: Any = trainer("trl.experimental.gkd", "GKDTrainer")
unwrap_model_for_generation: Any = trainer("trl.models.utils", "unwrap_model_for_generation")


class _Written(Theirs):  # type: ignore[misc]
    """TRL's trainer, whose words are written before they are counted, and not after."""

    def get_batch_samples(self, *args: Any) -> tuple[list[Any], Any]:
        """The micro-batches of a step, each in whose words it will be learned."""
        batches, _ = super().get_batch_samples(*args)
        return [self._write(batch) for batch in batches], None

    def _write(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        # the coin of TRL, in its order
        if random.random() <= self.lmbda:
            writer = self.model_wrapped
        elif self.seq_kd:
            writer = self.teacher_model
        else:
            return batch
        batch = self._prepare_inputs(batch)
        with unwrap_model_for_generation(
            writer, self.accelerator, generation_kwargs=self.generation_kwargs
        ) as model:
            written = self.generate_on_policy_outputs(model, batch, self.generation_config)
        return {**batch, **dict(zip(_READ, written, strict=True))}

    def training_step(self, *args: Any) -> Any:
        """That of TRL's ``SFTTrainer``: nothing is left to be written."""
        return super(Theirs, self).training_step(*args)


_READ = ("input_ids", "attention_mask", "labels")


class GKDTrainer(Ours, _Written):
    r"""TRL's experimental ``GKDTrainer``, with an objective in the place of its JSD.

    Whose words a micro-batch holds is decided as in TRL: with probability ``lmbda`` the student's,
    else the corpus' or, with ``seq_kd``, the teacher's. They are written before the step is
    counted, so that each term is divided by the number of words that it was given; TRL divides by
    the number that the data set had in their place. The rest is as in
    :class:`distill_lib.integrations.transformers.DistillationTrainer`.

    ``KD(losses.jsd, beta=0.5)`` is what TRL does by default, and ``CE()`` with ``seq_kd=True`` and
    ``lmbda=0`` is distillation at the sequence level. TRL's ``beta`` has no say here; its
    ``temperature`` is that of sampling, as in TRL.

    Args:
        model: As for TRL.
        teacher_model: As for TRL; writes, where ``seq_kd`` asks it to.
        objective: A sum of terms.
        teacher: Another teacher than ``teacher_model``, such as an :class:`~distill_lib.Ensemble`.
        teacher_tokenizer: Is compared with ``processing_class``.
        **settings: As for TRL: ``args``, ``train_dataset``, …

    Raises:
        ModuleNotFoundError: no TRL.
        ValueError: as the trainer of ours; no ``teacher_model``; ``lmbda`` outside [0, 1].

    Reference:
        Agarwal et al., *On-policy distillation of language models*, 2024; Kim and Rush,
        *Sequence-level knowledge distillation*, 2016.
    """

    def __init__(
        self,
        model: Any,
        teacher_model: Any,
        *,
        objective: Objective | Term,
        teacher: Source | nn.Module | None = None,
        teacher_tokenizer: Any = None,
        **settings: Any,
    ) -> None:
        if teacher_model is None:
            raise ValueError(
                "GKDTrainer expected a teacher_model, which writes where seq_kd asks it to, got "
                "None; without a teacher, distill_lib.integrations.transformers has a trainer"
            )
        super().__init__(
            model,
            teacher_model,
            teacher=teacher_model if teacher is None else teacher,
            objective=objective,
            teacher_tokenizer=teacher_tokenizer,
            **settings,
        )
        if not 0 <= self.lmbda <= 1:  # TRL lets nan pass, and then nobody writes
            raise ValueError(f"lmbda is a share of the batches, in [0, 1], got {self.lmbda}")

    def _named(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What a model reads of the batch, and its labels."""
        return super()._named({key: inputs[key] for key in _READ})
