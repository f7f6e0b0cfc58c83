"""What must fit before a teacher of 🤗 Transformers teaches: words, classes, labels."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill_lib.masks.tokens import base
from distill_lib.models.language import Words
from distill_lib.teachers.live import Teacher
from distill_lib.training.history import LARGEST, unlearnable

__all__ = ["check_tokenizers"]

PROBE = "Naïve? NO: the cafés of São Paulo don't open at 7 a.m. …"
WAY_OUT = (
    "tokenize the data with the teacher's tokenizer and give the student its vocabulary, or let "
    "the teacher see its own tokens with Teacher(model, preprocess=…)"
)


def check_tokenizers(student: Any, teacher: Any) -> None:
    """Whether two tokenizers write the same numbers for the same text.

    Args:
        student: The tokenizer that makes the data.
        teacher: The teacher's.

    Raises:
        ValueError: the first token that differs, or a text that they cut differently.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> from transformers import PreTrainedTokenizerFast
        >>> def knows(word):
        ...     vocabulary = models.WordLevel({"?": 0, word: 1}, unk_token="?")
        ...     return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(vocabulary))
        >>> check_tokenizers(knows("good"), knows("bad"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: the tokenizers differ: token 1 is 'good' for the student and 'bad' for ...
    """
    for who, tokenizer in (("student", student), ("teacher", teacher)):
        if not hasattr(tokenizer, "get_vocab"):
            raise ValueError(
                f"expected a tokenizer of the {who}, got {type(tokenizer).__name__}; give the "
                "student's as processing_class= and the teacher's as teacher_tokenizer="
            )
    mine, theirs = ({i: t for t, i in v.get_vocab().items()} for v in (student, teacher))
    for number in sorted({*mine, *theirs}):
        if mine.get(number) != theirs.get(number):
            raise ValueError(
                f"the tokenizers differ: token {number} is {mine.get(number)!r} for the student "
                f"and {theirs.get(number)!r} for the teacher; {WAY_OUT}"
            )
    cut, also = (list(tokenizer(PROBE)["input_ids"]) for tokenizer in (student, teacher))
    if cut != also:
        raise ValueError(
            f"the tokenizers have one vocabulary, but read {PROBE!r} as {cut} for the student and "
            f"{also} for the teacher; {WAY_OUT}"
        )


def check_classes(student: nn.Module, teacher: Any) -> None:
    """Whether both mean the same class by the same number, as far as their configs say."""
    mine, *others = [_classes(model) for model in (base(student), *seeing(teacher))]
    for theirs in others:
        if not mine or not theirs:
            continue
        if len(mine) != len(theirs):
            raise ValueError(
                f"the student has {len(mine)} classes and the teacher {len(theirs)}; make the "
                f"student with num_labels={len(theirs)}, or map the teacher's answers with "
                "Teacher(model, forward=…)"
            )
        ours, named = (
            {int(i): str(name).casefold() for i, name in names.items()} for names in (mine, theirs)
        )
        if ours != named and set(ours.values()) == set(named.values()):
            raise ValueError(
                f"the classes of the student, {mine}, and of the teacher, {theirs}, are in "
                "another order; make the student with the teacher's id2label and label2id"
            )


def _classes(model: nn.Module) -> Mapping[Any, Any]:
    """The names of what a model answers; language models have some too, and answer by words."""
    names = getattr(getattr(model, "config", None), "id2label", None) or {}
    # DETR has one more, for no object
    rows = {len(names), len(names) + 1}
    sizes = ("out_features", "out_channels")
    heads = {getattr(part, size, 0) for part in model.modules() for size in sizes}
    return names if rows & heads else {}


def check_ids(batch: Mapping[str, Any], teacher: Any) -> None:
    """Whether the teacher knows every token."""
    ids = batch.get("input_ids")
    for model in seeing(teacher):
        size = getattr(getattr(model, "config", None), "vocab_size", None)
        if size and isinstance(ids, Tensor) and ids.max() >= size:
            raise ValueError(
                f"the data hold token {int(ids.max())}, and the teacher knows {size} tokens, so "
                f"that it has another tokenizer; {WAY_OUT}"
            )


def check_learnable(loss: Tensor, parts: Mapping[str, Any], step: int) -> None:
    """Whether a step may be taken on a loss: the Trainer leaves nan out of its logs and goes on.

    Raises:
        FloatingPointError: a loss that is not finite, or nearly; the message says of which term.
    """
    if not bool(loss.abs() < LARGEST):  # the Trainer asks the device as often
        numbers = {k: float(v.detach()) for k, v in {"loss": loss, **parts}.items()}
        raise unlearnable(step, numbers, "max_grad_norm")


def check_rebuilt(model: nn.Module) -> None:
    """Whether ``from_pretrained`` would build this student: its configuration gives its shapes."""
    apart = ("is_quantized", "peft_config")  # which are written in another way
    if not isinstance(model, PreTrainedModel) or any(getattr(model, k, None) for k in apart):
        return
    # a BERT with a trimmed table writes its state with a whole one
    trimmed = tuple(f"{name}." for name, m in model.named_modules() if isinstance(m, Words))
    if not trimmed and type(model).save_pretrained is not PreTrainedModel.save_pretrained:
        return  # it writes something else than its state
    try:
        with torch.device("meta"):
            again = type(model)(copy.deepcopy(model.config)).state_dict()
    except Exception:  # its class takes more than a configuration: who wrote it knows what to give
        return
    state = model.state_dict()
    for name in [*state, *again]:
        if trimmed and name.startswith(trimmed):
            continue
        mine, theirs = (list(s[name].shape) if name in s else "missing" for s in (state, again))
        if mine != theirs:
            raise ValueError(
                f"from_pretrained could not read this student again: {name} is {mine}, and by its "
                f"configuration {theirs}, as after its heads were pruned. Write it by "
                "compress.save_pruned(model, path, plan) or by safetensors.torch.save_model, and "
                "read it into a model that is built alike"
            )


def check_projectors(
    learning: Mapping[str, Any], forgotten: Mapping[str, Any], sharded: bool
) -> None:
    """Whether what the objective has to learn is learned."""
    if forgotten:
        raise ValueError(
            f"the optimizer forgets {', '.join(forgotten)} of the objective: build it over "
            "[*student.parameters(), *objective.parameters()], or let the Trainer make it"
        )
    if learning and sharded:
        raise ValueError(
            f"FSDP and DeepSpeed would not shard {', '.join(learning)} of the objective: use DDP, "
            "or terms without a projector, such as Relation"
        )


def check_reached(loss: Tensor, model: nn.Module) -> None:
    """Whether the loss depends on every weight that DDP will wait for."""
    reached, left = set(), [loss.grad_fn]
    seen = set(left)
    while left:
        node: Any = left.pop()
        reached.add(id(getattr(node, "variable", None)))
        new = {one for one, _ in getattr(node, "next_functions", ()) if one} - seen
        seen |= new
        left += new
    params = model.named_parameters()
    idle = [name for name, p in params if p.requires_grad and id(p) not in reached]
    if idle:
        raise ValueError(
            f"{len(idle)} weights of the student have no part in the loss, and DDP would wait for "
            f"their gradients: {', '.join(idle[:4])}{', …' if len(idle) > 4 else ''}. Freeze them "
            "(requires_grad_(False)), add a term that trains them, or train with distill"
        )


def check_layers(layers: tuple[str, ...], gpus: int) -> None:
    """Whether inner layers can be heard."""
    if layers and gpus > 1:
        raise ValueError(
            f"layers such as {layers[0]!r} cannot be captured on {gpus} GPUs of one process: start "
            "one process a GPU with torchrun, or set CUDA_VISIBLE_DEVICES"
        )


def seeing(teacher: Any) -> list[nn.Module]:
    """The model of a teacher that sees the batch as it is; none for other teachers."""
    if not isinstance(teacher, Teacher) or teacher.preprocess or teacher.forward:
        return []
    return [base(teacher.model)]


def columns(model: nn.Module) -> set[str]:
    """What a model takes."""
    return set(inspect.signature(base(model).forward).parameters)
