"""What the scripts beside it share: where the zoo is, what a card or a table says of its making.

A card is the JSON file beside the weights of a teacher; :mod:`distill_lib.zoo` reads it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

ZOO = Path(__file__).resolve().parents[1] / "distill_lib" / "zoo"
WORK = ZOO.parents[1] / "_build" / "teachers"  # what a killed run goes on from


def parameters(model: nn.Module) -> int:
    """Their number."""
    return sum(p.numel() for p in model.parameters())


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def trained(
    script: str, minutes: float, *packages: str, arguments: str = "", seed: int = 0, **more: Any
) -> dict[str, Any]:
    """How a teacher came about: command, minutes, machine, versions."""
    command = f"teachers/{Path(script).name}"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {
        "script": command,
        "command": f"python {command} {arguments}".rstrip(),
        "minutes": round(minutes, 1),
        "device": f"cpu, {torch.get_num_threads()} threads",
        "versions": {**versions, **{package: version(package) for package in packages}},
        "seed": seed,
        **more,
    }


def returns(found: Any) -> dict[str, Any]:
    """The score of a policy, from its undiscounted returns."""
    return {
        "metric": "return of the greedy policy",
        "value": round(float(found.mean()), 1),
        "std": round(float(found.std(ddof=1)), 1),
        "lowest": round(float(found.min()), 1),
        "n": len(found),
        "split": "seeds 20000 and on",
    }


def write_card(file: Path, license: str = "MIT", **said: Any) -> None:
    """What a teacher is, beside its weights."""
    card = {"name": file.stem, "file": file.name, "sha256": digest(file), **said}
    text = json.dumps({**card, "license": license}, indent=1, ensure_ascii=False)
    file.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


class Rows:
    """Rows of a table as they are found: written and shown after each."""

    def __init__(self, file: Path) -> None:
        self.file, self.begun = file, time.process_time()
        self.rows: list[dict[str, Any]] = []

    def __call__(self, **row: Any) -> None:
        self.rows.append(row)
        self.file.write_text("".join(json.dumps(r) + "\n" for r in self.rows), encoding="utf-8")
        print(f"{time.process_time() - self.begun:6.0f} s", row, flush=True)


def write_table(file: Path, rows: Iterable[dict[str, Any]], begun: float) -> None:
    """Rows, and the last one of their making; ``begun`` is ``time.process_time()`` of before."""
    seconds = round(time.process_time() - begun)
    made = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__,
            "python": platform.python_version(), "cpu_seconds": seconds}  # fmt: skip
    rows = [*rows, {"part": "made", **made}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
