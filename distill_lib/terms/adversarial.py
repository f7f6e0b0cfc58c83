"""A teacher to pass for: a discriminator tells its signals from the student's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from distill_lib.losses import full_precision
from distill_lib.losses._common import check_tensors
from distill_lib.objective import Term, name_of
from distill_lib.signals import Signals, pick

from .given import both, mapped

__all__ = ["Adversarial"]


class Adversarial(Term):
    r"""A discriminator :math:`d` learns who spoke, and the student to be taken for the teacher.

    .. math:: \ell = \underbrace{-\log \sigma(d_{\bar\phi}(z))}_{\text{moves the student}}
       \;\underbrace{-\log \sigma(d_\phi(v)) - \log\bigl(1 - \sigma(d_\phi(\bar z))\bigr)}
       _{\text{moves the discriminator}}

    with signals :math:`z` of the student and :math:`v` of the teacher; what has a bar is held
    fixed. So one backward pass and one optimizer serve both: each part touches its own parameters
    only. Nobody can tell the two apart where the value is :math:`3 \log 2`; it does not fall as
    other losses do. A weight multiplies both parts; Adam takes no notice of it in the
    discriminator.

    A discriminator that sees nothing but the signals compares two *distributions*: the right
    answers, given to the wrong items, pass. ``given`` shows it the item as well.

    Args:
        discriminator: A module that maps a signal [..., F] to one logit an item, [..., 1]. It is
            trained along, as a projector is.
        on: The signal of both, or a pair: the student's and the teacher's.
        given: A signal of the teacher's, such as ``"hidden_states/0"``, that is appended to both
            signals, so that they are judged beside what they are about.
        transform: Applied to both signals first, such as ``partial(torch.softmax, dim=-1)``. Plain
            logits give a student away by a shift that no softmax sees.
        project: A module that maps the student's signal to the teacher's shape. It is trained with
            the student.

    Raises:
        TypeError: a discriminator or projector that is no module, a transform that is no function.
        ValueError: no signal named; signals of different widths, or a discriminator whose answer
            is not [..., 1].

    Reference:
        Goodfellow et al., *Generative adversarial nets*, 2014; Xu, Hsu and Huang, *Training shallow
        and thin networks for acceleration via knowledge distillation with conditional adversarial
        networks*, 2018.

    Example:
        >>> term = Adversarial(nn.Linear(2, 1, bias=False))
        >>> _ = nn.init.zeros_(term.discriminator.weight)
        >>> term(torch.zeros(4, 2), torch.ones(4, 2))[0]  # 3 log 2
        tensor(2.0794, grad_fn=<DivBackward0>)
    """

    key = "adversarial"

    def __init__(
        self,
        discriminator: nn.Module,
        on: str | tuple[str, str] = "logits",
        given: str | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        project: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, module in (("discriminator", discriminator), ("project", project)):
            if not isinstance(module, nn.Module) and not (name == "project" and module is None):
                raise TypeError(f"Adversarial expected {name} to be a module, got {module!r}")
        if transform is not None and not callable(transform):
            raise TypeError(f"Adversarial expected transform to be a function, got {transform!r}")
        paths = tuple(on) if isinstance(on, (tuple, list)) else (on, on)
        if len(paths) != 2 or not all(isinstance(path, str) and path for path in paths):
            raise ValueError(
                f"on is one signal for both or a pair (student's, teacher's), not {on!r}"
            )
        if given is not None and not (isinstance(given, str) and given):
            raise ValueError(f"given is the name of a signal of the teacher's, not {given!r}")
        self.discriminator = discriminator
        self.project = project
        self.transform = transform
        self.paths: tuple[str, str] = paths
        self.given = given
        beside = () if given is None else (given,)
        self.reads: Mapping[str, tuple[str, ...]] = {
            "student": (paths[0],),
            "teacher": (paths[1], *beside),
        }

    def values(
        self, student: Signals, teacher: Signals | None, batch: Mapping[str, Any], progress: float
    ) -> Tensor:
        """[...] both parts, added."""
        mine, theirs = both(student, teacher, *self.paths)
        check_tensors(self.text(), mine, theirs)
        if self.project is not None:
            mine = mapped(self.text(), "project", self.project, mine)
        if theirs.ndim < 2 or mine.shape[mine.ndim - theirs.ndim :] != theirs.shape:
            raise ValueError(
                f"{self.text()}: the student's signal {list(mine.shape)} and the teacher's "
                f"{list(theirs.shape)} are not alike, which would give the student away; show both "
                "the same batch, and map widths with project=nn.LazyLinear(theirs)"
            )
        assert teacher is not None
        mine, theirs = self._shown(mine, teacher), self._shown(theirs, teacher)
        judge = self.discriminator
        real = self._logit(mapped(self.text(), "discriminator", judge, theirs), theirs)
        fake = self._logit(mapped(self.text(), "discriminator", judge, mine.detach()), mine)
        # the same discriminator, held fixed: only the student is moved
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        passes = self._logit(functional_call(self.discriminator, fixed, (mine,)), mine)
        return F.softplus(-passes) + F.softplus(-real) + F.softplus(fake)

    def _shown(self, x: Tensor, teacher: Signals) -> Tensor:
        """A signal as the discriminator sees it."""
        x = full_precision(x if self.transform is None else self.transform(x))
        if self.given is None:
            return x
        item = full_precision(pick(teacher, self.given, "teacher").detach())
        if item.ndim < 2 or item.shape[:-1] != x.shape[x.ndim - item.ndim : -1]:
            raise ValueError(
                f"{self.text()}: {self.given!r} {list(item.shape)} is not about the items of "
                f"{list(x.shape)}; name a signal with one vector for each of them"
            )
        return torch.cat([x, item.expand(*x.shape[:-1], -1)], -1)

    def _logit(self, said: Any, x: Tensor) -> Tensor:
        """[...] of an answer [..., 1]."""
        shape = tuple(said.shape) if isinstance(said, Tensor) else ()
        if len(shape) < 2 or shape[-1] != 1 or shape[:-1] != x.shape[: len(shape) - 1]:
            raise ValueError(
                f"{self.text()}: the discriminator answered {list(shape) or type(said).__name__} "
                f"to {list(x.shape)}, expected one logit an item, [..., 1]; let it end in "
                "nn.Linear(…, 1)"
            )
        return full_precision(said).squeeze(-1)

    def text(self) -> str:
        """Such as ``adversarial(logits)``."""
        mine, theirs = self.paths
        seen = mine if mine == theirs else f"{mine}~{theirs}"
        seen = seen if self.transform is None else f"{name_of(self.transform)} {seen}"
        return f"adversarial({seen}{'' if self.given is None else f' | {self.given}'})"

    def latex(self) -> str:
        """The typeset term."""
        inside = self.text().removeprefix("adversarial").replace("_", r"\_")
        return rf"\mathrm{{adv}}\mathtt{{{inside}}}"
