"""Which token a label is about: the shift of causal models, and the inputs of decoders."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib.signals import Batch, Signals, accepts, as_batch, eval_mode, inside

from . import IGNORE, following, readable

__all__ = ["aligned", "base", "decoder_inputs", "learned_prompts", "said_by"]

SHORT = 16  # tokens of the text that a model is asked about
_asked: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def aligned(batch: Batch, model: nn.Module | None) -> Mapping[str, Any]:
    r"""A batch whose labels stand where the model answers them, as its own loss has it.

    .. math:: y'_t = y_{t+1} \text{ for a causal language model}, \qquad y'_t = y_t \text{ else}

    :func:`distill_lib.distill`, ``evaluate`` and the ``DistillationTrainer`` do this by themselves;
    a loop of one's own passes ``objective(said, taught, aligned(batch, student))``.

    - A causal language model of 🤗 Transformers (GPT-2, Llama, and classes derived from them) is
      asked once whether its own loss shifts; ``labels`` are then those of the next token, and
      ``attention_mask`` counts a place if the token that is answered there is one. Labels that are
      shifted already are given as ``shift_labels``, as Transformers has it.
    - A model with encoder and decoder (T5, BART) gets the ``decoder_input_ids`` that it makes of
      labels itself.
    - Models of other libraries take labels where they stand, beside the answer.
    - ``mask`` and ``weight`` always stand beside the answers, and are never moved.

    Args:
        batch: A mapping or a pair. What a model reads stays as it is, so that the result can be
            given to the model as well.
        model: The one that answers; None leaves the batch as it is.

    Returns:
        The batch, with ``shift`` (0 or 1) where a causal model was asked. Aligned twice it is
        aligned once.

    Raises:
        ValueError: labels of a decoder without its input, which the model cannot make.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> gpt = GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=1, n_layer=1, vocab_size=9))
        >>> words = torch.tensor([[3, 4, 5]])
        >>> aligned({"input_ids": words, "labels": words}, gpt)["labels"]
        tensor([[   4,    5, -100]])
    """
    named = _whole(readable(as_batch(batch)))
    if "shift" in named:
        return named
    if named.get("shift_labels") is not None:
        shifted = _whole(readable({"labels": named["shift_labels"]}))["labels"]
        return {**named, "shift_labels": shifted, "labels": shifted, "shift": 1}
    if model is None or not _of_tokens(named.get("labels")):
        return named
    inner = base(model)
    if _writes(inner):
        return decoder_inputs(named, inner)
    if not _has_own_loss(inner):
        return named
    if not _shifts(inner, named.get("input_ids")):
        return {**named, "shift": 0}
    return {**named, "labels": following(named["labels"], IGNORE), "shift": 1}


def base(model: nn.Module) -> Any:
    """The model itself: without captures, wrappers, and the adapters of PEFT."""
    inner: Any = inside(model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def learned_prompts(model: nn.Module) -> bool:
    """Whether PEFT gives a model tokens that no batch has: prompts, or prefixes of its layers."""
    inner: Any = inside(model)
    return bool(getattr(getattr(inner, "active_peft_config", None), "is_prompt_learning", False))


def decoder_inputs(batch: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    """The batch with what a decoder reads, made of the labels as the model does it itself."""
    if not _of_tokens(batch.get("labels")):  # most batches, of which nothing more is asked
        return batch
    inner = base(model)
    given = any(batch.get(f"decoder_{key}") is not None for key in ("input_ids", "inputs_embeds"))
    if given or not _writes(inner):
        return batch
    make = getattr(inner, "prepare_decoder_input_ids_from_labels", None) or _maker(inner)
    if make is None:
        raise ValueError(
            f"{type(inner).__name__} has a decoder, labels are kept from models so that they do "
            "not compute a loss of their own, and it makes no input of labels: put "
            "decoder_input_ids (the labels, one place to the right) into the batch"
        )
    return {**batch, "decoder_input_ids": make(labels=batch["labels"])}


def _maker(inner: Any) -> Any:
    """What models that have no method for it, such as Whisper and M2M100, call in ``forward``."""
    homes = (sys.modules.get(kind.__module__) for kind in type(inner).__mro__)
    shift = next(filter(None, (getattr(home, "shift_tokens_right", None) for home in homes)), None)
    pad, start = (getattr(inner.config, f"{k}_token_id", None) for k in ("pad", "decoder_start"))
    if shift is None or pad is None or start is None:
        return None
    return lambda labels: shift(labels, pad, start)


def said_by(student: Signals, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The batch, with what the student's answer tells about where its labels stand.

    Raises:
        ValueError: answers of a causal language model, and labels that nobody has aligned.
    """
    said = student.values() if isinstance(student, Mapping) else [student]
    batch = readable(batch, next((v.device for v in said if isinstance(v, Tensor)), None))
    labels = batch.get("labels")
    if not isinstance(student, Mapping) or not isinstance(labels, Tensor) or labels.ndim < 2:
        return batch
    if re.search("CausalLM|DoubleHeads", type(student).__name__) and "shift" not in batch:
        raise ValueError(
            "a causal language model answers with the next token, and these labels may stand "
            "beside the token itself: pass aligned(batch, student) as the batch "
            "(distill_lib.aligned)"
        )
    if "encoder_last_hidden_state" in student:
        return {"decoder_attention_mask": None, **batch}
    return batch


