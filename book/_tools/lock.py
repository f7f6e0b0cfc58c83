"""Write constraints.txt: the exact versions, in the running environment, of all that we need.

    .venv/bin/python book/_tools/lock.py

The needs and the extras of pyproject.toml are followed to their ends; what is installed beside
them by hand is no part of it. Left out: local labels of versions (2.13.0+cpu is 2.13.0 elsewhere)
and what only a CUDA build of torch brings. A pin that a platform does not need does no harm: a
constraint never installs anything.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
HEADER = """\
# The exact versions with which the book was last built and tested (Python 3.11), for
# `pip install -c constraints.txt`. Made by book/_tools/lock.py; the needs are in pyproject.toml.
"""
LEFT_OUT = ("nvidia-", "cuda-", "triton", "learning-from-teachers")


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    pins = closure([Requirement(need) for group in groups for need in group])
    lines = [f"{name}=={version}" for name, version in sorted(pins.items())]
    (ROOT / "constraints.txt").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} versions in constraints.txt")


def closure(todo: list[Requirement]) -> dict[str, str]:
    """Name to version of every installed package that the requirements lead to."""
    pins: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    while todo:
        need = todo.pop()
        name = canonicalize_name(need.name)
        for extra in {"", *need.extras}:
            if (name, extra) in seen or name.startswith(LEFT_OUT):
                continue
            seen.add((name, extra))
            try:
                found = distribution(name)
            except PackageNotFoundError:  # of an extra that no chapter uses yet
                continue
            pins[name] = found.version.partition("+")[0]
            needs = [Requirement(text) for text in found.requires or []]
            todo += [n for n in needs if not n.marker or n.marker.evaluate({"extra": extra})]
    return pins


if __name__ == "__main__":
    main()
