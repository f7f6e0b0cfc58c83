"""Small architectures, without weights: what students and shipped teachers are made of."""

from __future__ import annotations

from .control import Policy
from .language import BagOfEmbeddings, BiLSTM, Words, small_bert
from .vision import MLP, ResNet, SmallConvNet

__all__ = [
    "MLP",
    "BagOfEmbeddings",
    "BiLSTM",
    "Policy",
    "ResNet",
    "SmallConvNet",
    "Words",
    "small_bert",
]


def __dir__() -> list[str]:
    return __all__
