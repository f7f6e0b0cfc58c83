"""Teachers of images with the weights that torchvision publishes."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from distill_lib.checkpoints import CheckpointError
from distill_lib.checkpoints.files import torch_load
from distill_lib.extras import missing
from distill_lib.progress import quiet

__all__ = ["load"]

# Their weights want another scale of the colors, which only torchvision's own loading sets.
ODD = ("googlenet", "inception_v3")


def load(name: str) -> nn.Module:
    """A classifier of ImageNet in eval mode, with torchvision's newest weights for it.

    Raises:
        KeyError: torchvision has no such classifier.
        ModuleNotFoundError: torchvision is not installed, or for another torch.
        CheckpointError: The weights cannot be had, or are not the published ones.
    """
    try:
        models: Any = importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:  # built for another torch, it lacks operators
        raise missing("load_teacher(…, source='torchvision')", "torchvision") from error
    known = [one for one in models.list_models(module=models) if one not in ODD]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise KeyError(f"torchvision has no classifier {name!r} for this.{guess}")
    weights = models.get_model_weights(name).DEFAULT
    path = _file(weights.url)
    try:
        state = torch_load(path)
    except Exception as error:  # many kinds, by what is broken
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__})") from error
    model = models.get_model(name, weights=None, num_classes=len(weights.meta["categories"]))
    model.load_state_dict(state)
    return cast(nn.Module, model.eval())


def _file(url: str) -> Path:
    """The published file, compared with the first digits of its SHA-256, which its name holds."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    digits = cast("re.Match[str]", re.search(r"-([0-9a-f]{8,})\.", path.name))[1]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), digits, progress=not quiet())
        except (OSError, RuntimeError) as error:  # of network and disk; of another sum
            raise CheckpointError(
                f"{path.name} cannot be had ({error}). With a network it is at {url}; in "
                f"{path.parent} it is found without one."
            ) from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(digits):
        raise CheckpointError(
            f"{path} is not the published file: its SHA-256 begins with {found[: len(digits)]}. "
            "Delete it and load again."
        )
    return path
