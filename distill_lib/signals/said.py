"""Batches, what a model says of them, and the signals in it."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.ties import home

Signals = Tensor | Mapping[str, Any]
Batch = Mapping[str, Any] | tuple[Any, ...] | list[Any]
Forward = Callable[[nn.Module, Mapping[str, Any]], Any]

# Keys of a batch that describe it, and are no argument of a model unless it names them.
DESCRIPTIVE = frozenset(
    {"labels", "index", "mask", "weight", "human", "augmentation", "shift", "shift_labels"}
)


def suggest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'layer3'?``, or nothing when no name is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def pick(signals: Signals, path: str, who: str = "model") -> Tensor:
    """The signal at ``path``.

    Args:
        signals: A tensor (its one path is ``logits``), a mapping, or a ``ModelOutput``.
        path: Names and positions separated by ``/``.
        who: Named in the error: ``student`` or ``teacher``.

    Raises:
        KeyError: when there is no such signal; the message lists those there are.
        TypeError: what is no signals.

    Example:
        >>> import torch
        >>> pick({"hidden_states": (torch.zeros(1), torch.ones(1))}, "hidden_states/1")
        tensor([1.])
    """
    if isinstance(signals, Tensor):
        if path == "logits":
            return signals
        signals = {"logits": signals}
    if not isinstance(signals, (Mapping, tuple, list)):
        raise TypeError(
            f"expected the {who}'s signals as a tensor of logits, a mapping of names to tensors, "
            f"or a ModelOutput, got {type(signals).__name__}"
        )
    found: Any = signals
    for part in [path] if path in signals else path.split("/"):
        found = _step(found, part, path, who)
    if not isinstance(found, Tensor):
        inside = found if isinstance(found, Mapping) else range(_length(found))
        first = next((f"go on with {path}/{key} or the like" for key in inside), None)
        raise KeyError(
            f"{who} signal {path!r} is a {type(found).__name__}, not a tensor; "
            + (first or "signals are tensors, or mappings and tuples of them")
        )
    return found


def _length(found: Any) -> int:
    return len(found) if isinstance(found, (tuple, list)) else 0


def _step(found: Any, part: str, path: str, who: str) -> Any:
    if isinstance(found, Mapping) and part in found:
        return found[part]
    if isinstance(found, (tuple, list)):
        if part.lstrip("-").isdigit() and -len(found) <= int(part) < len(found):
            return found[int(part)]
        have = [str(i) for i in range(len(found))]
    else:
        have = [str(k) for k in found] if isinstance(found, Mapping) else []
    raise KeyError(
        f"{who} has no signal {path!r}; at {part!r} it has: {', '.join(have) or 'nothing'}."
        + suggest(part, have)
        + " An inner layer becomes a signal with capture(model, 'name')."
    )


def as_batch(batch: Batch | None) -> Mapping[str, Any]:
    """A batch as a mapping: ``(inputs, labels)`` pairs get these two names.

    A named tuple with a field ``inputs`` keeps its own names.

    Raises:
        TypeError: for anything that is neither a mapping nor a pair.
    """
    if batch is None or isinstance(batch, Mapping):
        return batch or {}
    if "inputs" in getattr(batch, "_fields", ()):
        named: Mapping[str, Any] = batch._asdict()  # type: ignore[union-attr]
        return named
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return {"inputs": batch[0], "labels": batch[1]}
    raise TypeError(
        "expected a batch that is a mapping or an (inputs, labels) pair, "
        f"got {type(batch).__name__}"
        + (f" of {len(batch)}" if isinstance(batch, (tuple, list)) else "")
    )


def place(batch: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    """The batch with its tensors on the device of the model."""
    if (device := home(model)) is None:
        return batch
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def bring(signals: Any, device: torch.device) -> Any:
    """Signals with their tensors on a device; the same object where nothing has to move."""
    if isinstance(signals, Tensor):
        return signals.to(device)
    if isinstance(signals, Mapping):
        moved = {k: bring(v, device) for k, v in signals.items()}
        return signals if all(moved[k] is signals[k] for k in moved) else moved
    if isinstance(signals, (tuple, list)):
        values = tuple(bring(v, device) for v in signals)
        return signals if all(a is b for a, b in zip(values, signals, strict=True)) else values
    return signals


def call(model: nn.Module, batch: Mapping[str, Any], forward: Forward | None = None) -> Signals:
    """Ask a model about a batch.

    A batch with ``inputs`` is passed as ``model(inputs)``; any other mapping as keywords, without
    labels and other descriptions of the batch that the model does not take.

    Args:
        model: Any module.
        batch: The mapping of :func:`as_batch`.
        forward: ``forward(model, batch)``, for models that want to be called differently.
    """
    if forward is not None:
        from .captured import Captured  # which imports this file

        if isinstance(model, Captured) and model.unseen:
            return model.ask(forward, batch)
        return as_signals(forward(model, batch))
    if "inputs" in batch:
        return as_signals(model(batch["inputs"]))
    named = {k: v for k, v in batch.items() if k not in DESCRIPTIVE or _own(model, k)}
    said = as_signals(model(**named))
    _check_virtual(model, batch, said)
    return said


def _own(model: nn.Module, key: str) -> bool:
    """Whether a model reads a mask or weights itself; labels are kept from all models."""
    if key not in ("mask", "weight"):
        return False
    from .captured import inside  # which imports this file

    return accepts(inside(model).forward, key)


def _check_virtual(model: nn.Module, batch: Mapping[str, Any], said: Signals) -> None:
    """Whether a model tuned by PEFT's virtual tokens answers those too."""
    inner = unwrapped(model)
    owners = (inner, getattr(inner, "model", None))  # a view has the model inside
    settings = next(filter(None, (getattr(o, "active_peft_config", None) for o in owners)), None)
    virtual = getattr(settings, "num_virtual_tokens", None)
    ids, z = batch.get("input_ids"), None if isinstance(said, Tensor) else said.get("logits")
    if not virtual or not isinstance(ids, Tensor) or not isinstance(z, Tensor) or z.ndim != 3:
        return
    if z.shape[1] == ids.shape[1] + virtual:
        raise ValueError(
            f"the model answers its {virtual} virtual tokens too, which are in no batch. Leave "
            "them out by distill(…, forward=lambda model, batch: {'logits': model(input_ids="
            f"batch['input_ids']).logits[:, {virtual}:]}}), and Teacher(…, forward=…) of a "
            "teacher; or tune the model by LoRA"
        )


