"""Batch normalization after training: statistics measured anew, and layers folded into one."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from distill_lib.arguments import checked
from distill_lib.signals import Forward, as_batch, call, eval_mode, place, suggest
from distill_lib.ties import copied, readers

__all__ = ["fold_batchnorm", "refresh_batchnorm"]

NORMS = nn.modules.batchnorm._BatchNorm
# what a layer's answers have axes of, with items and features, and which norm takes just those
LAYERS: dict[type[nn.Module], tuple[int, type[nn.Module]]] = {
    nn.Linear: (2, nn.BatchNorm1d),
    nn.Conv1d: (3, nn.BatchNorm1d),
    nn.Conv2d: (4, nn.BatchNorm2d),
    nn.Conv3d: (5, nn.BatchNorm3d),
}
PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@checked
@torch.no_grad()
def refresh_batchnorm(
    model: nn.Module, batches: Iterable[Any], forward: Forward | None = None
) -> nn.Module:
    """Measure the statistics of batch normalization anew, in place; nothing is trained.

    Each batch counts alike, also one that has fewer items. A normalization that the batches do not
    reach stays as it was, and a warning names it.

    Args:
        model: The model; all else stays in eval mode while the batches pass.
        batches: Inputs like those of the training.
        forward: ``forward(model, batch)``, as in :func:`distill_lib.distill`.

    Returns:
        The model, in the mode that it was in.

    Raises:
        ValueError: no batches, nan in them, one of a single item and place, which has no variance,
            or a model without statistics; the model is then as it was.
    """
    named = {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, NORMS) and m.track_running_stats
    }
    norms = list(named.values())
    if not norms:
        raise ValueError("the model has no statistics of batch normalization to measure anew")
    before = [[tensor.clone() for tensor in norm.buffers()] for norm in norms]
    momenta = [norm.momentum for norm in norms]
    seen = 0
    try:
        with eval_mode([model]):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True  # None: all batches count alike
            for seen, batch in enumerate(batches, 1):
                try:
                    call(model, place(as_batch(batch), model), forward)
                except ValueError as error:
                    if "more than 1 value per channel" not in str(error):
                        raise
                    raise ValueError(
                        f"batch {seen - 1} has one item, which has no variance: leave it out, such "
                        "as with drop_last=True"
                    ) from error
        if not seen:
            raise ValueError("batches is empty: there is nothing to estimate statistics from")
        if not all(x.isfinite().all() for norm in norms for x in norm.buffers()):
            raise ValueError("the statistics are not finite: look for nan or inf in the batches")
        unseen = [name for name, norm in named.items() if not norm.num_batches_tracked]
        for name, tensors in zip(named, before, strict=True):
            if name in unseen:
                _restore(named[name], tensors)
        if unseen:
            warnings.warn(
                f"the batches do not reach {', '.join(unseen)}, left as before",
                UserWarning,
                stacklevel=3,
            )
    except BaseException:
        for norm, tensors in zip(norms, before, strict=True):
            _restore(norm, tensors)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return model


def _restore(norm: nn.Module, tensors: Sequence[Tensor]) -> None:
    for tensor, old in zip(norm.buffers(), tensors, strict=True):
        tensor.copy_(old)


@checked
def fold_batchnorm(model: nn.Module, pairs: Sequence[tuple[str, str]] | None = None) -> nn.Module:
    r"""A copy, in eval mode, whose batch normalizations are part of the layers before them.

    .. math:: W' = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} W, \qquad
       b' = \beta + \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} (b - \mu)

    Only where the copy says what the model says: a layer or a normalization that is used twice, a
    layer that something else reads as well, or whose weight is also another's, stays as it is, and
    so does either with a hook or a ``forward`` of its own. If that leaves nothing to fold, a
    warning says why. A normalization is over axis 1, which the features of a linear layer are in
    [B, C] alone: where one was folded, answers of other shapes are an error of the copy.

    Args:
        model: The model.
        pairs: (layer, normalization) by name; found by tracing the model by default. Of a model
            that cannot be traced it is on you that each pair is used once, and directly.

    Returns:
        The copy; each folded normalization is an identity. After a linear layer, or one of
        sequences, it looks at the shape, and raises ValueError for one that it is not for.

    Raises:
        KeyError: a name of a pair that the model does not have.
        ValueError: a model that cannot be traced, and no pairs; a model without batch
            normalization; or a pair that cannot be folded.

    Reference:
        Jacob et al., *Quantization and training of neural networks*, 2018, section 3.2.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval()
        >>> folded, x = fold_batchnorm(net), torch.randn(2, 1, 8, 8)
        >>> torch.allclose(folded(x), net(x), atol=1e-6), folded[1]
        (True, Identity())
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

    found = copied(model).eval()
    known = dict(found.named_modules(remove_duplicate=False))
    if not any(isinstance(module, NORMS) for module in known.values()):
        raise ValueError("the model has no batch normalization: nothing to fold")
    for layer, norm in _foldable(found) if pairs is None else _checked(found, pairs):
        fuse: Any = (
            fuse_linear_bn_eval if isinstance(known[layer], nn.Linear) else fuse_conv_bn_eval
        )
        folded = fuse(known[layer], known[norm])
        axes, fixed = next(v for kind, v in LAYERS.items() if isinstance(known[layer], kind))
        passed = nn.Identity() if axes > 3 and isinstance(known[norm], fixed) else Passed(axes)
        for name, module in known.items():  # a module may have two names
            if module is known[layer] or module is known[norm]:
                _replace(found, name, folded if module is known[layer] else passed)
    return found


