"""Numbers on a coarse grid: the model of rounding, and what passes gradients through it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill_lib.arguments import check_between, check_numbers, checked, told

__all__ = ["FakeQuant", "ends", "grid", "quantize", "rounded", "wide"]


def wide(x: Tensor) -> Tensor:
    """The same numbers with 32 bits or more: a step has no place in the range of 16."""
    return x.float() if x.element_size() < 4 else x


def ends(bits: int, symmetric: bool) -> tuple[int, int]:
    """The first and the last integer of a grid."""
    if not 2 <= bits <= 16 or int(bits) != bits:
        raise ValueError(f"bits is a whole number from 2 to 16, got {bits}")
    top = 2 ** (bits - 1) - 1
    return (-top, top) if symmetric else (0, 2**bits - 1)


@checked
@torch.no_grad()
def grid(
    x: Tensor, bits: int, axis: int | None = None, symmetric: bool = True
) -> tuple[Tensor, Tensor | None]:
    r"""The grid that covers a tensor: its step, and for an asymmetric one the place of zero.

    .. math::
        \text{symmetric: } s = \frac{\max |x|}{2^{b-1} - 1}
        \qquad
        \text{asymmetric: } s = \frac{\max x - \min x}{2^b - 1},\;
        z = \mathrm{round}\left(-\frac{\min x}{s}\right)

    Args:
        x: [...]; of an asymmetric grid the range is widened to hold zero, which stays exact.
        bits: 2 to 16.
        axis: One grid a slice along this axis, such as 0 for the output channels of a weight; one
            for all by default.
        symmetric: Around zero, as weights are; else as wide as the values, as activations are.

    Returns:
        The step, and the place of zero or None; a scalar each, or in a shape that spreads over x,
        in 32 bits or more.

    Reference:
        Krishnamoorthi, *Quantizing deep convolutional networks*, 2018.

    Example:
        >>> round(1 / grid(torch.tensor([-1.0, 0.5]), bits=8)[0].item(), 3)
        127.0
    """
    low, high = ends(bits, symmetric)
    check_numbers("x", x)
    if axis is not None and x.ndim and not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis expected one of the {x.ndim} axes of x, got {axis}")
    x = wide(x)
    dims = [d for d in range(x.ndim) if axis is None or d != axis % x.ndim]
    keep = axis is not None
    tiny = torch.finfo(x.dtype).tiny
    if symmetric:
        return (x.abs().amax(dims, keep) / high).clamp_min(tiny), None
    bottom, top = x.amin(dims, keep).clamp(max=0), x.amax(dims, keep).clamp(min=0)
    scale = ((top - bottom) / (high - low)).clamp_min(tiny)
    return scale, (-bottom / scale).round().clamp(low, high)


@checked
def quantize(
    x: Tensor,
    bits: int,
    scale: Tensor | float | None = None,
    zero_point: Tensor | float | None = None,
    axis: int | None = None,
) -> Tensor:
    r"""Round to a grid, and let the gradient through as if it had not been rounded.

    .. math:: \hat x = s \left(\mathrm{clip}\left(\mathrm{round}\left(\tfrac{x}{s} + z\right),
       q_-, q_+\right) - z\right), \qquad
       \frac{\partial \hat x}{\partial x} = \mathbf 1[q_- \le \tfrac{x}{s} + z \le q_+]

    Within the grid the error is at most half a step; where values spread over many steps it has the
    variance :math:`s^2 / 12`.

    Args:
        x: [...].
        bits: 2 to 16.
        scale: The step s, a scalar or in a shape that spreads over x; by default that of
            :func:`grid`. It learns too, where it requires a gradient.
        zero_point: z, for a grid from 0 to 2^b − 1; without it the grid is symmetric,
            −(2^(b−1) − 1) to 2^(b−1) − 1.
        axis: As in :func:`grid`, where no scale is given.

    Returns:
        [...] on the grid.

    Raises:
        TypeError: what holds no real numbers.
        ValueError: no numbers; bits outside 2 to 16; a step that is not positive and finite, or
            does not spread over x; a zero point without a step.

    Reference:
        Bengio et al., *Estimating or propagating gradients through stochastic neurons*, 2013;
        Jacob et al., *Quantization and training of neural networks*, 2018.

    Example:
        >>> quantize(torch.tensor([0.24, 0.26, 9.0]), 8, scale=torch.tensor(0.5))
        tensor([0.0000, 0.5000, 9.0000])
    """
    check_numbers("x", x)
    _check_spread(x, scale=scale, zero_point=zero_point)
    if scale is None and zero_point is not None:
        raise ValueError(
            "zero_point is where zero lies on a grid of some scale: give scale= as well, such as "
            "quantize(x, bits, *grid(x, bits, symmetric=False))"
        )
    if scale is None:
        scale, _ = grid(x, bits, axis)
    else:
        _check_step(x, scale)
    return rounded(x, bits, scale, zero_point)


def rounded(
    x: Tensor, bits: int, scale: Tensor | float, zero_point: Tensor | float | None = None
) -> Tensor:
    """Numbers on a grid that is known to be one."""
    low, high = ends(bits, zero_point is None)
    z = 0.0 if zero_point is None else zero_point
    inside = (wide(x) / scale + z).clamp(low, high)
    return ((inside + (inside.round() - inside).detach() - z) * scale).to(x.dtype)


def _check_spread(x: Tensor, **given: Tensor | float | None) -> None:
    for name, value in given.items():
        if not isinstance(value, Tensor):
            continue
        pairs = zip(reversed(value.shape), reversed(x.shape), strict=False)
        fits = value.ndim <= x.ndim and all(mine in (1, n) for mine, n in pairs)
        if not fits or value.is_complex() or value.dtype == torch.bool:
            raise ValueError(
                f"{name} expected numbers in a shape that spreads over x {list(x.shape)}, "
                f"got {told(value)}"
            )


def _check_step(x: Tensor, scale: Tensor | float) -> None:
    step = torch.as_tensor(scale)
    if _is_traced(x) or _is_traced(step):
        return
    if not bool(((step > 0) & step.isfinite()).all()):
        raise ValueError(
            f"scale expected steps > 0 and finite, got {told(scale)}; grid(x, bits) gives one"
        )


def _is_traced(x: Tensor) -> bool:
    """Whether nobody can look at the value: in ``torch.compile``, or of stacked models."""
    return torch.compiler.is_compiling() or torch._C._functorch.is_batchedtensor(x)


@checked
class FakeQuant(nn.Module):
    r"""Rounds what passes through, to a grid that follows the range of what it saw.

    In train mode the range is a moving average; while :func:`calibrate` runs it is the widest seen.
    In eval mode it rests.

    Args:
        bits: 2 to 16.
        momentum: Weight of the newest batch in the average.

    Raises:
        RuntimeError: asked in eval mode before it saw a batch.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> rounded = FakeQuant(bits=2)(torch.rand(1000))
        >>> len(rounded.unique())
        4
    """

    low: Tensor
    high: Tensor

    def __init__(self, bits: int = 8, momentum: float = 0.05) -> None:
        super().__init__()
        ends(bits, False)
        check_between(0, 1, momentum=momentum)
        self.bits: int = bits
        self.momentum: float = momentum
        self.watching: bool = False
        self.register_buffer("low", torch.tensor(float("inf")))
        self.register_buffer("high", torch.tensor(float("-inf")))

    @torch.no_grad()
    def _watch(self, x: Tensor) -> None:
        low, high = x.amin().to(self.low), x.amax().to(self.high)
        if self.watching:
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
        else:
            begun = self.low.isfinite()  # no branch: of stacked models each has its own
            self.low.copy_(torch.where(begun, self.low.lerp(low, self.momentum), low))
            self.high.copy_(torch.where(begun, self.high.lerp(high, self.momentum), high))

    def forward(self, x: Tensor) -> Tensor:
        """[...] to [...] on the grid."""
        check_numbers("x", x)
        if self.watching:  # the widest range, seen by all layers without rounding
            self._watch(x)
            return x
        if self.training:
            self._watch(x)
        elif not _is_traced(self.low) and not bool(self.low.isfinite()):
            raise RuntimeError(
                "this model rounds its activations and has seen none: call "
                "compress.calibrate(model, batches), or train it"
            )
        scale, zero_point = grid(torch.stack([self.low, self.high]), self.bits, symmetric=False)
        return rounded(x, self.bits, scale.to(wide(x)), zero_point.to(wide(x)))  # type: ignore[union-attr]

    def extra_repr(self) -> str:
        return f"bits={self.bits}, low={self.low.item():.3g}, high={self.high.item():.3g}"
