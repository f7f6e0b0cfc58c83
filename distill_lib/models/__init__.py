"""Small architectures, without weights: what students and shipped teachers are made of."""

from __future__ import annotations

from .control import PixelPolicy, Policy
from .gpt import SmallGPT
from .language import BagOfEmbeddings, BiLSTM, Words, small_bert, small_llama
from .vision import MLP, DepthwiseNet, ResNet, SmallConvNet

__all__ = [
    "MLP",
    "BagOfEmbeddings",
    "BiLSTM",
    "DepthwiseNet",
    "PixelPolicy",
    "Policy",
    "ResNet",
    "SmallConvNet",
    "SmallGPT",
    "Words",
    "small_bert",
    "small_llama",
]


def __dir__() -> list[str]:
    return __all__
