"""Other people's weights, read safely: no code is unpickled, and the layout is named."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from distill_lib.arguments import as_path, checked
from distill_lib.ties import ties

from .files import checked_zip, torch_load
from .fitting import Shapes, holds, is_alike, misfit, of_one_weight, prefix_of
from .kinds import is_weights, numbers, rsl_rl, skrl
from .manifests import verify, write_manifest
from .shards import of_shards, other_program

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "from_state",
    "load_checkpoint",
    "verify",
    "write_manifest",
]


def __dir__() -> list[str]:
    return __all__


GROWTH = 32  # what an archive of Stable-Baselines3 may unpack to, in times its own bytes
SETTINGS = 16 << 20  # the bytes that a text of settings may have; in memory it is 40 times as large
SB3_TEXTS = ("action_space", "observation_space", "policy_class", "policy_kwargs")


class CheckpointError(RuntimeError):
    """A file that holds no weights that can be read; the message says what was found."""


@checked
@dataclass
class Checkpoint:
    """What a file held.

    Attributes:
        kind: The layout: ``safetensors``, ``state_dict``, ``hf``, ``sb3``, ``rsl_rl-5/ppo`` or
            the like.
        tensors: Weights by name; for layouts of several models, with the model's name in front
            (``actor.mlp.0.weight``).
        meta: Everything else that is plain data: iteration, configuration. Of a zip of
            Stable-Baselines3, ``told`` has the texts that stand beside its pickled spaces and
            settings.
    """

    kind: str
    tensors: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)

    @checked
    def part(self, prefix: str) -> dict[str, Tensor]:
        """The weights under a prefix, without it.

        Raises:
            CheckpointError: when there are none; lists the prefixes there are.
        """
        start = prefix.rstrip(".") + "."
        found = {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}
        if not found:
            have = sorted({k.split(".")[0] for k in self.tensors})
            what = f"no weights under {prefix!r} in a {self.kind} checkpoint"
            raise CheckpointError(f"{what}; it has: {', '.join(have)}")
        return found

    @checked
    def load_into(self, module: torch.nn.Module, prefix: str = "") -> None:
        """Copy the weights into a module, all of them; of one with two names, either will do.

        Raises:
            CheckpointError: missing, unexpected or differently shaped weights, each by name; two
                values for a weight that the module has under two names; a module on the device
                ``meta``, which holds no numbers, or with lazy layers; numbers that the module's
                type does not hold, such as 1e300 in float32.
        """
        tensors = self.part(prefix) if prefix else self.tensors
        wanted = module.state_dict()
        if lazy := sorted(k for k, v in wanted.items() if is_lazy(v)):
            raise CheckpointError(
                f"the model has lazy layers, of no shape yet ({', '.join(lazy[:8])}): ask it about "
                "one batch first"
            )
        tensors, two = of_one_weight(tensors, ties(module))
        if two is not None:
            raise CheckpointError(
                f"{two[0]} and {two[1]} are one weight of the model, and two in the "
                f"{self.kind} checkpoint: it is of a network that does not tie them"
            )
        if start := prefix_of(_shapes(tensors), _shapes(wanted)):
            raise CheckpointError(
                f"the names in the {self.kind} checkpoint begin with {start!r}: "
                f"load_into(module, {'.'.join(filter(None, (prefix.rstrip('.'), start)))!r})"
            )
        check_fit(self.kind, _shapes(tensors), _shapes(wanted))
        if odd := sorted(k for k, v in tensors.items() if not is_alike(v, wanted[k])):
            raise CheckpointError(
                f"the {self.kind} checkpoint does not fit the model: {', '.join(odd[:8])}: one is "
                "sparse, quantized, complex or without numbers, and the other is not"
            )
        if bare := sorted(k for k in tensors if wanted[k].is_meta):
            raise CheckpointError(
                f"the model has {', '.join(bare[:8])} on the device meta, where no numbers can be "
                'put: call model.to_empty(device="cpu") first'
            )
        # what is no parameter and no buffer, the module reads in its own way
        named = (module.named_parameters, module.named_buffers)
        kept = {k for each in named for k, _ in each(remove_duplicate=False)} & tensors.keys()
        if odd := sorted(k for k in kept if not holds(wanted[k].dtype, tensors[k])):
            raise CheckpointError(
                f"the {self.kind} checkpoint has numbers that the model cannot hold, in "
                f"{', '.join(odd[:8])}: {tensors[odd[0]].dtype} in the file, {wanted[odd[0]].dtype}"
                " in the model. Make it of the file's type first, such as by model.double()"
            )
        try:
            module.load_state_dict(tensors, strict=False)
        except Exception as error:  # weights without numbers, of another layout, ...
            raise CheckpointError(
                f"the {self.kind} checkpoint cannot be copied into the model: {error}"
            ) from error


def _shapes(state: Mapping[str, Any]) -> Shapes:
    """Of the tensors; a module's extra state has none."""
    return {name: value.shape for name, value in state.items() if isinstance(value, Tensor)}


