"""Teachers that come with the library, each with a card that says how it was made.

A card is a JSON file beside the weights (``<name>.json`` and ``<name>.safetensors``, or ``.pt`` for
a checkpoint in the format of the library that trained it; weights may be an adapter of a packaged
model): architecture, score, how and on what it
was trained, license, and the SHA-256 of the weights, which is checked whenever they are loaded. The
scripts that made them are in ``teachers/``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from distill_lib.arguments import checked
from distill_lib.checkpoints import CheckpointError
from distill_lib.checkpoints.files import sha256
from distill_lib.extras import missing
from distill_lib.models import (
    MLP,
    BagOfEmbeddings,
    BiLSTM,
    Policy,
    ResNet,
    SmallConvNet,
    SmallGPT,
    Words,
    small_bert,
    small_llama,
)
from distill_lib.signals import suggest
from distill_lib.zoo.minilm import minilm_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "MLP",
    "BagOfEmbeddings",
    "BiLSTM",
    "Policy",
    "ResNet",
    "SmallConvNet",
    "SmallGPT",
    "Words",
    "card",
    "load_teacher",
    "minilm_tokenizer",
    "names",
    "reference_tokenizer",
    "small_bert",
    "small_llama",
]


def __dir__() -> list[str]:
    return __all__


FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The teachers there are."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


@checked
def card(name: str) -> dict[str, Any]:
    """What is known of a teacher.

    Returns:
        ``name, file, sha256, task, architecture {class, kwargs}, params,
        score {metric, value, n, split}, trained {script, command, minutes, device, versions, seed,
        recipe}, data, license``.

    Raises:
        KeyError: There is no such teacher; the message lists those there are.
    """
    if name not in names():
        there = ", ".join(names()) or "none"
        raise KeyError(f"no teacher {name!r}.{suggest(name, names())} There are: {there}")
    return cast(dict[str, Any], json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))


@checked
def load_teacher(name: str, source: str = "zoo") -> nn.Module:
    """A teacher in eval mode, after its weights were checked.

    Args:
        name: One of :func:`names`; or, of torchvision, a classifier of ImageNet such as
            ``"resnet50"``.
        source: ``"zoo"``, whose teachers are shipped and have cards; or ``"torchvision"``, whose
            newest weights are fetched into torch's own cache, compared with the SHA-256 in their
            name, and read as tensors, so that nothing in the file runs. It needs torchvision, and
            a network the first time. Models of a hub, such as 🤗 Transformers' or timm's, are no
            source: their own ``from_pretrained`` or ``create_model`` loads them, and
            :class:`~distill_lib.Teacher` takes them as they are.

    Raises:
        KeyError: There is no such teacher.
        ValueError: The source is another.
        ImportError: torchvision is not installed, or is built for another torch.
        CheckpointError: The weights cannot be had, or are not those that were published.
    """
    if source not in ("zoo", "torchvision"):
        raise ValueError(
            f"source expected 'zoo' or 'torchvision', got {source!r}; models of a hub are loaded "
            "by their own from_pretrained, and Teacher takes them as they are"
        )
    if source == "torchvision":
        from distill_lib.zoo import published

        return published.load(name)
    from safetensors.torch import load

    known = card(name)
    path = FOLDER / known["file"]
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; install distill_lib again, or {_remake(known)}")
    raw = path.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if digest != known["sha256"]:
        raise CheckpointError(
            f"{path} is not the file of its card: SHA-256 is {digest[:16]}…, expected "
            f"{known['sha256'][:16]}…; install distill_lib again, or {_remake(known)}"
        )
    module, _, kind = known["architecture"]["class"].rpartition(".")
    if not module.startswith(("distill_lib.models.", "distill_lib.zoo.")):
        raise CheckpointError(f"the card of {name} names {module}.{kind}, which is not in the zoo")
    model: nn.Module = getattr(importlib.import_module(module), kind)(
        **known["architecture"]["kwargs"]
    )
    if path.suffix == ".pt":  # a file in the format of the library that trained it
        layouts = importlib.import_module("distill_lib.integrations.rsl_rl.layouts")
        saved = layouts.read_policy(path).policy(known["architecture"]["kwargs"]["activation"])
        model.load_state_dict(saved.state_dict())
    elif "adapter" in known:  # low-rank changes of a packaged model
        from distill_lib.zoo.minilm import merge

        merge(model, load(raw), known["adapter"]["scale"])
    else:
        model.load_state_dict(load(raw))
    return model.eval()


def reference_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of ``reference_llama``: 512 byte pairs, padding on the left.

    Raises:
        ModuleNotFoundError: 🤗 Transformers is not installed.
        CheckpointError: The file is missing, or is not the one that the teacher was trained with.
    """
    if importlib.util.find_spec("transformers") is None:
        raise missing("reference_tokenizer", "transformers")
    from transformers import PreTrainedTokenizerFast

    known = card("reference_llama")
    path = FOLDER / known["tokenizer"]["file"]
    if not path.is_file() or sha256(path) != known["tokenizer"]["sha256"]:
        raise CheckpointError(
            f"{path} is not the tokenizer of reference_llama; install distill_lib again, or "
            f"{_remake(known)}"
        )
    made: Any = PreTrainedTokenizerFast  # has no types
    return cast(
        "PreTrainedTokenizerFast",
        made(tokenizer_file=str(path), pad_token="<pad>", eos_token="<eos>", padding_side="left"),
    )


def _remake(known: dict[str, Any]) -> str:
    return f"make it anew with `{known['trained']['command']}`"
