"""A task of short texts that can be scored: the way from one field of a grid to another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib.arguments import check_between, check_counts, checked, told

__all__ = ["Walks"]

STYLES = {"x": 1.0, "y": 0.0, "mixed": 0.5}  # how often a walker goes horizontally first


@checked
class Walks:
    """Ways on a grid: a prompt of start and goal, an answer of moves and a stop.

    A prompt is five tokens, ``sx sy gx gy =``. An answer is at most ``2 · size`` tokens, moves by
    one field in one of four directions and then a stop, ``left``, ``right``, ``up``, ``down``,
    ``stop``. An answer is right if it stands on the goal when it stops. A wrong move can be
    repaired, one learns step by step, and there are several right answers: horizontally first,
    vertically first, mixed.

    Args:
        size: Fields along a side, from 2 to 10.

    Attributes:
        vocabulary: 16 tokens: ten digits, ``=``, four moves, ``stop``.
        new: The most tokens of an answer, with its stop.

    Example:
        >>> walks = Walks(5)
        >>> prompts = walks.prompts(3, torch.Generator().manual_seed(0))
        >>> ids = torch.cat([prompts, walks.answers(prompts)], -1)
        >>> walks.text(ids[0]), walks.score(ids).tolist()
        ('44→30: ←↓↓↓↓.', [1.0, 1.0, 1.0])
    """

    vocabulary: int = 16
    equals: int = 10
    left, right, down, up = 11, 12, 13, 14
    stop: int = 15

    def __init__(self, size: int = 5) -> None:
        if not 2 <= size <= 10:
            raise ValueError(f"size is a number of fields from 2 to 10, got {size}")
        self.size = size
        self.prompt: int = 5
        self.new: int = 2 * size

    def prompts(
        self, n: int, generator: torch.Generator | None = None, seeds: int | None = None
    ) -> Tensor:
        """Random prompts [n, 5], or [seeds, n, 5] with a set for each of several students."""
        check_counts(n=n, seeds=1 if seeds is None else seeds)
        shape = (n,) if seeds is None else (seeds, n)
        fields = torch.randint(0, self.size, (*shape, 4), generator=generator)
        return torch.cat([fields, torch.full((*shape, 1), self.equals)], -1)

    def answers(
        self,
        prompts: Tensor,
        style: str = "x",
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Right answers [..., 2 · size], with stops to the end.

        Args:
            prompts: [..., 5], of fields of this grid.
            style: ``"x"`` goes horizontally first, ``"y"`` vertically first, ``"mixed"`` tosses a
                coin at every step.
            noise: Share of random moves, which the rest of the walk repairs.
            generator: Of coins and noise.

        Raises:
            ValueError: another style or noise; prompts that are none, or of a larger grid.
        """
        return self.noisy_answers(prompts, style, noise, generator)[0]

    def noisy_answers(
        self,
        prompts: Tensor,
        style: str = "x",
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`answers`, and which of the moves were random [..., 2 · size]."""
        self._check(prompts, self.prompt)
        fields = prompts[..., :4]
        if bool(((fields < 0) | (fields >= self.size)).any()):
            raise ValueError(
                f"prompts expected start and goal with numbers from 0 to {self.size - 1}, got "
                f"{int(fields.min())} to {int(fields.max())}: nobody walks there in {self.new} "
                "tokens"
            )
        check_between(0, 1, noise=noise)
        if style not in STYLES:
            raise ValueError(f"style is one of {', '.join(STYLES)}, got {style!r}")
        home, prompts = prompts.device, prompts.cpu()  # where the generator is
        at, goal = prompts[..., :2].clone(), prompts[..., 2:4]
        shape = at.shape[:-1]
        moves, chance = [], []
        for step in range(self.new):
            way = goal - at
            wanted = way != 0
            go = wanted.any(-1)
            first = torch.rand(shape, generator=generator) < STYLES[style]
            axis = torch.where(wanted.all(-1), (~first).long(), (~wanted[..., 0]).long())
            sign = way.gather(-1, axis.unsqueeze(-1)).squeeze(-1).sign()
            spare = self.new - step - way.abs().sum(-1) >= 3  # time to come back, and to stop
            lost = (torch.rand(shape, generator=generator) < noise) & go & spare
            axis = torch.where(lost, torch.randint(0, 2, shape, generator=generator), axis)
            anywhere = torch.randint(0, 2, shape, generator=generator) * 2 - 1
            sign = torch.where(lost, anywhere, sign)
            at = at + F.one_hot(axis, 2) * (sign * go).unsqueeze(-1)
            moves.append(torch.where(go, self.left + axis * 2 + (sign > 0).long(), self.stop))
            chance.append(lost)
        return torch.stack(moves, -1).to(home), torch.stack(chance, -1).to(home)

    def score(self, ids: Tensor) -> Tensor:
        """1 where a text [..., 5 + moves] stops on its goal, else 0: [...] float."""
        self._check(ids, self.prompt + 1)
        said = ids[..., self.prompt :]
        live = (said == self.stop).long().cumsum(-1) == 0
        legal = (((said >= self.left) & (said <= self.stop)) | ~live).all(-1)
        steps = [
            (((said == plus).long() - (said == minus).long()) * live).sum(-1)
            for minus, plus in ((self.left, self.right), (self.down, self.up))
        ]
        there = (ids[..., :2] + torch.stack(steps, -1) == ids[..., 2:4]).all(-1)
        return (there & legal & (said == self.stop).any(-1)).float()

    def text(self, ids: Tensor) -> str:
        """One text [L], for people: ``44→30: ←↓↓↓↓.``"""
        if not isinstance(ids, Tensor) or ids.ndim != 1 or ids.is_floating_point():
            raise ValueError(f"text expected the ids of one text [L], got {told(ids)}")
        signs = [*"0123456789", "=", *"←→↓↑", "."]
        words = [signs[i] if 0 <= i < len(signs) else "?" for i in ids.tolist()]
        told_until = words.index(".") + 1 if "." in words else len(words)
        moves = "".join(words[self.prompt : told_until])
        return f"{''.join(words[:2])}→{''.join(words[2:4])}: {moves}"

    def _check(self, ids: Tensor, least: int) -> None:
        real = isinstance(ids, Tensor) and (ids.is_floating_point() or ids.dtype == torch.bool)
        if not isinstance(ids, Tensor) or real or ids.ndim < 1 or ids.shape[-1] < least:
            raise ValueError(f"Walks expected ids [..., {least} or more], got {told(ids)}")
