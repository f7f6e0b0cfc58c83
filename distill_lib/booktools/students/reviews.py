"""The packed student of the reviews: it reads a sentence, and says what each word moved."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from distill_lib.booktools.students import STATIC, Figure
from distill_lib.booktools.students._page import BUTTON, ROW, base64_of, button, page

if TYPE_CHECKING:  # the tools of the book are there before torch is
    from torch import nn

__all__ = ["FILE", "characters", "figure", "student"]

FILE = "movie_small0.packed"
DATA = "reviews.data.js"
LENGTH = 64  # pieces that the student reads, with the first and the last
EXAMPLES = (
    "A moving story, and funny too.",
    "Not a bad film at all.",
    "The actors are good, the plot is not.",
    "I wanted to love it.",
    "So bad that it is good.",
)
SELF = "\x01"  # stands for the character itself
UNKNOWN = "\ufffd"  # stands for every letter that no piece has
SURROGATES = range(0xD800, 0xE000)
SOME = 2048  # characters that are asked for at once
FULL = 4  # of the log-odds, at which the bar of a word is full


def student() -> nn.Module:
    """The network of the file, as :func:`distill_lib.compress.load_packed` reads it."""
    import torch

    from distill_lib import compress, zoo

    net = zoo.small_bert(torch.arange(30_522), layers=6, hidden=384, heads=12)
    return compress.load_packed(net, zoo.FOLDER / FILE).eval()


def _becomes(tokenizer: Any, letters: frozenset[str]) -> Iterator[tuple[int, str | None]]:
    """What a tokenizer makes of each character: with spaces around what stands alone."""
    for start in range(0, 0x110000, SOME):
        codes = range(start, start + SOME)
        if start in SURROGATES:
            yield from ((code, None) for code in codes)
            continue
        text = " ".join(f"a{chr(code)}b" for code in codes)
        cut = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
        parts = (part for part, _ in cut)
        for code in codes:
            first = next(parts)
            if first != "a":  # the letter is gone, or one of a word
                found = first[1:-1]
                yield code, found if set(found) <= letters else UNKNOWN
            elif (second := next(parts)) == "b":
                yield code, " "
            else:
                next(parts)
                yield code, f" {second if second in letters else UNKNOWN} "


@cache
def characters(backend: str) -> list[tuple[int, int, str | None]]:
    """Runs of characters of which a tokenizer makes the same: first, how many, and what.

    ``SELF`` is the character itself. What is not listed is a letter that no piece has.

    Args:
        backend: The tokenizer, as 🤗 Tokenizers writes it.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(backend)
    letters = frozenset("".join(tokenizer.get_vocab()))
    rows: list[tuple[int, int, str | None]] = []
    for code, found in _becomes(tokenizer, letters):
        value = found
        if found is not None and found.strip() == chr(code):
            value = found.replace(chr(code), SELF)
        if value == UNKNOWN:
            continue
        if rows and rows[-1][2] == value and sum(rows[-1][:2]) == code:
            rows[-1] = (rows[-1][0], rows[-1][1] + 1, value)
        else:
            rows.append((code, 1, value))
    return rows


def figure() -> Figure:
    """A text field, and beside the page the file of the student with what its words are."""
    from distill_lib import zoo

    net = student()
    tokenizer = zoo.minilm_tokenizer()
    backend = tokenizer.backend_tokenizer
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    packed = (zoo.FOLDER / FILE).read_bytes()
    data = {
        "packed": base64_of(packed),
        "pieces": [piece for piece, _ in vocabulary],
        "rows": characters(backend.to_str()),
    }
    content = f"dlReviewsFile({json.dumps(data, separators=(',', ':'))});\n".encode()
    config = {
        "shapes": {name: list(tensor.shape) for name, tensor in net.state_dict().items()},
        "most": LENGTH - 2,
        "full": FULL,
        "src": f"{STATIC}/{DATA}",
    }
    inside = _inside(len(packed), len(content))
    fallback = "A small network says whether a sentence about a film praises it."
    made = page("dlReviews", "reviews.js", config, inside, fallback)
    return Figure(made, {DATA: content})


def _inside(packed: int, loaded: int) -> str:
    examples = "".join(
        f'<button type="button" data-example="{i}" style="{BUTTON}">{html.escape(text)}</button>'
        for i, text in enumerate(EXAMPLES)
    )
    word = (
        '<li style="display:flex;flex-direction:column;align-items:center;min-width:2.6em;'
        'max-width:100%;overflow-wrap:anywhere">'
        "<span></span>"
        '<span style="position:relative;display:block;width:1.2em;height:3em;'
        'background:linear-gradient(currentColor,currentColor) 0 50%/100% 1px no-repeat">'
        '<span style="position:absolute;left:15%;width:70%;background:#D55E00"></span></span>'
        '<span style="font-size:.85em;font-variant-numeric:tabular-nums">…</span></li>'
    )
    return f"""
<p style="margin:0 0 .6rem">The student's file has {packed / 1e6:.1f} MB. With its vocabulary and as
text it has {loaded / 1e6:.1f} MB, and it comes when you ask for it. What you type stays in your
browser.</p>
<div style="{ROW}">{button("load", f"load the student ({loaded / 1e6:.1f} MB)")}</div>
<label style="display:block">A sentence about a film
<textarea data-part="box" rows="3" maxlength="2000" style="display:block;box-sizing:border-box;
width:100%;font:inherit;color:inherit;background:none;border:1px solid currentColor;
border-radius:6px;padding:.5rem">{html.escape(EXAMPLES[0])}</textarea></label>
<div role="group" aria-label="Examples" style="{ROW};margin-top:.5rem">{examples}</div>
<p style="margin:.6rem 0 .2rem;min-height:1.6em"><strong data-part="answer" role="status">The
student is not loaded yet.</strong></p>
<div aria-hidden="true" style="border:1px solid currentColor;border-radius:6px;height:1.1em;
overflow:hidden"><div data-part="bar" style="height:100%;width:0;background:#D55E00"></div></div>
<p aria-hidden="true" style="display:flex;justify-content:space-between;margin:0 0 .4rem;
font-size:.85em"><span>negative</span><span>positive</span></p>
<template data-part="word">{word}</template>
<ul data-part="words" aria-label="What each word moved" style="list-style:none;display:flex;
flex-wrap:wrap;gap:.3rem .5rem;margin:0 0 .4rem;padding:0;min-height:6.5em"></ul>
<p style="font-size:.85em;margin:0">Below each word: by how much the log-odds of "positive" fall if
the word is left out and the rest is read again. Up: the word speaks for the film; a bar is full at
{FULL}. These numbers do not add up to the answer, since words act together. The student reads
{LENGTH} word pieces, the mark at each end included; what follows is cut off, as in its training. It
took <span data-part="took">…</span> ms for the sentence.</p>
"""
