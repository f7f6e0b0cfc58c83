"""What a discriminator cannot see: the theorem of the chapter on TRL, by enumeration."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import losses
from distill_lib.terms import Adversarial

ITEMS, VALUES = 12, 4
seeds = st.integers(0, 10**6)


def signals(seed: int) -> tuple[Tensor, Tensor]:
    """The value of each item under the teacher and the student, as one-hot vectors."""
    draw = torch.Generator().manual_seed(seed)
    v, z = torch.randint(VALUES, (2, ITEMS), generator=draw)
    return F.one_hot(v, VALUES).double(), F.one_hot(z, VALUES).double()


class Table(nn.Module):
    """Any discriminator of finitely many values is a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.table).unsqueeze(-1)


def judged(table: Tensor, v: Tensor, z: Tensor) -> Tensor:
    """The discriminator's part of the term, which is the theorem's loss."""
    whole, _ = Adversarial(Table(table))(z, v)
    return whole - F.softplus(-z @ table).mean()


def best(v: Tensor, z: Tensor) -> Tensor:
    """The loss of the best table, with a floor for values that one side never has."""
    p, q = v.mean(0).clamp_min(1e-12), z.mean(0).clamp_min(1e-12)
    return judged((p / q).log(), v, z)


@given(seeds)
def test_a_the_items_may_be_exchanged(seed: int) -> None:
    v, z = signals(seed)
    draw = torch.Generator().manual_seed(seed)
    table = torch.randn(VALUES, generator=draw, dtype=torch.float64)
    other = z[torch.randperm(ITEMS, generator=draw)]
    torch.testing.assert_close(judged(table, v, z), judged(table, v, other))


@given(seeds)
def test_b_the_best_value_is_that_of_the_jensen_shannon_divergence(seed: int) -> None:
    v, z = signals(seed)
    p, q = v.mean(0), z.mean(0)
    divergence = losses.jsd(student=q.log(), teacher=p.log())
    found = best(v, z)
    torch.testing.assert_close(found, 2 * math.log(2) - 2 * divergence, rtol=1e-6, atol=1e-8)
    assert (found > 2 * math.log(2) - 1e-9) == bool((p == q).all())
    draw = torch.Generator().manual_seed(seed)
    for _ in range(5):  # no table does better
        table = 3 * torch.randn(VALUES, generator=draw, dtype=torch.float64)
        assert judged(table, v, z) > found - 1e-9


@given(seeds, st.booleans())
def test_c_with_the_item_beside_it_every_wrong_answer_shows(seed: int, right: bool) -> None:
    v, z = signals(seed)
    z = v if right else v[torch.randperm(ITEMS, generator=torch.Generator().manual_seed(seed))]
    blind = best(v, z)
    torch.testing.assert_close(blind, torch.tensor(2 * math.log(2), dtype=torch.float64))
    items = torch.eye(ITEMS, dtype=torch.float64)  # a pair is a value of its own
    pairs = [torch.einsum("ni,nv->niv", items, x).flatten(1) for x in (v, z)]
    found = best(pairs[0], pairs[1])
    wrong = (v != z).any(-1).double().mean()
    torch.testing.assert_close(found, (1 - wrong) * 2 * math.log(2), rtol=1e-6, atol=1e-8)
