"""Write checkpoints with whatever release of RSL-RL is on the path; runs in a process of its own.

    python rsl_writer.py FOLDER

In the folders ``normalized`` and ``plain`` it leaves ``ppo.pt`` and ``distillation.pt``, as the
runner saved them after an iteration, and ``golden.pt``: observations, and what actor, student and
teacher did there.
"""

from __future__ import annotations

import contextlib
import io
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RELEASE = int(version("rsl-rl-lib").split(".")[0])
OBS, PRIVILEGED, ACTIONS = 3, 4, 2


class Noise:
    """An environment of random numbers."""

    num_envs, num_actions, num_obs, max_episode_length = 4, ACTIONS, OBS, 5
    num_privileged_obs, device = PRIVILEGED, "cpu"

    def __init__(self) -> None:
        self.cfg: dict[str, Any] = {}
        self.episode_length_buf = torch.zeros(4, dtype=torch.long)

    def get_observations(self) -> Any:
        full = 2 * torch.randn(4, PRIVILEGED) + 1
        groups = {"policy": full[:, :OBS], "critic": full, "teacher": full[:, :OBS]}
        if RELEASE == 2:
            return groups["policy"], {"observations": groups}
        from tensordict import TensorDict

        return TensorDict(groups, batch_size=[4])

    def reset(self) -> Any:
        return self.get_observations()

    def step(self, actions: Any) -> Any:
        seen = self.get_observations()
        rest = torch.randn(4), torch.zeros(4, dtype=torch.long)
        extras = {"time_outs": torch.zeros(4)}
        if RELEASE == 2:
            return seen[0], *rest, {**extras, **seen[1]}
        return seen, *rest, extras


def settings(task: str, normalized: bool) -> dict[str, Any]:
    roles = ("actor", "critic") if task == "ppo" else ("student", "teacher")
    base = {"num_steps_per_env": 4, "save_interval": 100, "multi_gpu": None}
    algorithm = {"class_name": "PPO" if task == "ppo" else "Distillation"}
    base["algorithm"] = {**algorithm, "learning_rate": 1e-2}
    if task != "ppo":
        base["algorithm"]["gradient_length"] = 2
    sizes = {"actor": [6, 5], "critic": [6, 5], "student": [4], "teacher": [6, 5]}
    if RELEASE >= 4:
        base["obs_groups"] = {"actor": ["policy"], "critic": ["critic"]}
        if task != "ppo":
            base["obs_groups"] = {"student": ["policy"], "teacher": ["teacher"]}
        for role in roles:
            noisy = {"stochastic": True} if role != "critic" else {}
            base[role] = {"class_name": "MLPModel", "hidden_dims": sizes[role],
                          "obs_normalization": normalized, **noisy}  # fmt: skip
        base["algorithm"]["rnd_cfg"] = None
        return base
    kind = "ActorCritic" if task == "ppo" else "StudentTeacher"
    base["policy"] = {"class_name": kind, **{f"{r}_hidden_dims": sizes[r] for r in roles}}
    if RELEASE == 2:
        base["empirical_normalization"] = normalized
    else:
        base["policy"] |= {f"{r}_obs_normalization": normalized for r in roles}
        base["obs_groups"] = {"policy": ["policy"], roles[1]: [roles[1]]}
        if task == "ppo":
            base["algorithm"]["rnd_cfg"] = None
    return base


def acted(runner: Any, seen: torch.Tensor, role: str) -> torch.Tensor:
    """The mean action of a network."""
    alg = runner.alg
    if RELEASE >= 4:
        from tensordict import TensorDict

        groups = {"policy": seen, "teacher": seen}
        return getattr(alg, role)(TensorDict(groups, batch_size=[len(seen)]))
    policy = alg.policy
    if RELEASE == 2:
        other = role == "teacher"
        scale = runner.privileged_obs_normalizer if other else runner.obs_normalizer
    else:
        scale = getattr(policy, f"{role}_obs_normalizer")
    return getattr(policy, role)(scale(seen))


def main(folder: Path, normalized: bool) -> None:
    from rsl_rl import runners

    torch.manual_seed(0)
    seen = 2 * torch.randn(7, OBS) + 1
    golden: dict[str, torch.Tensor] = {"seen": seen}
    for task, roles in (("ppo", ["actor"]), ("distillation", ["student", "teacher"])):
        own = getattr(runners, "DistillationRunner", runners.OnPolicyRunner)
        kind = runners.OnPolicyRunner if task == "ppo" else own
        runner = kind(Noise(), settings(task, normalized), log_dir=None)
        if task == "distillation":
            runner.load(str(folder / "ppo.pt"))
        # the runners of some releases save during learn() where there is no folder to save to
        runner.save_interval = runner.cfg["save_interval"] = 100
        runner.current_learning_iteration = 1
        runner.disable_logs, runner.logger_type = True, "none"  # release 2 runs git otherwise
        with contextlib.redirect_stdout(io.StringIO()):
            runner.learn(1)
        runner.save(str(folder / f"{task}.pt"))
        getattr(runner, "eval_mode", getattr(runner.alg, "eval_mode", None))()
        with torch.no_grad():
            golden |= {role: acted(runner, seen, role) for role in roles}
    torch.save(golden, folder / "golden.pt")


if __name__ == "__main__":
    method = torch.distributions.Normal.set_default_validate_args
    for how in ("normalized", "plain"):
        # release 2 overwrites it with False where it means to call it
        torch.distributions.Normal.set_default_validate_args = method
        (Path(sys.argv[1]) / how).mkdir()
        main(Path(sys.argv[1]) / how, normalized=how == "normalized")
