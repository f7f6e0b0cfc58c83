"""RSL-RL's PPO with a teacher beside the reward."""

from __future__ import annotations

from typing import Any

import rsl_rl.extensions
import torch
from rsl_rl.algorithms import PPO
from rsl_rl.models import MLPModel
from rsl_rl.modules.distribution import GaussianDistribution
from rsl_rl.storage import RolloutStorage
from rsl_rl.utils import resolve_callable
from tensordict import TensorDict
from torch import Tensor

from distill_lib.checkpoints import load_checkpoint
from distill_lib.objective import Objective, Term

from .algorithm import OURS, gaussian_of, objective_of, require_length, signals_of, updates_of
from .models import give, raw

__all__ = ["Kickstarting"]

Symmetry: Any = getattr(rsl_rl.extensions, "Symmetry", None)  # a class since RSL-RL 5.1


class Kickstarting(PPO):  # type: ignore[misc]
    r"""RSL-RL's PPO plus an objective that pulls the actor towards a teacher.

    .. math:: L = L_\mathrm{PPO} + \sum_t w_t(s)\, \ell_t

    Everything of RSL-RL's PPO stays as it is; the objective enters where PPO adds the loss of its
    symmetry extension, which is not available at the same time. The runner's configuration gets a
    ``teacher`` beside ``actor`` and ``critic``, a group ``teacher`` in ``obs_groups``, and an
    ``objective`` and ``iterations`` in ``algorithm``. Load the teacher with :func:`give_teacher`,
    or name its file as ``teacher_file``.

    Args:
        *models: Actor, critic and storage, given by RSL-RL.
        objective: Such as ``linear(2, 0) * KD(losses.gaussian_kl, on="gaussian")``, or the name
            ``"package.module:function"`` of a function that makes it.
        iterations: Length of the training, for schedules of progress.
        teacher_file: A checkpoint of RSL-RL 2 to 5 with the teacher.
        **settings: Those of RSL-RL's PPO.

    Raises:
        ValueError: a recurrent actor or teacher, the symmetry extension, a schedule without
            ``iterations``; while training, a teacher that was not loaded.

    Reference:
        Schmitt et al., *Kickstarting deep reinforcement learning*, 2018.
    """

    iterations: int | None
    num_updates: int

    teacher: MLPModel
    teacher_file: str | None
    teacher_loaded = False

    def __init__(
        self,
        *models: Any,
        objective: Objective | Term | str,
        iterations: int | None = None,
        teacher_file: str | None = None,
        **settings: Any,
    ) -> None:
        if settings.get("symmetry_cfg") is not None:
            raise ValueError(
                "kickstarting takes the place of the symmetry extension; leave one out"
            )
        super().__init__(*models, **settings)
        if self.actor.is_recurrent:
            raise ValueError("kickstarting a recurrent actor is not supported: use an MLPModel")
        self.objective: Objective = objective_of(objective)
        require_length(self.objective, iterations)
        if next(self.objective.parameters(), None) is not None:
            raise ValueError(f"PPO's optimizer would not train the projectors of {self.objective}")
        self.iterations, self.num_updates, self.teacher_file = iterations, 0, teacher_file
        self.pull = _Pull(self)
        self.symmetry: Any = self.pull if Symmetry is not None else _pull_of_5_0(self.pull)

    def update(self) -> dict[str, float]:
        """PPO's update; the objective's value is reported as ``teacher``."""
        if not self.teacher_loaded:
            raise ValueError("no teacher is loaded; call give_teacher(runner, path) first")
        report: dict[str, float] = super().update()
        self.num_updates += 1
        report.pop("symmetry")  # in RSL-RL 5.0 that of the loss which was put aside
        report["teacher"] = self.pull.mean()
        return report

    def save(self) -> dict[str, Any]:
        """As RSL-RL's, with the teacher, and how far the schedules are."""
        state: dict[str, Any] = super().save()
        teacher = self._raw_teacher.state_dict() if self.teacher_loaded else None
        return {**state, OURS: {"num_updates": self.num_updates, "teacher": teacher}}

    def load(
        self, loaded_dict: dict[str, Any], load_cfg: dict[str, Any] | None, strict: bool
    ) -> bool:
        """As RSL-RL's, and the rest of what was saved."""
        goes_on = bool(super().load(loaded_dict, load_cfg, strict))
        if goes_on:
            self.num_updates = updates_of(loaded_dict)
            if (teacher := loaded_dict.get(OURS, {}).get("teacher")) is not None:
                self._raw_teacher.load_state_dict(teacher, strict=strict)
                self.teacher_loaded = True
        return goes_on

    @staticmethod
    def construct_algorithm(obs: TensorDict, env: Any, cfg: dict[str, Any], device: str) -> PPO:
        """RSL-RL's construction, and a teacher."""
        alg = PPO.construct_algorithm(obs, env, cfg, device)
        settings = dict(cfg["teacher"])
        kind = resolve_callable(settings.pop("class_name"))
        teacher = kind(obs, cfg["obs_groups"], "teacher", env.num_actions, **settings)
        if teacher.is_recurrent:
            raise ValueError(
                f"kickstarting by a recurrent teacher ({kind.__name__}) is not supported: PPO "
                "shuffles its minibatches, and a memory needs the order of time. Give a "
                "feed-forward teacher, or distil this one first with our Distillation, which asks "
                "it in that order"
            )
        alg.teacher = alg._raw_teacher = teacher.to(device).eval()
        if alg.teacher_file is not None:
            give(alg._raw_teacher, load_checkpoint(alg.teacher_file), None, alg.teacher_file)
            alg.teacher_loaded = True
        return alg


