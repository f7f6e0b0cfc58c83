"""terms.adversarial: each part moves its own parameters, and nothing moves the teacher."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib import KD, Teacher, distill
from distill_lib.terms import Adversarial


def judge(width: int = 3, seed: int = 5, **_: Any) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def signals(*shape: int) -> tuple[Tensor, Tensor]:
    z, v = (torch.randn(*shape, dtype=torch.float64) for _ in range(2))
    return z.requires_grad_(), v.requires_grad_()


def grads(loss: Tensor, of: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss, of, retain_graph=True))


def test_the_student_is_moved_by_its_own_loss_and_the_discriminator_by_its() -> None:
    z, v = signals(6, 3)
    d = judge()
    loss, parts = Adversarial(d)(z, v)
    weights = list(d.parameters())
    passing = F.softplus(-d(z)).mean()
    telling = (F.softplus(-d(v.detach())) + F.softplus(d(z.detach()))).mean()
    torch.testing.assert_close(grads(loss, z), grads(passing, z))
    torch.testing.assert_close(grads(loss, weights), grads(telling, weights))
    torch.testing.assert_close(parts["adversarial"], (passing + telling).detach())
    assert torch.autograd.grad(loss, v, allow_unused=True) == (None,)


def test_a_projector_is_moved_with_the_student() -> None:
    z, v = signals(6, 2)[0], signals(6, 3)[1]
    d, project = judge(), nn.Linear(2, 3).double()
    loss, _ = Adversarial(d, project=project)(z, v)
    passing = F.softplus(-d(project(z))).mean()
    mine = [z, *project.parameters()]
    torch.testing.assert_close(grads(loss, mine), grads(passing, mine))


def test_it_is_what_alternating_steps_would_do() -> None:
    """One step of both equals two optimizers, each with its loss at the old parameters."""
    z, v = signals(6, 3)
    ours, theirs = judge(), judge()
    student = nn.Parameter(z.detach().clone())
    optimizer = torch.optim.Adam([student, *ours.parameters()], lr=0.1)
    one = nn.Parameter(z.detach().clone())
    both = torch.optim.Adam([one], lr=0.1), torch.optim.Adam(theirs.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        Adversarial(ours)(student, v)[0].backward()
        optimizer.step()
        fooled = F.softplus(-theirs(one)).mean()
        told = (F.softplus(-theirs(v.detach())) + F.softplus(theirs(one.detach()))).mean()
        one.grad = grads(fooled, one)[0]
        for p, g in zip(theirs.parameters(), grads(told, list(theirs.parameters())), strict=True):
            p.grad = g
        for each in both:
            each.step()
    torch.testing.assert_close(student, one)
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))


def test_masks_and_labels_are_counted_as_elsewhere() -> None:
    z, v = signals(2, 4, 3)
    d, term = judge(), Adversarial(judge())
    term.discriminator = d
    labels = torch.tensor([[1, 2, -100, -100], [-100, 0, 1, 2]])
    kept = labels != -100
    expected = Adversarial(d)(z[kept], v[kept])[0]
    torch.testing.assert_close(term(z, v, {"labels": labels})[0], expected)
    torch.testing.assert_close(term(z, v, {"mask": kept})[0], expected)
    torch.testing.assert_close(term(z, v, {"attention_mask": kept.long()})[0], expected)
    torch.testing.assert_close(
        term(z, v, denom=2 * kept.sum(), batch={"mask": kept})[0], expected / 2
    )


def test_a_teacher_that_says_nothing_under_padding_teaches_all_the_same() -> None:
    z, v = signals(2, 3)
    v = v.detach().index_fill(0, torch.tensor([1]), torch.nan)
    d = judge()
    loss, _ = Adversarial(d)(z, v, {"mask": torch.tensor([1, 0])})
    assert all(g.isfinite().all() for g in grads(loss, [z, *d.parameters()]))


def test_several_students_have_one_teacher() -> None:
    z, v = signals(4, 6, 3)[0], signals(6, 3)[1]
    d = judge()
    each = torch.stack([Adversarial(d)(one, v)[0] for one in z])
    torch.testing.assert_close(Adversarial(d)(z, v)[0], each.mean())


def test_a_transform_comes_first() -> None:
    z, v = signals(6, 3)
    d, soft = judge(), partial(torch.softmax, dim=-1)
    one = Adversarial(d, transform=soft)(z, v)[0]
    torch.testing.assert_close(one, Adversarial(d, transform=soft)(z + 7.0, v - 1.0)[0])
    torch.testing.assert_close(one, Adversarial(d)(soft(z), soft(v))[0])


def test_half_precision_is_lifted() -> None:
    z, v = (x.detach().bfloat16() for x in signals(6, 3))
    loss, _ = Adversarial(judge().float())(z, v)
    assert loss.dtype == torch.float32


def test_lazy_layers_and_batch_normalization_serve() -> None:
    z, v = signals(6, 3)
    d = nn.Sequential(nn.LazyLinear(8), nn.BatchNorm1d(8), nn.ReLU(), nn.LazyLinear(1)).double()
    Adversarial(d)(z, v)[0].backward()
    assert z.grad is not None and z.grad.norm() > 0


# ---- what it can see ----


def shuffled(given: bool) -> tuple[float, float]:
    """The discriminator's best value against a student with right answers to the wrong items."""
    torch.manual_seed(0)
    v = torch.eye(2).repeat(32, 1) * 2
    said, z = {"logits": v, "item": v}, v.flip(0)  # every answer is another item's
    term = Adversarial(nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, 1)),
                       given="item" if given else None)  # fmt: skip
    with torch.no_grad():
        term(z, said)
    optimizer = torch.optim.Adam(term.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        term(z, said)[0].backward()
        optimizer.step()
    fixed = term.discriminator
    seen = [torch.cat([x, v], -1) if given else x for x in (v, z)]
    told = (F.softplus(-fixed(seen[0])) + F.softplus(fixed(seen[1]))).mean()
    return told.item(), 2 * float(torch.tensor(2.0).log())


def test_right_answers_to_the_wrong_items_pass_unless_the_item_is_given() -> None:
    told, blind = shuffled(given=False)
    assert told == pytest.approx(blind, abs=0.01)
    told, blind = shuffled(given=True)
    assert told < 0.05 * blind


# ---- in the loop ----


def parts() -> tuple[nn.Module, nn.Module, Any, list[Any]]:
    torch.manual_seed(1)
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(4)]
    return student, teacher, KD() + 0.5 * Adversarial(judge().float()), batches


