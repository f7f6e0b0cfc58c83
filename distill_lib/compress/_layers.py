"""Which weights of a model are compressed, who uses them, and checks that several files share."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from distill_lib.signals import suggest
from distill_lib.ties import memory, readers

__all__ = [
    "check_finite",
    "check_scores",
    "check_share",
    "compute_weight",
    "layers_of",
    "name_the_rest",
    "patches",
    "users_of",
    "way_of",
    "weights_of",
]

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TABLES = (nn.Embedding, nn.EmbeddingBag)
NORMS = (nn.LayerNorm, nn.RMSNorm)
FUSED = nn.modules.linear.NonDynamicallyQuantizableLinear  # nn.MultiheadAttention asks it nothing


def layers_of(model: nn.Module, layers: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """The linear and convolution layers, by name; one that has two names by its first.

    Args:
        model: Any module.
        layers: Names of modules; each selects itself and what is inside it. All by default. An
            embedding is selected by its own name only: most of its rows are rarely used.

    Raises:
        KeyError: a name that the model does not have.
        ValueError: nothing to compress under a name, or at all.
    """
    known = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, nn.Module] = {n: m for n, m in known.items() if isinstance(m, KINDS)}
    if layers is not None:
        if isinstance(layers, str):
            raise TypeError(
                f"layers is a sequence of names, got the string {layers!r}: ({layers!r},)"
            )
        if not len(layers):
            raise ValueError("layers expected names, got none: nothing would be compressed")
        chosen: set[str] = set()
        for name in layers:
            if name not in known:
                raise KeyError(f"the model has no layer {name!r}.{suggest(name, known)}")
            inside = {k for k in found if not name or k == name or k.startswith(f"{name}.")}
            if isinstance(known[name], nn.Embedding):
                inside = {name}
            if not inside:
                raise ValueError(
                    f"there is no linear layer and no convolution in {name!r}, which is a "
                    f"{type(known[name]).__name__}. Masks for any parameter are made by "
                    "compress.mask_lowest({name: scores})"
                )
            chosen |= inside
        found = {name: m for name, m in known.items() if name in chosen}
    if not found:
        rest = _rest(model, (), None)
        raise ValueError(
            "the model has no linear layer and no convolution: nothing to compress"
            + (f". It has {_listed(rest)}" if rest else "")
        )
    first = {module: name for name, module in reversed(known.items())}
    return {first[module]: module for module in dict.fromkeys(found.values())}


def weights_of(
    model: nn.Module, layers: Sequence[str] | None = None, what: str = ""
) -> dict[str, nn.Parameter]:
    """The weights of the linear and convolution layers, by the name of the parameter.

    A weight that several layers use is there once, under its first name in the model.

    Args:
        model: Any module.
        layers: As for :func:`layers_of`.
        what: The method, for a warning that names the weights it does not reach; none without.

    Raises:
        ValueError: a layer whose weight is no parameter of its own any more, as after
            :func:`share` or :func:`qat`; or whose weight is sparse.
    """
    first = {memory(param): (name, param) for name, param in reversed([*model.named_parameters()])}
    found = {}
    for name, module in layers_of(model, layers).items():
        computed = parametrize.is_parametrized(module, "weight")
        weight = None if computed else module.weight
        if not isinstance(weight, nn.Parameter):
            raise ValueError(
                f"the weight of {name!r} is computed from something else (shared, quantized or "
                "normalized): prune first, or make it plain with compress.bake(model), or with "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
        if weight.layout != torch.strided or weight.is_quantized:
            raise ValueError(
                f"the weight of {name!r} is sparse or quantized: give the layer a dense one first, "
                "nn.Parameter(weight.to_dense()) or nn.Parameter(weight.dequantize())"
            )
        path, param = first[memory(weight)]
        found[path] = param
    if what:
        name_the_rest(model, found.values(), what, layers)
    return found


def users_of(model: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """The layers that use a weight, each of which would have to use what becomes of it.

    Raises:
        ValueError: it is also used by something else, or in another shape.
    """
    weight = model.get_parameter(name)
    found: list[tuple[str, nn.Module]] = []
    for path, module, leaf in readers(model, weight):
        alike = getattr(module, leaf).shape == weight.shape
        if not isinstance(module, (*KINDS, *TABLES)) or leaf != "weight" or not alike:
            raise ValueError(
                f"{name!r} is also {f'{path}.{leaf}'.strip('.')!r}, of a {type(module).__name__} "
                f"{tuple(getattr(module, leaf).shape)}, which cannot follow: leave it out with "
                "layers=, or give each its own weight first"
            )
        found.append((path, module))
    return found


def compute_weight(modules: Sequence[nn.Module], how: nn.Module) -> None:
    """Let layers that use one weight compute it from one parametrization."""
    first, *others = modules
    parametrize.register_parametrization(first, "weight", how)
    for other in others:
        parametrize.register_parametrization(other, "weight", nn.Identity())
        parts = other.get_submodule("parametrizations")
        parts._modules["weight"] = first.get_submodule("parametrizations.weight")


def way_of(module: nn.Module) -> nn.Module | None:
    """How the weight of a layer is computed, where it is computed."""
    if not parametrize.is_parametrized(module, "weight"):
        return None
    return module.get_submodule("parametrizations.weight.0")


def patches(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """[B, C · K, n] what a convolution multiplies its weight by, whatever its padding."""
    if not isinstance(layer.padding, str) and layer.padding_mode == "zeros":
        return F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode)
    return F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)


def name_the_rest(
    model: nn.Module,
    done: Iterable[Tensor],
    what: str,
    layers: Sequence[str] | None = None,
    known: str = "linear layers and convolutions",
) -> None:
    """Warn, by name, of the matrices that a method leaves as they are.

    Not of embeddings, which are documented to be left alone.
    """
    if rest := _rest(model, done, layers):
        warnings.warn(
            f"{what} leaves as they are: {_listed(rest)}. It knows {known}; write these as such, "
            "or say what is meant with layers=, where there is such an argument",
            UserWarning,
            stacklevel=4,
        )


def _rest(
    model: nn.Module, done: Iterable[Tensor], layers: Sequence[str] | None
) -> dict[str, nn.Module]:
    seen = {memory(weight) for weight in done}
    found = {}
    for path, module in model.named_modules():
        inside = layers is None or any(
            not n or path == n or path.startswith(f"{n}.") for n in layers
        )
        if not inside or isinstance(module, (*NORMS, *TABLES)):
            continue
        for leaf, param in module._parameters.items():
            # a vector, a scale for each channel or a class token is no matrix
            if (
                param is None
                or not param.is_floating_point()
                or sum(n > 1 for n in _size(param)) < 2
            ):
                continue
            if memory(param) not in seen:
                seen.add(memory(param))
                found[f"{path}.{leaf}".strip(".")] = module
    return found


def _size(param: Tensor) -> Sequence[int]:
    return () if isinstance(param, nn.parameter.UninitializedParameter) else param.shape


def _listed(rest: dict[str, nn.Module]) -> str:
    names = [f"{name} ({type(module).__name__})" for name, module in rest.items()]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that rounding, or the others of their row, would spread.

    Raises:
        ValueError: a number that is not finite; names the weight.
    """
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise ValueError(
                f"the weight {name!r} is not finite: it is broken, and would break its whole row"
            )


def check_scores(of: str, scores: Tensor) -> None:
    """Refuse scores of which none is the lowest.

    Raises:
        ValueError: a number that is not finite; names whose it is.
    """
    if not bool(scores.isfinite().all()):
        raise ValueError(f"the scores of {of} are not finite: broken weights, gradients or batches")


def check_share(value: float, name: str) -> None:
    """Refuse what is not strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(
            f"{name} expected a share strictly between 0 and 1, got {value:g}"
            + ("; 90 % is 0.9" if 1 < value <= 100 else "")
        )
