"""Says what to install where Gymnasium is missing."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("gymnasium") is None:
    raise ModuleNotFoundError(
        "distill_lib.rl needs Gymnasium: pip install 'distill-lib[rl]'", name="gymnasium"
    )
