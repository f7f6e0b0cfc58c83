"""A server is asked in numbers that it can read, and as often as was said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_lib.booktools.serving import serve
from distill_lib.models import SmallGPT
from distill_lib.teachers import Served, ServedError
from distill_lib.teachers.posting import LONGEST, Post

MODEL = SmallGPT(16, seed=3)
IDS = torch.randint(16, (2, 5), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(MODEL, vocabulary=16, length=40) as found:
        yield found


@pytest.mark.parametrize("whole", [np.int64, np.int32, np.uint8])
@pytest.mark.parametrize("echo", [False, True])
def test_whole_numbers_of_numpy_are_whole_numbers(url: str, whole: Any, echo: bool) -> None:
    plain = Served(url, "teacher", 4, echo=echo)
    other = Served(url, "teacher", whole(4), echo=echo, at_once=whole(2))
    assert other.fingerprint() == plain.fingerprint()  # a cache of one is one of the other
    assert all(other(IDS)[k].equal(v) for k, v in plain(IDS).items())
    words = plain.write(IDS, 3, temperature=0)
    assert other.write(IDS, whole(3), temperature=np.float32(0), pad=whole(0)).equal(words)


@pytest.mark.parametrize(
    "form", [Tensor.bool, Tensor.float, Tensor.tolist, Tensor.numpy, lambda x: x / 2]
)
def test_a_mask_counts_as_it_comes(url: str, form: Callable[[Tensor], Any]) -> None:
    served = Served(url, "teacher", 4)
    want, found = (
        served({"input_ids": IDS, "attention_mask": mask}) for mask in (MASK, form(MASK))
    )
    assert all(found[k].equal(v) for k, v in want.items())


def test_a_mask_that_is_added_is_refused(url: str) -> None:
    added = torch.zeros(2, 5).masked_fill(MASK == 0, -1e9)
    batch = {"input_ids": IDS, "attention_mask": added}
    for ask in (Served(url, "teacher"), lambda x: Served(url, "teacher").write(x, 2)):
        with pytest.raises(ValueError, match="added to scores"):
            ask(batch)


@pytest.mark.parametrize("tries", [3, 70, 1100])
def test_it_tries_as_often_as_was_said(tries: int) -> None:
    """Pauses double, and a number has an end."""
    pauses: list[float] = []
    post = Post("http://localhost:1/x", tries=tries, sleep=pauses.append)
    with pytest.raises(ServedError, match=f"no answer in {tries} tries"):
        post({})
    assert pauses == [min(2.0 ** min(k, 9), LONGEST) for k in range(tries - 1)]
