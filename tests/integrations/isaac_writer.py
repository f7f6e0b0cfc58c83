"""Checkpoints as rl_games and skrl write them, each with what its own network says.

    python isaac_writer.py FOLDER rl_games|skrl

Run by the tests in a process with the library's folder in front.
"""

import contextlib
import io
import sys
from pathlib import Path

import torch

OBSERVATIONS, ACTIONS, HIDDEN = 5, 3, [8, 7]
ACTIVATIONS = {
    "rl_games": ("relu", "tanh", "sigmoid", "elu", "selu", "swish", "gelu", "softplus", "None"),
    "skrl": ("elu", "leaky_relu", "relu", "selu", "sigmoid", "softplus", "tanh"),
}


def seen(count: int) -> torch.Tensor:
    """Observations, some of them far from what is usual, and one number that is always the same."""
    scale = torch.tensor([1.0, 30.0, 0.01, 3.0, 0.0])
    return torch.randn(count, OBSERVATIONS) * scale + torch.tensor([0.0, 5.0, 1.0, -2.0, 7.0])


def rl_games(activation: str, continuous: bool, separate: bool, normalize: bool):
    """A state as ``get_full_state_weights`` gives it, and what it says."""
    from rl_games.algos_torch.model_builder import ModelBuilder

    sigma = {"name": "const_initializer", "val": -0.7}
    real = {"mu_activation": "None", "sigma_activation": "None", "mu_init": {"name": "default"},
            "sigma_init": sigma, "fixed_sigma": True}  # fmt: skip
    params = {
        "model": {"name": "continuous_a2c_logstd" if continuous else "discrete_a2c"},
        "network": {
            "name": "actor_critic",
            "separate": separate,
            "space": {"continuous": real} if continuous else {"discrete": {}},
            "mlp": {"units": HIDDEN, "activation": activation, "d2rl": False,
                    "initializer": {"name": "default"}},
        },
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        model = ModelBuilder().load(params).build(
            {"actions_num": ACTIONS, "input_shape": (OBSERVATIONS,), "num_seqs": 1,
             "value_size": 1, "normalize_value": True, "normalize_input": normalize}
        )  # fmt: skip
    previous = torch.zeros(256, ACTIONS) if continuous else torch.zeros(256)
    for _ in range(20 if normalize else 0):
        model.train()({"is_train": True, "obs": seen(256), "prev_actions": previous})
    inputs = torch.cat([seen(20), 50 * torch.randn(5, OBSERVATIONS)])
    out = model.eval()({"is_train": False, "obs": inputs})
    said = {"mean": out["mus"], "std": out["sigmas"]} if continuous else {"logits": out["logits"]}
    state = {"model": model.state_dict(), "epoch": 3, "frame": 9, "optimizer": {"state": {}},
             "last_mean_rewards": 1.5, "env_state": None}  # fmt: skip
    return state, {"inputs": inputs, **said}


def skrl(activation: str, continuous: bool, separate: bool, normalize: bool):
    """A state as ``Agent.save`` gives it, and what it says."""
    import gymnasium as gym
    import skrl
    from skrl.resources.preprocessors.torch import RunningStandardScaler
    from skrl.utils.model_instantiators import torch as kinds

    new = skrl.__version__.split(".")[0] >= "2"
    which = "OBSERVATIONS" if new else "STATES"
    network = [{"name": "net", "input": which, "layers": HIDDEN, "activations": activation}]
    space = gym.spaces.Box(-1, 1, (OBSERVATIONS,))
    actions = gym.spaces.Box(-1, 1, (ACTIONS,)) if continuous else gym.spaces.Discrete(ACTIONS)
    both = {"observation_space": space, "action_space": actions, "device": "cpu"}
    both |= {"state_space": None} if new else {}
    plain = {"network": network, "output": "ACTIONS"}
    real = {"initial_log_std": -0.7} if continuous else {}
    if separate:
        make = kinds.gaussian_model if continuous else kinds.categorical_model
        policy = make(**both, **plain, **real)
    else:
        policy = kinds.shared_model(
            **both, roles=["policy", "value"],
            structure=["GaussianMixin" if continuous else "CategoricalMixin", "DeterministicMixin"],
            parameters=[{**plain, **real}, {"network": network, "output": "ONE"}],
        )  # fmt: skip
    policy.init_state_dict(role="policy")
    if not separate:  # after the other, whose answer it uses
        policy.init_state_dict(role="value")
    name = "observation_preprocessor" if new else "state_preprocessor"
    scaler = RunningStandardScaler(size=space, device="cpu")
    for _ in range(20 if normalize else 0):
        scaler(seen(256), train=True)
    inputs = torch.cat([seen(20), 50 * torch.randn(5, OBSERVATIONS)])
    shown = scaler(inputs) if normalize else inputs
    key = "observations" if new else "states"
    with torch.no_grad():
        out = policy.compute({key: shown}, role="policy")[0]
    log_std = policy.log_std_parameter if continuous else None
    said = {"mean": out, "std": log_std.exp().expand_as(out)} if continuous else {"logits": out}
    state = {"policy": policy.state_dict(), "value": policy.state_dict(),
             "optimizer": {"state": {}, "param_groups": []}}  # fmt: skip
    state |= {name: scaler.state_dict()} if normalize else {}
    return state, {"inputs": inputs, **said}


if __name__ == "__main__":
    folder, which = Path(sys.argv[1]), sys.argv[2]
    torch.manual_seed(0)
    for activation in ACTIVATIONS[which]:
        for i in range(8):
            how = [bool(i & bit) for bit in (1, 2, 4)]
            state, said = {"rl_games": rl_games, "skrl": skrl}[which](activation, *how)
            place = folder / f"{activation}-{i}"
            place.mkdir()
            torch.save(state, place / "agent.pt")
            torch.save({k: v.detach() for k, v in said.items()}, place / "said.pt")
