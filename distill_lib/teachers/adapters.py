"""A student with adapters, taught by its own base: one set of weights, asked twice."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from distill_lib.signals import Batch, Forward, Signals, eval_mode, inside

from .live import Teacher, _feed

__all__ = ["BaseOf"]

# Ways to begin an adapter that take it out of the base: without it, the base is not what it was.
_TAKEN_OUT = ("pissa", "corda", "olora", "loftq", "lora_ga", "kasa")
# These work by hooks on the whole model, or replace its modules: there is no switch for them.
_UNSWITCHED = ("XLORA", "ADAPTION_PROMPT")
# Where a layer with adapters keeps the module that it stands in for.
_BASES = ("original_module", "base_layer", "token_adapter")


class BaseOf(Teacher):
    """The student's own base as its teacher: the same model, asked with its adapters off.

    For a student with adapters of PEFT, or of the methods of 🤗 Transformers that use it. It costs
    no memory beyond the student's. While it answers, all adapters are off, and the original
    modules stand in for ``modules_to_save``; the model is in eval mode and has no gradient. Then
    everything is as before: each module's mode, what is trained, which adapters are active, random
    generators, hooks.

    Its fingerprint is that of the base alone, so that a cache of its answers stays good while the
    adapters learn, and one of the base's own answers can be used in its place.

    Args:
        student: The model with adapters; it is shared, and is where the teacher is: ``to()`` moves
            neither.
        preprocess: As in :class:`Teacher`.
        forward: ``forward(model, batch)`` for models that are not called as ``model(inputs)``.

    Raises:
        TypeError: a student that is no module.
        ValueError: a model without adapters; adapters that are merged into the base, that began by
            changing it (PiSSA, CorDA, OLoRA, LoftQ, LoRA-GA, KaSA), or that have no switch
            (X-LoRA, adaption prompts). In :func:`distill_lib.distill` also a base that is trained
            along, such as its biases or batch normalization.

    Example:
        >>> from peft import LoraConfig, get_peft_model
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> x = torch.randn(5, 4)
        >>> before = net(x).detach()
        >>> student = get_peft_model(net, LoraConfig(target_modules=["0"], init_lora_weights=False))
        >>> after = BaseOf(student)({"inputs": x})
        >>> bool((after == before).all()), bool((student(x) == before).all())
        (True, False)
    """

    def __init__(
        self,
        student: nn.Module,
        preprocess: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        forward: Forward | None = None,
    ) -> None:
        super().__init__(inside(student), preprocess, forward=forward)
        _check(self._base())

    def _settle(self) -> None:
        """The model is the student's: its mode is set for the answer alone."""

    @torch.no_grad()
    def __call__(self, batch: Batch | torch.Tensor) -> Signals:
        """The base's signals for a batch, without gradient."""
        model = self._base()
        _check(model)
        cards = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
        with torch.random.fork_rng(sorted(cards)), eval_mode([model]), _without_adapters(model):
            return super().__call__(batch)

    def to(self, device: torch.device | str) -> BaseOf:
        """Nothing: it is where the student is."""
        return self

    def models(self) -> Iterator[nn.Module]:
        """One module that holds what must not be trained: the tensors of the base."""
        held = nn.Module()
        for i, value in enumerate(_state(self._base()).values()):
            if isinstance(value, nn.Parameter):
                held.register_parameter(str(i), value)
            elif isinstance(value, torch.Tensor):
                held.register_buffer(str(i), value)
        yield held

    def fingerprint(self) -> str:
        """SHA-256 of the base, the same as before it had adapters."""
        digest = hashlib.sha256()
        for name, value in _state(self._base()).items():
            _feed(digest, name, value)
        return digest.hexdigest()


def _switches(model: nn.Module) -> list[Any]:
    """The layers with adapters, and the modules that are trained in a copy."""
    # PEFT says so by a property of both; a model of Transformers has a method of that name
    return [m for m in model.modules() if isinstance(getattr(m, "disable_adapters", None), bool)]


