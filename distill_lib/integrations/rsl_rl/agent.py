"""The activation that Isaac Lab writes beside a checkpoint of RSL-RL."""

from __future__ import annotations

from pathlib import Path

from distill_lib.checkpoints import CheckpointError
from distill_lib.integrations.settings import agree, file_beside, inside, read_settings

__all__ = ["activation_of"]


def activation_of(path: str | Path, role: str, given: str | None) -> str:
    """The activation of a network: as given, or from ``params/agent.yaml`` beside the checkpoint.

    Raises:
        CheckpointError: nothing says it, or two say two things.
    """
    file = file_beside(path)
    try:
        told = _activation(file, role) if file.is_file() else None
    except CheckpointError:
        if given is None:
            raise
        return given
    return agree(path, file, role, told, given)


def _activation(file: Path, role: str) -> str | None:
    written = read_settings(file)
    for place in (role, "policy"):  # since RSL-RL 4 a section for each network
        found = inside(written, place, "activation")
        if isinstance(found, str):
            return found.lower()
    return None
