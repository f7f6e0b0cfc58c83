"""The tables of the challenge as rows of text, from the file of results that a script wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = "challenge/results.json"
RULES = ["task", "bar", "bytes at most", "networks, with their bounds"]
ENTRIES = ["entry", "bytes", "score", "made by whom, how and when"]


def rows(root: Path, asked: str) -> list[list[str]]:
    """The head of a table and its rows: of all tasks for ``rules``, else of a task's entries.

    Raises:
        KeyError: there is no such task.
    """
    known = json.loads((root / RESULTS).read_text(encoding="utf-8"))
    tasks = known["tasks"]
    if asked == "rules":
        said = ("bar", "room", "networks")
        return [RULES, *([name, *map(one.get, said)] for name, one in tasks.items())]
    shown = tasks[asked]["shown"]
    own = [one for one in known["entries"] if one["task"] == asked]
    own.sort(key=lambda one: (not one["passes"], one["bytes"], one["name"]))
    return [ENTRIES, *(cells(one, shown) for one in own)]


def cells(entry: dict[str, Any], shown: str) -> list[str]:
    score = shown.format(entry["score"])
    scored = f"Scored {entry['day']} over {entry['items']:,}"
    if entry["task"] == "lander":
        scored += f", with seeds {entry['seeds']}"
    return [
        entry["name"],
        f"{entry['bytes']:,}",
        score if entry["passes"] else f"{score}, below the bar",
        f"{entry['track'].capitalize()}, by {entry['author']}: {entry['how']}. {scored}.",
    ]
