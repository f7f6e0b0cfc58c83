"""The activation that Isaac Lab writes beside a checkpoint of RSL-RL."""

from __future__ import annotations

from pathlib import Path

from distill_lib.integrations.settings import agree, inside, settings_of

__all__ = ["activation_of"]


def activation_of(path: str | Path, role: str, given: str | None) -> str:
    """The activation of a network: as given, or from ``params/agent.yaml`` beside the checkpoint.

    Raises:
        CheckpointError: nothing says it, or two say two things.
    """
    file, written = settings_of(path, given)
    # since RSL-RL 4 a section for each network, before that one for all
    said = (inside(written, place, "activation") for place in (role, "policy"))
    told = next((name.lower() for name in said if isinstance(name, str)), None)
    return agree(path, file, role, told, given)
