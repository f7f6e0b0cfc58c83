"""Settings of a training, as Isaac Lab writes them beside a checkpoint into ``params/``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_lib.checkpoints import CheckpointError
from distill_lib.models.control import ACTIVATIONS

__all__ = ["agree", "file_beside", "inside", "known_activation", "read_settings", "settings_of"]

LARGEST = 2**19  # bytes; those of an agent have some thousand, of an environment up to 100,000


def file_beside(path: str | Path, name: str = "agent.yaml") -> Path:
    """Where Isaac Lab writes the settings: beside the checkpoint, or beside its folder."""
    beside, above = (folder / "params" / name for folder in Path(path).absolute().parents[:2])
    return above if above.is_file() and not beside.is_file() else beside


def settings_of(path: str | Path, activation: str | None) -> tuple[Path, Mapping[str, Any] | None]:
    """The file beside a checkpoint and what it says, or None where it is not there.

    A file that cannot be read is none, for those who give the activation themselves.

    Raises:
        CheckpointError: see :func:`read_settings`; no activation was given.
    """
    file = file_beside(path)
    try:
        return file, read_settings(file) if file.is_file() else None
    except CheckpointError:
        if activation is None:
            raise
        return file, None


def read_settings(file: Path, instead: str = "pass activation=") -> Mapping[str, Any]:
    """A YAML file as text, lists and mappings, whatever its tags say.

    Args:
        file: Its place.
        instead: The way out for those who cannot read it.

    Raises:
        CheckpointError: it is too large, cannot be read or holds no mapping; there is no pyyaml.
    """
    try:
        import yaml
    except ImportError as error:
        raise CheckpointError(f"reading {file} needs pyyaml; or {instead}") from error
    if file.stat().st_size > LARGEST:
        raise CheckpointError(f"{file} has more than {LARGEST} bytes, and no such file needs them")
    try:
        text = file.read_text(encoding="utf-8")
        found = yaml.load(text, yaml.BaseLoader)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}; or {instead}") from error
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{file} holds no settings by name but {type(found).__name__}")
    return found


def inside(settings: Any, *names: str) -> Any:
    """What stands under names in names, or None."""
    for name in names:
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    return settings


def known_activation(name: str, file: Path, whose: str) -> str:
    """The name of an activation that :class:`distill_lib.models.Policy` has.

    Raises:
        CheckpointError: it has none of this name.
    """
    if name not in ACTIVATIONS:
        raise CheckpointError(
            f"{file} says that the {whose} has the activation {name[:40]!r}; known are "
            f"{', '.join(ACTIVATIONS)}"
        )
    return name


def agree(path: str | Path, file: Path, whose: str, told: str | None, given: str | None) -> str:
    """The activation that the settings tell, or that was given.

    Raises:
        CheckpointError: nothing says it, or two say two things.
    """
    if given is None and told is None:
        raise CheckpointError(
            f"the weights in {path} do not tell the activation of the {whose}, and there is no "
            f"{file} that does: pass activation=, as in the training ('elu' in most)"
        )
    if given is not None and told is not None and given.lower() != told:
        raise CheckpointError(
            f"activation={given!r}, but {file} says that the {whose} has {told!r}: leave it out, "
            "or move the checkpoint if the file is of another training"
        )
    return known_activation(told, file, whose) if told is not None else str(given)
