"""Inner layers as signals, and models of Transformers that tell what they keep to themselves."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from distill_lib.arguments import checked

from .said import Forward, accepts, as_signals, suggest, unwrapped

# decoder_hidden_states and cross_attentions are told with the others
TOLD = re.compile(r"(?:\w+_)?(hidden_states|attentions)")


@checked
class Captured(nn.Module):
    """A model that also tells what inner layers say; made by :func:`distill_lib.capture`.

    One that is ``unseen`` was made by the library: a ``forward=`` gets the model itself.
    """

    def __init__(self, model: nn.Module, layers: tuple[str, ...], unseen: bool = False) -> None:
        super().__init__()
        known = layers_of(model)
        for name in layers:
            if name not in known:
                have = [*known]
                raise KeyError(
                    f"the model has no layer {name!r}; it has {', '.join(have[:40])}"
                    f"{', …' if len(have) > 40 else ''}.{suggest(name, have)}"
                )
        self.model = model
        self.layers = layers
        self.unseen = unseen
        self._seen: dict[str, list[Any]] = {}
        self._given: tuple[Any, ...] = ()
        self._handles: list[Any] = []
        self._open = False  # whether a forward pass of this view is under way
        self.attach()

    def attach(self) -> None:
        """Put the hooks on the model."""
        known = layers_of(self.model)
        # partials of a method, not closures: they follow the model into a deep copy
        self._handles = [
            known[name].register_forward_hook(functools.partial(self._hear, name))
            for name in self.layers
        ]

    def _hear(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        """Keep what a layer returned; the model goes on with its own."""
        if self._open:
            first = output[0] if isinstance(output, tuple) and output else output
            self._seen[name].append(_each(first, functools.partial(self._keep, name)))

    def _keep(self, name: str, value: Tensor) -> Tensor:
        """A copy: what follows may work in place."""
        blind = self._graded and not torch.is_grad_enabled()
        if blind and _is_trained(inside(self.model), name):
            raise RuntimeError(
                f"layer {name!r} is trained, but runs without gradient in this forward pass: a "
                "term that reads it would train nothing. Checkpoint activations with "
                "use_reentrant=False, or take it out of torch.no_grad()"
            )
        kept = value.clone()
        # The answer's gradient shall pass the copy, as maps of a layer's gradient need it: the
        # value is written onto itself, so that nothing changes for what shares its memory. Not
        # where torch forbids it (leaves, expanded ones), nor in the memory of the user's input.
        own = any(isinstance(v, Tensor) and _root(v) is _root(value) for v in self._given)
        if kept.requires_grad and not own and not torch.compiler.is_compiling():
            with suppress(RuntimeError), _unsafe_preserve_version_counter(value):
                value.copy_(kept)
        return kept

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The model's own signals and the captured layers, by name.

        A layer that was called several times is a tuple: its calls are ``name/0``, ``name/1``, ….
        A dataclass is a mapping: its fields are ``name/field``.
        """
        return self._heard(lambda: self.model(*args, **kwargs), (*args, *kwargs.values()))

    def ask(self, forward: Forward, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What ``forward`` makes of the model and a batch, and the captured layers."""
        return self._heard(lambda: forward(self.model, batch), tuple(batch.values()))

    def _heard(self, asked: Callable[[], Any], given: tuple[Any, ...]) -> dict[str, Any]:
        self._seen = {name: [] for name in self.layers}
        self._given = given
        self._open, self._graded = True, torch.is_grad_enabled()
        try:
            output = as_signals(asked())
        finally:
            self._open, self._given = False, ()
            seen, self._seen = self._seen, {}
        signals = {"logits": output} if isinstance(output, Tensor) else dict(output)
        if missing := [name for name in self.layers if not seen[name]]:
            compiled = "; a model compiled before needs torch.compiler.reset() first"
            hint = compiled * hasattr(self.model, "_orig_mod")
            raise RuntimeError(f"layers {missing} were not used in this forward pass{hint}")
        calls = {k: found[0] if len(found) == 1 else tuple(found) for k, found in seen.items()}
        return {**signals, **calls, **signals}  # what the model says itself is never hidden

    def release(self) -> None:
        """Take the hooks off the model again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _each(value: Any, keep: Callable[[Tensor], Tensor]) -> Any:
    """What a layer returned, with each tensor kept."""
    if isinstance(value, Tensor):
        return keep(value)
    if isinstance(value, dict):
        found = copy.copy(value)  # of its own kind: a ModelOutput stays one
        for key, part in value.items():
            found[key] = _each(part, keep)
        return found
    if isinstance(value, (tuple, list)):
        made: Any = list if isinstance(value, list) else getattr(type(value), "_make", tuple)
        return made([_each(part, keep) for part in value])
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _each(getattr(value, field.name), keep) for field in fields(value)}
    return value