def as_signals(output: Any) -> Signals:
    """What a model returned, if these are signals.

    Raises:
        TypeError: they are none.
    """
    if isinstance(output, (Tensor, Mapping)):
        return output
    raise TypeError(
        f"the model returned a {type(output).__name__}; expected logits, a mapping of names to "
        "tensors, or a ModelOutput. Say what is what with forward=lambda model, batch: {...}"
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``."""
    wrapped = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
    inner = model.module if wrapped else getattr(model, "_orig_mod", None)
    return unwrapped(inner) if isinstance(inner, nn.Module) else model


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """What a function takes; of a module its ``forward``, whose call takes anything."""
    if isinstance(function, functools.partial) and isinstance(function.func, nn.Module):
        function = functools.partial(function.func.forward, *function.args, **function.keywords)
    try:
        return inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    except (TypeError, ValueError):  # some that are written in C tell nothing
        return inspect.Signature()


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether a function takes a keyword of that name."""
    found = signature_of(function).parameters.get(name)
    return found is not None and found.kind in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY)


def modes_of(*models: Any) -> list[tuple[nn.Module, bool]]:
    """Every module of the models, and whether it is in train mode."""
    return [(p, p.training) for m in models if isinstance(m, nn.Module) for p in m.modules()]


def set_modes(modes: Iterable[tuple[nn.Module, bool]]) -> None:
    """Put modules in the modes that :func:`modes_of` found, each on its own."""
    for part, mode in modes:
        part.training = mode


@contextmanager
def eval_mode(models: Iterable[Any]) -> Iterator[None]:
    """Eval mode, and afterwards each module in the mode that it was in."""
    modes = modes_of(*models)
    set_modes((part, False) for part, _ in modes)
    try:
        yield
    finally:
        set_modes(modes)
