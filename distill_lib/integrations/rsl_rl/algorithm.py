r"""A drop-in for RSL-RL's ``Distillation``: the same runner and configuration, any objective."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, cast

import torch
from rsl_rl.algorithms import Distillation as Theirs
from rsl_rl.models import MLPModel
from rsl_rl.modules.distribution import (
    GaussianDistribution,
    HeteroscedasticGaussianDistribution,
)
from rsl_rl.storage import RolloutStorage
from rsl_rl.utils import resolve_callable, resolve_optimizer
from tensordict import TensorDict
from torch import Tensor, nn

from distill_lib import losses
from distill_lib.arguments import told
from distill_lib.checkpoints import load_checkpoint
from distill_lib.objective import Objective, Term
from distill_lib.schedules import Schedule, as_schedule
from distill_lib.terms.answers import KD
from distill_lib.terms.features import Match

from .layouts import checkpoint_of
from .models import fits, give, raw

__all__ = ["Distillation"]

# since 5.5 with the update, before with every step of the environment
NORMALIZES_LATE = "update_normalization" not in Theirs.process_env_step.__code__.co_names
OURS = "distill_lib"  # the key in a checkpoint for what RSL-RL does not save


def huber(*, student: Tensor, teacher: Tensor) -> Tensor:
    """Huber's loss of the mean actions, as RSL-RL has it (δ = 1)."""
    return nn.functional.huber_loss(student, teacher, reduction="none").mean(-1)


THEIRS = {"mse": losses.mse_logits, "huber": huber}  # by RSL-RL's names


