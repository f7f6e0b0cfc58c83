"""What live figures share: data and pictures as text, buttons, the page of a packed student."""

from __future__ import annotations

import base64
import io
from typing import Any

from distill_lib.booktools.sliders import _STATIC, _fragment

BUTTON = (
    "font:inherit;min-height:46px;padding:0 .9rem;border:1px solid currentColor;border-radius:6px;"
    "background:none;color:inherit;cursor:pointer"
)
ROW = "display:flex;flex-wrap:wrap;gap:.4rem;align-items:center;margin:0 0 .6rem"


def base64_of(content: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(content).decode()


def picture_of(gray: Any) -> str:
    """The address of a small gray picture, [height, width] of bytes, that lies in the page."""
    from PIL import Image

    raw = io.BytesIO()
    Image.fromarray(gray).save(raw, "PNG")
    return f"data:image/png;base64,{base64_of(raw.getvalue())}"


def button(part: str, text: str) -> str:
    """A button that the script of the figure finds by its part."""
    return f'<button type="button" data-part="{part}" style="{BUTTON}">{text}</button>'


def page(function: str, file: str, config: dict[str, Any], inside: str, fallback: str) -> str:
    """A fragment with the reader of packed files, around HTML that its script brings to life."""
    made = _fragment(function, file, config, fallback)
    reader = (_STATIC / "unpack.js").read_text(encoding="utf-8")
    made = made.replace("(function(){\n", f"(function(){{\n{reader}\n", 1)
    made = made.replace('class="dl-fig"', 'class="dl-live"', 1)
    return made.replace("</noscript></div>", f"</noscript>{inside}</div>", 1)
