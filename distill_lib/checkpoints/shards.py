"""Weights in several files, and programs that are none."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = ["of_shards", "other_program"]


def of_shards(
    index: Path, said: Mapping[str, Any], read: Callable[[Path], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The weights of the files beside an index, each from the file that it names.

    Args:
        index: The path of the index.
        said: What is in it; ``weight_map`` has the file of each weight.
        read: Reads one file.

    Raises:
        CheckpointError: an index that names no files beside it; weights that are not where it says,
            or that it does not know.
    """
    from . import CheckpointError

    places = said.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} is torn: it has no weight_map from weights to files")
    found: dict[str, Tensor] = {}
    for name in sorted({str(place) for place in places.values()}):
        part = index.parent / name
        if Path(name).name != name or not part.is_file():
            raise CheckpointError(
                f"{index} names {name!r}, which is no file beside it: get all files of the folder"
            )
        for key, value in read(part).items():
            if places.get(key) != name:
                raise CheckpointError(
                    f"{part} holds {key}, which {index.name} does not look for there: the files "
                    "are of different models"
                )
            found[key] = value
    if missing := sorted(places.keys() - found.keys()):
        raise CheckpointError(
            f"the files beside {index} lack {', '.join(missing[:8])}, which it names: they are of "
            "different models"
        )
    return found


def other_program(source: Any) -> str:
    """What a zip archive is that holds a program of PyTorch, with the way out; else nothing."""
    if not isinstance(source, Path) or not zipfile.is_zipfile(source):
        return ""
    with zipfile.ZipFile(source) as archive:
        names = {name.partition("/")[2] or name for name in archive.namelist()}
    if "constants.pkl" in names:
        return (
            "is a program of torch.jit, which is more than weights: if you trust its author, "
            "torch.save(torch.jit.load(path).state_dict(), …) makes a file of its weights"
        )
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return (
            "is a program of torch.export, which is more than weights: run it with "
            "compress.load_exported(path)"
        )
    return ""
