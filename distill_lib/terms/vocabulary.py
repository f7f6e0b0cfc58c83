"""Terms for large vocabularies: a part of an answer, and hidden states instead of logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from distill_lib import losses
from distill_lib.arguments import checked, told
from distill_lib.masks import kept_of
from distill_lib.masks.tokens import base, learned_prompts
from distill_lib.objective import Term, name_of
from distill_lib.schedules import Schedule, as_schedule
from distill_lib.signals import DESCRIPTIVE, Signals, eval_mode, pick

from .classes import class_axis, classes_last
from .given import check_call, takes, temperature_at, times_squared, whole
from .relations import is_relational

__all__ = ["FusedKD", "SparseKD", "hidden_and_head"]

Loss = Callable[..., Tensor]
HIDDEN, HEAD, BIAS = "output_hidden", "output_matrix", "output_bias"
LARGE = 200.0  # logits that a cap would cap: Gemma's is 30
# these compare logits, and what is known here are log-probabilities
_OF_LOGITS = (losses.mse_logits, losses.bernoulli_kl, losses.channel_kl)
_verified: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@checked
class SparseKD(Term):
    r"""The student's answer against the part of the teacher's that was kept, tail included.

    .. math:: \ell = D(\bar p, \bar q)

    as :func:`distill_lib.losses.sparse_divergence` has it, with the signals of
    :class:`distill_lib.teachers.TopK`: ``top_ids``, ``top_log_probs`` and, where there is one,
    ``rest``. A :class:`distill_lib.Cache` of the three holds a corpus.

    Args:
        loss: ``losses.kl``, ``losses.reverse_kl`` or another loss of two distributions.
        on: The student's signal.
        rest: Whether the teacher tells the tail's logarithm; else it is what is left of 1.
        tail: False leaves the tail out, which makes the sum no divergence: see there.
        axis: The axis of the student's classes, 1 for images [B, C, H, W]; the teacher's k are
            last, as those of ``TopK(teacher, k, axis=1)``. By default the last; where the shapes
            leave a doubt, it has to be said.
        **options: More arguments of the loss. A temperature is none of them: both sides are
            softened before, the student in ``forward=``.

    Raises:
        TypeError: a loss that is none, an option that it does not take or lacks, a temperature.
        ValueError: ``tail=False`` with another loss; a loss of logits, or of the relations of a
            batch; classes that may be on another axis.

    Example:
        >>> z = torch.tensor([[2.0, 0.0, 1.0]])
        >>> ids, log_p, rest = losses.top_k(z, 1)
        >>> said = {"top_ids": ids, "top_log_probs": log_p, "rest": rest}
        >>> SparseKD()(z, said)[0].item()
        0.0
    """

    key = "sparse_kd"

    def __init__(
        self,
        loss: Loss = losses.kl,
        on: str = "logits",
        *,
        rest: bool = True,
        tail: bool = True,
        axis: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if not (takes(loss, "student") and takes(loss, "teacher")):
            raise TypeError(f"SparseKD expected a loss of student= and teacher=, got {told(loss)}")
        if not tail and loss not in (losses.kl, losses.reverse_kl):
            raise ValueError(
                f"tail=False is of losses.kl and losses.reverse_kl, not of {told(loss)}"
            )
        if getattr(loss, "func", loss) in _OF_LOGITS or is_relational(loss, options):
            raise ValueError(
                f"SparseKD compares two distributions, item by item: {name_of(loss)} does not; "
                "take losses.kl, losses.reverse_kl, losses.jsd or losses.tvd"
            )
        if "temperature" in options:
            raise TypeError(
                "SparseKD takes no temperature, which would soften the tail as one class: divide "
                "both logits before, the student's in forward= and the teacher's before TopK"
            )
        check_call(loss, "SparseKD", "student", "teacher", *options)
        # not self.axis, which is the teacher's too
        self.classes = None if axis is None else whole("axis", axis, "the last is -1")
        self.loss, self.on, self.tail, self.options = loss, on, tail, options
        self.rest: bool = rest and tail
        theirs = ("top_ids", "top_log_probs") + (("rest",) if self.rest else ())
        self.reads: Mapping[str, tuple[str, ...]] = {"student": (on,), "teacher": theirs}

    def paths_read(self) -> tuple[str, ...]:
        """The answers, whose positions padding speaks of."""
        return (self.on,)

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[...] divergences of the coarse answers."""
        assert teacher is not None
        theirs = {path: pick(teacher, path, "teacher").detach() for path in self.reads["teacher"]}
        z = pick(student, self.on, "student")
        # several students may have one answer for all, with an axis less
        shape = z.shape[-theirs["top_ids"].ndim :]
        axis = class_axis(shape, self.classes, batch.get("labels"), self.text())
        ids, log_p, rest = self._known(theirs, batch)
        return losses.sparse_divergence(
            student=classes_last(z, axis),
            teacher=log_p,
            ids=ids,
            rest=rest,
            loss=self.loss,
            tail=self.tail,
            **self.options,
        )

    def _known(
        self, theirs: Mapping[str, Tensor], batch: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the teacher tells; where nothing counts, something that is a distribution."""
        ids, log_p, rest = theirs["top_ids"], theirs["top_log_probs"], theirs.get("rest")
        kept = kept_of(ids.shape[:-1], self.labeled, self.about(batch))
        if kept is None:
            return ids, log_p, rest
        any_ids = torch.arange(ids.shape[-1], device=ids.device, dtype=ids.dtype)
        ids = torch.where(kept.unsqueeze(-1), ids, any_ids)
        even = -math.log(ids.shape[-1] + 1)
        log_p = log_p.masked_fill(~kept.unsqueeze(-1), even)
        return ids, log_p, None if rest is None else rest.masked_fill(~kept, even)

    def text(self) -> str:
        """Such as ``sparse kl`` or ``truncated kl``."""
        return f"{'sparse' if self.tail else 'truncated'} {name_of(self.loss)}"

    def latex(self) -> str:
        """The typeset term."""
        name = name_of(self.loss).replace("_", r"\_")
        return rf"\mathrm{{{name}}}" + (r"(\bar p, \bar q)" if self.tail else r"_S(p, q)")


@checked
class FusedKD(Term):
    r"""The divergence of two language models from their hidden states: no logits are kept.

    .. math:: \ell = T^2 D\bigl(\mathrm{softmax}(W_t h^t / T),\, \mathrm{softmax}(W_s h^s / T)\bigr)

    It is ``KD(loss, temperature)`` in value and gradient. Both models are asked with
    :func:`hidden_and_head`: ``distill(student, Teacher(teacher, forward=hidden_and_head), batches,
    FusedKD(), forward=hidden_and_head)``. A teacher that tells its states alone, such as a
    :class:`distill_lib.Cache` of ``output_hidden``, wants ``teacher_head``. What masks and labels
    leave out is not computed.

    Args:
        loss: ``losses.kl``, ``losses.reverse_kl`` or ``losses.jsd``.
        temperature: :math:`T > 0`, a number or a schedule.
        teacher_head: [C, D'], the teacher's output matrix, where its signals lack it.
        teacher_bias: [C], likewise.
        chunk: Positions at a time.
        **options: ``beta`` and ``normalized`` of ``losses.jsd``.

    Raises:
        ValueError: another loss, a head that is no matrix, a bias without a head.

    Example:
        >>> h, w = torch.randn(2, 3, 8), torch.randn(50, 8)
        >>> said = {"output_hidden": h, "output_matrix": w, "output_bias": torch.zeros(50)}
        >>> FusedKD()(said, said)[0].item() < 1e-6
        True
    """

    key = "fused_kd"

    def __init__(
        self,
        loss: Loss = losses.kl,
        temperature: Schedule | float = 1.0,
        *,
        teacher_head: Tensor | None = None,
        teacher_bias: Tensor | None = None,
        chunk: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.loss, self.options, self.chunk = loss, options, chunk
        self.temperature: Schedule = as_schedule(temperature)
        T = self.temperature
        if not T(0.0) > 0 or T(0.5) < 0 or T(1.0) < 0:
            raise ValueError(f"temperature expected numbers > 0, got {T}; 1 leaves logits")
        if teacher_head is None and teacher_bias is not None:
            raise ValueError(
                "FusedKD was given a teacher_bias and teacher_head=None: give both, or none"
            )
        if teacher_head is not None and teacher_head.ndim != 2:
            raise ValueError(f"teacher_head is a matrix [C, D'], got {list(teacher_head.shape)}")
        self.head: Tensor | None
        self.bias: Tensor | None
        # not saved: it is the teacher's
        self.register_buffer("head", _fixed(teacher_head), persistent=False)
        self.register_buffer("bias", _fixed(teacher_bias), persistent=False)
        theirs = (HIDDEN,) if teacher_head is not None else (HIDDEN, HEAD, BIAS)
        self.reads: Mapping[str, tuple[str, ...]] = {
            "student": (HIDDEN, HEAD, BIAS),
            "teacher": theirs,
        }
        tiny = torch.zeros(1, 1), torch.zeros(2, 1)
        self._divergence(tiny, tiny, 1.0, None)  # a loss or option that does not fit is told now

    def paths_read(self) -> tuple[str, ...]:
        """Hidden states, whose positions padding speaks of."""
        return ("last_hidden_state",)

    def _divergence(self, mine: Any, theirs: Any, T: float, mask: Tensor | None) -> Tensor:
        names = ("{}", "{}_head", "{}_bias")
        sides = {
            name.format(who): x
            for who, side in (("student", mine), ("teacher", theirs))
            for name, x in zip(names, side, strict=False)
        }
        plan: dict[str, Any] = {"temperature": T, "mask": mask, "chunk": self.chunk}
        return losses.fused_divergence(**sides, loss=self.loss, **plan, **self.options)

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[..., L] values of T² times the divergence; 0 where a position does not count."""
        assert teacher is not None
        mine = [pick(student, path, "student") for path in self.reads["student"]]
        theirs: list[Tensor | None]
        theirs = [pick(teacher, path, "teacher") for path in self.reads["teacher"]]
        theirs = [*theirs, self.head, self.bias] if self.head is not None else theirs
        T = temperature_at(self.temperature, progress, self.text())
        kept = kept_of(mine[0].shape[:-1], self.labeled, self.about(batch))
        values = self._divergence(mine, theirs, T, kept)
        return times_squared(values, T, T)

    def text(self) -> str:
        """Such as ``fused kl(T=2)``."""
        inside = [f"T={self.temperature}"] if self.temperature.fixed != 1.0 else []
        inside += [f"{k}={v}" for k, v in self.options.items()]
        return f"fused {name_of(self.loss)}" + (f"({', '.join(inside)})" if inside else "")

    def latex(self) -> str:
        """The typeset term."""
        name = name_of(self.loss).replace("_", r"\_")
        factor = "" if self.temperature.fixed == 1.0 else r"T^2\,"
        return rf"{factor}\mathrm{{{name}}}(W_t h^t \,\|\, W_s h^s)"


def _fixed(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()


@checked
def hidden_and_head(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """A language model's last hidden states and its output matrix, for :class:`FusedKD`.

    Give it as ``forward=`` to :func:`distill_lib.distill` and :class:`distill_lib.Teacher`. The
    first time, the logits of a few tokens are made both ways and compared: models that do more
    than multiply (a cap, a scale, a layer before the matrix) are refused.

    Args:
        model: A model of 🤗 Transformers with ``get_output_embeddings``.
        batch: What it reads.

    Returns:
        ``output_hidden`` [B, L, D], ``output_matrix`` [C, D] and ``output_bias`` [C], 0 where the
        model has none.

    Raises:
        ValueError: a model without an output matrix, or whose logits are not what the matrix makes
            of the states; one that PEFT has tuned by virtual tokens.
    """
    if learned_prompts(model):
        raise ValueError(
            f"{type(base(model)).__name__} is tuned by virtual tokens, which it reads through PEFT "
            "alone: use KD on its logits, or tune it by LoRA"
        )
    inner = base(model)
    find = getattr(inner, "get_output_embeddings", None)
    head = find() if callable(find) else None
    if getattr(inner, "base_model", inner) is inner or not isinstance(head, nn.Linear):
        raise ValueError(
            f"{type(inner).__name__} tells no output matrix (get_output_embeddings): write a "
            f"forward= that returns {HIDDEN!r}, {HEAD!r} and {BIAS!r}"
        )
    inputs = {k: v for k, v in batch.items() if k not in DESCRIPTIVE}
    hidden: Tensor = inner.base_model(**inputs).last_hidden_state
    bias = head.weight.new_zeros(len(head.weight)) if head.bias is None else head.bias
    if inner not in _verified:
        _verify(inner, head, inputs, hidden)
    return {HIDDEN: hidden, HEAD: head.weight, BIAS: bias}


@torch.no_grad()
def _verify(inner: nn.Module, head: nn.Linear, inputs: Mapping[str, Any], hidden: Tensor) -> None:
    shape = hidden.shape[:2]
    few = {
        k: v[:1, :4] if isinstance(v, Tensor) and v.shape[:2] == shape else v
        for k, v in inputs.items()
    }
    few = {**few, "use_cache": False}
    with eval_mode([inner]):
        states = inner.base_model(**few).last_hidden_state  # type: ignore[operator]
        # what is more than a product may be small beside small logits, such as a cap
        scale = LARGE / head(states).abs().max().clamp_min(1e-3)
        grown = head.register_forward_pre_hook(lambda _, given: (given[0] * scale,))
        try:
            want, got = inner(**few).logits, head(states)
        finally:
            grown.remove()
    if want.shape != got.shape or not torch.allclose(want.float(), got.float(), 1e-2, 1e-3):
        raise ValueError(
            f"{type(inner).__name__} does more than multiply its last hidden states with its "
            "output matrix (a cap, a scale, a layer before it): use KD on its logits"
        )
    _verified[inner] = True
