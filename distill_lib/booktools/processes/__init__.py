"""Programs that the page "From one process to many" starts: each runs in as many as it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["start"]


def start(
    program: str, *words: object, processes: int = 1, ends: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run one of the programs, as torchrun does, and wait for it.

    Args:
        program: Its name, such as ``"train_digits"``.
        words: Its arguments.
        processes: How many.
        ends: Whether it has to end well.

    Raises:
        RuntimeError: it failed and ``ends`` is true; with what it said.
    """
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    name = f"{__name__}.{program}"
    command = [sys.executable, *(several if processes > 1 else []), "-m", name, *map(str, words)]
    home = str(Path(__file__).resolve().parents[3])  # the library of this page, wherever it runs
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"OMP_NUM_THREADS": "1", "DISTILL_QUIET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        command, env={**os.environ, **quiet}, capture_output=True, text=True, timeout=600
    )
    if ends and done.returncode:
        raise RuntimeError(f"{program} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done


def __dir__() -> list[str]:
    return __all__
