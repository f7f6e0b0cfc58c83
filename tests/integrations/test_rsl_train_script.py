"""What Isaac Lab's train script does with a configuration, with our algorithms in it.

The script (``scripts/reinforcement_learning/rsl_rl/train.py``) needs a simulator; its course after
the environment is made is told here in our words: a class of settings becomes plain values, a
runner is made from them, a checkpoint is loaded under the script's own condition, the settings are
written beside the run, and the runner learns.
"""

from __future__ import annotations

import copy
import re
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from rsl_helpers import checkpoint, env, model, ppo_config, quiet
from rsl_rl.runners import DistillationRunner, OnPolicyRunner

from distill_lib import KD, Match, linear, losses
from distill_lib.integrations.rsl_rl import Distillation, Kickstarting, load_teacher, read_env

yaml = pytest.importorskip("yaml")
pytest.importorskip("tensorboard", reason="RSL-RL's runner writes a log for it")
OURS = "distill_lib.integrations.rsl_rl:Distillation"
PULLED = "distill_lib.integrations.rsl_rl:Kickstarting"


# ---- settings as Isaac Lab has them ----


def plain(settings: Any) -> Any:
    """As the script makes them plain: a function becomes its name, what is missing an empty {}."""
    if isinstance(settings, (list, tuple)):
        return type(settings)(plain(one) for one in settings)
    if not isinstance(settings, dict):
        if not hasattr(settings, "__dict__"):
            return settings
        settings = vars(settings)
    found = {}
    for name, value in settings.items():
        if not name.startswith("__"):
            named = callable(value)  # an objective is, too, and has no name
            found[name] = f"{value.__module__}:{value.__name__}" if named else plain(value)
    return found


class Settings:
    """What a ``configclass`` adds to a data class."""

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = plain(self)
        return found


@dataclass
class Algorithm(Settings):
    class_name: str = "Distillation"
    num_learning_epochs: int = 1
    learning_rate: float = 1e-2
    gradient_length: int = 5
    max_grad_norm: float | None = None
    optimizer: str = "adam"
    loss_type: str | None = "mse"


@dataclass
class OurAlgorithm(Algorithm):
    class_name: str = OURS
    objective: Any = None
    iterations: int | None = None
    teacher_file: str | None = None


@dataclass
class PullAlgorithm(Settings):
    class_name: str = PULLED
    num_learning_epochs: int = 1
    num_mini_batches: int = 2
    learning_rate: float = 1e-3
    schedule: str = "fixed"
    rnd_cfg: Any = None
    symmetry_cfg: Any = None
    objective: Any = None
    iterations: int | None = None
    teacher_file: str | None = None


@dataclass
class Runner(Settings):
    algorithm: Settings
    class_name: str = "DistillationRunner"
    seed: int = 42
    device: str = "cpu"
    num_steps_per_env: int = 10
    max_iterations: int = 2
    empirical_normalization: Any = field(default_factory=lambda: MISSING)  # left so
    policy: Any = field(default_factory=lambda: MISSING)
    obs_groups: dict[str, list[str]] = field(
        default_factory=lambda: {"student": ["student"], "teacher": ["teacher"]}
    )
    student: dict[str, Any] = field(default_factory=lambda: model([6], init_std=0.2))
    teacher: dict[str, Any] = field(default_factory=lambda: model([8, 7]))
    clip_actions: float | None = None
    save_interval: int = 100
    experiment_name: str = "points"
    run_name: str = ""
    logger: str = "tensorboard"
    resume: bool = False
    load_run: str = ".*"
    load_checkpoint: str = "model_.*.pt"


@dataclass
class PullRunner(Runner):
    class_name: str = "OnPolicyRunner"
    obs_groups: dict[str, list[str]] = field(
        default_factory=lambda: {k: ["teacher"] for k in ("actor", "critic", "teacher")}
    )
    actor: dict[str, Any] = field(default_factory=lambda: ppo_config([6])["actor"])
    critic: dict[str, Any] = field(default_factory=lambda: ppo_config([6])["critic"])


# ---- the script ----


def last(root: Path, run: str, file: str) -> Path:
    """The last checkpoint of the last run of these names."""
    folder = max(f for f in root.iterdir() if f.is_dir() and re.match(run, f.name))
    found = [f for f in folder.iterdir() if re.match(file, f.name)]
    return max(found, key=lambda f: f"{f.name:0>15}")


