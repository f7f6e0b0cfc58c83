"""A BERT whose table of words is trimmed, and that is saved as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from torch import Tensor

from .language import Words

__all__ = ["BertForSequenceClassification"]


class BertForSequenceClassification(
    transformers.BertForSequenceClassification  # type: ignore[no-untyped-call]
):
    """🤗 Transformers' own, under its name: what it saves, ``from_pretrained`` reads back."""

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *args: Any,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save with a plain table of words, one row for each piece of the vocabulary."""
        state = dict(self.state_dict() if state_dict is None else state_dict)
        name, words = next(
            ((name, m) for name, m in self.named_modules() if isinstance(m, Words)), ("", None)
        )
        if words is not None and f"{name}.lookup" in state:
            lookup = state.pop(f"{name}.lookup").long()
            state[f"{name}.weight"] = state.pop(f"{name}.embedding.weight")[lookup]
        given: dict[str, Any] = {**kwargs, "state_dict": state}
        save: Any = super().save_pretrained  # has no types
        save(save_directory, *args, **given)
