"""objective: the algebra, the one place that reduces, and what a batch leaves out."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import CE, KD, Match, Objective, Relation, Term, linear, losses, steps


def logits(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def hand_kl(z: Tensor, v: Tensor, T: float) -> Tensor:
    p = (v / T).softmax(-1)
    return T * T * (p * (p.log() - (z / T).log_softmax(-1))).sum(-1)


# ---- algebra ----


def test_a_sum_of_weighted_terms_is_what_is_written() -> None:
    z, v, y = logits(6, 4), logits(6, 4).detach(), torch.arange(6) % 4
    objective = 0.3 * CE() + KD(temperature=2) * 0.7
    loss, parts = objective(z, v, {"labels": y})
    ce, kd = F.cross_entropy(z, y), hand_kl(z, v, 2).mean()
    assert torch.allclose(loss, 0.3 * ce + 0.7 * kd)
    assert torch.allclose(parts["ce"], ce) and torch.allclose(parts["kd"], kd)
    assert not any(part.requires_grad for part in parts.values())


def test_gradients_are_those_written_by_hand() -> None:
    net, x, v = nn.Linear(5, 4).double(), logits(6, 5).detach(), logits(6, 4).detach()
    y = torch.arange(6) % 4
    loss, _ = (0.3 * CE() + 0.7 * KD(temperature=4))(net(x), v, (x, y))
    ours = torch.autograd.grad(loss, list(net.parameters()))
    kd = F.kl_div(
        (net(x) / 4).log_softmax(-1), (v / 4).log_softmax(-1), log_target=True, reduction="none"
    )
    by_hand = 0.3 * F.cross_entropy(net(x), y) + 0.7 * 16 * kd.sum(-1).mean()
    for mine, theirs in zip(
        ours, torch.autograd.grad(by_hand, list(net.parameters())), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-12)


ALGEBRA = {
    "CE + KD": (CE() + KD(), "CE + KL"),
    "sum of a list": (sum([CE(), KD(), KD(temperature=2)]), "CE + KL + KL(T=2)"),
    "sum of objectives": (sum([2 * CE(), 3 * KD()]), "2·CE + 3·KL"),
    "difference": (CE() - KD(), "CE − 1·KL"),
    "objective - term": (2 * CE() - KD(), "2·CE − 1·KL"),
    "minus": (-KD(), "-1·KL"),
    "distributed": (0.5 * (CE() + 2 * KD()), "0.5·CE + KL"),
    "from the right": ((CE() + KD()) * 3, "3·CE + 3·KL"),
    "term + objective": (CE() + 2 * KD(), "CE + 2·KL"),
    "objective + objective": (2 * CE() + 2 * KD(), "2·CE + 2·KL"),
    "scheduled": (
        linear(0.9, 0.1) * CE() + linear(0.1, 0.9) * KD(temperature=linear(8, 1)),
        "0.9→0.1·CE + 0.1→0.9·KL(T=8→1)",
    ),
}


@pytest.mark.parametrize(("objective", "text"), ALGEBRA.values(), ids=ALGEBRA.keys())
def test_the_algebra_prints_as_written(objective: Objective, text: str) -> None:
    assert str(objective) == text


@given(a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_the_algebra_is_linear(a: float, b: float) -> None:
    z, v = torch.randn(5, 3), torch.randn(5, 3)
    batch = {"labels": torch.tensor([0, 1, 2, 0, 1])}
    one, two = CE()(z, v, batch)[0], KD()(z, v, batch)[0]
    both = b * (a * CE() + KD()) - CE()
    assert torch.allclose(both(z, v, batch)[0], b * (a * one + two) - one, atol=1e-4)


@pytest.mark.parametrize("bad", [lambda: CE() + 1, lambda: CE() * KD(), lambda: (2 * CE()) + "x"])
def test_what_is_no_term_is_refused(bad) -> None:
    with pytest.raises(TypeError):
        bad()


@pytest.mark.parametrize(
    "bad", [KD(), [KD()], [(1.0, nn.Linear(1, 1))], (1.0, KD()), 0.5 * KD(), "KD", 3, [(KD(), 1.0)]]
)
def test_an_objective_is_made_of_pairs(bad) -> None:
    with pytest.raises(TypeError, match=r"made of pairs \(weight, term\).* CE\(\) \+"):
        Objective(bad)


def test_latex() -> None:
    objective = linear(0.9, 0.1) * CE() + 2 * KD(temperature=linear(8, 1)) + KD()
    assert objective._repr_latex_() == (
        r"$(0.9\to 0.1)\,\mathrm{CE}(y, q)"
        r" + 2\,T^2\,\mathrm{KL}(p_T \,\|\, q_T)\big|_{T=8\to 1}"
        r" + \mathrm{KL}(p \,\|\, q)$"
    )
    assert CE()._repr_latex_() == r"$\mathrm{CE}(y, q)$"


def test_a_module_shows_its_formula() -> None:
    assert "KL(T=4)" in repr(KD(temperature=4))


def test_parts_of_one_kind_are_numbered() -> None:
    class Odd(CE):
        key = "odd_one"

    objective = KD() + KD(temperature=2) + CE() + KD(temperature=3) + Odd() + Odd()
    assert objective.names == ["kd", "kd_2", "ce", "kd_3", "odd_one", "odd_one_2"]
    _, parts = objective(logits(3, 4), logits(3, 4), {"labels": torch.tensor([0, 1, 2])})
    assert list(parts) == objective.names


def test_what_is_read() -> None:
    objective = CE() + KD() + Match("layer3", "layer2") + Relation("layer3")
    assert objective.reads("student") == ["logits", "layer3"]
    assert objective.reads("teacher") == ["logits", "layer2", "layer3"]


# ---- schedules and zero weights ----


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_weights_and_temperatures_follow_progress(progress: float) -> None:
    z, v = logits(5, 3), logits(5, 3).detach()
    weight, T = linear(1, 3), linear(8, 1)
    loss, _ = (weight * KD(temperature=T))(z, v, progress=progress)
    assert torch.allclose(loss, weight(progress) * hand_kl(z, v, T(progress)).mean())


def test_terms_of_weight_zero_are_skipped() -> None:
    objective = CE() + steps({0: 1, 0.5: 0}) * KD()
    batch = {"labels": torch.tensor([0, 1])}
    assert objective.needs_teacher(0.4) and not objective.needs_teacher(0.6)
    _, parts = objective(logits(2, 3), None, batch, progress=0.6)
    assert list(parts) == ["ce"]
    with pytest.raises(ValueError, match=r"KL reads the teacher, and none was given"):
        objective(logits(2, 3), None, batch, progress=0.4)


@pytest.mark.parametrize("wrap", [lambda z: z, lambda z: {"hidden": (z,), "logits": z}])
def test_all_weights_zero_is_zero_with_a_path_for_the_gradient(wrap) -> None:
    z = torch.full((2, 3), float("inf"), requires_grad=True)
    loss, parts = (0 * CE())(wrap(z))
    loss.backward()
    assert loss.item() == 0 and parts == {} and z.grad.abs().sum() == 0


def test_no_term_reads_no_teacher() -> None:
    assert not (CE() + CE()).needs_teacher()


# ---- modules ----


def test_projectors_are_parameters_of_the_objective() -> None:
    project = nn.Linear(2, 3)
    objective = CE() + 50 * Match("h", project=project)
    assert list(objective.parameters()) == list(project.parameters())
    assert set(objective.state_dict()) == {"terms.1.project.weight", "terms.1.project.bias"}
    objective.to(torch.float64)
    assert project.weight.dtype == torch.float64
    other = CE() + 50 * Match("h", project=nn.Linear(2, 3))
    other.double().load_state_dict(objective.state_dict())
    assert torch.equal(other.terms[1].project.weight, project.weight)


def test_a_deep_copy_is_independent() -> None:
    objective = linear(1, 0) * Match("h", project=nn.Linear(2, 3))
    twin = copy.deepcopy(objective)
    assert str(twin) == str(objective)
    assert twin.terms[0].project is not objective.terms[0].project


def test_a_term_of_ones_own() -> None:
    class L1(Term):
        key = "l1"

        def __init__(self) -> None:
            super().__init__()
            self.reads = {"student": ("logits",), "teacher": ("logits",)}

        def values(self, student, teacher, batch, progress) -> Tensor:
            return (student - teacher["logits"]).abs().sum(-1)

        def text(self) -> str:
            return "L1"

    z, v = logits(3, 2), logits(3, 2).detach()
    loss, parts = (2 * L1())(z, v)
    assert torch.allclose(loss, 2 * (z - v).abs().sum(-1).mean())
    assert str(2 * L1()) == "2·L1" and set(parts) == {"l1"}


def test_no_gradient_reaches_the_teacher() -> None:
    z, v = logits(3, 2), logits(3, 2)
    (KD() + Match("logits"))(z, v)[0].backward()
    assert z.grad is not None and v.grad is None


def test_weights_multiply_items_and_all_their_tokens() -> None:
    weight = torch.tensor([2.0, 0.5])
    z, v = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    each = losses.kl(student=z, teacher=v)
    loss, _ = KD()(z, v, {"weight": weight})
    torch.testing.assert_close(loss, (weight[:, None] * each).mean())
    masked, _ = KD()(z, v, {"weight": weight, "mask": torch.tensor([True, False])})
    torch.testing.assert_close(masked, 2 * each[0].mean())
