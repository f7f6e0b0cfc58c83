"""What a model says of a batch, by name: ``logits``, ``hidden_states/4``, ``layer3``.

Signals are a tensor (taken as the logits), a mapping from names to tensors, or a Hugging Face
``ModelOutput``. A path such as ``hidden_states/4`` walks into tuples and mappings.
"""

from __future__ import annotations

import copy
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .arguments import checked
from .ties import home

__all__ = ["Captured", "Signals", "as_batch", "call", "capture", "pick", "place", "tell"]

Signals = Tensor | Mapping[str, Any]
Batch = Mapping[str, Any] | tuple[Any, ...] | list[Any]
Forward = Callable[[nn.Module, Mapping[str, Any]], Any]

# Keys of a batch that describe it and are never an argument of a model.
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
    if batch is None or isinstance(batch, Mapping):
        return batch or {}
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return {"inputs": batch[0], "labels": batch[1]}
    raise TypeError(
        "expected a batch that is a mapping or an (inputs, labels) pair, "
        f"got {type(batch).__name__}"
        + (f" of {len(batch)}" if isinstance(batch, (tuple, list)) else "")
    )


def place(batch: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    """The batch with its tensors on the device of the model."""
    device = home(model)
    if device is None:
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


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(inner, nn.Module):
            model = inner
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


@checked
class Captured(nn.Module):
    """A model that also tells what inner layers say; made by :func:`distill_lib.capture`."""

    def __init__(self, model: nn.Module, layers: tuple[str, ...]) -> None:
        super().__init__()
        known = dict(unwrapped(model).named_modules())
        for name in layers:
            if name not in known or not name:
                have = [k for k in known if k]
                raise KeyError(
                    f"the model has no layer {name!r}; it has {', '.join(have[:40])}"
                    f"{', …' if len(have) > 40 else ''}.{suggest(name, have)}"
                )
        self.model = model
        self.layers = layers
        self._seen: dict[str, list[Any]] = {}
        self._handles: list[Any] = []
        self._open = False  # whether a forward pass of this view is under way
        self.attach()

    def attach(self) -> None:
        """Put the hooks on the model."""
        known = dict(unwrapped(self.model).named_modules())
        # partials of a method, not closures: they follow the model into a deep copy
        self._handles = [
            known[name].register_forward_hook(functools.partial(self._keep, name))
            for name in self.layers
        ]

    def _keep(self, name: str, module: nn.Module, args: Any, output: Any) -> Any:
        if not self._open:
            return None
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, (dict, list)) and first is output:
            self._seen[name].append(copy.copy(first))
            return tree_map_only(Tensor, torch.clone, first)
        self._seen[name].append(first)
        if not isinstance(first, Tensor):
            return None
        blind = self._graded and not torch.is_grad_enabled()
        if blind and _is_trained(unwrapped(self.model), name):
            raise RuntimeError(
                f"layer {name!r} is trained, but runs without gradient in this forward pass: a "
                "term that reads it would train nothing. Checkpoint activations with "
                "use_reentrant=False, or take it out of torch.no_grad()"
            )
        # the model goes on with a copy: what follows may work in place
        if first is output:
            return first.clone()
        return getattr(type(output), "_make", tuple)((first.clone(), *output[1:]))

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The model's own signals and the captured layers, by name.

        A layer that was called several times is a tuple: its calls are ``name/0``, ``name/1``, ….
        """
        self._seen = {name: [] for name in self.layers}
        self._open, self._graded = True, torch.is_grad_enabled()
        try:
            output = _checked(self.model(*args, **kwargs))
        finally:
            self._open = False
            seen, self._seen = self._seen, {}
        signals = {"logits": output} if isinstance(output, Tensor) else dict(output)
        missing = [name for name in self.layers if not seen[name]]
        if missing:
            compiled = "; a model compiled before needs torch.compiler.reset() first"
            hint = compiled * hasattr(self.model, "_orig_mod")
            raise RuntimeError(f"layers {missing} were not used in this forward pass{hint}")
        calls = {k: found[0] if len(found) == 1 else tuple(found) for k, found in seen.items()}
        return {**signals, **calls}

    def release(self) -> None:
        """Take the hooks off the model again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _is_trained(model: nn.Module, layer: str) -> bool:
    """Whether a layer, or for one without parameters the nearest part that has some, is trained."""
    while layer:
        params = list(model.get_submodule(layer).parameters())
        if params:
            return any(p.requires_grad for p in params)
        layer = layer.rpartition(".")[0]
    return False


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
    """The layers of the model that the paths name; ``act/1`` is the second call of ``act``."""
    names = {name for name, _ in unwrapped(model).named_modules() if name}
    found = (p if p in names else p.split("/")[0] for p in paths)
    return tuple(dict.fromkeys(p for p in found if p in names))


def tell(model: nn.Module, paths: Iterable[str]) -> Callable[[], None]:
    """Have a Hugging Face model return the hidden states or attention maps that paths name.

    Returns:
        A function that sets the model's configuration back.

    Raises:
        ValueError: attention maps are asked of a model whose attention does not make them.
    """
    inner = model.model if isinstance(model, Captured) else model
    config = getattr(unwrapped(inner), "config", None)
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

    def put(values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            setattr(config, name, value)

    put(dict.fromkeys(before, True))
    return functools.partial(put, before)


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether a function takes a keyword of that name."""
    return name in inspect.signature(function).parameters


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
