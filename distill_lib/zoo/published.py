"""Teachers of images with the weights that torchvision publishes."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from distill_lib.checkpoints import CheckpointError, load_checkpoint
from distill_lib.checkpoints.files import sha256
from distill_lib.extras import missing
from distill_lib.progress import quiet
from distill_lib.signals import suggest

__all__ = ["load"]

# Their weights want another scale of the colors, which only torchvision's own loading sets.
ODD = ("googlenet", "inception_v3")


def load(name: str) -> nn.Module:
    """A classifier of ImageNet in eval mode, with torchvision's newest weights for it.

    Raises:
        KeyError: torchvision has no such classifier.
        ImportError: torchvision is not installed, or is built for another torch.
        CheckpointError: The weights cannot be had, or are not the published ones.
    """
    try:
        models: Any = importlib.import_module("torchvision.models")
    except ImportError as error:
        raise missing("load_teacher(…, source='torchvision')", "torchvision") from error
    except RuntimeError as error:  # it lacks its operators
        raise ImportError(
            f"torchvision does not load beside torch {torch.__version__} ({error}): install the "
            "build of it that belongs to this torch"
        ) from error
    known = [one for one in models.list_models(module=models) if one not in ODD]
    if name not in known:
        raise KeyError(f"torchvision has no classifier {name!r} for this.{suggest(name, known)}")
    weights = models.get_model_weights(name).DEFAULT
    state = load_checkpoint(_file(weights.url)).tensors
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
    found = sha256(path)
    if not found.startswith(digits):
        raise CheckpointError(
            f"{path} is not the published file: its SHA-256 begins with {found[: len(digits)]}. "
            "Delete it and load again."
        )
    return path
