"""What to install where an optional package is missing: its own name, never this project's.

The requirement is read from the metadata of the installed distribution, so that a message cannot
differ from ``pyproject.toml``. This project is on no index; a message that named it there would
fetch whoever takes the name.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

__all__ = ["command", "missing"]

DISTRIBUTION = "learning-from-teachers"


def command(*packages: str) -> str:
    """The command that installs packages as this project wants them.

    Example:
        >>> command("gymnasium").startswith("pip install 'gymnasium")
        True
    """
    wanted = _requirements()
    names = " ".join(_quoted(wanted.get(name.lower(), name)) for name in packages)
    return f"pip install {names} (or, in a clone of the book: python make.py setup)"


def missing(what: str, *packages: str, module: str | None = None) -> ModuleNotFoundError:
    """The error that says who needs what, and how to get it.

    Args:
        what: Who needs it, as the subject of a sentence.
        packages: Distributions; the first is the one that is missed.
        module: The module that was not found, if it has another name.
    """
    name = module or packages[0].replace("-", "_")
    return ModuleNotFoundError(f"{what} needs {packages[0]}: {command(*packages)}", name=name)


def _requirements() -> dict[str, str]:
    """Requirement by lower-case name, over all extras; empty where nothing is installed."""
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:  # the folder lies on the path
        return {}
    found: dict[str, str] = {}
    for line in lines:
        need = line.partition(";")[0].strip().replace(" ", "")
        found.setdefault(re.split(r"[\[<>=!~]", need)[0].lower(), need)
    return found


def _quoted(need: str) -> str:
    return f"'{need}'" if re.search(r"[\[\]<>=!~]", need) else need
