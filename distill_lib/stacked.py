"""Several copies of one small network, run as one: five seeds for little more than one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from .arguments import checked, told
from .ties import besides, settings

__all__ = ["Stacked", "fold", "unfold"]


@checked
class Stacked(nn.Module):
    r"""S networks of one architecture as a single batched model.

    Their parameters are stacked along a new first axis and the forward pass is vectorized over it.
    Items of the loss stay separate, so each network gets exactly the gradient that it would get
    alone, times 1/S; under Adam, or SGD with S times the rate, S trainings run in one. What is
    frozen in them stays frozen, unless all is, as of copies of a teacher: these are to learn.

    Args:
        models: The networks, as initialized by their own seeds.
        ndim: Rank of one network's input batch (2 for [B, D], 4 for images). Inputs of this rank
            are shared by all networks; inputs of one more have a leading axis of S.

    Shape:
        [B, ...] or [S, B, ...] to [S, B, C].

    Raises:
        ValueError: no model, models of different architectures (other layers, settings or hooks),
            or frozen in other parts; inputs of another rank.
        RuntimeError: later, a model with operators that ``torch.vmap`` does not know, as LSTMs.

    Example:
        >>> nets = Stacked([nn.Linear(4, 3) for _ in range(5)], ndim=2)
        >>> nets(torch.zeros(7, 4)).shape
        torch.Size([5, 7, 3])
    """

    def __init__(self, models: Sequence[nn.Module], *, ndim: int) -> None:
        super().__init__()
        models = list(models)
        if not models:
            raise ValueError("Stacked expected at least one model, got none")
        told_apart = [besides(model) for model in models]
        layouts = {
            tuple(
                (k, getattr(v, "shape", ()), None if k in besides else v.dtype)
                for k, v in model.state_dict().items()
            )
            for model, besides in zip(models, told_apart, strict=True)
        }
        if len(layouts) > 1:
            raise ValueError(
                "Stacked expected models of one architecture; their parameters differ in name, "
                "shape or type"
            )
        first = _inside(models[0])
        for number, model in enumerate(models[1:], 1):
            if odd := [name for name, said in _inside(model).items() if first.get(name) != said]:
                raise ValueError(
                    f"Stacked runs all models as the first, and layer {odd[0]!r} of model {number} "
                    f"is {_inside(model)[odd[0]]} where the first has {first.get(odd[0])}: stack "
                    "models that differ in their weights only, or train them one by one"
                )
        self.size: int = len(models)
        self.ndim = ndim
        if len({type(model) for model in models}) > 1:  # parametrized, each has its own
            raise ValueError(
                "Stacked expected models of one class; layers that are parametrized are of one "
                "each: wrap them, as nn.Sequential(layer)"
            )
        template = copy.deepcopy(models[0])
        # in a tuple, so that the template is no submodule and adds nothing to state_dict()
        self._template = (template,)
        params, buffers = stack_module_state(list(models))
        named = (template.named_parameters, template.named_buffers)
        held = sum(1 for all_of in named for _ in all_of(remove_duplicate=False))
        if any(one != told_apart[0] for one in told_apart[1:]):
            raise ValueError(
                f"Stacked expected models that differ in their weights only, and their "
                f"{', '.join(told_apart[0] or told_apart[1])} differ: train them one by one"
            )
        # looked for here: at every call it would take a fifth of the time
        self._tied: bool = held > len(params) + len(buffers)
        self._names = {name.replace(".", "/"): name for name in (*params, *buffers)}
        learns = {n for n, p in template.named_parameters() if p.requires_grad} or {*params}
        self.weights: nn.ParameterDict = nn.ParameterDict(
            {
                n.replace(".", "/"): nn.Parameter(p.detach().clone(), n in learns)
                for n, p in params.items()
            }
        )
        for name, buffer in buffers.items():
            self.register_buffer(name.replace(".", "/"), buffer.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """[S, B, C] from shared [B, ...] or separate [S, B, ...] inputs."""
        if not isinstance(inputs, Tensor):
            raise TypeError(f"Stacked expected a tensor of inputs, got {told(inputs)}")
        if inputs.ndim not in (self.ndim, self.ndim + 1):
            raise ValueError(
                f"Stacked expected inputs of rank {self.ndim} (shared) or {self.ndim + 1} "
                f"(one a network), got shape {tuple(inputs.shape)}"
            )
        own = inputs.ndim > self.ndim
        if own and len(inputs) != self.size:
            raise ValueError(f"{self.size} networks, but inputs for {len(inputs)}")
        template = self._template[0]
        template.train(self.training)
        state = {**self.weights, **self._buffers}
        names = [self._names[key] for key in state]

        def one(*values: Tensor) -> Any:
            x, *weights = values if own else (inputs, *values)
            named = dict(zip(names, weights, strict=True))
            return functional_call(template, named, (x,), tie_weights=self._tied)

        values = (inputs, *state.values()) if own else tuple(state.values())
        try:
            return cast(Tensor, torch.vmap(one, randomness="different")(*values))
        except RuntimeError as error:
            if "Batching rule not implemented" not in str(error):
                raise
            raise RuntimeError(
                f"torch cannot run these models side by side ({str(error).partition('. ')[0]}), "
                "as those with LSTMs or GRUs: train them one by one"
            ) from error

    def unstack(self) -> list[nn.Module]:
        """The S networks, each on its own, with copies of their weights."""
        models = []
        for i in range(self.size):
            model = copy.deepcopy(self._template[0])
            values = {**dict(self.weights.items()), **self._buffers}
            kept = {
                self._names[k]: v[i].detach().clone() for k, v in values.items() if v is not None
            }
            # what a state_dict() says besides is the template's, and so is a buffer that is in
            # none, such as a table of frequencies
            for name, one in (*model.named_parameters(), *model.named_buffers()):
                one.data = one.data.to(kept[name]) if name in kept else one.data
            own = model.state_dict()
            model.load_state_dict({**own, **{k: v for k, v in kept.items() if k in own}})
            models.append(model)
        return models


def _inside(model: nn.Module) -> dict[str, str]:
    """What each layer of a model is: its class, its settings, its hooks."""
    found = {}
    for name, module in model.named_modules():
        kind = type(module)
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        named = [getattr(hook, "__qualname__", type(hook).__name__) for hook in hooks]
        grown = [k for k, p in module._parameters.items() if p is not None and p.requires_grad]
        given = ", ".join(f"{k}={v!r}" for k, v in settings(module).items())
        found[name] = f"{kind.__name__}({given})" + "".join(f" with {hook}" for hook in named)
        found[name] += f" that trains {', '.join(grown)}" if grown else ""
    return found


def fold(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """A batch [S, B, ...] for several networks as one of [S·B, ...] for a single one.

    Raises:
        ValueError: tensors that are not of the S·B items that ``index`` names.
    """
    tensors = {k: v for k, v in batch.items() if isinstance(v, Tensor)}
    lead = tensors["index"].shape[:2] if "index" in tensors else None
    for name, value in tensors.items():
        if value.ndim < 2 or value.shape[:2] != (lead or value.shape[:2]):
            raise ValueError(
                f"an index {list(lead or ())} of two axes says that the batch is one of "
                f"[S, B, ...], of S students and B items each, and batch[{name!r}] is "
                f"{list(value.shape)}. For one student an index has one number an item, [B]: "
                "index.flatten()"
            )
    return {k: v.flatten(0, 1) if k in tensors else v for k, v in batch.items()}


def unfold(signals: Any, seeds: int) -> Any:
    """What a single network said of a folded batch, with the axis of the seeds again.

    Raises:
        ValueError: a signal that has no answer an item.
    """
    if isinstance(signals, Tensor):
        if not signals.ndim:  # such as a loss that the model computed itself
            return signals
        if len(signals) % seeds:
            raise ValueError(
                f"asked for {seeds} students at once, a model answered with "
                f"{list(signals.shape)}, which are not as many answers for each of them"
            )
        return signals.reshape(seeds, -1, *signals.shape[1:])
    if isinstance(signals, Mapping):
        return {k: unfold(v, seeds) for k, v in signals.items()}
    if isinstance(signals, (tuple, list)):
        return tuple(unfold(v, seeds) for v in signals)
    return signals
