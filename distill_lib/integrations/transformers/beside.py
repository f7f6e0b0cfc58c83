"""What lies beside the student in a checkpoint: projectors, and who the teacher was."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.parameter import is_lazy

from distill_lib.checkpoints.files import whole_file

__all__ = ["begin", "read", "write"]

NOTE, TENSORS = "distillation.json", "distillation.safetensors"
MOST = 2**20  # bytes of the note: fingerprints, and an objective in words


def write(folder: Path, identity: Mapping[str, str], parts: Mapping[str, Any]) -> None:
    """Write what must be the same later, and the state of each part.

    Raises:
        OSError: the folder cannot be written to.
    """
    state = {
        f"{name}.{key}": value.detach().cpu().contiguous().clone()
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }
    # the note last: a folder without it is refused
    for name, content in ((TENSORS, save(state)), (NOTE, json.dumps(identity, indent=1).encode())):
        with whole_file(folder / name) as file:
            file.write(content)


def read(folder: Path, identity: Mapping[str, str], parts: Mapping[str, Any]) -> None:
    """Fill the parts, if the teacher and the objective are the same; else they stay as they are.

    The note may have 1 MiB, and takes 40 times as much in memory; the tensors take their own bytes,
    and have no checksum.

    Raises:
        ValueError: a checkpoint of another training, or a torn one.
    """
    if not (folder / NOTE).exists():
        raise ValueError(
            f"{folder} has no {NOTE}: it was not written by a DistillationTrainer; load its "
            "weights with from_pretrained and train without resume_from_checkpoint"
        )
    found = _note(folder / NOTE)
    for what, text in identity.items():
        if found.get(what) != text:
            raise ValueError(
                f"{folder} was made with another {what}: {found.get(what)!r}, now {text!r}. Going "
                "on would mix two trainings: begin anew, without resume_from_checkpoint"
            )
    try:
        state = load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise _torn(folder / TENSORS, str(error)) from error
    wanted = {f"{n}.{key}": v for n, part in parts.items() for key, v in part.state_dict().items()}
    for key in sorted(wanted.keys() | state.keys()):
        if not _fits(state.get(key), wanted.get(key)):
            raise _torn(
                folder / TENSORS,
                f"{key} is {_words(state.get(key))}, expected {_words(wanted.get(key))}",
            )
    for name, part in parts.items():
        own = {k: v for k, v in state.items() if k.startswith(f"{name}.")}
        part.load_state_dict({k.removeprefix(f"{name}."): v for k, v in own.items()})


def begin(initial: dict[str, Any], parts: Mapping[str, Any]) -> None:
    """Note how the parts begin the first of several trainings; they begin the others alike.

    Raises:
        ValueError: weights that a lazy layer had not made when the first began.
    """
    for name, part in parts.items():
        if name not in initial:
            initial[name] = copy.deepcopy(part.state_dict())
        elif lazy := [f"{name}.{key}" for key, value in initial[name].items() if is_lazy(value)]:
            raise ValueError(
                f"another training would begin with {', '.join(lazy)} as the first has trained "
                "them: beside model_init give layers of known size, nn.Linear(8, 16)"
            )
        else:
            part.load_state_dict(initial[name])


def _note(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MOST + 1)
        found = json.loads(content) if len(content) <= MOST else None
    except (OSError, ValueError, RecursionError) as error:
        raise _torn(path, str(error)) from error
    if not isinstance(found, dict):
        raise _torn(path, f"it holds no mapping of at most {MOST:,} bytes")
    return found


def _fits(found: Tensor | None, wanted: Tensor | None) -> bool:
    if found is None or wanted is None:
        return False
    if is_lazy(wanted):  # it takes the shape of what is loaded
        return True
    return (found.shape, found.is_floating_point()) == (wanted.shape, wanted.is_floating_point())


def _words(tensor: Tensor | None) -> str:
    if tensor is None or is_lazy(tensor):
        return "missing" if tensor is None else "of any shape"
    return f"{tensor.dtype} of shape {list(tensor.shape)}"


def _torn(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is torn, or another training's ({reason}): delete {path.parent}, and resume from "
        "an older checkpoint"
    )
