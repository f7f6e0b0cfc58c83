"""What the chapters need and the library does not: claims, checks, figures, sliders, the profile.

Nothing heavy is imported before it is used: matplotlib waits for :func:`style`, IPython for a
notebook that is already running it, torch for the first number. Outside a notebook everything
prints plain text.
"""

from __future__ import annotations

from distill_lib.booktools.checks import check
from distill_lib.booktools.claims import claim, faster, measurement
from distill_lib.booktools.figures import band, dots, style
from distill_lib.booktools.films import Films
from distill_lib.booktools.glue import glue
from distill_lib.booktools.live import LivePoles
from distill_lib.booktools.profile import by_profile, device, env_report, profile
from distill_lib.booktools.sliders import BetaSlider, DirectionSlider, TemperatureSlider

__all__ = [
    "BetaSlider",
    "DirectionSlider",
    "Films",
    "LivePoles",
    "TemperatureSlider",
    "band",
    "by_profile",
    "check",
    "claim",
    "device",
    "dots",
    "env_report",
    "faster",
    "glue",
    "measurement",
    "profile",
    "style",
]


def __dir__() -> list[str]:
    return __all__
