"""Checkpoints in the layouts of rl_games, skrl and Stable-Baselines3, by hand."""

import io
import zipfile
from pathlib import Path

import torch


def layers(start: str, sizes: list[int]) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    found = {}
    for i in range(len(sizes) - 1):
        found[f"{start}{2 * i}.weight"] = torch.randn(sizes[i + 1], sizes[i], generator=g)
        found[f"{start}{2 * i}.bias"] = torch.randn(sizes[i + 1], generator=g)
    return found


def head(name: str) -> dict[str, torch.Tensor]:
    return {f"{name}.{k.split('.')[1]}": v for k, v in layers("", [4, 2]).items()}


def games_state() -> dict[str, torch.Tensor]:
    actor = layers("actor_mlp.", [3, 5, 4]) | head("mu") | head("value")
    actor["sigma"] = torch.tensor([0.1, -0.4])
    return {f"a2c_network.{k}": v for k, v in actor.items()} | {
        "running_mean_std.running_mean": torch.tensor([1.0, 2, 3]).double(),
        "running_mean_std.running_var": torch.tensor([4.0, 1e-9, 0.5]).double(),
        "running_mean_std.count": torch.tensor(9.0),
    }


def skrl_state() -> dict[str, dict[str, torch.Tensor]]:
    policy = layers("net_container.", [3, 5, 4]) | head("policy_layer") | head("value_layer")
    policy["log_std_parameter"] = torch.tensor([0.1, -0.4])
    statistics = {"running_mean": torch.tensor([1.0, 2, 3]).double(),
                  "running_variance": torch.tensor([4.0, 1e-9, 0.5]).double(),
                  "current_count": torch.tensor(9.0)}  # fmt: skip
    return {"policy": policy, "state_preprocessor": statistics}


def games_file(folder: Path, **changed) -> Path:
    (folder / "nn").mkdir(parents=True, exist_ok=True)
    model = {k: v for k, v in (games_state() | changed).items() if v is not None}
    torch.save({"model": model, "epoch": 3}, folder / "nn" / "agent.pth")
    return folder / "nn" / "agent.pth"


def skrl_file(folder: Path, part: str = "policy", **changed) -> Path:
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    state = skrl_state()
    state[part] = {k: v for k, v in (state.get(part, {}) | changed).items() if v is not None}
    torch.save(state, folder / "checkpoints" / "agent_1.pt")
    return folder / "checkpoints" / "agent_1.pt"


def sb3_file(folder: Path) -> Path:
    """A policy of TD3 whose settings nobody wrote down."""
    content = io.BytesIO()
    torch.save(layers("actor.mu.", [3, 5, 4, 2]), content)
    with zipfile.ZipFile(folder / "agent.zip", "w") as file:
        file.writestr("policy.pth", content.getvalue())
    return folder / "agent.zip"
