"""What a model says of a batch, by name: ``logits``, ``hidden_states/4``, ``layer3``.

Signals are a tensor (taken as the logits), a mapping from names to tensors, or a Hugging Face
``ModelOutput``. A path such as ``hidden_states/4`` walks into tuples and mappings.
"""

from __future__ import annotations

from .captured import Captured, capture, inside, layers_among, layers_of, tell
from .said import (
    DESCRIPTIVE,
    Batch,
    Forward,
    Signals,
    accepts,
    as_batch,
    bring,
    call,
    eval_mode,
    modes_of,
    pick,
    place,
    set_modes,
    signature_of,
    suggest,
    unwrapped,
)

__all__ = [
    "DESCRIPTIVE",
    "Batch",
    "Captured",
    "Forward",
    "Signals",
    "accepts",
    "as_batch",
    "bring",
    "call",
    "capture",
    "eval_mode",
    "inside",
    "layers_among",
    "layers_of",
    "modes_of",
    "pick",
    "place",
    "set_modes",
    "signature_of",
    "suggest",
    "tell",
    "unwrapped",
]


def __dir__() -> list[str]:
    return __all__
