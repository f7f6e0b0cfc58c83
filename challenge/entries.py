"""A file from a stranger: taken in whole, within bounds, or refused with a reason."""

from __future__ import annotations

import json
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill_lib.checkpoints import CheckpointError
from distill_lib.compress import load_packed

from .networks import Build, Refused, image_net, policy, read_header, reader

TRACKS = ("taught", "by any means")
# Windows cannot check out a file that is called like a device.
NAME = re.compile(r"(?!(?:con|prn|aux|nul|com\d|lpt\d)$)[a-z][a-z0-9_]{1,39}")
CARD = 4096  # bytes of the description beside an entry
TEXT = 300  # characters of a line of it


@dataclass(frozen=True)
class Task:
    """What an entry has to do.

    Attributes:
        build: The network of a file.
        room: Bytes that a file may have.
        bar: The score that counts as solved.
        what: What is scored.
        shown: How a score is written.
    """

    build: Build
    room: int
    bar: float
    what: str
    shown: str


TASKS = {
    "lander": Task(policy, 300_000, 200.0, "mean return", "{:.1f}"),
    "garments": Task(image_net, 1_200_000, 0.90, "test accuracy", "{:.2%}"),
    "reviews": Task(reader, 10_000_000, 0.80, "test accuracy", "{:.2%}"),
}


def content(path: Path, room: int) -> bytes:
    """The bytes of a plain file.

    Raises:
        Refused: it is a link, a folder or a device, or has more bytes than allowed.
    """
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise Refused("it is a link, a folder or a device; an entry is a plain file")
        with path.open("rb") as file:
            data = file.read(room + 1)
    except (OSError, ValueError) as error:
        raise Refused(f"it cannot be opened: {error}") from error
    if len(data) > room:
        raise Refused(f"it has {max(found.st_size, room + 1):,} bytes, {room:,} are allowed")
    return data


def load(path: Path, task: str) -> nn.Module:
    """The network of an entry, with its numbers, in eval mode.

    Raises:
        Refused: it is no entry of this task.
    """
    return loaded(content(path, TASKS[task].room), task)


def loaded(data: bytes, task: str) -> nn.Module:
    """The network that the bytes of a file hold."""
    net = TASKS[task].build(read_header(data))
    with tempfile.TemporaryDirectory() as folder:
        # a copy of our own: what was looked at is what is read
        copy = Path(folder) / "entry"
        copy.write_bytes(data)
        try:
            load_packed(net, copy)
        except CheckpointError as error:
            raise Refused(str(error).replace(str(copy), "it")) from error
    for name, value in net.state_dict().items():
        if not torch.isfinite(value).all():
            raise Refused(f"{name} holds numbers that are not finite")
    return net.eval().requires_grad_(False)


def task_of(path: Path) -> str:
    """The task that a file fits.

    Raises:
        Refused: it fits none.
    """
    data, reasons = content(path, max(task.room for task in TASKS.values())), []
    header = read_header(data)
    for name, task in TASKS.items():
        try:
            task.build(header)
            return name
        except Refused as error:
            reasons.append(f"{name}: {error}")
    raise Refused("it fits no task. " + "; ".join(reasons))


def _is_line(text: Any) -> bool:
    """One line that can be seen: no control or direction mark, no half character, not empty."""
    return isinstance(text, str) and text.isprintable() and bool(text.strip()) and len(text) <= TEXT


def read_card(path: Path) -> dict[str, Any]:
    """What an author says of an entry.

    Raises:
        Refused: it says more or less than is asked.
    """
    try:
        card = json.loads(content(path, CARD))
    except (ValueError, RecursionError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused("the description is no JSON") from error
    wanted = {"task", "author", "track", "how", "test_data_unseen"}
    if not isinstance(card, dict) or set(card) != wanted:
        raise Refused(f"the description says {', '.join(sorted(wanted))}, no more and no less")
    for name in wanted - {"test_data_unseen"}:
        if not _is_line(card[name]):
            raise Refused(f"{name} in the description is one line of at most 300 characters")
    if card["task"] not in TASKS or card["track"] not in TRACKS:
        raise Refused(f"the task is one of {', '.join(TASKS)}, the track one of {TRACKS}")
    if card["test_data_unseen"] is not True:
        raise Refused("test_data_unseen has to be true: neither entry nor teacher learned from it")
    return card


def offered(folder: Path, ours: Path) -> list[str]:
    """The names of the entries in a folder that ours has not, or has otherwise.

    Raises:
        Refused: more than three, a name that is none, or an entry without its description.
    """
    for place in (folder, folder.parent):
        if place.is_symlink():
            raise Refused("the folder of the entries is a link")
    names = set()
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".packed", ".json") or not NAME.fullmatch(path.stem):
            raise Refused("entries are NAME.packed and NAME.json, of a-z, 0-9 and _")
        room = CARD if path.suffix == ".json" else max(task.room for task in TASKS.values())
        data, known = content(path, room), ours / path.name
        if not known.is_file() or known.read_bytes() != data:
            names.add(path.stem)
    if len(names) > 3:
        raise Refused(f"{len(names)} entries at once, at most 3 are scored")
    return sorted(names)
