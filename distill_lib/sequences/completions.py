"""Whose words a student learns from: prompts and what somebody wrote after them, as batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import as_stops, check_counts, check_temperature, checked, told
from distill_lib.masks import IGNORE, following
from distill_lib.schedules import Schedule, as_schedule
from distill_lib.teachers.live import Source, models_of

from .readers import leftwards
from .sampling import Prompts, padded, sample

__all__ = ["Completions"]

Texts = Tensor | Sequence[Tensor] | Callable[..., Tensor]


@checked
class Completions:
    r"""Prompts with the words of a corpus, of the teacher, or of the student, as batches.

    Each text of a batch is written by

    .. math:: \text{the student with probability } \lambda,
       \quad \text{else the corpus, or the teacher where there is none}

    and the teacher's answer is asked for at every word, whoever wrote it. λ = 0 is learning from
    given words, λ = 1 on-policy distillation, a number between them, or a schedule, a mixture. What
    the student writes is drawn anew for every batch, from the student as it is then. Only words
    after the prompt count, each once, up to the one that ends the text.

    So ``distill(student, teacher, Completions(prompts, student, own=1.0, new=32),
    KD(losses.reverse_kl), epochs=1)``. It is the twin of :class:`distill_lib.rl.Rollouts`.

    Batches have ``input_ids`` [B, P + new], ``attention_mask``, and ``shift_labels``: the next
    word, or -100. Texts begin at the left, and all padding is on their right. For S stacked
    students (:class:`distill_lib.models.SmallGPT`), each has prompts and words of its own:
    [S, B, P + new].

    Args:
        prompts: Ids [N, P], a list of N texts [P_i], a tokenizer's mapping, or a function
            ``prompts(n, generator)`` to [n, P] for as many as one likes.
        student: Who writes where λ > 0.
        teacher: Who writes the other texts, unless there is a corpus: a causal model, or a
            :class:`distill_lib.Teacher` of one.
        own: λ, in [0, 1]: a number, or a schedule over all batches of all rounds.
        texts: The corpus: completions [N, n] of the prompts, a list of N texts [n_i], or a function
            ``texts(prompts, generator)`` from [n, P] to [n, new].
        new: The most words after a prompt.
        batch_size: Texts in a batch (of each student).
        updates: Batches a walk.
        rounds: Walks that a schedule for λ runs over.
        temperature: Of the writing, the student's and the teacher's.
        stop: The token, or tokens, that end a text, and count.
        pad: What fills the places beside a text.
        seeds: Without a student, so many stacked students get prompts and words of their own; with
            one, as many as it has.
        seed: Of everything random here.

    Raises:
        ValueError: λ outside [0, 1]; nobody to write; a corpus of another size than the prompts, or
            with an empty text; other ``seeds`` than the student has; a teacher that sees other
            tokens, or that is of other students.

    Reference:
        Agarwal et al., *On-policy distillation of language models: learning from self-generated
        mistakes*, 2024, algorithm 1 (there a whole batch is of one writer).

    Example:
        >>> from distill_lib.models import SmallGPT
        >>> from distill_lib.sequences import Walks
        >>> walks, student = Walks(3), SmallGPT(16)
        >>> words = Completions(walks.prompts, student, new=walks.new, stop=walks.stop)
        >>> next(iter(words))["shift_labels"].shape
        torch.Size([16, 11])
    """

    midway = True  # tells distill that its state is that of this moment, not of the epoch's start

    def __init__(
        self,
        prompts: Prompts | Callable[..., Tensor],
        student: nn.Module | None = None,
        teacher: nn.Module | Source | None = None,
        *,
        own: Schedule | float = 1.0,
        texts: Texts | None = None,
        new: int,
        batch_size: int = 16,
        updates: int = 100,
        rounds: int = 1,
        temperature: float = 1.0,
        stop: int | Sequence[int] | None = None,
        pad: int = 0,
        seeds: int | None = None,
        seed: int = 0,
    ) -> None:
        check_counts(new=new, batch_size=batch_size, updates=updates, rounds=rounds)
        check_counts(seeds=1 if seeds is None else seeds)
        check_temperature(temperature)
        self.own: Schedule = as_schedule(own)
        shares = [self.own(i / max(updates * rounds - 1, 1)) for i in range(updates * rounds)]
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(
                f"own is a share of texts, in [0, 1]; it runs from {min(shares):g} to "
                f"{max(shares):g}"
            )
        if student is None and max(shares) > 0:
            raise ValueError(f"own rises to {max(shares):g}: pass the student that writes then")
        if texts is None and teacher is None and min(shares) < 1:
            raise ValueError(
                f"own falls to {min(shares):g}: pass texts=, or the teacher that writes then"
            )
        self.new, self.batch_size, self.updates, self.rounds = new, batch_size, updates, rounds
        self.temperature, self.pad, self.seed = temperature, pad, seed
        self.stop: tuple[int, ...] = tuple(as_stops(stop, pad))
        self.student, self.writer = student, _writer(teacher)
        own_seeds = getattr(student, "seeds", None)
        if student is not None and seeds not in (None, own_seeds):
            raise ValueError(
                f"seeds={seeds} of a student that is {own_seeds or 'one network'}: leave seeds= "
                "out, it is read off the student"
            )
        self.seeds: int | None = seeds if student is None else own_seeds
        theirs = getattr(self.writer, "seeds", None)
        if theirs not in (None, self.seeds):
            raise ValueError(
                f"a teacher of {theirs} stacked networks writes for {self.seeds or 'one'}: take "
                "one of them, teacher.one(0)"
            )
        self.prompts: Any = prompts if callable(prompts) else padded(prompts, pad)
        self.texts: Any = self._corpus(texts)
        self.generator: torch.Generator = torch.Generator().manual_seed(seed)
        self.round, self.position = 0, updates

    # ---- walking ----

    def __len__(self) -> int:
        return self.updates

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if self.position >= self.updates:
            self.round, self.position = self.round + 1, 0
        while self.position < self.updates:
            done = (self.round - 1) * self.updates + self.position
            self.position += 1
            yield self.draw(self.own(min(done / max(self.updates * self.rounds - 1, 1), 1.0)))

    def draw(self, own: float) -> dict[str, Tensor]:
        """One batch, with each text the student's own with probability ``own``."""
        mine = torch.rand(self.batch_size, generator=self.generator) < own
        drawn, parts = self._prompts(), []
        for student, at in ((True, mine.nonzero()[:, 0]), (False, (~mine).nonzero()[:, 0])):
            if len(at):
                chosen = {k: v.index_select(len(self._lead), at) for k, v in drawn.items()}
                found = self._written(chosen) if student else self._given(chosen)
                # one may write on a GPU, and the other on the CPU
                parts.append([part.to(drawn["ids"].device) for part in found])
        ids, mask, live = (torch.cat(found, len(self._lead)) for found in zip(*parts, strict=True))
        # texts begin at the left, where also models without places for padding read them alike
        left = leftwards(mask)
        ids, mask, live = (found.gather(-1, left) for found in (ids, mask, live))
        labels = following(ids.masked_fill(live == 0, IGNORE), IGNORE)
        return {"input_ids": ids, "attention_mask": mask, "shift_labels": labels}

    @property
    def _lead(self) -> tuple[int, ...]:
        return () if self.seeds is None else (self.seeds,)

    def _prompts(self) -> dict[str, Tensor]:
        """Prompts and masks [..., B, P], with their numbers where they have some."""
        shape = (*self._lead, self.batch_size)
        many = self.batch_size * (self.seeds or 1)
        if callable(self.prompts):
            ids = self.prompts(many, generator=self.generator)
            if not isinstance(ids, Tensor) or ids.ndim != 2 or len(ids) != many:
                raise ValueError(f"prompts({many}) expected ids [{many}, P], got {told(ids)}")
            ids, _ = padded(ids, self.pad)
            return {"ids": ids.view(*shape, -1), "mask": torch.ones_like(ids).view(*shape, -1)}
        ids, mask = self.prompts
        at = torch.randint(len(ids), shape, generator=self.generator)
        return {"ids": ids[at], "mask": mask[at], "at": at}

    def _written(self, prompts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        assert self.student is not None
        return self._by(self.student, prompts)

    def _given(self, prompts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The corpus' words, or the teacher's."""
        if self.texts is None:
            return self._by(self.writer, prompts)
        ids, mask = prompts["ids"], prompts["mask"]
        if callable(self.texts):
            flat = self.texts(ids.flatten(0, -2), generator=self.generator)
            wanted = ids.flatten(0, -2).shape[:1]
            real = isinstance(flat, Tensor) and flat.is_floating_point()
            if not isinstance(flat, Tensor) or flat.shape[:-1] != wanted or real:
                raise ValueError(
                    f"texts expected ids [n] for each of {ids.shape[:-1].numel()} prompts, "
                    f"got {told(flat)}"
                )
            words, live = self._cut(flat.to(ids.device), self._live(flat).to(ids.device))
            words, live = (x.view(*ids.shape[:-1], -1) for x in (words, live))
        else:
            words, live = (found[prompts["at"]] for found in self.texts)
        return torch.cat([ids, words], -1), torch.cat([mask, live], -1), _after(mask, live)

    def _by(self, model: nn.Module, prompts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        found = sample(
            model,
            {"input_ids": prompts["ids"], "attention_mask": prompts["mask"]},
            self.new,
            temperature=self.temperature,
            stop=self.stop,
            pad=self.pad,
            generator=self.generator,
        )
        names = ("input_ids", "attention_mask", "completion_mask")
        ids, mask, live = (found[name].cpu() for name in names)
        return ids, mask, live

    # ---- the corpus ----

    def _corpus(self, texts: Texts | None) -> Any:
        if texts is None or callable(texts):
            return texts
        if callable(self.prompts):
            raise ValueError(
                "texts of prompts that are drawn by a function are a function too: "
                "texts(prompts, generator)"
            )
        if isinstance(texts, Tensor):
            words, live = texts, None
        else:
            if not all(isinstance(t, Tensor) and t.ndim == 1 for t in texts):
                raise TypeError("texts expected a list of ids [n_i], one text for each prompt")
            words = nn.utils.rnn.pad_sequence(list(texts), True, self.pad)
            lengths = torch.tensor([len(t) for t in texts])
            live = (torch.arange(words.shape[1]) < lengths[:, None]).long()
        count = len(self.prompts[0])
        if words.ndim != 2 or len(words) != count or words.is_floating_point():
            raise ValueError(f"texts expected one for each of {count} prompts, got {told(words)}")
        words, live = self._cut(words, self._live(words) if live is None else live)
        if not bool(live.any(-1).all()):
            raise ValueError(
                f"text {int(live.any(-1).long().argmin())} is empty: there is no word to learn"
            )
        return words, live

    def _live(self, words: Tensor) -> Tensor:
        """All words, of a tensor that does not say how long its texts are."""
        blank = (words == self.pad) & (self.pad not in self.stop)
        empty = blank.all(-1) if words.shape[1] else blank.new_ones(len(words))
        if bool(empty.any()):
            raise ValueError(
                f"text {int(empty.long().argmax())} is empty, or padding alone (pad={self.pad}): "
                "there is no word to learn; give a list of texts [n_i], or another pad"
            )
        return torch.ones_like(words)

    def _cut(self, words: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Words [..., new], and which of them count: those up to the first stop."""
        if words.numel() and int(words.min()) < 0:
            raise ValueError(
                f"texts expected ids from 0 on, got {int(words.min())}: leave words that do not "
                "count out of the texts"
            )
        gap = self.new - words.shape[-1]
        words, live = (nn.functional.pad(x, (0, gap)) for x in (words.long(), live))
        over = torch.isin(words, torch.tensor(self.stop, dtype=torch.int64)).long()
        before = over.cumsum(-1) - over == 0
        live = live * before.long()
        return words.masked_fill(live == 0, self.pad), live

    # ---- keeping ----

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on exactly here."""
        state = self.generator.get_state()
        return {"round": self.round, "position": self.position, "generator": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another left off."""
        self.round, self.position = state["round"], state["position"]
        self.generator.set_state(state["generator"])


def _after(mask: Tensor, live: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(mask), live], -1)


def _writer(teacher: Any) -> Any:
    """The model that a teacher asks."""
    if teacher is None or isinstance(teacher, nn.Module):
        return teacher
    if getattr(teacher, "preprocess", None) is not None:
        raise ValueError(
            "a teacher with preprocess= sees other tokens than the student, and would write in "
            "them: pass a model that reads the prompts as they are, or texts="
        )
    models = models_of(teacher)
    if len(models) != 1:
        raise ValueError(
            f"a teacher of {len(models)} models has no text of its own: pass the model that "
            "writes, or texts="
        )
    return models[0]