class Passed(nn.Identity):
    """Where a normalization was folded that took shapes of which one alone could be folded.

    Args:
        axes: How many the answers have: 2 after a linear layer, [B, C], 3 after one of sequences.

    Raises:
        ValueError: when it is called with another number of them.
    """

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, input: Tensor) -> Tensor:
        return of_axes(input, self.axes)

    def extra_repr(self) -> str:
        return f"axes={self.axes}"


def of_axes(x: Tensor, axes: int) -> Tensor:
    """The tensor, if it has so many axes; one step for torch.fx, which cannot see them.

    Raises:
        ValueError: it has not.
    """
    if x.ndim != axes:
        raise ValueError(
            "a batch normalization, which is over axis 1, was folded into the layer before it; "
            f"there axis 1 is the features in answers of {axes} axes alone, and these are "
            f"{list(x.shape)}. Leave it out: fold_batchnorm(model, pairs=[…]) with the others"
        )
    return x


torch.fx.wrap("of_axes")


def _foldable(model: nn.Module) -> list[tuple[str, str]]:
    """Layers whose only reader is a batch normalization, each with it."""
    try:
        found, why = _traced(model)
    except Exception as error:  # whatever the model's own code raises on a symbol
        raise ValueError(
            f"cannot follow the model to see what precedes its normalizations ({error}); name "
            "them with pairs=[('conv', 'bn'), …]"
        ) from error
    if not found:
        rest = "; ".join(f"{norm}: {reason}" for norm, reason in why.items())
        warnings.warn(f"nothing is folded. {rest}", UserWarning, stacklevel=3)
    return found


def _checked(model: nn.Module, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs that the user named, and that can be folded as far as can be seen."""
    known = dict(model.named_modules(remove_duplicate=False))
    first = {module: name for name, module in reversed(known.items())}
    named = []
    for layer, norm in pairs:
        for name in (layer, norm):
            if name not in known:
                raise KeyError(f"the model has no layer {name!r}.{suggest(name, known)}")
        if not isinstance(known[norm], NORMS):
            raise ValueError(f"{norm!r} is no batch normalization: pairs are (layer, norm)")
        if reason := _unfit(model, known[layer], known[norm]):
            raise ValueError(f"{norm!r} cannot be folded into {layer!r}: {reason}")
        named.append((first[known[layer]], first[known[norm]]))
    if twice := [name for name, n in Counter(n for pair in named for n in pair).items() if n > 1]:
        raise ValueError(f"{twice[0]!r} is in two pairs, and can be folded once only")
    try:
        found, why = _traced(model)
    except Exception:  # then the pairs are all there is to go by
        return named
    for layer, norm in named:
        if (layer, norm) not in found:
            reason = why.get(norm, "it is read after another layer")
            raise ValueError(f"{norm!r} cannot be folded into {layer!r}: {reason}")
    return named


def _traced(model: nn.Module) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """What can be folded, and why the other normalizations cannot, from the graph of the model."""
    graph = torch.fx.symbolic_trace(model).graph
    known = dict(model.named_modules())
    # read as a module, or by its parameters: F.linear(x, self.layer.weight)
    uses = Counter(
        str(n.target) if n.op == "call_module" else str(n.target).rpartition(".")[0]
        for n in graph.nodes
        if n.op in ("call_module", "get_attr")
    )
    found = []
    why = {n: "the model does not call it" for n, m in known.items() if isinstance(m, NORMS)}
    for node in graph.nodes:
        norm = str(node.target)
        if node.op != "call_module" or norm not in why:
            continue
        given = node.args[0] if node.args else None
        before = given if isinstance(given, torch.fx.Node) and given.op == "call_module" else None
        layer = "" if before is None else str(before.target)
        if uses[norm] > 1:
            why[norm] = "it is used more than once"
        elif before is None:
            why[norm] = "no layer is before it"
        elif len(before.users) > 1:
            why[norm] = f"not it alone reads {layer!r}"
        elif uses[layer] > 1:
            why[norm] = f"{layer!r} is used more than once"
        elif reason := _unfit(model, known[layer], known[norm]):
            why[norm] = reason
        else:
            found.append((layer, norm))
    return found, {n: reason for n, reason in why.items() if n not in {b for _, b in found}}


def _unfit(model: nn.Module, layer: Any, norm: Any) -> str:
    """Why a normalization cannot be folded into a layer, whoever calls them; empty if it can."""
    kind = next((one for one in LAYERS if isinstance(layer, one)), None)
    if kind is None:
        return f"a {type(layer).__name__} is before it"
    if not isinstance(norm, (LAYERS[kind][1], nn.SyncBatchNorm)):
        return f"a {type(norm).__name__} takes other shapes than a {type(layer).__name__} answers"
    both: tuple[nn.Module, ...] = (layer, norm)
    for module in both:
        if reason := _altered(module):
            return f"{reason} the {type(module).__name__}"
    if layer._parameters.get("weight") is None:
        return "the weight before it is computed from something else"
    if any(len(readers(model, param)) > 1 for param in layer.parameters()):
        return "the weight before it is used by another layer as well"
    if norm.running_mean is None or norm.running_var is None:
        return "it has no running statistics"
    if len(layer.weight) != norm.num_features:
        return f"it has {norm.num_features} channels, the layer before it {len(layer.weight)}"
    return ""


def _altered(module: nn.Module) -> str:
    """Whether a layer or norm computes something else than torch's does, and so could not go."""
    base = next(one for one in (*LAYERS, *PLAIN) if isinstance(module, one))
    if module._forward_hooks or module._forward_pre_hooks:
        return "a hook is on"
    if hasattr(module, "parametrizations"):
        return "a parametrization is on"
    methods = ("forward", "_conv_forward")
    own = any(getattr(type(module), n, None) is not getattr(base, n, None) for n in methods)
    return "another forward is that of" if own or "forward" in vars(module) else ""


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, module)
