"""A step's batches may differ in every length: each value counts as much as every other."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import KD, distill, losses
from distill_lib.masks.counting import count_like


class Reader(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.words, self.head = nn.Embedding(12, 6), nn.Linear(6, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        return self.head(self.words(input_ids))


def mean(student: nn.Module, teacher: nn.Module, inputs: list[Tensor]) -> float:
    found = [losses.kl(student=student(x), teacher=teacher(x)).flatten() for x in inputs]
    return torch.cat(found).mean().item()


@given(sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=2, max_size=3))
@settings(max_examples=8, deadline=None)
def test_texts_of_any_number_and_length(sizes: list[tuple[int, int]]) -> None:
    student, teacher = Reader(0), Reader(1)
    texts = [torch.randint(12, size) for size in sizes]
    want = mean(student, teacher, texts)
    parts = Accelerator(cpu=True, gradient_accumulation_steps=len(texts))
    batches = [{"input_ids": x} for x in texts]
    found = distill(student, teacher, batches, KD(), steps=1, accelerator=parts)["kd"][0]
    assert found == pytest.approx(want, rel=1e-5)


def test_padding_that_only_one_batch_has() -> None:
    student, teacher = Reader(0), Reader(1)
    texts, keep = torch.randint(12, (2, 8)), torch.tensor([[1] * 8, [1] * 4 + [0] * 4])
    batches = [{"input_ids": texts}, {"input_ids": texts, "attention_mask": keep}]
    apart = losses.kl(student=student(texts), teacher=teacher(texts))
    want = torch.cat([apart.flatten(), apart[keep.bool()]]).mean().item()
    for order in (batches, batches[::-1]):
        parts = Accelerator(cpu=True, gradient_accumulation_steps=2)
        found = distill(copy.deepcopy(student), teacher, order, KD(), steps=1, accelerator=parts)
        assert found["kd"][0] == pytest.approx(want, rel=1e-5)


CASES = {
    "texts": ((2, 32), {"input_ids": (2, 32)}, {"input_ids": (3, 2)}, 6),
    "embedded": ((2, 9), {"inputs_embeds": (2, 9, 5)}, {"inputs_embeds": (3, 4, 5)}, 12),
    "images": ((2, 16, 16), {"inputs": (2, 3, 16, 16)}, {"inputs": (1, 3, 2, 2)}, 4),
    "nodes": ((50,), {"edges": (2, 9), "x": (50, 4)}, {"edges": (2, 7), "x": (3, 4)}, 3),
    "students": ((5, 4), {"inputs": (4, 7)}, {"inputs": (2, 7)}, 10),
    "patches": ((4, 9), {"inputs": (4, 3, 6, 6)}, {"inputs": (2, 3, 6, 6)}, 18),
}


@pytest.mark.parametrize("case", CASES)
def test_the_number_is_read_off_the_entry_that_fits(case: str) -> None:
    shape, one, two, number = CASES[case]
    batch, other = ({k: torch.zeros(size) for k, size in sizes.items()} for sizes in (one, two))
    assert count_like(torch.zeros(shape), False, batch, other) == number
    nested = count_like(
        torch.zeros(shape), False, {"inputs": (True, batch)}, {"inputs": (1, other)}
    )
    assert nested == number


def test_where_nothing_tells_the_number_it_is_refused() -> None:
    batch, other = {"inputs": torch.zeros(2, 3, 6, 6)}, {"inputs": torch.zeros(2, 3, 8, 8)}
    with pytest.raises(ValueError, match="give each a mask"):
        count_like(torch.zeros(2, 9), False, batch, other)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=3),
    shared=st.integers(1, 7),
    shape=st.sampled_from([(), (5,), (5, 3)]),
    first=st.booleans(),
    nested=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_what_batches_share_says_nothing_of_their_number(
    sizes: list[int], shared: int, shape: tuple[int, ...], first: bool, nested: bool
) -> None:
    batches: list[Any] = []
    for n in sizes:
        prior, inputs = torch.zeros(shared), torch.zeros(n, 4)
        named = {"prior": prior, "inputs": inputs} if first else {"inputs": inputs, "prior": prior}
        batches.append({"inputs": [*named.values()]} if nested else named)
    for n, batch in zip(sizes, batches, strict=True):
        values = torch.zeros(n, *shape)
        for m, other in zip(sizes, batches, strict=True):
            assert count_like(values, False, batch, other) == values[0].numel() * m


@pytest.mark.parametrize("at", [0, 1])
def test_entries_that_disagree_are_refused_unless_labels_tell(at: int) -> None:
    batch = {"one": torch.zeros(6, 2), "other": torch.zeros(6 - 3 * at, 4)}
    after = {"one": torch.zeros(4, 2), "other": torch.zeros(5 - at, 4)}
    with pytest.raises(ValueError, match="several that disagree"):
        count_like(torch.zeros(6, 9), False, batch, after)
    labels = ({"labels": torch.zeros(n).long()} for n in (6, 4))
    known, there = (
        {**entries, **more} for entries, more in zip((batch, after), labels, strict=True)
    )
    assert count_like(torch.zeros(6, 9), False, known, there) == 36
