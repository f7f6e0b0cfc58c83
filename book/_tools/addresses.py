"""Where the book lives: the one place that says it, and that may not know.

Asked in this order: the environment variable DISTILL_REPOSITORY (``https://github.com/owner/name``;
set and empty means nowhere), GITHUB_REPOSITORY on a hosted runner, the clone's ``origin``. A site
follows from the repository (its GitHub pages) or from DISTILL_SITE. Where nothing is known, pages
have no button to edit or to open a notebook elsewhere, and no link leads to an address of ours.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

GITHUB = re.compile(
    r"^(?:https://(?:[^@/]+@)?github\.com/|(?:ssh://)?git@github\.com[:/])"
    r"(?P<owner>[\w-]+)/(?P<name>[\w.-]+?)(?:\.git)?/?$"
)


@dataclass(frozen=True)
class Address:
    """Both are empty where nobody has said them; the site ends in a slash."""

    repository: str = ""
    site: str = ""

    def notebook_in_colab(self, name: str) -> str:
        """The address at which Colab opens a notebook of the branch ``notebooks``."""
        if not self.repository:
            return ""
        path = self.repository.removeprefix("https://github.com/")
        return f"https://colab.research.google.com/github/{path}/blob/notebooks/{name}.ipynb"


def find(root: Path) -> Address:
    """The address of the clone at ``root``.

    Raises:
        ValueError: DISTILL_REPOSITORY or DISTILL_SITE is no address.
    """
    said = os.environ.get("DISTILL_REPOSITORY")
    if said is not None:
        if said and not GITHUB.match(said):
            raise ValueError(
                f"DISTILL_REPOSITORY={said!r}: expected https://github.com/owner/name, or nothing"
            )
        repository = said
    elif os.environ.get("GITHUB_ACTIONS") == "true" and os.environ.get("GITHUB_REPOSITORY"):
        repository = f"https://github.com/{os.environ['GITHUB_REPOSITORY']}"
    else:
        repository = origin(root)
    match = GITHUB.match(repository)
    site = os.environ.get("DISTILL_SITE", "")
    if site and not re.match(r"https?://\S+$", site):
        raise ValueError(f"DISTILL_SITE={site!r}: expected an address that begins with https://")
    if match:
        repository = f"https://github.com/{match['owner']}/{match['name']}"
        own = f"{match['owner'].lower()}.github.io"
        pages = f"https://{own}/"
        site = site or (pages if match["name"].lower() == own else f"{pages}{match['name']}/")
    return Address(repository if match else "", site.rstrip("/") + "/" if site else "")


def origin(root: Path) -> str:
    """What the clone was made from; empty where that is no clone, or there is no git."""
    command = ["git", "-C", str(root), "remote", "get-url", "origin"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        top = ["git", "-C", str(root), "rev-parse", "--show-toplevel"]
        place = subprocess.run(top, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
    inside = bool(place) and Path(place).resolve() == root.resolve()
    return done.stdout.strip() if inside and done.returncode == 0 else ""
