"""What a model says of a batch, by name: ``logits``, ``hidden_states/4``, ``layer3``.

Signals are a tensor (taken as the logits), a mapping from names to tensors, or a Hugging Face
``ModelOutput``. A path such as ``hidden_states/4`` walks into tuples and mappings.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["Captured", "Signals", "as_batch", "call", "capture", "pick", "place", "tell"]

Signals = Tensor | Mapping[str, Any]
Batch = Mapping[str, Any] | tuple[Any, ...] | list[Any]
Forward = Callable[[nn.Module, Mapping[str, Any]], Any]

# Keys of a batch that describe it and are never an argument of a model.
DESCRIPTIVE = frozenset({"labels", "index", "mask", "weight", "human", "augmentation"})


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

    Example:
        >>> import torch
        >>> pick({"hidden_states": (torch.zeros(1), torch.ones(1))}, "hidden_states/1")
        tensor([1.])
    """
    if isinstance(signals, Tensor):
        if path == "logits":
            return signals
        signals = {"logits": signals}
    if path in signals:
        found = signals[path]
    else:
        found = signals
        for part in path.split("/"):
            found = _step(found, part, path, who)
    if not isinstance(found, Tensor):
        raise KeyError(
            f"{who} signal {path!r} is a {type(found).__name__}, not a tensor; "
            f"go on with {path}/0 or the like"
        )
    return found


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

    Raises:
        TypeError: for anything that is neither a mapping nor a pair.
    """
    if batch is None:
        return {}
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return {"inputs": batch[0], "labels": batch[1]}
    raise TypeError(
        "expected a batch that is a mapping or an (inputs, labels) pair, "
        f"got {type(batch).__name__}"
        + (f" of {len(batch)}" if isinstance(batch, (tuple, list)) else "")
    )


def place(batch: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    """The batch with its tensors on the device of the model."""
    device = next((p.device for p in model.parameters()), None)
    if device is None:
        return batch
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


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
        return _checked(forward(model, batch))
    if "inputs" in batch:
        return _checked(model(batch["inputs"]))
    return _checked(model(**{k: v for k, v in batch.items() if k not in DESCRIPTIVE}))


def _checked(output: Any) -> Signals:
    if isinstance(output, (Tensor, Mapping)):
        return output
    raise TypeError(
        f"the model returned a {type(output).__name__}; expected logits, a mapping of names to "
        "tensors, or a ModelOutput. Say what is what with forward=lambda model, batch: {...}"
    )


class Captured(nn.Module):
    """A model that also tells what inner layers say; made by :func:`distill_lib.capture`."""

    def __init__(self, model: nn.Module, layers: tuple[str, ...]) -> None:
        super().__init__()
        known = dict(model.named_modules())
        for name in layers:
            if name not in known or not name:
                have = [k for k in known if k]
                raise KeyError(
                    f"the model has no layer {name!r}; it has {', '.join(have[:40])}"
                    f"{', …' if len(have) > 40 else ''}.{suggest(name, have)}"
                )
        self.model = model
        self.layers = layers
        self._seen: dict[str, Any] = {}
        # partials of a method, not closures: they follow the model into a deep copy
        self._handles = [
            known[name].register_forward_hook(functools.partial(self._keep, name))
            for name in layers
        ]

    def _keep(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self._seen[name] = output[0] if isinstance(output, tuple) else output

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The model's own signals and the captured layers, by name."""
        self._seen = {}
        output = _checked(self.model(*args, **kwargs))
        signals = {"logits": output} if isinstance(output, Tensor) else dict(output)
        missing = [name for name in self.layers if name not in self._seen]
        if missing:
            raise RuntimeError(f"layers {missing} were not used in this forward pass")
        seen, self._seen = self._seen, {}
        return {**signals, **seen}

    def release(self) -> None:
        """Take the hooks off the model again."""
        for handle in self._handles:
            handle.remove()


def capture(model: nn.Module, *layers: str) -> Captured:
    """Make inner layers into signals.

    :func:`distill_lib.distill` does this by itself for every layer that an objective names.

    Args:
        model: Any module; it is shared, not copied.
        layers: Names as in ``model.named_modules()``.

    Returns:
        A module whose output is a mapping with the model's own signals and each layer's output.

    Raises:
        KeyError: for a layer that does not exist, with the names of those that do.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> {k: tuple(v.shape) for k, v in capture(net, "1")(torch.zeros(5, 3)).items()}
        {'logits': (5, 2), '1': (5, 4)}
    """
    return Captured(model, layers)


def layers_among(model: nn.Module, paths: Iterable[str]) -> tuple[str, ...]:
    """Those of the paths that name a layer of the model."""
    names = {name for name, _ in model.named_modules() if name}
    return tuple(dict.fromkeys(p for p in paths if p in names))


def tell(model: nn.Module, paths: Iterable[str]) -> Callable[[], None]:
    """Have a Hugging Face model return the hidden states or attention maps that paths name.

    Returns:
        A function that sets the model's configuration back.

    Raises:
        ValueError: attention maps are asked of a model whose attention does not make them.
    """
    config = getattr(model.model if isinstance(model, Captured) else model, "config", None)
    wanted = {path.split("/")[0] for path in paths} & {"hidden_states", "attentions"}
    if config is None or not hasattr(config, "output_hidden_states"):
        return lambda: None
    how = getattr(config, "_attn_implementation", "eager")
    if "attentions" in wanted and how not in (None, "eager"):
        raise ValueError(
            f"{type(model).__name__} computes its attention by {how!r}, which makes no maps; load "
            'it with attn_implementation="eager", or match hidden states or relations'
        )
    before = {f"output_{name}": getattr(config, f"output_{name}") for name in wanted}
    for name in before:
        setattr(config, name, True)

    def undo() -> None:
        for name, value in before.items():
            setattr(config, name, value)

    return undo


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether a function takes a keyword of that name."""
    return name in inspect.signature(function).parameters


@contextmanager
def eval_mode(models: Iterable[Any]) -> Iterator[None]:
    """Eval mode, and afterwards each module in the mode that it was in."""
    parts = [part for m in models if isinstance(m, nn.Module) for part in m.modules()]
    modes = [part.training for part in parts]
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
