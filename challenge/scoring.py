"""What an entry is worth: landings with seeds nobody chose, images and sentences of the test sets.

The network is built here and filled with the entry's numbers; nothing of the entry runs.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill_lib import data, evaluate, rl, zoo

from .entries import TASKS, content, loaded, task_of
from .networks import Refused

ENV, EPISODES, TOGETHER = "LunarLander-v3", 1_000, 250
SECRET = "DISTILL_CHALLENGE_SECRET"
SECONDS = 300.0  # of one core, for a score


@dataclass(frozen=True)
class Score:
    """A score; ``seconds`` and ``day`` are those of the machine that found it.

    Attributes:
        task: Of :data:`challenge.entries.TASKS`.
        bytes: Of the file.
        score: The mean return, or the share of right answers.
        items: Episodes, images or sentences.
        passes: Whether the score reaches the bar.
        seeds: Where the episodes' seeds come from.
        seconds: Of one core.
        day: When.
    """

    task: str
    bytes: int
    score: float
    items: int
    passes: bool
    seeds: str
    seconds: float
    day: str

    def row(self, name: str) -> str:
        """A row of a Markdown table."""
        task = TASKS[self.task]
        shown = f"{task.what} {task.shown.format(self.score)} over {self.items:,}"
        passes = "passes" if self.passes else f"does not pass: {task.shown.format(task.bar)} needed"
        cells = [name, self.task, f"{self.bytes:,}", shown, passes, self.seeds]
        return "| " + " | ".join([*cells, f"{self.seconds:.0f}"]) + " |"


HEAD = "| entry | task | bytes | score | passes | seeds | seconds |\n|---|---|---|---|---|---|---|"


def month_of(date: str | None) -> str:
    """The month of a date, as ``2026-11``; of today without one.

    Raises:
        ValueError: no date.
    """
    if date is None:
        return f"{datetime.now(UTC):%Y-%m}"
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])(-\d\d)?", date):
        raise ValueError(f"a date is 2026-11 or 2026-11-28, got {date!r}")
    return date[:7]


def first_seed(month: str, environ: Mapping[str, str] = os.environ) -> tuple[int, str]:
    """The seed of the first episode, and where it comes from.

    With the secret that only the repository's own runs know, nobody can play the episodes before;
    without it the month alone decides, and anybody can.
    """
    secret = environ.get(SECRET, "")
    digest = hmac.new(secret.encode(), f"lander {month}".encode(), hashlib.sha256).digest()
    source = "a secret and the month" if secret else "the month alone"
    return int.from_bytes(digest[:4]) % 2**29, f"of {source}, {month}"


def score(
    path: Path, task: str | None = None, date: str | None = None, items: int | None = None
) -> Score:
    """Score a file.

    Args:
        path: The entry.
        task: By default the one that it fits.
        date: Whose month's seeds are used; by default today's.
        items: Fewer episodes, images or sentences, to try it.

    Raises:
        Refused: it is no entry, it fails while it runs, or it takes longer than five minutes.
    """
    month, begun = month_of(date), time.process_time()
    task = task or task_of(path)
    held = content(path, TASKS[task].room)
    net = loaded(held, task)
    net.register_forward_pre_hook(_Clock())
    torch.set_flush_denormal(True)  # tiny numbers would make a network slow
    seeds = "–"
    try:
        with torch.inference_mode():
            if task == "lander":
                seed, seeds = first_seed(month)
                found, n = _landings(net, seed, items or EPISODES)
            else:
                found, n = (_garments if task == "garments" else _reviews)(net, items)
    except Refused:
        raise
    except Exception as error:  # whatever a stranger's numbers do
        raise Refused(f"it fails while it runs: {type(error).__name__} {error}") from error
    finally:
        torch.set_flush_denormal(False)
    passes = found >= TASKS[task].bar
    seconds, day = time.process_time() - begun, f"{datetime.now(UTC):%Y-%m-%d}"
    return Score(task, len(held), found, n, passes, seeds, seconds, day)


class _Clock:
    """Asked before each batch whether there is time left."""

    def __init__(self) -> None:
        self.end = time.process_time() + SECONDS

    def __call__(self, *_: Any) -> None:
        if time.process_time() > self.end:
            raise Refused(f"it takes more than {SECONDS:.0f} seconds of one core")


def _landings(net: nn.Module, seed: int, episodes: int) -> tuple[float, int]:
    total = 0.0
    for start in range(0, episodes, TOGETHER):
        size = min(TOGETHER, episodes - start)
        total += rl.evaluate(net, ENV, size, seed=seed + start).returns.double().sum().item()
    return total / episodes, episodes


def _garments(net: nn.Module, items: int | None) -> tuple[float, int]:
    test = data.load("fashion_mnist", split="test")
    test = test.subset(range(items or len(test)))
    return evaluate(net, test.batches(250, shuffle=False))["accuracy"], len(test)


def _reviews(net: nn.Module, items: int | None) -> tuple[float, int]:
    test = data.load("movie_reviews", "test")
    test = test.subset(range(items or len(test)))
    texts = test.tokenize(zoo.minilm_tokenizer(), max_length=64).by_length()
    return evaluate(net, texts.batches(100, shuffle=False))["accuracy"], len(test)