def _prompted(model: nn.Module) -> list[Any]:
    """The models that PEFT gives a prompt that is learned, in front of what they read."""
    wrapped = [m for m in model.modules() if "base_model" in m._modules and _configs(m)]
    return [m for m in wrapped if any(c.is_prompt_learning for c in _configs(m).values())]


def _configs(module: nn.Module) -> dict[str, Any]:
    found = getattr(module, "peft_config", None)
    return dict(found) if isinstance(found, Mapping) else {}


def _check(model: nn.Module) -> None:
    """The base can be asked by itself, and says what it said before there were adapters."""
    name = type(model).__name__
    configs = {k: c for m in model.modules() for k, c in _configs(m).items()}
    for key, config in configs.items():
        kind = str(getattr(getattr(config, "peft_type", None), "value", ""))
        begun = str(getattr(config, "init_lora_weights", "")).lower()
        begun = "kasa" if getattr(config, "kasa_config", None) is not None else begun
        if kind in _UNSWITCHED:
            raise ValueError(
                f"BaseOf: the adapter {key!r} of {name} is of the kind {kind}, which cannot be "
                "switched off for one answer; take Teacher(copy of the base) instead"
            )
        if begun.startswith(_TAKEN_OUT):
            raise ValueError(
                f"BaseOf: the adapter {key!r} of {name} began by {begun!r}, which changed the base:"
                " without the adapter it is not the model that it was. Take Teacher(the model as "
                "it was loaded), or begin with init_lora_weights=True"
            )
    switches = _switches(model)
    if not switches and not _prompted(model):
        raise ValueError(
            f"BaseOf: {name} has no adapters to switch off (PEFT's, or those of Transformers that "
            "use it; merge_and_unload() ends them). For a frozen copy as the teacher use "
            "Teacher(copy.deepcopy(model)), for an average of the student EMA(student, decay)"
        )
    merged = {key for part in switches for key in part.merged_adapters}
    if merged:
        raise ValueError(
            f"BaseOf: the adapters {sorted(merged)} of {name} are merged into the base, which no "
            "longer answers for itself; call unmerge_adapter() first"
        )


@contextlib.contextmanager
def _without_adapters(model: nn.Module) -> Iterator[None]:
    """All adapters off, and afterwards each as it was."""
    # Not by PEFT's own methods: they also set what is trained, and turn on what the user had off.
    switches = [(part, part.disable_adapters) for part in _switches(model)]
    prompted = [(part, part.__dict__.get("forward")) for part in _prompted(model)]
    try:
        for part, _ in switches:
            part._disable_adapters = True
        for part, _ in prompted:
            part.forward = part.base_model.forward
        yield
    finally:
        for part, off in switches:
            part._disable_adapters = off
        for part, forward in prompted:
            del part.forward
            if forward is not None:
                part.forward = forward


def _state(model: nn.Module) -> dict[str, Any]:
    """The state of the base, by the names that it had before there were adapters."""
    inner: dict[str, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        parts = module._modules
        if isinstance(getattr(module, "disable_adapters", None), bool):
            inner[name] = next((c for c in _BASES if parts.get(c) is not None), "base_layer")
        elif "base_model" in parts and _configs(module):
            inner[name] = "base_model"
        elif "model" in parts and hasattr(module, "disable_adapter_layers"):
            inner[name] = "model"
    found = {}
    for key, value in model.state_dict(keep_vars=True).items():
        name = _name_in_base(key, inner)
        if name is not None:
            found[name] = value
    return found


def _name_in_base(key: str, inner: Mapping[str, str]) -> str | None:
    """A name without the wrappers' parts; None for what is an adapter's."""
    names, here = [], ""
    for part in key.split("."):
        base = inner.get(here)
        if base is None:
            names.append(part)
        elif part != base:
            return None
        here = f"{here}.{part}" if here else part
    return ".".join(names)
