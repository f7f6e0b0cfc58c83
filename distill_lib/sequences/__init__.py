"""Whose words a student learns from: texts as batches for the one loop, and who writes them.

>>> import distill_lib as dl
>>> from distill_lib.sequences import Completions, Walks
>>> walks, student, teacher = Walks(3), dl.models.SmallGPT(16), dl.models.SmallGPT(16, seed=1)
>>> words = Completions(walks.prompts, student, new=walks.new, stop=walks.stop, updates=3)
>>> len(dl.distill(student, teacher, words, dl.KD(dl.losses.reverse_kl), epochs=1))
3
"""

from __future__ import annotations

from .acceptance import acceptance, tokens_a_call
from .completions import Completions
from .drafts import Speculation, leftover, speculate, verified
from .reference import reference_text, train_tokenizer
from .sampling import sample
from .walks import Walks

__all__ = [
    "Completions",
    "Speculation",
    "Walks",
    "acceptance",
    "leftover",
    "reference_text",
    "sample",
    "speculate",
    "tokens_a_call",
    "train_tokenizer",
    "verified",
]


def __dir__() -> list[str]:
    return __all__
