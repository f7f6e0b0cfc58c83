"""What Isaac Lab writes beside a checkpoint: the configuration of its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_lib.checkpoints import CheckpointError
from distill_lib.models.control import ACTIVATIONS

__all__ = ["activation_of"]

LARGEST = 2**18  # bytes; those of Isaac Lab have some thousand


def activation_of(path: str | Path, role: str, given: str | None) -> str:
    """The activation of a network: as given, or from ``params/agent.yaml`` beside the checkpoint.

    Raises:
        CheckpointError: nothing says it, or two say two things.
    """
    file = Path(path).parent / "params" / "agent.yaml"
    try:
        told = _activation(file, role) if file.is_file() else None
    except CheckpointError:
        if given is None:
            raise
        return given
    if given is None and told is None:
        raise CheckpointError(
            f"the weights in {path} do not tell the activation of the {role}, and there is no "
            f"{file} that does: pass activation=, as in the training ('elu' in most)"
        )
    if given is not None and told is not None and given.lower() != told:
        raise CheckpointError(
            f"activation={given!r}, but {file} says that the {role} has {told!r}: leave it out, or "
            "move the checkpoint if the file is of another training"
        )
    if told is not None and told not in ACTIVATIONS:
        raise CheckpointError(
            f"{file} says that the {role} has the activation {told[:40]!r}; known are "
            f"{', '.join(ACTIVATIONS)}"
        )
    return told or str(given)


def _activation(file: Path, role: str) -> str | None:
    written = _read(file)
    for place in (role, "policy"):  # since RSL-RL 4 a section for each network
        section = written.get(place)
        found = section.get("activation") if isinstance(section, Mapping) else None
        if isinstance(found, str):
            return found.lower()
    return None


def _read(file: Path) -> Mapping[str, Any]:
    """A YAML file as text, lists and mappings, whatever its tags say."""
    try:
        import yaml
    except ImportError as error:
        raise CheckpointError(f"reading {file} needs pyyaml; or pass activation=") from error
    if file.stat().st_size > LARGEST:
        raise CheckpointError(f"{file} has more than {LARGEST} bytes, and no such file needs them")
    try:
        text = file.read_text(encoding="utf-8")
        found = yaml.load(text, yaml.BaseLoader)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}; or pass activation=") from error
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{file} holds no settings by name but {type(found).__name__}")
    return found
