"""Score entries of the challenge.

python make.py score FILE [--task T] [--seeds DATE]   a file, of whichever task it fits
python make.py score --offered FOLDER                 the entries there that are not yet here
python make.py score --all                            all entries here, into challenge/results.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path

import torch

from .entries import TASKS, offered, read_card
from .networks import NETWORKS, Refused
from .scoring import HEAD, Score, score

ROOT = Path(__file__).resolve().parents[1]
ENTRIES = ROOT / "challenge" / "entries"
RESULTS = ROOT / "challenge" / "results.json"
ZOO = ROOT / "distill_lib" / "zoo"  # two of our entries lie there, and only described here


def plain(text: object) -> str:
    """A line that means nothing to a log or a page, though a stranger wrote a part of it."""
    return re.sub(r"[^\w .,;(){}=+–-]", "?", str(text), flags=re.ASCII)[:300]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "make.py score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="*", type=Path)
    parser.add_argument("--task", choices=list(TASKS))
    parser.add_argument("--seeds", metavar="DATE", help="of another month, such as 2026-11")
    parser.add_argument("--items", type=int, help="fewer episodes, images or sentences: a trial")
    parser.add_argument("--offered", type=Path, metavar="FOLDER")
    parser.add_argument("--all", action="store_true")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(HEAD, flush=True)
    if args.all:
        return everything(args.seeds, args.items)
    if args.offered is not None:
        return strangers(args.offered, args.seeds, args.items)
    if not args.file:
        parser.error("which file?")
    ends = [one(path, path.stem, args.task, args.seeds, args.items) for path in args.file]
    return 0 if all(end is not None and end.passes for end in ends) else 1


def one(
    path: Path, name: str, task: str | None, seeds: str | None, items: int | None
) -> Score | None:
    """Score a file and print its row; None where it is refused."""
    try:
        found = score(path, task, seeds, items)
    except Refused as error:
        print(f"| {plain(name)} | {task or '–'} | – | refused: {plain(error)} | no | – | – |")
        return None
    print(found.row(plain(name)), flush=True)
    return found


def strangers(folder: Path, seeds: str | None, items: int | None) -> int:
    """The entries of a pull request."""
    try:
        names = offered(folder, ENTRIES)
        cards = {name: read_card(folder / f"{name}.json") for name in names}
    except Refused as error:
        print(f"| – | – | – | refused: {plain(error)} | no | – | – |")
        return 1
    ends = [
        one(folder / f"{name}.packed", name, card["task"], seeds, items)
        for name, card in cards.items()
    ]
    return 0 if all(end is not None and end.passes for end in ends) else 1


def everything(seeds: str | None, items: int | None) -> int:
    """All entries of this repository; the table of the book is made from what this writes."""
    rows, refused = [], 0
    for path in sorted(ENTRIES.glob("*.json")):
        file = path.with_suffix(".packed")
        file = file if file.is_file() else ZOO / file.name
        try:
            card = read_card(path)
        except Refused as error:
            print(f"| {plain(path.stem)} | – | – | refused: {plain(error)} | no | – | – |")
            refused += 1
            continue
        if (found := one(file, path.stem, card["task"], seeds, items)) is None:
            refused += 1
            continue
        kept = dataclasses.asdict(found)
        del kept["seconds"]  # of a machine, and not of the entry
        kept["score"] = round(found.score, 4)
        rows.append({"name": path.stem, **card, **kept})
    text = json.dumps({"tasks": rules(), "entries": rows}, indent=1, ensure_ascii=False)
    # encoded as a whole before the old file is touched
    RESULTS.write_bytes((text + "\n").encode("utf-8"))
    return 0 if rows and not refused and all(row["passes"] for row in rows) else 1


def rules() -> dict[str, dict[str, str]]:
    """What each task asks, as the page of the book shows it."""
    return {
        name: {
            "bar": f"{task.what} ≥ {task.bar:{'.0%' if task.bar < 1 else '.0f'}}",
            "room": f"{task.room:,}",
            "networks": NETWORKS[name],
            "shown": task.shown,
        }
        for name, task in TASKS.items()
    }


if __name__ == "__main__":
    sys.exit(main())
