"""Walks whose prompts have room for a hint: a task on which a model can teach itself."""

from __future__ import annotations

import torch
from torch import Tensor

from distill_lib.sequences import Walks, sample

__all__ = ["HintedWalks"]

SIGNS = [*"0123456789", "=", *"←→↓↑", ".", "_", "?", "h", "v", "c", "o", "f", *"ABCD"]
KINDS = {"none": 16, "copy": 20, "own": 21, "fact": 22}
ORDERS = {"mixed": 17, "x": 18, "y": 19}


class HintedWalks:
    """Ways on a grid of 4 × 4, to a goal whose column may be given by a letter, with a hint.

    A prompt is 15 tokens: what to do with the hint, eight places for it, start, goal, the order
    that is asked for, and ``=``. The order is ``"x"``, horizontally first, ``"y"``, vertically
    first, or ``"mixed"``, as one likes. The column of the goal is a digit, which says what it is,
    or one of four letters, whose meaning nobody has told the model.

    Hints are made of the way to the goal:

    - ``"none"``: no hint;
    - ``"fact"``: the digit of the column;
    - ``"copy"``: a worked answer, to be copied;
    - ``"own"``: a worked answer, to be told in one's own words.

    Attributes:
        vocabulary: 27 tokens: those of :class:`distill_lib.sequences.Walks`, and more.
        prompt: 15, the tokens of a prompt.
        new: 8, the most tokens of an answer.
        meaning: [4], the columns that A, B, C and D stand for.

    Example:
        >>> task = HintedWalks()
        >>> walk = torch.tensor([0, 3, 2, 1])
        >>> prompt = task.prompts(walk, letters=True)
        >>> task.text(prompt), task.text(task.hinted(prompt, "own"))
        ('________ 03→A1 ?', 'o ↓↓→→.... 03→A1 ?')
    """

    vocabulary: int = 27
    prompt: int = 15
    new: int = 8
    stop: int = Walks.stop

    def __init__(self) -> None:
        self.walks: Walks = Walks(4)
        self.meaning: Tensor = torch.tensor([2, 0, 3, 1])

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Starts and goals [n, 4] as digits."""
        return self.walks.prompts(n, generator)[..., :4]

    def answers(
        self, walk: Tensor, order: str = "mixed", generator: torch.Generator | None = None
    ) -> Tensor:
        """Right answers [..., 8] of starts and goals [..., 4], with stops to the end."""
        return self.walks.answers(self.bare(walk), order, generator=generator)

    def bare(self, walk: Tensor) -> Tensor:
        """Prompts [..., 5] as :class:`distill_lib.sequences.Walks` has them."""
        return torch.cat([walk, walk.new_full((*walk.shape[:-1], 1), self.walks.equals)], -1)

    def prompts(
        self,
        walk: Tensor,
        order: str = "mixed",
        *,
        letters: Tensor | bool = False,
        kind: str = "none",
        hint: Tensor | None = None,
    ) -> Tensor:
        """Prompts [..., 15].

        Args:
            walk: Starts and goals [..., 4].
            order: What is asked for.
            letters: Whether the column is given by its letter; or letters [...], from 0 to 3, that
                mean nothing.
            kind: What to do with the hint.
            hint: [..., 8], or nothing.
        """
        lead = walk.shape[:-1]
        goal = walk[..., 2:].clone()
        if letters is not False:
            letter = self.meaning.argsort().to(goal.device)
            named = letter[goal[..., 0]] if letters is True else letters
            goal[..., 0] = 23 + named
        blank = walk.new_full((*lead, 8), KINDS["none"])
        ends = walk.new_tensor([ORDERS[order], self.walks.equals]).expand(*lead, 2)
        parts = [
            walk.new_full((*lead, 1), KINDS[kind]),
            blank if hint is None else hint,
            walk[..., :2],
            goal,
            ends,
        ]
        return torch.cat(parts, -1)

    def walk(self, prompts: Tensor) -> Tensor:
        """Starts and goals [..., 4] as digits, of prompts [..., 15 or more]."""
        found = prompts[..., 9:13].clone()
        letter = found[..., 2] - 23
        known = self.meaning.to(prompts.device)[letter.clamp_min(0)]
        found[..., 2] = torch.where(letter >= 0, known, found[..., 2])
        return found

    def lettered(self, ids: Tensor) -> Tensor:
        """Whether the column of the goal is a letter: [..., 1]."""
        return ids[..., 11:12] >= 23

    def hinted(
        self, ids: Tensor, kind: str, order: str = "y", other: Tensor | None = None
    ) -> Tensor:
        """The same texts [..., 15 or more], with a hint in their prompts.

        Args:
            ids: Prompts, with or without what was written after them.
            kind: What to do with the hint; ``"first"`` is one in one's own words of which two moves
                are left.
            order: Of the worked answer.
            other: Starts and goals of other problems, to which the hints belong.
        """
        walk = self.walk(ids) if other is None else other
        made = ids.clone()
        hint = self.hint(walk, kind, order)
        made[..., :1], made[..., 1:9] = KINDS["own" if kind == "first" else kind], hint
        return made

    def hint(
        self, walk: Tensor, kind: str, order: str, generator: torch.Generator | None = None
    ) -> Tensor:
        """The eight tokens of a hint [..., 8]."""
        hint = walk.new_full((*walk.shape[:-1], 8), KINDS["none"])
        if kind == "fact":
            hint[..., 0] = walk[..., 2]
        elif kind != "none":
            told = 2 if kind == "first" else 8
            hint[..., :told] = self.answers(walk, order, generator)[..., :told]
        return hint

    def write(self, model: torch.nn.Module, prompts: Tensor, generator: torch.Generator) -> Tensor:
        """What a model writes after prompts: [..., 8], with stops to the end."""
        said = sample(model, prompts, self.new, stop=self.stop, pad=self.stop, generator=generator)
        return said["input_ids"][..., self.prompt :]

    def score(self, walk: Tensor, answers: Tensor) -> Tensor:
        """1 where an answer stops on its goal, else 0: [...]."""
        return self.walks.score(torch.cat([self.bare(walk), answers], -1))

    def text(self, ids: Tensor) -> str:
        """One text [L], for people."""
        words = [SIGNS[i] for i in ids.tolist()]
        kind = "" if words[0] == "_" else words[0] + " "
        hint, way, order = ("".join(words[a:b]) for a, b in ((1, 9), (9, 11), (11, 13)))
        answer = "".join(words[15:]).split(".")[0] + "." if len(words) > 15 else ""
        return f"{kind}{hint} {way}→{order} {words[13]} {answer}".rstrip()
