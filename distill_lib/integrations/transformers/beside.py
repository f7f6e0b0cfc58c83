"""What lies beside the student in a checkpoint: projectors, and who the teacher was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

__all__ = ["read", "write"]

NOTE, TENSORS = "distillation.json", "distillation.safetensors"


def write(folder: Path, identity: Mapping[str, str], parts: Mapping[str, Any]) -> None:
    """Write what must be the same later, and the state of each part."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NOTE).write_text(json.dumps(identity, indent=1), encoding="utf-8")
    state = {
        f"{name}.{key}": value.detach().cpu().contiguous().clone()
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }
    save_file(state, folder / TENSORS)


def read(folder: Path, identity: Mapping[str, str], parts: Mapping[str, Any]) -> None:
    """Fill the parts, if the teacher and the objective are the same.

    Raises:
        ValueError: a checkpoint of another training.
    """
    if not (folder / NOTE).exists():
        raise ValueError(
            f"{folder} has no {NOTE}: it was not written by a DistillationTrainer; load its "
            "weights with from_pretrained and train without resume_from_checkpoint"
        )
    found = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    for what, text in identity.items():
        if found.get(what) != text:
            raise ValueError(
                f"{folder} was made with another {what}: {found.get(what)!r}, now {text!r}. Going "
                "on would mix two trainings: begin anew, without resume_from_checkpoint"
            )
    state = load_file(folder / TENSORS)
    for name, part in parts.items():
        own = {k: v for k, v in state.items() if k.startswith(f"{name}.")}
        part.load_state_dict({k.removeprefix(f"{name}."): v for k, v in own.items()})
