r"""A divergence from hidden states: the logits of a few positions exist at a time.

With hidden states :math:`h_n`, output matrix :math:`W` and bias :math:`b`, logits are
:math:`z_n = W h_n + b`. For :math:`N` positions and :math:`C` classes the usual way keeps several
matrices of :math:`N \times C` numbers; here they have a handful of rows. The gradient is made while
a chunk's logits are there:

.. math:: \frac{\partial \ell_n}{\partial h_n} = W^\top g_n, \qquad
   \frac{\partial}{\partial W} \sum_n \ell_n = \sum_n g_n h_n^\top, \qquad
   g_n = \frac{\partial \ell_n}{\partial z_n}
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distill_lib.arguments import checked

from ._common import check_number, floor, full_precision
from .response import end_of, jsd, kl, reverse_kl

__all__ = ["fused_divergence"]

NUMBERS = 2**21  # of a chunk's logits: 8 MiB in float32, which caches hold
Loss = Callable[..., Tensor]
Slope = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@checked
def fused_divergence(
    *,
    student: Tensor,
    teacher: Tensor,
    student_head: Tensor,
    teacher_head: Tensor,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    loss: Loss = kl,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    chunk: int | None = None,
    **options: Any,
) -> Tensor:
    r"""A divergence of the answers that two heads make of hidden states, without the logits.

    .. math:: \ell_n = D\bigl(\mathrm{softmax}((W_t h_n^t + b_t) / T),\;
       \mathrm{softmax}((W_s h_n^s + b_s) / T)\bigr)

    Value and gradient are those of ``loss`` on the logits, up to rounding. Memory beside the
    gradients is a few chunks of ``chunk × C`` numbers. Where the values are weighed alike, as in a
    mean, logits are made once; where they are not, a second time for the head's gradient.

    Args:
        student: [..., D], hidden states, as the head reads them.
        teacher: [..., D'], of the same positions.
        student_head: [C, D], the output matrix.
        teacher_head: [C, D'].
        student_bias: [C], where there is one; -inf excludes a class.
        teacher_bias: [C], likewise.
        loss: :func:`kl`, :func:`reverse_kl` or :func:`jsd`.
        temperature: :math:`T > 0`, a number. No factor :math:`T^2` is in it.
        mask: [...], True where a position counts; the others are not computed, and 0.
        chunk: Positions at a time; by default as many as make two million logits.
        **options: ``beta`` and ``normalized`` of :func:`jsd`.

    Returns:
        [...], in nats. Gradients reach the student's states, head and bias, and nothing of the
        teacher's; there are no second derivatives. Half precision is computed in float32, for
        which half-precision heads are copied once.

    Raises:
        ValueError: another loss, shapes or devices that do not fit, vocabularies of other sizes, a
            head that is spread over processes.
        TypeError: what is no real numbers, an option that the loss does not take.

    Reference:
        Hsu et al., *Liger kernel: efficient Triton kernels for LLM training*, 2024, for the
        gradient in the forward pass.

    Example:
        >>> h, w = torch.randn(6, 8), torch.randn(50, 8)
        >>> values = fused_divergence(student=h, teacher=-h, student_head=w, teacher_head=w)
        >>> torch.allclose(values, kl(student=h @ w.T, teacher=-h @ w.T), rtol=1e-4)
        True
    """
    check_number("fused_divergence: temperature", temperature, "a number > 0", _positive)
    mine = _side("student", student, student_head, student_bias)
    theirs = _side("teacher", teacher, teacher_head, teacher_bias)
    _check_pair(mine, theirs, mask)
    tensors = (*mine, *theirs)
    dtype = torch.float32
    for x in tensors:
        dtype = dtype if x is None else torch.promote_types(dtype, full_precision(x[:0]).dtype)
    classes, positions = len(student_head), student[..., 0].numel()
    if chunk is None:
        chunk = max(1, NUMBERS // classes)
    elif not isinstance(chunk, Integral) or isinstance(chunk, bool) or chunk < 1:
        raise ValueError(f"fused_divergence: chunk is a number of positions ≥ 1, got {chunk!r}")
    kept = torch.arange(positions, device=student.device)
    kept = kept if mask is None else kept[mask.reshape(-1).bool()]
    slope = _slope(loss, options, dtype)
    plan = _Plan(slope, float(temperature), chunk, kept, dtype, torch.is_grad_enabled())
    flat = (student.reshape(positions, student.shape[-1]), *mine[1:])
    taught = (
        teacher.detach().reshape(positions, teacher.shape[-1]),
        *(_detached(x) for x in theirs[1:]),
    )
    values: Tensor = _Fused.apply(plan, *flat, *taught)  # type: ignore[no-untyped-call]
    return values.view(student.shape[:-1])


class _Plan(NamedTuple):
    """What does not change from chunk to chunk."""

    slope: Slope
    temperature: float
    chunk: int
    kept: Tensor
    dtype: torch.dtype
    graded: bool


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, *tensors: Tensor | None) -> Tensor:
        wanted = tuple(need and plan.graded for need in ctx.needs_input_grad[1:4])
        values, grads = _walk(plan, tensors, wanted)
        ctx.plan, ctx.wanted, ctx.grads = plan, wanted, grads
        ctx.save_for_backward(*tensors)  # references: a second look at them takes no memory
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan, tensors, grads = ctx.plan, ctx.saved_tensors, ctx.grads
        ctx.grads = None  # they are scaled in place: a second backward makes its own
        factors = grad[plan.kept].to(plan.dtype)
        common = factors[:1].sum()  # 0 where nothing is kept
        # the head's gradient is a sum over positions, which cannot be weighed afterwards
        alike = not (ctx.wanted[1] or ctx.wanted[2]) or bool((factors == common).all())
        if grads is None or not alike:
            grads = _walk(plan, tensors, ctx.wanted, factors)[1]
        else:
            for x, factor in zip(grads, (factors.unsqueeze(-1), common, common), strict=True):
                None if x is None else x.mul_(factor)
        of_states, of_head, of_bias = (
            x if x is None else x.to(like.dtype) for x, like in zip(grads, tensors, strict=False)
        )
        if of_states is not None:
            of_states = torch.zeros_like(tensors[0]).index_copy_(0, plan.kept, of_states)
        return None, of_states, of_head, of_bias, None, None, None


def _walk(
    plan: _Plan, tensors: Any, wanted: tuple[bool, ...], factors: Tensor | None = None
) -> tuple[Tensor, list[Tensor | None]]:
    """Chunk by chunk: the values, and the gradients of states, head and bias that are wanted."""
    h, head, bias, taught, taught_head, taught_bias = tensors
    with torch.autocast(h.device.type, enabled=False):
        w, u = head.to(plan.dtype), taught_head.to(plan.dtype)
        values = h.new_zeros(len(h), dtype=plan.dtype)
        grads: list[Tensor | None] = [
            h.new_empty(len(plan.kept), h.shape[-1], dtype=plan.dtype) if wanted[0] else None,
            torch.zeros_like(w) if wanted[1] else None,
            w.new_zeros(len(w)) if wanted[2] else None,
        ]
        for begin in range(0, len(plan.kept), plan.chunk):
            at = plan.kept[begin : begin + plan.chunk]
            states = h[at].to(plan.dtype)
            log_q = _log_probs(states, w, bias, plan.temperature)
            log_p = _log_probs(taught[at].to(plan.dtype), u, taught_bias, plan.temperature)
            values[at], g = plan.slope(log_q, log_p)
            if plan.temperature != 1:
                g.div_(plan.temperature)
            if factors is not None:
                g.mul_(factors[begin : begin + plan.chunk].unsqueeze(-1))
            of_states, of_head, of_bias = grads
            if of_states is not None:
                torch.mm(g, w, out=of_states[begin : begin + plan.chunk])
            if of_head is not None:
                of_head.addmm_(g.T, states)
            if of_bias is not None:
                of_bias.add_(g.sum(0))
            del log_q, log_p, g  # else they live on beside the next chunk's
    return values, grads


def _log_probs(h: Tensor, head: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """[n, C] log softmax((h Wᵀ + b) / T), in one matrix; a class of -inf gets ``floor``."""
    z = h @ head.T
    if bias is not None:
        z.add_(bias)
    if temperature != 1:
        z.div_(temperature)
    if bias is not None:
        z.clamp_min_(floor(z))
    return z.sub_(z.logsumexp(-1, keepdim=True))


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """[n] sums of products over the classes, without a matrix of products."""
    return torch.bmm(x.unsqueeze(1), y.unsqueeze(2)).view(-1)


# Each gives the values [n] and ∂ℓ/∂z at T = 1 [n, C], and may write over what it is given.


def _forward(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    p = log_p.exp()
    values = _dot(p, log_p.sub_(log_q))
    return values, log_q.exp_().sub_(p)


def _reverse(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    q = log_q.exp()
    gap = log_q.sub_(log_p)
    values = _dot(q, gap)
    return values, gap.sub_(values.unsqueeze(-1)).mul_(q)


def _mixed(beta: float, normalized: bool) -> Slope:
    scale = beta * (1 - beta) if normalized else 1.0

    def slope(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
        log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
        p, q = log_p.exp(), log_q.exp()
        from_teacher = _dot(p, log_p.sub_(log_m))
        gap = log_q.sub_(log_m)
        from_student = _dot(q, gap)
        values = (beta * from_teacher + (1 - beta) * from_student) / scale
        g = gap.sub_(from_student.unsqueeze(-1)).mul_(q).mul_((1 - beta) / scale)
        return values, g

    return slope


def _slope(loss: Loss, options: dict[str, Any], dtype: torch.dtype) -> Slope:
    if loss is jsd:
        # jsd says what is wrong with its own arguments
        jsd(student=torch.zeros(1, 2), teacher=torch.zeros(1, 2), **options)
        beta, normalized = float(options.get("beta", 0.5)), options.get("normalized", False)
        if normalized and (end := end_of(beta, dtype)) is not None:
            beta = end
        if 0 < beta < 1:
            return _mixed(beta, normalized)
        return _forward if beta == 0 else _reverse
    if loss not in (kl, reverse_kl):
        raise ValueError(
            "fused_divergence knows the gradients of losses.kl, losses.reverse_kl and losses.jsd, "
            f"got {getattr(loss, '__name__', loss)!r}; other losses take logits"
        )
    if options:
        raise TypeError(f"{loss.__name__} takes no argument {next(iter(options))!r}")
    return _forward if loss is kl else _reverse


# ---- checks ----


def _positive(number: float) -> bool:
    return 0 < number < math.inf


def _detached(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()


def _side(who: str, h: Tensor, head: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Any]:
    for name, x in ((who, h), (f"{who}_head", head), (f"{who}_bias", bias)):
        if x is None and name == f"{who}_bias":
            continue
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f"fused_divergence expected {name} as a tensor of real numbers, got {kind}; the "
                "head is a matrix, such as model.lm_head.weight"
            )
        if hasattr(x, "full_tensor"):
            raise ValueError(
                f"fused_divergence: {name} is spread over processes; gather it with "
                f"{name}.full_tensor()"
            )
    fits = h.ndim > 0 and head.ndim == 2 and h.shape[-1] == head.shape[1] and len(head) > 1
    if not fits or (bias is not None and bias.shape != head.shape[:1]):
        raise ValueError(
            f"fused_divergence expected the {who}'s hidden states [..., D], a head [C, D] and a "
            f"bias [C], got {list(h.shape)}, {list(head.shape)} and "
            f"{bias if bias is None else list(bias.shape)}; logits are h @ head.T + bias"
        )
    return h, head, bias


def _check_pair(mine: Any, theirs: Any, mask: Tensor | None) -> None:
    (h, head, _), (taught, taught_head, _) = mine, theirs
    if len(head) != len(taught_head):
        raise ValueError(
            f"fused_divergence: the heads have {len(head)} and {len(taught_head)} classes. Nothing "
            "is padded or cut silently: if the vocabulary is one and rows were added to fill a "
            "matrix, cut them off, as in teacher_head[:C]; two vocabularies want align"
        )
    if h.shape[:-1] != taught.shape[:-1]:
        raise ValueError(
            f"fused_divergence: student states {list(h.shape)} and teacher states "
            f"{list(taught.shape)} are not of the same positions; show both the same batch"
        )
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != h.shape[:-1]):
        shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"fused_divergence expected a mask {list(h.shape[:-1])}, one a position, got {shape}"
        )
    if mask is not None and mask.is_floating_point() and bool((mask < 0).any()):
        raise ValueError(
            "fused_divergence: a mask with negative numbers is one that is added to scores; give "
            "one that is 1 where a position counts, and 0 where it does not"
        )
    devices = {x.device for x in (*mine, *theirs, mask) if x is not None}
    if len(devices) > 1:
        raise ValueError(
            f"fused_divergence expected all on one device, got {sorted(map(str, devices))}"
        )