class Distillation(Theirs):  # type: ignore[misc]
    r"""Distillation in RSL-RL's runner, with an objective of terms.

    The student acts, the teacher is asked about the states that it meets, and the student is
    trained on them in the order of time, once an epoch:

    .. math:: \theta \leftarrow \theta - \eta \nabla_\theta
       \frac{1}{|C|} \sum_{t \in C} \frac1N \sum_{i=1}^N \ell_{t,i}

    for chunks :math:`C` of ``gradient_length`` steps of :math:`N` environments. RSL-RL's own
    algorithm differs in four respects: its loss is the squared error (or Huber's) of the mean
    actions and nothing else, so that the student's standard deviation stays where it began; it sums
    over a chunk, so that the step (or what gradient clipping leaves of it) grows with
    ``gradient_length``; it drops the last chunk when it is incomplete; and it knows no schedules.

    Student and teacher say ``mean`` [..., A] and ``gaussian`` [..., 2A] (mean and logarithm of the
    standard deviation). A teacher without a deviation says only ``mean``.

    In the configuration, write ``"algorithm": {"class_name": Distillation, …}``, or its name
    ``"distill_lib.integrations.rsl_rl:Distillation"``. Isaac Lab's train script loads a teacher
    only for the class name ``Distillation`` or with ``--resume``: name the file as ``teacher_file``
    there. All arguments of RSL-RL's class are taken. Terms of reinforcement learning have no place
    here: RSL-RL's storage for distillation keeps neither values nor the probabilities of actions,
    and there is no critic; for a reward term use :class:`Kickstarting`.

    A checkpoint holds networks, optimizer and the place in the schedules, and no memories of
    recurrent models: the runner begins new episodes after a resume, where they are empty.

    Args:
        student: A model with a ``distribution_cfg``: the runner logs its deviation.
        teacher: The model that :func:`give_teacher` or ``runner.load`` fills.
        storage: RSL-RL's, for distillation.
        objective: Terms that read ``mean`` or ``gaussian``; by default the loss that ``loss_type``
            names, and without that the Gaussian KL. Its projectors are trained along. A
            configuration that holds only plain values names a function of no arguments that makes
            it, ``"package.module:function"``.
        iterations: Length of the training, for schedules of progress: RSL-RL tells its runner but
            not its algorithm.
        learning_rate: A number, or a schedule of progress.
        teacher_file: A checkpoint of RSL-RL 2 to 5 with the teacher; what is loaded later replaces
            it.
        loss_type: RSL-RL's ``"mse"`` or ``"huber"``, of the mean actions, in place of an objective:
            Isaac Lab's configurations hold ``"mse"`` unless they are told otherwise, so set it to
            None where you give an objective.
        **settings: ``num_learning_epochs, gradient_length, max_grad_norm, optimizer, …`` of
            RSL-RL's class.

    Raises:
        ValueError: a student without a deviation, a schedule without ``iterations``, another
            ``loss_type``, or one beside an objective.
        TypeError: an ``objective`` that is none.
        CheckpointError: a ``teacher_file`` that cannot be read or does not fit.
    """

    learning_rate: float

    def __init__(
        self,
        student: MLPModel,
        teacher: MLPModel,
        storage: RolloutStorage,
        objective: Objective | Term | str | None = None,
        iterations: int | None = None,
        learning_rate: Schedule | float = 1e-3,
        teacher_file: str | None = None,
        loss_type: str | None = None,
        **settings: Any,
    ) -> None:
        self.rate: Schedule = as_schedule(learning_rate)
        chosen = chosen_of(objective, loss_type)
        with warnings.catch_warnings():
            # that the last steps are not trained on, which here they are
            warnings.filterwarnings("ignore", message=".*not divisible by 'gradient_length'")
            super().__init__(student, teacher, storage, learning_rate=self.rate(0.0), **settings)
        if student.distribution is None:
            raise ValueError(
                "the student has no distribution_cfg, so it could not explore; give it "
                "{'class_name': 'GaussianDistribution', 'init_std': 0.1}"
            )
        self.objective: Objective = objective_of(chosen).to(self.device)
        # RSL-RL 5.0 does not compile its models and has no handles to what was compiled
        self._raw_student: MLPModel = raw(self.student)
        self._raw_teacher: MLPModel = raw(self.teacher)
        require_length(self.objective, iterations, self.rate)
        self.iterations = iterations
        self._memory: Any = None  # of a recurrent student, where the next update begins
        own = list(self.objective.parameters())
        if own:
            kind = resolve_optimizer(settings.get("optimizer", "adam"))
            self.optimizer: Any = kind([*student.parameters(), *own], lr=self.learning_rate)
        # room for the deviation of the teacher beside its mean
        self.gaussian: bool = isinstance(teacher.distribution, GaussianDistribution)
        wide = storage.privileged_actions
        storage.privileged_actions = torch.cat([wide, wide], -1) if self.gaussian else wide
        if teacher_file is not None:
            give(self._raw_teacher, load_checkpoint(teacher_file), None, teacher_file)
            self.teacher_loaded = True

    def act(self, obs: TensorDict) -> Tensor:
        """Let the student act, and ask the teacher about the same state."""
        self.transition.actions = self.student(obs, stochastic_output=True).detach()
        said = signals_of(self.teacher, obs)
        answer = said["gaussian" if self.gaussian else "mean"]
        self.transition.privileged_actions = answer.detach()
        self.transition.observations = obs
        return cast(Tensor, self.transition.actions)

    def update(self) -> dict[str, float]:
        """Train on the stored steps, all of them; returns the parts of the objective."""
        totals: dict[str, float] = {}
        count = 0
        for _ in range(self.num_learning_epochs):
            self.student.reset(hidden_state=self._memory)
            self.student.detach_hidden_state()
            for chunk in self._chunks():
                parts = self._step(chunk)
                count += len(chunk)
                for name, value in parts.items():
                    totals[name] = totals.get(name, 0.0) + len(chunk) * value.item()
        # the teacher was not asked again: its memory is still that of the last step
        self._memory = self.student.get_hidden_state()
        if NORMALIZES_LATE:
            self.student.update_normalization(self.storage.observations.flatten(0, 1))
        self._cut()
        self.storage.clear()
        self.num_updates += 1
        return {name: total / count for name, total in totals.items()}

    def save(self) -> dict[str, Any]:
        """As RSL-RL's, and how far the schedules are."""
        state: dict[str, Any] = super().save()
        return {**state, OURS: {"num_updates": self.num_updates,
                                "objective": self.objective.state_dict()}}  # fmt: skip

    def load(
        self, loaded_dict: dict[str, Any], load_cfg: dict[str, Any] | None, strict: bool
    ) -> bool:
        """As RSL-RL's, and also a teacher from the policies of older releases."""
        distilled = any(f"{role}_state_dict" in loaded_dict for role in ("student", "teacher"))
        same = fits(self._raw_teacher, loaded_dict.get("actor_state_dict"))
        if load_cfg is None and not distilled and not same:
            give(self._raw_teacher, checkpoint_of(loaded_dict), None, "the checkpoint")
            self.teacher_loaded = True
            return False
        goes_on = bool(super().load(loaded_dict, load_cfg, strict))
        if goes_on:
            self.num_updates = updates_of(loaded_dict)
            self.objective.load_state_dict(loaded_dict.get(OURS, {}).get("objective", {}), strict)
        return goes_on

    def _cut(self) -> None:
        """Leave no graph behind, so that the student can be copied."""
        given = self._raw_student.distribution
        if type(given) is GaussianDistribution:
            with torch.no_grad():
                given.update(given.mean.detach())

    def _chunks(self) -> Iterator[list[RolloutStorage.Batch]]:
        chunk = []
        for batch in self.storage.generator():
            chunk.append(batch)
            if len(chunk) == self.gradient_length:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _step(self, chunk: list[RolloutStorage.Batch]) -> dict[str, Tensor]:
        """One optimizer step on consecutive steps of time."""
        progress = self.num_updates / self.iterations if self.iterations else 0.0
        self.learning_rate = self.rate(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        with torch.autocast(
            torch.device(self.device).type,
            enabled=getattr(self, "use_mixed_precision", False),
            dtype=torch.bfloat16,
        ):
            student = self._student_says(chunk)
        answer = torch.cat([batch.privileged_actions for batch in chunk])
        teacher = {"mean": answer}
        if self.gaussian:
            teacher = {"mean": answer.chunk(2, -1)[0], "gaussian": answer}
        loss, parts = self.objective(student, teacher, progress=progress)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.is_multi_gpu:
            self.reduce_parameters()
        if self.max_grad_norm:
            learning = chain(self.student.parameters(), self.objective.parameters())
            nn.utils.clip_grad_norm_(learning, self.max_grad_norm)
        self.optimizer.step()
        self.student.detach_hidden_state()
        return dict(parts)

    def _student_says(self, chunk: list[RolloutStorage.Batch]) -> dict[str, Tensor]:
        if not self._raw_student.is_recurrent:
            whole: Any = torch.cat([batch.observations for batch in chunk])
            return signals_of(self.student, whole)
        said = []
        for batch in chunk:
            said.append(signals_of(self.student, batch.observations))
            done = batch.dones.view(-1)
            # where an episode ends, the next begins with an empty memory, and no gradient passes
            self.student.reset(hidden_state=_forget(self.student.get_hidden_state(), done))
        return {name: torch.cat([part[name] for part in said]) for name in said[0]}


def signals_of(model: MLPModel, obs: TensorDict) -> dict[str, Tensor]:
    """What a model of RSL-RL says: ``mean``, and ``gaussian`` where it has a Gaussian deviation."""
    own = getattr(model, "_orig_mod", model)  # torch.compile wraps
    given = own.distribution
    if isinstance(given, HeteroscedasticGaussianDistribution):
        model(obs, stochastic_output=True)
    else:
        mean = model(obs)
        if not isinstance(given, GaussianDistribution):
            return {"mean": mean}
        given.update(mean)
    return {"mean": own.output_mean, "gaussian": gaussian_of(own)}


def gaussian_of(model: MLPModel) -> Tensor:
    """[..., 2A], mean and log std of the distribution that the model has just updated."""
    mean, std = model.output_mean, model.output_std
    return torch.cat([mean, std.expand_as(mean).log()], -1)


def _forget(state: Any, done: Tensor) -> Any:
    if state is None:
        return None
    if isinstance(state, tuple):
        return tuple(_forget(part, done) for part in state)
    return torch.where(done.bool().unsqueeze(-1), torch.zeros_like(state), state)


def objective_of(given: Any) -> Objective:
    """An objective from a term, or from the name of a function that makes one."""
    made = resolve_callable(given)() if isinstance(given, str) else given
    if isinstance(made, Term):
        return 1.0 * made
    if not isinstance(made, Objective):
        raise TypeError(
            "objective expected terms, such as KD(losses.gaussian_kl, on='gaussian'), or the name "
            f"'package.module:function' of a function that makes them, got {told(made)}"
        )
    return made


def chosen_of(objective: Any, loss_type: str | None) -> Any:
    """The objective, the loss of RSL-RL's name, or the Gaussian KL."""
    if loss_type is None:
        return KD(losses.gaussian_kl, on="gaussian") if objective is None else objective
    if loss_type not in list(THEIRS):  # by equality: a list has no hash
        raise ValueError(f"loss_type={loss_type!r}: RSL-RL has {' and '.join(THEIRS)}")
    if objective is not None:
        raise ValueError(
            f"loss_type={loss_type!r} and an objective both say what the loss is: set loss_type to "
            "None, or leave the objective out"
        )
    return Match("mean", loss=THEIRS[loss_type])


def updates_of(state: Mapping[str, Any]) -> int:
    """How many updates were made; RSL-RL alone saves the number of its last iteration."""
    return int(state.get(OURS, {}).get("num_updates", state.get("iter", -1) + 1))


def require_length(objective: Objective, iterations: int | None, *others: Schedule) -> None:
    """Schedules need to know how long the training is."""
    held: list[Any] = [
        *others,
        *objective.weights,
        *chain(*(vars(t).values() for t in objective.terms)),
    ]
    moving = [s for s in held if isinstance(s, Schedule) and s.fixed is None]
    if moving and not iterations:
        raise ValueError(
            f"{moving[0]}, in {objective} or its rate, changes with progress, and RSL-RL does not "
            "tell its algorithm how long it will train; say iterations= in the configuration"
        )
