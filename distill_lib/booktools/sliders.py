"""Figures with a slider that need no kernel, no network and no library.

Python computes what is costly, JavaScript draws it: each class is one HTML fragment with one
small script from ``static/``. It shows in the built site, in JupyterLab and in Colab, takes the
text color of its page, and works from the keyboard. The numbers on show stand in full precision
in the attribute ``data-values`` of the figure, where a test can compare them with the library.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from distill_lib.booktools import _fits

__all__ = ["BetaSlider", "DirectionSlider", "TemperatureSlider"]

_STATIC = Path(__file__).parent / "static"


def _fragment(function: str, file: str, config: dict[str, Any], fallback: str) -> str:
    """The HTML of a figure. Its id comes from its content, so a rebuilt page does not change."""
    data = json.dumps(config, allow_nan=False, ensure_ascii=True).replace("<", "\\u003c")
    uid = f"dl-{hashlib.sha256((function + data).encode()).hexdigest()[:10]}"
    code = "\n".join((_STATIC / name).read_text(encoding="utf-8") for name in ("common.js", file))
    # The same figure may stand twice on a page: draw every copy that is not drawn yet.
    call = (
        f"document.querySelectorAll('[id=\"{uid}\"]:not([data-ready])')"
        f".forEach(function(root){{{function}(root,{data});}});"
    )
    fallback = fallback.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f'<div class="dl-fig" id="{uid}"><noscript>{fallback} (This figure needs JavaScript.)'
        f"</noscript></div>\n<script>(function(){{\n{code}\n{call}\n}})();</script>"
    )


def _image(picture: Any, alt: str) -> str:
    """A small gray picture, its pixels enlarged as they are."""
    from PIL import Image

    gray = [[round(255 * min(max(float(v), 0.0), 1.0)) for v in row] for row in picture]
    image = Image.new("L", (len(gray[0]), len(gray)))
    image.putdata([v for row in gray for v in row])
    raw = io.BytesIO()
    image.save(raw, "PNG")
    return (
        f'<img class="dl-pixels" width="112" alt="{html.escape(alt)}" '
        'style="display:block;image-rendering:pixelated;margin:0 auto .4rem" '
        f'src="data:image/png;base64,{base64.b64encode(raw.getvalue()).decode()}">'
    )


def _logits(name: str, values: Any) -> list[float]:
    numbers = [float(v) for v in values]
    if len(numbers) < 2 or not all(math.isfinite(v) for v in numbers):
        raise ValueError(f"{name} must be at least two finite logits, got {numbers}.")
    return numbers


class TemperatureSlider:
    """Bars of ``softmax(logits / T)`` with a slider for the temperature ``T``.

    Args:
        logits: ``[C]`` finite numbers.
        labels: A name for each class.
        t_min: Lowest temperature.
        t_max: Highest temperature.
        t: Temperature at the start.
        picture: What the logits are about, ``[H, W]`` from 0 (black) to 1, shown beside them.
        alt: What is to be seen in the picture.

    Raises:
        ValueError: A picture without ``alt``, labels that do not fit the logits, or temperatures
            that are not ordered.

    Example:
        >>> TemperatureSlider([3.0, 1.0], ["cat", "dog"])
        TemperatureSlider: softmax at T = 1.0: cat 0.881, dog 0.119
    """

    alt: str
    picture: Any

    def __init__(
        self,
        logits: Any,
        labels: Sequence[str] | None = None,
        *,
        t_min: float = 0.25,
        t_max: float = 20.0,
        t: float = 1.0,
        picture: Any = None,
        alt: str = "",
    ) -> None:
        if picture is not None and not alt.strip():
            raise ValueError("A picture needs alt=, for those who do not see it.")
        self.picture, self.alt = picture, alt
        self.logits: list[float] = _logits("logits", logits)
        self.labels: list[str] = [
            str(v) for v in labels or [f"class {i}" for i in range(len(self.logits))]
        ]
        if len(self.labels) != len(self.logits):
            raise ValueError(f"{len(self.logits)} logits but {len(self.labels)} labels.")
        if not 0 < t_min <= t <= t_max < math.inf:
            raise ValueError(f"Need 0 < t_min <= t <= t_max, got {t_min}, {t}, {t_max}.")
        self.t: float = float(t)
        grid = {float(f"{t_min * (t_max / t_min) ** (i / 120):.2g}") for i in range(121)}
        inner = {v for v in grid if t_min < v < t_max}
        self.positions: list[float] = sorted(inner | {float(t_min), self.t, float(t_max)})

    def __repr__(self) -> str:
        top = max(self.logits)
        weights = [math.exp((z - top) / self.t) for z in self.logits]
        parts = [f"{n} {w / sum(weights):.3f}" for n, w in zip(self.labels, weights, strict=True)]
        return f"TemperatureSlider: softmax at T = {self.t}: {', '.join(parts)}"

    def _repr_html_(self) -> str:
        config = {
            "logits": self.logits,
            "labels": self.labels,
            "positions": self.positions,
            "start": self.positions.index(self.t),
        }
        figure = _fragment("dlTemperature", "temperature.js", config, repr(self))
        return figure if self.picture is None else _image(self.picture, self.alt) + figure


class DirectionSlider:
    r"""The Gaussian closest to a target with two modes, from forward to reverse KL.

    The target is :math:`w\,N(m_1, s^2) + (1 - w)\,N(m_2, s^2)`. For each position of the slider
    the best Gaussian is computed here, in float64, with the losses of the library on a fine grid.

    Args:
        weight: Weight :math:`w` of the first mode.
        means: The two means.
        scale: Standard deviation :math:`s` of both modes.
        path: ``"mix"`` minimizes :math:`(1-\lambda) KL(p \| q) + \lambda KL(q \| p)`;
            ``"jsd"`` the generalized Jensen-Shannon divergence, normalized so that its ends are
            the two KLs.
        positions: Number of positions from 0 to 1.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> DirectionSlider(positions=2)
        DirectionSlider: forward mean -0.400, std 2.022; reverse mean -2.000, std 0.500
    """

    def __init__(
        self,
        weight: float = 0.6,
        means: tuple[float, float] = (-2.0, 2.0),
        scale: float = 0.5,
        *,
        path: str = "mix",
        positions: int = 41,
    ) -> None:
        if not (0 < weight < 1 and scale > 0 and positions >= 2):
            raise ValueError(
                "Need 0 < weight < 1, scale > 0 and positions >= 2, got "
                f"{weight}, {scale}, {positions}."
            )
        if path not in ("mix", "jsd"):
            raise ValueError(f"path is 'mix' or 'jsd', got {path!r}.")
        self.target: _fits.Mixture = _fits.Mixture(
            float(weight), (float(means[0]), float(means[1])), float(scale)
        )
        self.path = path
        self.positions: list[float] = [i / (positions - 1) for i in range(positions)]

    @cached_property
    def fits(self) -> list[dict[str, float]]:
        """For each position: ``mu``, ``sigma``, ``value``, and the two KLs."""
        return _fits.fit_all(self.target, self.positions, self.path)

    def __repr__(self) -> str:
        first, last = (
            f"mean {fit['mu']:.3f}, std {fit['sigma']:.3f}" for fit in (self.fits[0], self.fits[-1])
        )
        return f"DirectionSlider: forward {first}; reverse {last}"

    def _repr_html_(self) -> str:
        x, density = self.target.drawn()
        tallest = max(1 / (fit["sigma"] * math.sqrt(2 * math.pi)) for fit in self.fits)
        config = {
            "label": "Direction λ" if self.path == "mix" else "β",
            "positions": self.positions,
            "start": 0,
            "fits": self.fits,
            "x": x,
            "target": density,
            "ticks": [round(m, 3) for m in self.target.means],
            "top": 1.05 * max(tallest, *density),
        }
        return _fragment("dlDirection", "direction.js", config, repr(self))


class BetaSlider:
    r"""The generalized Jensen-Shannon divergence of two distributions against :math:`\beta`.

    Shows :math:`D_\beta`, :math:`D_\beta/\beta` and :math:`D_\beta/(1-\beta)`, the last two with
    their limits :math:`KL(p \| q)` at 0 and :math:`KL(q \| p)` at 1.

    Args:
        student: ``[C]`` logits of the student.
        teacher: ``[C]`` logits of the teacher.
        beta: :math:`\beta` at the start.

    Raises:
        ValueError: The two differ in length, or ``beta`` is not in [0, 1].

    Example:
        >>> BetaSlider(student=[0.0, 0.0], teacher=[0.0, 2.0])
        BetaSlider: at β = 0.5 D = 0.0895, forward KL 0.3278, reverse KL 0.4338
    """

    student: list[float]
    teacher: list[float]

    def __init__(self, *, student: Any, teacher: Any, beta: float = 0.5) -> None:
        self.student, self.teacher = _logits("student", student), _logits("teacher", teacher)
        if len(self.student) != len(self.teacher):
            raise ValueError(
                f"student has {len(self.student)} classes and teacher {len(self.teacher)}."
            )
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must be in [0, 1], got {beta}.")
        self.beta: float = float(beta)
        # Finer towards the ends, where the two quotients reach their limits slowly.
        ends = [0.0001, 0.0003, 0.001, 0.003]
        grid = {0.0, 1.0, self.beta, *ends, *(round(1 - v, 4) for v in ends)}
        self.positions: list[float] = sorted(grid | {round(i / 100, 2) for i in range(1, 100)})

    def __repr__(self) -> str:
        from distill_lib import losses

        pair = {"student": _tensor(self.student), "teacher": _tensor(self.teacher)}
        # At the ends D is 0 for every pair, and the library refuses to call that a loss.
        d = losses.jsd(**pair, beta=self.beta).item() if 0 < self.beta < 1 else 0.0
        return (
            f"BetaSlider: at β = {self.beta} D = {d:.4f}, "
            f"forward KL {losses.kl(**pair).item():.4f}, "
            f"reverse KL {losses.reverse_kl(**pair).item():.4f}"
        )

    def _repr_html_(self) -> str:
        config = {
            "student": self.student,
            "teacher": self.teacher,
            "positions": self.positions,
            "start": self.positions.index(self.beta),
        }
        return _fragment("dlBeta", "beta.js", config, repr(self))


def _tensor(values: list[float]) -> Any:
    import torch

    return torch.tensor(values, dtype=torch.float64)
