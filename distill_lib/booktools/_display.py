"""One way to show something: rich in a notebook, a plain line everywhere else."""

from __future__ import annotations

import sys
from typing import Any

# The list that the running cell has begun: which execution, the display, the entries.
_list: dict[str, Any] = {}


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


def show_list(bundle: dict[str, Any], before: str, after: str) -> None:
    """Display an entry of a list; the entries of one cell make one list, where the first stood.

    Args:
        bundle: ``text/plain``, ``text/html`` and, under one further type, a record. The list's
            record is ``{"claims": [record, …]}``.
        before: HTML before the entries.
        after: HTML after them.
    """
    if not in_notebook():
        print(bundle["text/plain"])
        return
    from IPython import display, get_ipython

    shell: Any = get_ipython()
    cell = (id(shell), shell.execution_count)
    if _list.get("cell") != cell:
        _list.update(cell=cell, entries=[], handle=None)
    _list["entries"].append(bundle)
    entries = _list["entries"]
    (kind,) = set(bundle) - {"text/plain", "text/html"}
    whole = {
        "text/plain": "\n".join(entry["text/plain"] for entry in entries),
        "text/html": before + "".join(entry["text/html"] for entry in entries) + after,
        kind: {"claims": [entry[kind] for entry in entries]},
    }
    publish: Any = display.display
    if _list["handle"] is None:
        _list["handle"] = publish(whole, raw=True, display_id=True)
    else:
        _list["handle"].update(whole, raw=True)