def _whole(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The batch with labels of tokens that can hold -100."""
    labels: Any = batch.get("labels")
    small = _of_tokens(labels) and labels.dtype not in (torch.int32, torch.int64)
    return {**batch, "labels": labels.long()} if small else batch


def _of_tokens(labels: Any) -> bool:
    return isinstance(labels, Tensor) and labels.ndim > 1 and not labels.is_floating_point()


def _writes(inner: Any) -> bool:
    """Whether a decoder answers with tokens; one that classifies makes its own input of texts."""
    config = getattr(inner, "config", None)
    head = getattr(inner, "get_output_embeddings", None)
    return (
        bool(getattr(config, "is_encoder_decoder", False))
        and accepts(inner.forward, "decoder_input_ids")
        and (head is None or head() is not None)
    )


def _has_own_loss(inner: Any) -> bool:
    """Whether a model of Transformers computes the loss of a language model."""
    if not hasattr(type(inner), "loss_function") or not accepts(inner.forward, "labels"):
        return False
    kind = getattr(inner, "loss_type", None) or "ForCausalLM"
    return any(word in kind for word in ("CausalLM", "ConditionalGeneration"))


def _shifts(inner: nn.Module, ids: Any) -> bool:
    """Whether the model's own loss compares an answer with the label one place after it."""
    if inner not in _asked:
        found = None
        if isinstance(ids, Tensor) and ids.ndim == 2 and ids.shape[1] > 1:
            # some models cannot be asked: those that need images beside the words, say
            with contextlib.suppress(Exception):
                found = _ask(inner, ids[:1, :SHORT])
        if found is None:
            return any(kind.__name__ == "GenerationMixin" for kind in type(inner).__mro__)
        _asked[inner] = found
    return _asked[inner]


@torch.no_grad()
def _ask(inner: Any, ids: Tensor) -> bool | None:
    """Compare the model's own loss with that of labels one place on, and with that of labels."""
    ids = ids.to(next(inner.parameters()).device)
    devices = [ids.device] if ids.device.type == "cuda" else []
    with torch.random.fork_rng(devices), eval_mode([inner]):
        logits = inner(input_ids=ids).logits.float()
        if logits.ndim != 3 or logits.shape[:2] != ids.shape:
            return False
        draw = torch.Generator().manual_seed(0)
        labels = torch.randint(logits.shape[-1], ids.shape, generator=draw).to(ids.device)
        own = inner(input_ids=ids, labels=labels).loss.float()
    beside = F.cross_entropy(logits[0], labels[0])
    after = F.cross_entropy(logits[0, :-1], labels[0, 1:])
    return bool((own - after).abs() < (own - beside).abs()) if own.isfinite() else None
