"""Products counted as they are made, and those that nobody can count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from distill_lib.signals import eval_mode

__all__ = ["products_of"]

aten = torch.ops.aten
# that a weight and a signal meet in them is no product of matrices
OTHERS = {
    "cat", "stack", "copy_", "copy", "where", "native_layer_norm", "_fused_rms_norm",
    "index_put", "index_put_", "_unsafe_index_put", "scatter", "slice_scatter", "select_scatter",
}  # fmt: skip


def _matrix_vector(matrix: Any, vector: Any, *_: Any, **__: Any) -> int:
    return 2 * int(prod(matrix))


def _added_vector(added: Any, matrix: Any, vector: Any, *_: Any, **__: Any) -> int:
    return 2 * int(prod(matrix))


def _matrices(one: Any, other: Any, *_: Any, **__: Any) -> int:
    return 2 * int(prod(one)) * int(other[-1])


def _added_batch(added: Any, one: Any, other: Any, *_: Any, **__: Any) -> int:
    return 2 * int(prod(one)) * int(other[-1])


def _bilinear(
    one: Any, two: Any, three: Any, first: Any, second: Any, third: Any, *_: Any, **__: Any
) -> int:
    """Each number of the three-way product, before it is summed; the axes given are of length 1."""
    shapes = []
    for shape, axes in ((one, first), (two, second), (three, third)):
        wide = [*shape]
        for axis in sorted(axes):
            wide.insert(axis, 1)
        shapes.append(wide)
    return 2 * int(prod(max(sizes) for sizes in zip(*shapes, strict=True)))


FORMULAS: dict[Any, Callable[..., int]] = {
    aten.mv: _matrix_vector,
    aten.dot: _matrix_vector,
    aten.vdot: _matrix_vector,
    aten.addmv: _added_vector,
    aten.addbmm: _added_batch,
    aten._int_mm: _matrices,
    aten._trilinear: _bilinear,
}


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operators that bring a weight and a signal together, and that have no formula."""

    def __init__(self, model: nn.Module, known: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = known
        self.weights = {
            _where(part): name
            for name, param in model.named_parameters()
            for part in _plain_parts(param)
        }
        self.unknown: dict[str, str] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        packet, name = func._overloadpacket, func._schema.name.partition("::")[2]
        counted = packet in self.known or name in OTHERS or torch.Tag.pointwise in func.tags
        if any(isinstance(x, torch.ScriptObject) for x in tree_leaves((args, kwargs))):
            self.unknown.setdefault(str(packet), "packed integers")  # of torch.ao.quantization
        elif not counted:
            operands = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            held = [self.weights.get(_where(x)) for x in operands]
            matrix = [
                weight
                for weight, x in zip(held, operands, strict=True)
                if weight and sum(n > 1 for n in x.shape) > 1
            ]
            signal = any(
                weight is None and x.ndim and x.dtype not in (torch.bool, torch.int32, torch.int64)
                for weight, x in zip(held, operands, strict=True)
            )
            if matrix and signal:
                self.unknown.setdefault(str(packet), matrix[0])
        return func(*args, **kwargs)


def _plain_parts(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors that hold a weight's numbers, such as the integers and steps of torchao's."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain_parts(getattr(tensor, name))


def _where(x: Tensor) -> Any:
    """The same for a tensor and all views of it."""
    if type(x) not in (Tensor, nn.Parameter) or x.layout != torch.strided:
        return id(x)
    return x.untyped_storage()._cdata


def products_of(model: nn.Module, ask: Callable[[], Any]) -> tuple[int, dict[str, str]]:
    """Multiplications with additions of an answer; and operators without a formula.

    Args:
        model: It is asked in eval mode.
        ask: Asks it.

    Returns:
        The number; and by the name of each operator that is not in it the weight that it reads.
    """
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    watch = _Watch(model, counter.flop_registry)
    with eval_mode([model]), torch.no_grad(), _unfused(), watch, counter:
        ask()
    return int(counter.get_total_flops()) // 2, watch.unknown


@contextmanager
def _unfused() -> Iterator[None]:
    """Attention and recurrent layers as products of matrices: their fused kernels have no count."""
    fast = torch.backends.mha.get_fastpath_enabled()
    kernels: dict[Any, bool] = {
        one: one.enabled for one in (torch.backends.mkldnn, torch.backends.cudnn)
    }
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for one in kernels:
            one.enabled = False
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for one, enabled in kernels.items():
            one.enabled = enabled
