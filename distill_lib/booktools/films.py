"""Films side by side, started together: what one does and the other does not is then seen."""

from __future__ import annotations

import base64
import html
from typing import Any

__all__ = ["Films"]

# Starts all films of the figure from their beginnings, or stops them.
_PLAY = (
    "const films=[...this.closest('.dl-films').querySelectorAll('video')];"
    "const still=films.every(f=>f.paused||f.ended);"
    "films.forEach(f=>{if(still){f.currentTime=0;f.play()}else{f.pause()}})"
)


class Films:
    """Videos in a row, each under its name, with one button for all of them.

    Args:
        films: Name to video, as :func:`distill_lib.rl.video` returns it: anything with ``mp4``,
            ``poster`` (bytes) and ``alt``.

    Raises:
        ValueError: No film.

    Example:
        >>> from types import SimpleNamespace
        >>> Films({"teacher": SimpleNamespace(mp4=b"", poster=b"", alt="It stands")})
        Films: teacher (It stands)
    """

    def __init__(self, films: dict[str, Any]) -> None:
        if not films:
            raise ValueError("Films wants at least one film, by its name.")
        self.films: dict[str, Any] = dict(films)

    def __repr__(self) -> str:
        return "Films: " + ", ".join(f"{name} ({film.alt})" for name, film in self.films.items())

    def _repr_html_(self) -> str:
        parts = "".join(self._one(name, film) for name, film in self.films.items())
        button = f'<button type="button" onclick="{_PLAY}">Play, or stop, all</button>'
        return (
            '<div class="dl-films" style="display:flex;flex-wrap:wrap;gap:.8rem;align-items:start">'
            f'{parts}<div style="flex-basis:100%">{button}</div></div>'
        )

    def _one(self, name: str, film: Any) -> str:
        moving, still = (base64.b64encode(raw).decode() for raw in (film.mp4, film.poster))
        return (
            '<div style="flex:1 1 10rem;max-width:300px"><video muted playsinline '
            'preload="metadata" style="display:block;width:100%;height:auto" '
            f'aria-label="{html.escape(film.alt)}" poster="data:image/png;base64,{still}" '
            f'src="data:video/mp4;base64,{moving}"></video>{html.escape(name)}</div>'
        )
