"""One way to show something: rich in a notebook, a plain line everywhere else."""

from __future__ import annotations

import sys
from typing import Any


def in_notebook() -> bool:
    """True when this process is an IPython session; never imports IPython to find out."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def show(bundle: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
    """Display a MIME bundle, or print its ``text/plain`` where there is no notebook.

    Args:
        bundle: MIME type to data; a bundle without ``text/plain`` prints nothing in plain Python.
        metadata: Notebook metadata of the output, such as the name under which it is glued.
    """
    if in_notebook():
        from IPython import display

        publish: Any = display.display
        publish(bundle, raw=True, metadata=metadata or {})
    elif "text/plain" in bundle:
        print(bundle["text/plain"])
