"""Two sizes of one code path, and what a chapter says of the machine it ran on."""

from __future__ import annotations

import html
import logging
import os
import platform
import random
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from distill_lib.booktools._display import show
from distill_lib.booktools.seeds import shift_seeds

__all__ = ["by_profile", "device", "env_report", "profile"]

MIME = "application/vnd.distill.env+json"
VARIABLE = "DISTILL_PROFILE"
THREADS = "DISTILL_THREADS"  # for make stress; the chapters are written for one
PROFILES = ("laptop", "full")

T = TypeVar("T")


def profile() -> str:
    """The size at which the chapters run: ``"laptop"``, or ``"full"`` for a machine with CUDA.

    Read from the environment variable ``DISTILL_PROFILE``; unset means ``"laptop"``.

    Raises:
        ValueError: The variable holds another word.
    """
    name = os.environ.get(VARIABLE, "").strip().lower() or PROFILES[0]
    if name not in PROFILES:
        raise ValueError(
            f"{VARIABLE}={name!r} is not a profile. Set it to one of {', '.join(PROFILES)}, "
            "or unset it for laptop."
        )
    return name


def by_profile(*, laptop: T, full: T) -> T:
    """One of two values, by :func:`profile`.

    Example:
        >>> by_profile(laptop=3, full=50) in (3, 50)
        True
    """
    return laptop if profile() == "laptop" else full


def device() -> str:
    """``"cuda"`` where there is a CUDA device, else ``"cpu"``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def env_report(minutes: float | None = None, seed: int = 0) -> None:
    """Print versions, device and profile, fix the seeds, and set the threads of a chapter.

    Chapters run on CUDA where there is a device, else on the CPU, and on no other accelerator. On
    the CPU they use one thread: the nets are small enough that more threads cost more than they
    bring, and two chapters can then run side by side. Every seed that is set
    afterwards passes through one place, where it can be shifted
    (:func:`~distill_lib.booktools.seeds.shift_seeds`).

    Args:
        minutes: Expected running time of the chapter, said before the first long cell.
        seed: Given to ``random``, NumPy and torch.

    Raises:
        ValueError: ``minutes`` is not positive.
    """
    if minutes is not None and not minutes > 0:
        raise ValueError(f"env_report: minutes must be positive, got {minutes!r}.")
    import numpy as np
    import torch

    for noisy in ("torchao", "torch.utils._pytree"):
        # said when Transformers is imported beside torchao; no reader can act upon it
        logging.getLogger(noisy).setLevel(logging.ERROR)
    shift = shift_seeds()
    where = device()
    if where == "cpu":
        # a Mac's MPS, say, has no float64, and is no device on which the chapters were tried
        os.environ.setdefault("ACCELERATE_USE_CPU", "1")
        torch.set_num_threads(int(os.environ.get(THREADS, "1")))
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    record: dict[str, Any] = {
        "profile": profile(),
        "device": torch.cuda.get_device_name() if where == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "seed": seed + shift,
        "minutes": minutes,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "distill_lib": _version("learning-from-teachers"),
    }
    text = _sentence(record)
    show({"text/plain": text, "text/html": f"<p>{html.escape(text)}</p>", MIME: record})


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "source"


def _sentence(record: dict[str, Any]) -> str:
    threads = f", {record['threads']} thread" + ("s" if record["threads"] > 1 else "")
    parts = [
        f"distill_lib {record['distill_lib']}",
        f"torch {record['torch']}",
        f"Python {record['python']}",
        f"profile {record['profile']}",
        record["device"] + (threads if record["device"] == "cpu" else ""),
        f"seed {record['seed']}",
    ]
    if record["minutes"] is not None:
        minutes = record["minutes"]
        parts.append(f"about {minutes:g} minute" + ("" if minutes == 1 else "s"))
    return " · ".join(parts)
