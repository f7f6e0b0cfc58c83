"""🤗 Transformers: its ``Trainer``, with a teacher and an objective.

Needs ``transformers`` (``pip install 'distill-lib[language]'``), which is imported with this
package and not before. Tried with 4.57, 5.0 and 5.23.
"""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("transformers") is None:
    raise ModuleNotFoundError(
        f"{__name__} needs transformers: pip install 'distill-lib[language]'", name="transformers"
    )

from .checks import check_tokenizers
from .trainer import DistillationTrainer

__all__ = ["DistillationTrainer", "check_tokenizers"]