def train(settings: Runner, root: Path, name: str) -> Any:
    """The course of the script after the environment is made; returns the runner."""
    world = env(5, groups=True)
    with_a_file = settings.resume or settings.algorithm.class_name == "Distillation"  # type: ignore[attr-defined]
    resume = last(root, settings.load_run, settings.load_checkpoint) if with_a_file else None
    folder = root / name
    kinds = {"OnPolicyRunner": OnPolicyRunner, "DistillationRunner": DistillationRunner}
    torch.manual_seed(settings.seed)
    with quiet():
        runner = kinds[settings.class_name](
            world, settings.to_dict(), log_dir=str(folder), device=settings.device
        )
        runner.add_git_repo_to_log(__file__)
        if resume is not None:
            runner.load(str(resume))
        (folder / "params").mkdir(parents=True)
        room = {"sim": {"dt": 0.02}, "decimation": 2, "observation_space": 2, "action_space": 2}
        for file, content in (("env", room), ("agent", settings.to_dict())):
            text = yaml.dump(content, default_flow_style=False, sort_keys=False)
            (folder / "params" / f"{file}.yaml").write_text(text)
        runner.learn(num_learning_iterations=settings.max_iterations, init_at_random_ep_len=True)
    return runner


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An experiment with the run of a teacher."""
    (tmp_path / "2026-01-01_teacher").mkdir()
    (tmp_path / "2026-01-01_teacher" / "model_9.pt").write_bytes(checkpoint().read_bytes())
    return tmp_path


def weights(runner: Any) -> torch.Tensor:
    alg = runner.alg
    net = alg.student if hasattr(alg, "student") else alg.actor
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def taught(runner: Any) -> bool:
    """Whether its teacher is that of the fixture."""
    own = runner.alg.teacher.state_dict()
    state = torch.load(checkpoint(), weights_only=True)["actor_state_dict"]
    return all(torch.equal(own[k], v) for k, v in state.items())


def squared() -> Any:
    return Match("mean", loss=losses.mse_logits)


def falling() -> Any:
    return linear(1, 0) * KD(losses.gaussian_kl, on="gaussian")


def test_the_scripts_own_name_is_loaded_by_the_script(root: Path) -> None:
    runner = train(Runner(Algorithm()), root, "2026-02-01")
    assert taught(runner) and not isinstance(runner.alg, Distillation)


@pytest.mark.parametrize("name", [OURS, "distill_lib.integrations.rsl_rl.algorithm:Distillation"])
def test_our_name_with_a_file_of_its_own_needs_nothing_of_the_script(root: Path, name: str) -> None:
    file = str(root / "2026-01-01_teacher" / "model_9.pt")
    runner = train(Runner(OurAlgorithm(name, teacher_file=file)), root, "2026-02-01")
    assert taught(runner) and isinstance(runner.alg, Distillation)
    assert runner.current_learning_iteration == 1  # it did not begin at the teacher's


def test_our_name_takes_the_teacher_of_resume(root: Path) -> None:
    file = str(root / "2026-01-01_teacher" / "model_9.pt")
    by_file = train(Runner(OurAlgorithm(teacher_file=file)), root, "2026-02-01")
    by_script = train(Runner(OurAlgorithm(), resume=True, load_run=".*teacher"), root, "2026-02-02")
    assert taught(by_script) and torch.equal(weights(by_file), weights(by_script))


def test_without_either_the_runner_says_that_the_teacher_is_missing(root: Path) -> None:
    with pytest.raises(ValueError, match="Teacher model parameters not loaded"):
        train(Runner(OurAlgorithm()), root, "2026-02-01")


@pytest.mark.parametrize("objective", [f"{__name__}:squared", squared])
def test_an_objective_is_a_name_or_a_function(root: Path, objective: Any) -> None:
    file = str(root / "2026-01-01_teacher" / "model_9.pt")
    by_name = OurAlgorithm(loss_type=None, objective=objective, teacher_file=file)
    runner = train(Runner(by_name), root, "2026-02-01")
    wanted = train(Runner(OurAlgorithm(teacher_file=file)), root, "2026-02-02")
    assert torch.equal(weights(runner), weights(wanted))  # the squared error is that of "mse"
    assert type(runner.alg.objective.terms[0]) is Match


def test_an_objective_itself_is_nothing_that_settings_can_hold(root: Path) -> None:
    with pytest.raises(AttributeError, match="__name__"):
        Runner(OurAlgorithm(objective=squared())).to_dict()


def test_settings_are_as_they_were_after_a_training(root: Path) -> None:
    file = str(root / "2026-01-01_teacher" / "model_9.pt")
    settings = Runner(OurAlgorithm(teacher_file=file))
    before = copy.deepcopy(settings.to_dict())
    train(settings, root, "2026-02-01")
    assert settings.to_dict() == before


def test_a_training_goes_on_where_it_was_stopped(root: Path) -> None:
    file = str(root / "2026-01-01_teacher" / "model_9.pt")
    algorithm = OurAlgorithm(loss_type=None, objective=falling, iterations=8, teacher_file=file)
    train(Runner(algorithm, max_iterations=4), root, "2026-02-01_student")
    again = Runner(algorithm, resume=True, load_run=".*student", max_iterations=4)
    runner = train(again, root, "2026-02-02_student")
    assert runner.alg.num_updates == 8 and runner.current_learning_iteration == 6


def test_what_the_script_left_behind_is_read_without_a_word(root: Path) -> None:
    file = str(root / "2026-01-01_teacher" / "model_9.pt")
    runner = train(Runner(OurAlgorithm(teacher_file=file)), root, "2026-02-01")
    path = last(root, "2026-02-01", "model_.*.pt")
    seen = runner.env.get_observations()
    for role in ("student", "teacher"):
        said = load_teacher(path, role=role)(seen[role])["mean"]
        torch.testing.assert_close(said, getattr(runner.alg, role).eval()(seen))
    found = read_env(path, "student")
    assert found.step == pytest.approx(0.04) and found.sizes["actions"] == 2


@pytest.mark.parametrize("objective", [f"{__name__}:falling", falling])
def test_kickstarting_is_started_by_the_script(root: Path, objective: Any) -> None:
    file = str(root / "2026-01-01_teacher" / "model_9.pt")
    algorithm = PullAlgorithm(objective=objective, iterations=4, teacher_file=file)
    runner = train(PullRunner(algorithm), root, "2026-02-01_kick")
    assert taught(runner) and isinstance(runner.alg, Kickstarting)
    again = PullRunner(algorithm, resume=True, load_run=".*kick")
    runner = train(again, root, "2026-02-02_kick")
    assert taught(runner) and runner.alg.num_updates == 4
