"""What Sphinx asks again and again for one answer is asked once: half of its time on this book.

- a numbered reference reads the whole tree of the page that it leads to (sphinx.domains.std);
- a citation searches all installed packages for the style "plaintext" (pybtex);
- the contents beside a page without a source, such as a module's code, are those of each other
  page in its folder, and there are 250 of them (sphinx.environment.adapters.toctree).
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from functools import cache
from typing import Any

import pybtex.plugin
from sphinx.application import Sphinx
from sphinx.domains.std import StandardDomain


class Looking:
    """An environment whose trees are looked at and not changed, so that each is read once."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.get_doctree = cache(env.get_doctree)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)


def keep_trees(app: Sphinx, _: Any) -> None:
    """The trees are final when all pages have been read, so that is when this begins."""
    domain: Any = app.env.get_domain("std")
    looking = Looking(app.env)

    def resolve(env: Any, *rest: Any) -> Any:
        return StandardDomain._resolve_numref_xref(domain, looking, *rest)  # type: ignore[arg-type]

    domain._resolve_numref_xref = resolve


def keep_contents(found: dict[Any, str]) -> Callable[..., None]:
    def on_page(app: Sphinx, page: str, _: str, context: dict[str, Any], __: Any) -> None:
        make = context.get("toctree")
        if make is None or page in app.env.found_docs:
            return
        folder = posixpath.dirname(page)  # links are relative to it

        def contents(**options: Any) -> str:
            key = (folder, *sorted(options.items()))
            if key not in found:
                found[key] = make(**options)
            return found[key]

        context["toctree"] = contents

    return on_page


def setup(app: Sphinx) -> None:
    plugin: Any = pybtex.plugin
    plugin._load_entry_point = cache(plugin._load_entry_point)
    app.connect("env-check-consistency", keep_trees, priority=100)
    app.connect("html-page-context", keep_contents({}), priority=100)  # before the theme's
