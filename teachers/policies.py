"""Train the policy teachers of the zoo with Stable-Baselines3's PPO, on one CPU thread.

    python teachers/policies.py cartpole      # cartpole_ppo
    python teachers/policies.py acrobot       # acrobot_ppo
    python teachers/policies.py lunarlander   # lunarlander_ppo
    python teachers/policies.py hopper        # hopper_ppo

Nothing here is distillation: a teacher is any trained policy. Every so many steps the greedy
policy plays 20 or more episodes; the weights with the best mean, less one standard deviation, are
kept and play 200 episodes with other seeds for the card. A run that is killed goes on from its last
evaluation.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from cards import WORK, ZOO, parameters, trained, write_card
from cards import returns as score_of
from safetensors.torch import load_file, save_file
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from distill_lib import rl
from distill_lib.models.control import Policy

RECIPES: dict[str, dict[str, Any]] = {
    "cartpole": {
        "env": "CartPole-v1", "hidden": (64, 64), "steps": 100_000, "every": 10_000, "envs": 8,
        "ppo": {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98,
                "learning_rate": 1e-3},
    },
    "acrobot": {
        "env": "Acrobot-v1", "hidden": (64, 64), "steps": 200_000, "every": 20_000, "envs": 16,
        "ppo": {"n_steps": 256, "batch_size": 256, "n_epochs": 4, "gae_lambda": 0.94,
                "learning_rate": 1e-3},
    },
    "lunarlander": {
        "env": "LunarLander-v3", "hidden": (256, 256), "steps": 1_000_000,
        "every": 25_000, "envs": 16, "exam": 60,
        "ppo": {"n_steps": 256, "batch_size": 256, "n_epochs": 6, "gae_lambda": 0.97,
                "ent_coef": 0.005, "learning_rate": 7e-4},
    },
    "hopper": {
        "env": "Hopper-v5", "hidden": (256, 256), "steps": 1_500_000, "every": 50_000, "envs": 16,
        "ppo": {"n_steps": 256, "batch_size": 512, "n_epochs": 10, "gae_lambda": 0.95,
                "learning_rate": 3e-4},
    },
}  # fmt: skip


def exported(model: PPO, statistics: Any, architecture: dict[str, Any]) -> Policy:
    """The actor and the statistics of its observations as a policy of the zoo."""
    policy = Policy(**architecture)
    theirs = model.policy
    layers = [*theirs.mlp_extractor.policy_net, theirs.action_net]
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    mine = [layer for layer in policy.net if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for a, b in zip(mine, linear, strict=True):
            a.weight.copy_(b.weight)
            a.bias.copy_(b.bias)
        if policy.log_std is not None:
            policy.log_std.copy_(theirs.log_std)
        policy.obs_mean.copy_(torch.from_numpy(statistics.mean))
        policy.obs_var.copy_(torch.from_numpy(statistics.var))
    return policy.eval()


def returns(policy: Policy, env: str, episodes: int, seed: int) -> np.ndarray:
    """Undiscounted returns of the greedy policy."""
    found: np.ndarray = rl.evaluate(policy, env, episodes, seed=seed).returns.numpy()
    return found


class Examine(BaseCallback):
    """Every so many steps: play, keep the best, and leave what a killed run needs to go on."""

    def __init__(self, name: str, recipe: dict[str, Any], architecture: dict[str, Any]) -> None:
        super().__init__()
        self.name, self.recipe, self.architecture = name, recipe, architecture
        self.state: dict[str, Any] = {"best": -1e9, "seconds": 0.0, "history": []}
        self.begun = time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        every, history = self.recipe["every"], self.state["history"]
        if self.num_timesteps < every * (len(history) + 1):
            return
        policy = exported(self.model, self.training_env.obs_rms, self.architecture)
        found = returns(policy, self.recipe["env"], self.recipe.get("exam", 20), seed=10_000)
        self.state["seconds"] += time.perf_counter() - self.begun
        self.begun = time.perf_counter()
        history.append([self.num_timesteps, round(found.mean(), 1), round(found.std(), 1)])
        print(f"{self.name}  {self.num_timesteps:,} steps  return {found.mean():.1f} ± "
              f"{found.std():.1f}  {self.state['seconds'] / 60:.1f} min", flush=True)  # fmt: skip
        if found.mean() - found.std() > self.state["best"]:
            self.state["best"] = found.mean() - found.std()
            self.state["best_steps"] = self.num_timesteps
            save_file(policy.state_dict(), WORK / f"{self.name}.best.safetensors")
        self.model.save(WORK / f"{self.name}.zip")
        self.training_env.save(str(WORK / f"{self.name}.vecnormalize"))
        (WORK / f"{self.name}.json").write_text(json.dumps(self.state))


def train(key: str, steps: int) -> None:
    torch.set_num_threads(1)
    recipe, name = RECIPES[key], f"{key}_ppo"
    WORK.mkdir(parents=True, exist_ok=True)
    envs = make_vec_env(recipe["env"], recipe["envs"], seed=0)
    continuous = not hasattr(envs.action_space, "n")
    architecture = {
        "observations": int(envs.observation_space.shape[0]),
        "actions": int(envs.action_space.shape[0] if continuous else envs.action_space.n),
        "hidden": list(recipe["hidden"]),
        "continuous": continuous,
    }
    examine = Examine(name, recipe, architecture)
    rate = recipe["ppo"]["learning_rate"]
    settings = {**recipe["ppo"], "learning_rate": lambda left: rate * left}
    gamma = settings.get("gamma", 0.99)
    if (WORK / f"{name}.zip").exists():
        examine.state = json.loads((WORK / f"{name}.json").read_text())
        envs = VecNormalize.load(str(WORK / f"{name}.vecnormalize"), envs)
        model = PPO.load(WORK / f"{name}.zip", env=envs, device="cpu")
    else:
        envs = VecNormalize(envs, gamma=gamma)
        net = {"pi": list(recipe["hidden"]), "vf": list(recipe["hidden"])}
        model = PPO("MlpPolicy", envs, seed=0, device="cpu", policy_kwargs={"net_arch": net},
                    **settings)  # fmt: skip
    left = steps - model.num_timesteps
    if left > 0:
        model.learn(left, callback=examine, reset_num_timesteps=model.num_timesteps == 0)

    policy = Policy(**architecture)
    policy.load_state_dict(load_file(WORK / f"{name}.best.safetensors"))
    final = returns(policy.eval(), recipe["env"], 200, seed=20_000)
    print(f"{name}: return {final.mean():.1f} ± {final.std():.1f} over 200 episodes")
    file = ZOO / f"{name}.safetensors"
    save_file(policy.state_dict(), file)
    file.chmod(0o644)
    state = examine.state
    write_card(
        file,
        task=f"control, {recipe['env']}",
        env=recipe["env"],
        architecture={"class": "distill_lib.models.control.Policy", "kwargs": architecture},
        params=parameters(policy),
        score=score_of(final),
        trained=trained(
            __file__, state["seconds"] / 60, "stable-baselines3", "gymnasium", arguments=key,
            steps=state["best_steps"],
            recipe=f"PPO, {recipe['envs']} environments, normalized observations and rewards, "
            f"rate falling to 0 over {recipe['steps']:,} steps, "
            + ", ".join(f"{k} {v}" for k, v in recipe["ppo"].items())
            + "; the best of its evaluations, by mean less standard deviation over "
            + f"{recipe.get('exam', 20)} episodes",
            history=state["history"],
        ),
        data={"name": recipe["env"], "steps": state["best_steps"]},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("task", choices=list(RECIPES), nargs="*", default=list(RECIPES))
    parser.add_argument("--steps", type=int, help="fewer steps, to try the script")
    args = parser.parse_args()
    for key in args.task:
        train(key, args.steps or RECIPES[key]["steps"])


if __name__ == "__main__":
    main()
