"""A text that is always there, and a tokenizer trained on it in a second."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from distill_lib.arguments import check_counts, checked, told
from distill_lib.extras import missing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["reference_text", "train_tokenizer"]

HELD_OUT = 0.1


@checked
def reference_text(split: str = "train") -> str:
    """The language reference of the Python that runs this, English and code by its authors.

    It comes with the standard library (``pydoc_data.topics``, what ``help("if")`` prints), about
    half a million characters, and differs a little between versions of Python. License: PSF.

    Args:
        split: ``"train"``, the first nine tenths, ``"test"``, the rest, or ``"all"``.

    Raises:
        ValueError: another split.
    """
    # a module of the standard library: it is imported here, where it is used, since it is long
    from pydoc_data.topics import topics  # type: ignore[import-not-found,unused-ignore]

    text = "\n\n".join(topics[name] for name in sorted(topics))
    cut = int(len(text) * (1 - HELD_OUT))
    parts = {"train": text[:cut], "test": text[cut:], "all": text}
    if split not in parts:
        raise ValueError(f"split is one of {', '.join(parts)}, got {split!r}")
    return parts[split]


@checked
def train_tokenizer(text: str | Iterable[str], entries: int = 512) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer by pair encoding, with padding on the left.

    It knows every byte, so that every text can be read back exactly.

    Args:
        text: What it is trained on: one text, or several.
        entries: Size of the vocabulary: 256 bytes, ``<pad>`` (0), ``<eos>`` (1), and pairs. A short
            text has fewer pairs.

    Raises:
        ModuleNotFoundError: 🤗 Transformers or its tokenizers are not installed.
        ValueError: fewer entries than bytes, or an empty text.
        TypeError: something else than texts.

    Reference:
        Sennrich, Haddow and Birch, *Neural machine translation of rare words with subword units*,
        2016.

    Example:
        >>> tokenizer = train_tokenizer(reference_text(), entries=300)
        >>> tokenizer.decode(tokenizer("def naïve(): pass").input_ids)
        'def naïve(): pass'
    """
    for package in ("transformers", "tokenizers"):
        if find_spec(package) is None:
            raise missing("train_tokenizer", package)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    check_counts(258, entries=entries)
    texts = [text] if isinstance(text, str) else list(text)
    for one in texts:
        if not isinstance(one, str):
            raise TypeError(f"train_tokenizer expected texts, got {told(one)}")
    if not any(texts):
        raise ValueError("train_tokenizer expected a text, got an empty one")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=entries,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    made: Any = PreTrainedTokenizerFast  # has no types
    return cast(
        "PreTrainedTokenizerFast",
        made(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"),
    )
