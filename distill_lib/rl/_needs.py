"""Says what to install where Gymnasium is missing."""

from __future__ import annotations

from importlib.util import find_spec

from distill_lib.extras import missing

if find_spec("gymnasium") is None:
    raise missing("distill_lib.rl", "gymnasium")