def _root(value: Tensor) -> Tensor:
    """The tensor that a view is a view of."""
    return value if value._base is None else value._base


def _is_trained(model: nn.Module, layer: str) -> bool:
    """Whether a layer, or for one without parameters the nearest part that has some, is trained."""
    while layer:
        if params := list(model.get_submodule(layer).parameters()):
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
        A module whose output is a mapping with the model's own signals and each layer's output, a
        copy of it. A signal that the model says itself wins over a layer of its name. The model
        computes what it computes without; its answer's gradient passes
        the copies, unless it is compiled.

    Raises:
        KeyError: for a layer that does not exist, with the names of those that do.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> {k: tuple(v.shape) for k, v in capture(net, "1")(torch.zeros(5, 3)).items()}
        {'logits': (5, 2), '1': (5, 4)}
    """
    return Captured(model, layers)


def inside(model: nn.Module) -> nn.Module:
    """The model itself, without wrappers and captures."""
    inner = unwrapped(model)
    return inside(inner.model) if isinstance(inner, Captured) else inner


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of a model by name; one that it holds under several names has all of them."""
    named = inside(model).named_modules(remove_duplicate=False)
    return {name: part for name, part in named if name}


def layers_among(model: nn.Module, paths: Iterable[str]) -> tuple[str, ...]:
    """The layers of the model that the paths name; ``act/1`` is the second call of ``act``."""
    names = layers_of(model)
    found = (p if p in names else p.split("/")[0] for p in paths)
    return tuple(dict.fromkeys(p for p in found if p in names))


def tell(model: nn.Module, paths: Iterable[str]) -> Callable[[], None]:
    """Have a Hugging Face model return the hidden states or attention maps that paths name.

    ``decoder_hidden_states/1`` or ``cross_attentions/0`` of one with encoder and decoder are too.

    Returns:
        A function that leaves the model as it was.

    Raises:
        ValueError: attention maps are asked of a model whose attention does not make them.
    """
    inner = inside(model)
    config: Any = getattr(inner, "config", None)
    named = (TOLD.fullmatch(path.split("/")[0]) for path in paths)
    wanted = {found[1] for found in named if found}
    if not wanted or not hasattr(config, "output_hidden_states"):
        return lambda: None
    if "attentions" in wanted and not _makes_maps(config):
        raise ValueError(
            f"{type(model).__name__} computes its attention by {config._attn_implementation!r}, "
            'which makes no maps; load it with attn_implementation="eager", or match hidden states '
            "or relations"
        )
    # T5's halves have configurations of their own
    configs = {id(c): c for c in (getattr(part, "config", None) for part in inner.modules())}
    before = [
        (c, f"output_{name}", getattr(c, f"output_{name}"))
        for c in configs.values()
        for name in wanted
        if hasattr(c, f"output_{name}") and (name != "attentions" or _makes_maps(c))
    ]
    # PEFT hands its own None down, which a configuration does not overrule
    flags = [f"output_{name}" for name in wanted if accepts(inner, f"output_{name}")]
    asks = functools.partial(_ask, flags)
    handle = inner.register_forward_pre_hook(asks, with_kwargs=True) if flags else None
    for owner, flag, _ in before:
        setattr(owner, flag, True)

    def undo() -> None:
        for owner, flag, value in before:
            setattr(owner, flag, value)
        if handle is not None:
            handle.remove()

    return undo


def _makes_maps(config: Any) -> bool:
    return getattr(config, "_attn_implementation", None) in (None, "eager")


def _ask(
    flags: list[str], module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Say yes where nothing is said."""
    unsaid = {flag: True for flag in flags if kwargs.get(flag) is None}
    return args, {**kwargs, **unsaid}
