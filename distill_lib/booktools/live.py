"""Policies that live in the page: plain JavaScript, with the weights of the networks beside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from distill_lib.booktools.sliders import _fragment

if TYPE_CHECKING:  # the tools of the book are there before torch is
    from torch import nn

    from distill_lib.models import Policy

__all__ = ["LivePoles"]

PUSH = 0.7  # m/s


class LivePoles:
    r"""A teacher and a student with one hidden unit balance a pole side by side, and can be pushed.

    The physics are those of Gymnasium's CartPole. A student with one hidden unit and two actions is
    a threshold on a weighted sum of what it sees: it pushes to the right where

    .. math:: w_1 x + w_2 \dot x + w_3 \theta + w_4 \dot\theta + c > 0 ,

    with the statistics of its observations folded in.

    Args:
        teacher: A policy of CartPole, of tanh units.
        students: How long it was taught, in words, to the student.

    Raises:
        ValueError: no student; a policy of another task, or of other units; a student with more
            than one hidden unit, with other statistics of the observations than the teacher's, or
            with one answer only.

    Example:
        >>> import torch
        >>> from distill_lib import zoo
        >>> from distill_lib.models import Policy
        >>> pole = zoo.load_teacher("cartpole_ppo")
        >>> _ = torch.manual_seed(0)
        >>> LivePoles(pole, {"untaught": Policy(4, 2, (1,)).normalize_as(pole)})
        LivePoles: 4,610 numbers, and 9 (untaught)
    """

    def __init__(self, teacher: Policy, students: Mapping[str, Policy]) -> None:
        from torch import nn

        if not students:
            raise ValueError("LivePoles wants at least one student, by how long it was taught.")
        for policy in (teacher, *students.values()):
            last = _linears(policy)[-1]
            curves = {type(m).__name__ for m in policy.net if not isinstance(m, nn.Linear)}
            if curves - {"Tanh"}:
                raise ValueError(f"the page computes units of Tanh, and one of these has {curves}.")
            if len(policy.obs_mean) != 4 or last.out_features != 2:
                raise ValueError(
                    f"a policy of CartPole sees 4 numbers and has 2 actions, and one of these sees "
                    f"{len(policy.obs_mean)} and has {last.out_features}."
                )
        self.teacher = teacher
        self.students = {name: _folded(teacher, policy) for name, policy in students.items()}
        self.sizes = [_count(teacher), _count(next(iter(students.values())))]

    def __repr__(self) -> str:
        names = ", ".join(self.students)
        return f"LivePoles: {self.sizes[0]:,} numbers, and {self.sizes[1]:,} ({names})"

    def _repr_html_(self) -> str:
        import torch

        layers = _linears(self.teacher)
        flat = torch.cat([part.detach().flatten() for one in layers for part in one.parameters()])
        big, small = self.sizes
        config = {
            "weights": base64.b64encode(flat.float().numpy().astype("<f4").tobytes()).decode(),
            "layers": [one.out_features for one in layers],
            "mean": self.teacher.obs_mean.tolist(),
            "scale": (self.teacher.obs_var + 1e-8).rsqrt().tolist(),
            "clip": min(self.teacher.clip, 1e9),
            "students": self.students,
            "teacher": f"Teacher, {big:,} numbers",
            "student": f"Student, {small:,} numbers",
            "lead": f"A network of {big:,} numbers has learned by trial and error. One of "
            f"{small:,} numbers has never tried anything: it was told what the other would do. "
            "Both run here, in your browser. Push them, with the buttons or by a tap on the side "
            f"to push from; a push changes the speed of the cart by {PUSH} m/s.",
            "push": PUSH,
            "question": "How long was the student taught?",
            "formula": "It pushes to the right if position, speed, angle and turning, each times "
            "its number, and the offset make more than 0. (These five are computed from the "
            f"student's {small:,} numbers and from the scaling of what it sees. What they leave "
            "out is how sure it is.)",
        }
        fallback = "A large and a small network, balancing a pole side by side."
        return _fragment("dlPole", "pole.js", config, fallback).replace(
            'class="dl-fig"', 'class="dl-live"', 1
        )


def _linears(policy: Policy) -> list[nn.Linear]:
    from torch import nn

    return [layer for layer in policy.net if isinstance(layer, nn.Linear)]


def _count(policy: Policy) -> int:
    return sum(p.numel() for p in policy.net.parameters())


def _folded(teacher: Policy, policy: Policy) -> list[float]:
    """Weights and offset of raw observations; right where the sum is more than 0."""
    import torch

    layers = _linears(policy)
    if len(layers) != 2 or layers[0].out_features != 1:
        raise ValueError("a student has one hidden unit here: Policy(4, 2, (1,)).")
    same = policy.clip == teacher.clip and all(
        torch.equal(getattr(policy, name), getattr(teacher, name))
        for name in ("obs_mean", "obs_var")
    )
    if not same:
        raise ValueError("the student sees with other statistics: give it normalize_as(teacher).")
    with torch.no_grad():
        first, last = layers
        gain = (last.weight[1] - last.weight[0]).double().item()
        most = (last.bias[1] - last.bias[0]).double().item()
        if abs(most) >= abs(gain):
            raise ValueError("this student pushes to the same side whatever it sees.")
        # gain tanh(w n + b) + most > 0, n the normalized observation
        sign, limit = math.copysign(1, gain), math.atanh(-most / gain)
        scale = (policy.obs_var.double() + 1e-8).rsqrt()
        weights = sign * first.weight[0].double() * scale
        offset = sign * (first.bias[0].double().item() - limit)
        return [*weights.tolist(), offset - float(weights @ policy.obs_mean.double())]
