"""Relations of several students: each compares the items that it saw, and no students."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill_lib import Match, Peers, Relation, Stacked, distill, losses

LOSSES = [losses.rkd_distance, losses.rkd_angle, losses.similarity, losses.pkt]
SIZES = [(2, 5), (5, 5), (5, 2)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("students", "items"), SIZES)
@pytest.mark.parametrize("shape", [(6,), (3, 2, 2)])
@pytest.mark.parametrize("kind", [Match, Relation])
def test_the_loss_is_the_mean_of_that_of_each(
    loss: Any, students: int, items: int, shape: tuple[int, ...], kind: Any
) -> None:
    z, v = drawn(students, items, *shape), drawn(students, items, 4, seed=1)
    batch = {"index": torch.arange(students * items).view(students, items)}
    term = kind("layer", loss=loss)
    each = [loss(student=s, teacher=t).mean() for s, t in zip(z, v, strict=True)]
    found, _ = term({"layer": z}, {"layer": v}, batch)
    torch.testing.assert_close(found, torch.stack(each).mean())


@pytest.mark.parametrize("loss", LOSSES)
def test_what_a_mask_leaves_out_takes_no_part(loss: Any) -> None:
    z, v = drawn(3, 6, 4), drawn(3, 6, 5, seed=1)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[0, :2] = mask[1, 3] = False
    v[~mask] = torch.nan
    batch = {"index": torch.arange(18).view(3, 6), "mask": mask}
    found, _ = Relation("layer", loss=loss)({"layer": z}, {"layer": v}, batch)
    sums = [loss(student=s[k], teacher=t[k]).sum() for s, t, k in zip(z, v, mask, strict=True)]
    torch.testing.assert_close(found, torch.stack(sums).sum() / mask.sum())


def test_peers_and_stacks_are_several_students_of_one_teacher() -> None:
    x = drawn(7, 4)
    batch = {"inputs": x, "index": torch.arange(7)}
    models = [nn.Linear(4, 3) for _ in range(3)]
    teacher = nn.Linear(4, 6)
    want = [losses.rkd_distance(student=m(x), teacher=teacher(x)).mean() for m in models]
    for several in (Peers(models), Stacked(models, ndim=2)):
        found, _ = Relation("logits")(several(x), teacher(x).detach(), batch)
        torch.testing.assert_close(found, torch.stack(want).mean())
    history = distill(Peers(models), teacher, [batch], Relation("logits"), steps=5, lr=0.05)
    assert history["loss"][-1] < history["loss"][0]


def test_tokens_of_one_student_are_no_students() -> None:
    z, v = drawn(5, 5, 4), drawn(5, 5, 6, seed=1)  # as many texts as tokens
    found, _ = Relation("layer")({"layer": z}, {"layer": v}, {"index": torch.arange(5)})
    torch.testing.assert_close(found, losses.rkd_distance(student=z, teacher=v).mean())
