"""A picture for each page that answers a question, for those who link to it elsewhere."""

from __future__ import annotations

import math
import re
import textwrap
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

WIDE, HIGH = 1200, 630
PAPER, INK, BLUE = "#ffffff", "#1b1b1b", "#0072B2"
LOGITS = (6.0, 3.5, 4.6, 0.5, 2.2, 1.0)


def draw(path: Path, title: str, question: str, book: str) -> None:
    """Title and question over one answer, softened from left to right."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(WIDE / 100, HIGH / 100), dpi=100, facecolor=PAPER)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDE), ylim=(0, HIGH))
    ax.axis("off")
    ax.text(70, HIGH - 80, book, color=BLUE, size=20, va="top")
    ax.text(70, HIGH - 140, textwrap.fill(title, 34), color=INK, size=38, weight="bold", va="top")
    ax.text(70, 230, textwrap.fill(question, 62), color=INK, size=23, va="bottom")
    for place, temperature in enumerate((0.7, 1.5, 4.0)):
        weights = [math.exp(z / temperature) for z in LOGITS]
        tall = [150 * w / sum(weights) for w in weights]
        left = [70 + 370 * place + 52 * i for i in range(len(LOGITS))]
        ax.bar(left, tall, width=40, bottom=30, align="edge", color=BLUE, alpha=0.85)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, metadata={"Software": None})


def card(app: Sphinx, pagename: str, question: str) -> str:
    """Meta tags of a page's picture; none where the book has no address, for they need one."""
    if not app.config.distill_site:
        return ""
    name = f"_static/cards/{pagename.rpartition('/')[2]}.png"
    title = re.sub(r"<[^>]+>", "", app.env.titles[pagename].astext())
    if not (Path(app.outdir) / name).exists():  # a translated page has that of the English one
        draw(Path(app.outdir) / name, title, question, app.config.project)
    tags: dict[str, Any] = {
        "og:image": app.config.distill_site + name,
        "og:image:width": WIDE,
        "og:image:height": HIGH,
        "og:image:alt": "The title of the page and its question, over one distribution that is "
        "softened from left to right",
        "twitter:card": "summary_large_image",
    }
    return "".join(
        f'<meta {"name" if key[0] == "t" else "property"}="{key}" content="{value}" />\n'
        for key, value in tags.items()
    )
