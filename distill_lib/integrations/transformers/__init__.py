"""🤗 Transformers: its ``Trainer``, with a teacher and an objective.

Needs ``transformers``, which is imported with this package and not before.
Tried with 4.57, 5.0 and 5.23.
"""

from __future__ import annotations

from importlib.util import find_spec

from distill_lib.extras import missing

if find_spec("transformers") is None:
    raise missing(__name__, "transformers")

from .checks import check_tokenizers
from .spans import first_pieces, two_tokenizers
from .trainer import DistillationTrainer

__all__ = ["DistillationTrainer", "check_tokenizers", "first_pieces", "two_tokenizers"]


def __dir__() -> list[str]:
    return __all__