def test_the_loop_trains_both_and_leaves_the_teacher() -> None:
    student, teacher, objective, batches = parts()
    before = copy.deepcopy([teacher.state_dict(), objective.state_dict()])
    history = distill(student, Teacher(teacher), batches, objective, epochs=2, seed=0)
    torch.testing.assert_close(teacher.state_dict(), before[0], rtol=0, atol=0)
    assert any((objective.state_dict()[k] != v).any() for k, v in before[1].items())
    assert {"kd", "adversarial"} <= history.records[0].keys()


def test_resumed_training_is_the_whole(tmp_path: Path) -> None:
    def run(steps: int, path: Path | None) -> list[Tensor]:
        student, teacher, objective, batches = parts()
        distill(student, teacher, batches, objective, steps=steps, seed=3, checkpoint=path)
        return [*student.parameters(), *objective.parameters()]

    run(4, tmp_path / "c")
    torch.testing.assert_close(run(8, tmp_path / "c"), run(8, None), rtol=0, atol=0)


def test_a_step_that_is_cut_has_the_same_gradient() -> None:
    z, v = signals(8, 3)
    d = judge()
    whole = grads(Adversarial(d)(z, v)[0], [z, *d.parameters()])
    cut = [Adversarial(d)(a, b, denom=8.0)[0] for a, b in zip(z.split(3), v.split(3), strict=True)]
    torch.testing.assert_close(grads(torch.stack(cut).sum(), [z, *d.parameters()]), whole)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"discriminator": None}, "discriminator to be a module"),
        ({"discriminator": lambda x: x}, "discriminator to be a module"),
        ({"project": 3}, "project to be a module"),
        ({"transform": 3}, "transform to be a function"),
        ({"on": ""}, "one signal for both or a pair"),
        ({"on": ("a", "b", "c")}, "one signal for both or a pair"),
        ({"given": 3}, "a signal of the teacher's"),
    ],
)
def test_arguments(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        Adversarial(**{"discriminator": judge(), **wrong})


def test_signals_that_are_not_alike_are_refused() -> None:
    z, v = signals(6, 3)
    with pytest.raises(ValueError, match=r"\[6, 2\] and the teacher's \[6, 3\] are not alike"):
        Adversarial(judge())(z[:, :2], v)
    with pytest.raises(ValueError, match=r"expected one logit an item, \[..., 1\]"):
        Adversarial(nn.Linear(3, 2).double())(z, v)
    with pytest.raises(ValueError, match="the discriminator answered tuple to"):
        Adversarial(nn.LSTM(3, 1).double())(z, v)
    with pytest.raises(ValueError, match=r"'item' \[5, 2\] is not about the items of \[6, 3\]"):
        Adversarial(judge(5), given="item")(z, {"logits": v, "item": v[:5, :2]})


def test_it_says_what_it_compares() -> None:
    assert str(Adversarial(judge())) == "adversarial(logits)"
    term = 0.1 * Adversarial(judge(), ("h/1", "h/3"), given="h/0", transform=torch.tanh)
    assert str(term) == "0.1·adversarial(tanh h/1~h/3 | h/0)"
    assert term._repr_latex_().count("$") == 2