def check_fit(kind: str, found: Shapes, wanted: Shapes) -> None:
    """Compare the names and shapes of a file with those of a model's tensors.

    Args:
        kind: Of the checkpoint, for messages.
        found: The shapes in the file, by name.
        wanted: The shapes in the model, by name.

    Raises:
        CheckpointError: missing, unexpected or differently shaped weights, each by name.
    """
    if words := misfit(found, wanted):
        raise CheckpointError(f"the {kind} checkpoint does not fit the model. {words}")


@checked
def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read weights from a file or folder of a known layout.

    Known are safetensors; ``torch.save`` files of a plain state dict, also under ``state_dict``,
    ``model_state_dict`` or ``model``; RSL-RL / Isaac Lab (2 to 5); Stable-Baselines3 archives; and
    Hugging Face folders, also of several files with an index.

    Nothing is read that could run code. Weights take no more memory than the file has bytes, or 32
    times as many for the compressed archives of Stable-Baselines3; what is beside them, pickled or
    as settings, takes 100 times its own bytes at most, and settings may have 16 MiB.

    What has checksums is compared with them: all zip archives, so what torch has saved since 1.6.
    Safetensors and older files have none: a flipped bit in them gives other numbers, and no error.
    :func:`write_manifest` and :func:`verify` find it.

    Args:
        path: The file, or the folder that ``save_pretrained`` wrote.

    Raises:
        CheckpointError: no such file, one that cannot be read or is torn, a pickle that holds more
            than data, or a layout not known; the message lists what was found.
    """
    try:
        return _read(as_path(path))
    except CheckpointError:
        raise
    except Exception as error:  # bytes that are no checkpoint can end in any error
        raise CheckpointError(f"{path} cannot be read: {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__} {str(error).split('. ')[0]}"


def _read(path: Path) -> Checkpoint:
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{" or path.suffix == ".safetensors":
        return Checkpoint("safetensors", *_safetensors(path))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if "policy.pth" in names:
            return _sb3(path)
    return from_state(_torch_load(path, path), path)


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    # its reader says of every file that it cannot open that it is not there
    path.open("rb").close()
    try:
        with safe_open(path, framework="pt") as file:
            found = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            if not found:
                raise CheckpointError(f"{path} is a safetensors file without a tensor")
            return found, dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error


def _torch_load(source: Any, path: Path) -> Any:
    try:
        return torch_load(source)
    except Exception as error:  # bytes that are no checkpoint can end in any error
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} is a pickle that holds more than weights ({named[1]}), and reading it "
                "could run code, so it was not read. Ask its author for safetensors, or for "
                "torch.save(model.state_dict())"
            ) from error
        if way := other_program(source):
            raise CheckpointError(f"{path} {way}") from error
        raise CheckpointError(
            f"{path} is torn, or not a file of torch.save (other pickles could run code, and are "
            f"not read): {_said(error)}"
        ) from error


def _weights(source: Any, path: Path) -> dict[str, Tensor]:
    state = _torch_load(source, path)
    if not is_weights(state):
        raise CheckpointError(
            f"{path} was expected to hold tensors by name, and holds {type(state).__name__}"
        )
    return numbers(state)


def _json(text: bytes, path: Path) -> dict[str, Any]:
    if len(text) > SETTINGS:
        raise CheckpointError(f"the settings in {path} have more than {SETTINGS:,} bytes")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the settings in {path} are torn: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"the settings in {path} are {type(found).__name__}, no object")
    return found


def _sb3(path: Path) -> Checkpoint:
    with path.open("rb") as file:
        names = checked_zip(file, path.stat().st_size, GROWTH)
        with zipfile.ZipFile(file) as archive:
            tensors = _weights(io.BytesIO(archive.read("policy.pth")), path)
            if names.get("data", 0) > SETTINGS:
                raise CheckpointError(f"the settings in {path} say {names['data']} bytes")
            meta = _json(archive.read("data"), path) if "data" in names else {}
    pickled = {k: v for k, v in meta.items() if isinstance(v, dict) and ":serialized:" in v}
    plain = {k: v for k, v in meta.items() if k not in pickled}
    # beside a pickle, which nobody opens, stands what was in it as text
    told = {k: {a: b for a, b in v.items() if a != ":serialized:"} for k, v in pickled.items()}
    told = {k: v for k, v in told.items() if k in SB3_TEXTS and set(v) - {":type:"}}
    return Checkpoint("sb3", tensors, {**plain, **({"told": told} if told else {})})


def _folder(path: Path) -> Checkpoint:
    config = path / "config.json"
    meta = _settings(config) if config.is_file() else {}
    for name in ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return Checkpoint("hf", _part(path / name), meta)
        if (index := path / f"{name}.index.json").is_file():
            return Checkpoint("hf", of_shards(index, _settings(index), _part), meta)
    have = ", ".join(sorted(p.name for p in path.iterdir())) or "nothing"
    raise CheckpointError(
        f"the folder {path} holds no model.safetensors and no pytorch_model.bin; it holds: {have}. "
        "Pass the file itself that has the weights"
    )


def _settings(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return _json(file.read(SETTINGS + 1), path)


def _part(path: Path) -> dict[str, Tensor]:
    return _safetensors(path)[0] if path.suffix == ".safetensors" else _weights(path, path)


@checked
def from_state(state: Any, path: str | Path = "the state") -> Checkpoint:
    """Name the layout of something that ``torch.load`` gave.

    Args:
        state: What the file held.
        path: Where it came from, for messages.

    Raises:
        CheckpointError: a layout not known; the message lists what was found.
    """
    if is_weights(state):
        return Checkpoint("state_dict", numbers(state))
    if isinstance(state, Mapping):
        meta = {k: v for k, v in state.items() if isinstance(v, (str, int, float, bool))}
        if (found := rsl_rl(state)) is not None:
            kind, tensors = found
            norms = {k: v for k, v in state.items() if str(k).endswith("norm_state_dict")}
            norms = {k: v for k, v in norms.items() if v is not None and v != {}}
            if odd := [k for k, v in norms.items() if not is_weights(v)]:
                raise CheckpointError(f"{odd[0]} in {path} is no normalizer: no tensors by name")
            return Checkpoint(kind, tensors, meta | {k: numbers(v) for k, v in norms.items()})
        if is_weights(state.get("policy")):
            return Checkpoint("skrl", skrl(state), meta)
        for key in ("state_dict", "model_state_dict", "model"):
            if is_weights(state.get(key)):
                return Checkpoint("state_dict", numbers(state[key]), meta)
        some = [f"{k} ({type(v).__name__})" for k, v in list(state.items())[:12]]
        have = ", ".join(some) or "nothing"
    else:
        have = type(state).__name__
    raise CheckpointError(
        f"{path} has a layout that is not known. Expected a state dict of tensors, or one under "
        "'state_dict', 'model_state_dict', 'model' or skrl's 'policy', or RSL-RL's "
        f"'actor_state_dict' / 'student_state_dict'; found: {have}"
    )