class _Pull:
    """The objective in the form of RSL-RL's symmetry extension."""

    use_data_augmentation: bool = False
    use_mirror_loss: bool = True
    mirror_loss_coeff: float = 1.0

    def __init__(self, alg: Kickstarting) -> None:
        self.alg = alg
        self.values: list[Tensor] = []

    def augment_batch(self, batch: RolloutStorage.Batch, size: int) -> None:
        """Nothing is augmented."""

    def compute_loss(self, actor: MLPModel, batch: RolloutStorage.Batch, size: int) -> Tensor:
        """The objective on what the actor has just said of the batch."""
        with torch.no_grad():
            teacher = signals_of(self.alg.teacher, batch.observations)
        own = raw(actor)
        student = {"mean": own.output_mean}
        if isinstance(own.distribution, GaussianDistribution):
            student["gaussian"] = gaussian_of(own)
        progress = self.alg.num_updates / self.alg.iterations if self.alg.iterations else 0.0
        loss: Tensor = self.alg.objective(student, teacher, progress=progress)[0]
        self.values.append(loss.detach())
        return loss

    def mean(self) -> float:
        """Of the values since the last call."""
        values, self.values = self.values, []
        return torch.stack(values).mean().item()


class _Instead:
    """A factor that puts the objective in the place of what it is multiplied with."""

    def __init__(self, pull: _Pull) -> None:
        self.pull, self.batch = pull, RolloutStorage.Batch()

    def __mul__(self, _: Tensor) -> Tensor:
        return self.pull.compute_loss(self.pull.alg.actor, self.batch, 0)


def _pull_of_5_0(pull: _Pull) -> dict[str, Any]:
    """The same for RSL-RL 5.0, whose symmetry extension is a dictionary of settings.

    It asks a function for mirrored observations, gets them as they are, and multiplies its loss,
    which is then one of nothing, with a factor.
    """
    factor = _Instead(pull)

    def as_it_is(env: Any, obs: Any, actions: Any) -> tuple[Any, Any]:
        if obs is not None:
            factor.batch = RolloutStorage.Batch(observations=obs)
        return obs, actions

    return {"use_data_augmentation": False, "use_mirror_loss": True, "_env": None,
            "mirror_loss_coeff": factor, "data_augmentation_func": as_it_is}  # fmt: skip
