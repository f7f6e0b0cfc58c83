"""Whose words a student learns from: texts as batches for the one loop, and who writes them.

>>> import distill_lib as dl
>>> from distill_lib.sequences import Completions, Walks
>>> walks, student, teacher = Walks(3), dl.models.SmallGPT(16), dl.models.SmallGPT(16, seed=1)
>>> words = Completions(walks.prompts, student, new=walks.new, stop=walks.stop, updates=3)
>>> len(dl.distill(student, teacher, words, dl.KD(dl.losses.reverse_kl), epochs=1))
3
"""

from __future__ import annotations

from .completions import Completions
from .corpus import reference_text, train_tokenizer
from .sampling import sample
from .walks import Walks

__all__ = ["Completions", "Walks", "reference_text", "sample", "train_tokenizer"]


def __dir__() -> list[str]:
    return __all__
