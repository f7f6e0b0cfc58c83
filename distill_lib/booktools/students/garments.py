"""The packed student of the images: it reads its own file, and garments can be smeared."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any, cast

from distill_lib.booktools.students import Figure
from distill_lib.booktools.students._page import BUTTON, ROW, base64_of, button, page, picture_of

if TYPE_CHECKING:  # the tools of the book are there before torch is
    from collections.abc import Mapping

    from torch import Tensor, nn

    from distill_lib.data import Dataset

__all__ = ["FILE", "chosen", "figure", "fresh", "student"]

FILE = "fashion_small0.packed"
LOOKED_AT = 1_000  # of the first test images
WRONG = 2  # pictures that the student gets wrong, one for each class beside them
TOOLS = ("smear", "draw", "erase")
CELL = "padding:.12rem .3rem;text-align:start;border:0;font-weight:400;background:none"
COLORS = ("#0072B2", "#D55E00")


def fresh() -> nn.Module:
    """The network that the file is read into."""
    from distill_lib import zoo
    from distill_lib.fusion.batchnorm import fold_batchnorm

    return fold_batchnorm(zoo.ResNet(width=8))


def student() -> nn.Module:
    """The network of the file, as :func:`distill_lib.compress.load_packed` reads it."""
    from distill_lib import compress, zoo

    return compress.load_packed(fresh(), zoo.FOLDER / FILE).eval()


def chosen(test: Dataset, logits: Tensor, teacher: Tensor) -> list[int]:
    """The first test image of each class that both get right, and some that one gets wrong."""
    right = logits.argmax(1) == test.labels[: len(logits)]
    taught = teacher.argmax(1) == test.labels[: len(logits)]
    both, lost = right & taught, ~right & taught
    first = [
        next(i for i in both.nonzero()[:, 0].tolist() if test.labels[i] == c)
        for c in range(len(test.classes))
    ]
    return first + lost.nonzero()[:WRONG, 0].tolist()


def figure() -> Figure:
    """The bytes of the file, twelve pictures, and the teacher's stored answers, in one page."""
    import torch

    from distill_lib import Cache, data, zoo
    from distill_lib.data.fashion import MEAN, STD

    net, test = student(), data.load("fashion_mnist", "test")
    with torch.inference_mode():
        logits = net(test.inputs[:LOOKED_AT])
    stored = Cache(zoo.FOLDER / "fashion_resnet20.test.cache")
    said = cast("Mapping[str, Tensor]", stored({"index": test.index[:LOOKED_AT]}))
    teacher = said["logits"].float()
    which = chosen(test, logits, teacher)
    pixels = [(255 * (test.inputs[i, 0] * STD + MEAN)).round().byte().numpy() for i in which]
    file = (zoo.FOLDER / FILE).read_bytes()
    labels = [int(test.labels[i]) for i in which]
    names = [str(name) for name in test.classes]
    config = {
        "file": base64_of(file),
        "shapes": {name: list(tensor.shape) for name, tensor in net.state_dict().items()},
        "images": [base64_of(one.tobytes()) for one in pixels],
        "logits": [[round(v, 4) for v in teacher[i].tolist()] for i in which],
        "labels": labels,
        "names": names,
        "mean": MEAN,
        "std": STD,
    }
    inside = _inside(pixels, [names[c] for c in labels], names, sizes(file, net))
    fallback = "A small network says what garment is in a picture that you smear."
    return Figure(page("dlGarments", "garments.js", config, inside, fallback))


def sizes(file: bytes, net: nn.Module) -> str:
    """Bytes and numbers of the student, in words."""
    return f"{len(file):,} bytes, {sum(p.numel() for p in net.parameters()):,} numbers"


def _inside(pixels: list[Any], labels: list[str], names: list[str], size: str) -> str:
    thumbs = "".join(
        f'<button type="button" data-image="{i}" aria-pressed="{str(i == 0).lower()}" '
        f'style="{BUTTON};padding:2px;line-height:0">{_thumb(one, f"Picture {i + 1}: {label}")}'
        "</button>"
        for i, (one, label) in enumerate(zip(pixels, labels, strict=True))
    )
    tools = "".join(
        '<label style="display:inline-flex;gap:.4rem;align-items:center;min-height:46px;'
        f'margin-right:.5rem"><input type="radio" name="dl-garments" value="{tool}"'
        f'{" checked" * (i == 0)} style="width:22px;height:22px">{tool}</label>'
        for i, tool in enumerate(TOOLS)
    )
    bars = "".join(
        f'<tr style="background:none"><th scope="row" style="{CELL}">{html.escape(name)}</th>'
        + "".join(
            f'<td data-of="{who}" style="{CELL};white-space:nowrap"><span style="display:'
            f"inline-block;height:.8em;width:0;margin-right:.3em;background:{color}"
            '"></span><span>…</span></td>'
            for who, color in enumerate(COLORS)
        )
        + "</tr>"
        for name in names
    )
    heads = "".join(
        f'<th scope="col" style="{CELL};font-weight:600;border-bottom:3px solid {color}">{who}</th>'
        for who, color in zip(
            ("Teacher, untouched picture", "Student, picture as it is"),
            COLORS,
            strict=True,
        )
    )
    return f"""
<p style="margin:0 0 .6rem">The student's file ({size}) is in this page. Your browser reads it and
answers with it. Choose a picture of the test set, and smear it.</p>
<div role="group" aria-label="Pictures of the test set" style="{ROW}">{thumbs}</div>
<div style="display:grid;grid-template-columns:repeat(auto-fit,minmax(min(17rem,100%),1fr));
gap:.6rem 1.6rem">
<div><canvas data-part="pad" width="336" height="336" tabindex="0" role="application"
aria-label="The picture. Arrow keys move the brush, space puts it down and lifts it."
style="display:block;width:100%;max-width:min(21rem,72vw);aspect-ratio:1;margin:0 0 .3rem;
touch-action:none;cursor:crosshair;border-radius:6px;box-shadow:0 0 0 1px currentColor"></canvas>
<p data-part="said" role="status" style="margin:0 0 .3rem;min-height:3.2em"></p>
<div style="{ROW}">{tools}</div><div style="{ROW}">{button("clear", "clear")}
{button("restore", "restore")}</div></div>
<div><label style="display:block">Temperature of both answers: <output data-part="heat">T = 1
</output><input data-part="range" type="range" min="0" max="60" value="19"
style="display:block;width:100%;height:44px;margin:0"></label>
<table style="width:100%;table-layout:fixed;border-collapse:collapse;font-size:.85em;margin:0">
<thead><tr style="background:none"><th scope="col" style="{CELL};width:5.6rem">Class</th>{heads}
</tr></thead>
<tbody>{bars}</tbody></table></div></div>
<p style="font-size:.85em;margin:0 0 .4rem">Use a finger, a mouse or keys: arrows move the brush,
space puts it down and lifts it. The brush is <span data-part="brush">up</span>. The teacher does
not run here: its answer was stored for the picture before you touched it. The student took <span
data-part="took">…</span> ms.</p>
<div style="{ROW};font-size:.85em">{button("damage", "flip a bit of the file")}
<span>The file: <span data-part="file" role="status">read</span>.</span></div>
"""


def _thumb(picture: Any, alt: str) -> str:
    return (
        f'<img alt="{html.escape(alt)}" width="42" height="42" style="display:block;margin:0;'
        f'border-radius:3px" src="{picture_of(picture)}">'
    )
