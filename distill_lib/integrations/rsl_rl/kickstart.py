"""RSL-RL's PPO with a teacher beside the reward."""

from __future__ import annotations

from typing import Any

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.models import MLPModel
from rsl_rl.storage import RolloutStorage
from rsl_rl.utils import resolve_class
from tensordict import TensorDict
from torch import Tensor

from distill_lib.objective import Objective, Term

from .algorithm import gaussian_of, require_length, signals_of

__all__ = ["Kickstarting"]


class Kickstarting(PPO):  # type: ignore[misc]
    r"""RSL-RL's PPO plus an objective that pulls the actor towards a teacher.

    .. math:: L = L_\mathrm{PPO} + \sum_t w_t(s)\, \ell_t

    Everything of RSL-RL's PPO stays as it is; the objective enters where PPO adds the loss of its
    symmetry extension, which is not available at the same time. The runner's configuration gets a
    ``teacher`` beside ``actor`` and ``critic``, a group ``teacher`` in ``obs_groups``, and an
    ``objective`` and ``iterations`` in ``algorithm``. Load the teacher with :func:`give_teacher`.

    Args:
        *models: Actor, critic and storage, given by RSL-RL.
        objective: Such as ``linear(2, 0) * KD(losses.gaussian_kl, on="gaussian")``.
        iterations: Length of the training, for schedules of progress.
        **settings: Those of RSL-RL's PPO.

    Raises:
        ValueError: a recurrent actor, the symmetry extension, a schedule without ``iterations``;
            while training, a teacher that was not loaded.

    Reference:
        Schmitt et al., *Kickstarting deep reinforcement learning*, 2018.
    """

    iterations: int | None
    num_updates: int

    teacher: MLPModel
    teacher_loaded = False

    def __init__(
        self,
        *models: Any,
        objective: Objective | Term,
        iterations: int | None = None,
        **settings: Any,
    ) -> None:
        if settings.get("symmetry_cfg") is not None:
            raise ValueError(
                "kickstarting takes the place of the symmetry extension; leave one out"
            )
        super().__init__(*models, **settings)
        if self.actor.is_recurrent:
            raise ValueError("kickstarting a recurrent actor is not supported: use an MLPModel")
        self.objective: Objective = 1.0 * objective if isinstance(objective, Term) else objective
        require_length(self.objective, iterations)
        if next(self.objective.parameters(), None) is not None:
            raise ValueError(f"PPO's optimizer would not train the projectors of {self.objective}")
        self.iterations, self.num_updates = iterations, 0
        self.symmetry: _Pull = _Pull(self)

    def update(self) -> dict[str, float]:
        """PPO's update; the objective's value is reported as ``teacher``."""
        if not self.teacher_loaded:
            raise ValueError("no teacher is loaded; call give_teacher(runner, path) first")
        report: dict[str, float] = super().update()
        self.num_updates += 1
        report["teacher"] = report.pop("symmetry")
        return report

    @staticmethod
    def construct_algorithm(obs: TensorDict, env: Any, cfg: dict[str, Any], device: str) -> PPO:
        """RSL-RL's construction, and a teacher."""
        alg = PPO.construct_algorithm(obs, env, cfg, device)
        kind, settings = resolve_class(cfg["teacher"])
        teacher = kind(obs, cfg["obs_groups"], "teacher", env.num_actions, **settings)
        alg.teacher = alg._raw_teacher = teacher.to(device).eval()
        return alg


class _Pull:
    """The objective in the form of RSL-RL's symmetry extension."""

    use_data_augmentation: bool = False
    use_mirror_loss: bool = True
    mirror_loss_coeff: float = 1.0

    def __init__(self, alg: Kickstarting) -> None:
        self.alg = alg

    def augment_batch(self, batch: RolloutStorage.Batch, size: int) -> None:
        """Nothing is augmented."""

    def compute_loss(self, actor: MLPModel, batch: RolloutStorage.Batch, size: int) -> Tensor:
        """The objective on what the actor has just said of the batch."""
        with torch.no_grad():
            teacher = signals_of(self.alg.teacher, batch.observations)
        own = getattr(actor, "_orig_mod", actor)
        student = {"mean": own.output_mean, "gaussian": gaussian_of(own)}
        progress = self.alg.num_updates / self.alg.iterations if self.alg.iterations else 0.0
        loss: Tensor = self.alg.objective(student, teacher, progress=progress)[0]
        return loss
