"""terms: labels, answers, features, relations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib import CE, DKD, KD, Match, Relation, distill, linear, losses
from distill_lib.objective import Term
from distill_lib.terms import CRD

LABELS = torch.tensor([0, 1, 2, 0])


def logits(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


# ---- CE ----


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_ce_is_that_of_torch(smoothing: float) -> None:
    z = logits(4, 3)
    loss, _ = CE(label_smoothing=smoothing)(z, batch={"labels": LABELS})
    assert torch.allclose(loss, F.cross_entropy(z, LABELS, label_smoothing=smoothing))


def test_ce_in_half_precision_is_computed_in_full() -> None:
    z = torch.randn(4, 3).bfloat16()
    loss, _ = CE()(z, batch={"labels": LABELS})
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, F.cross_entropy(z.float(), LABELS))


@pytest.mark.parametrize("separate", [False, True])
def test_labels_serve_several_students(separate: bool) -> None:
    z = logits(5, 4, 3)
    labels = torch.stack([LABELS.roll(i) for i in range(5)]) if separate else LABELS
    loss, _ = CE()(z, batch={"labels": labels})
    each = [F.cross_entropy(z[i], labels[i] if separate else LABELS) for i in range(5)]
    assert torch.allclose(loss, torch.stack(each).mean())


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("term", [KD(), DKD()], ids=str)
def test_a_teacher_serves_several_students(term: KD, separate: bool) -> None:
    z, v = logits(5, 4, 3), logits(4, 3).detach()
    labels = LABELS.expand(5, 4) if separate else LABELS
    loss, _ = term(z, v, {"labels": labels})
    each = [term(z[i], v, {"labels": LABELS})[0] for i in range(5)]
    assert torch.allclose(loss, torch.stack(each).mean())


def test_ce_of_tokens() -> None:
    z, labels = logits(2, 3, 4), torch.tensor([[0, 1, -100], [3, -100, -100]])
    loss, _ = CE()(z, batch={"labels": labels})
    assert torch.allclose(loss, F.cross_entropy(z.flatten(0, 1), labels.flatten()))


def test_ce_of_another_signal() -> None:
    z = logits(4, 3)
    loss, _ = CE(on="aux")({"logits": logits(4, 3), "aux": z}, batch={"labels": LABELS})
    assert torch.allclose(loss, F.cross_entropy(z, LABELS))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_lies_below_one(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing lies in \[0, 1\)"):
        CE(label_smoothing=smoothing)


@pytest.mark.parametrize("term", [CE(), DKD()], ids=str)
def test_a_batch_without_labels_is_refused(term) -> None:
    z = logits(4, 3)
    with pytest.raises(ValueError, match=r"needs batch\['labels'\]; the batch has: inputs"):
        term(z, z, {"inputs": 0})
    with pytest.raises(ValueError, match="the batch has: nothing"):
        term(z, z)


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.zeros(4, 1), torch.zeros(2, 4)])
def test_labels_of_another_shape_are_refused(labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"CE: logits \(4, 3\) expect labels \(4,\), got"):
        CE()(logits(4, 3), batch={"labels": labels.long()})


# ---- KD ----


TEMPERED = [losses.kl, losses.reverse_kl, losses.jsd, losses.soft_cross_entropy, losses.tvd]


@pytest.mark.parametrize("loss", [*TEMPERED, losses.dist], ids=lambda f: f.__name__)
@pytest.mark.parametrize("T", [1.0, 4.0])
def test_t_squared_comes_once(loss, T: float) -> None:
    z, v = logits(4, 3), logits(4, 3).detach()
    ours, _ = KD(loss, temperature=T)(z, v)
    assert torch.allclose(ours, T * T * loss(student=z, teacher=v, temperature=T).mean())


def test_the_limit_of_high_temperature_keeps_the_gradient() -> None:
    z, v = logits(8, 10), logits(8, 10).detach()
    norms = []
    for T in (1, 4, 64, 1024):
        (gradient,) = torch.autograd.grad(KD(temperature=T)(z, v)[0], z)
        norms.append(gradient.norm())
    (limit,) = torch.autograd.grad(KD(losses.mse_logits, center=True)(z, v)[0] / 2, z)
    assert norms[0] / norms[2] < 5  # bare KL would fall by 64² = 4096
    assert torch.allclose(norms[3], norms[2], rtol=0.02)
    assert torch.allclose(gradient, limit, rtol=0.02, atol=1e-5)


def test_options_reach_the_loss() -> None:
    z, v = logits(4, 3), logits(4, 3).detach()
    ours, _ = KD(losses.jsd, temperature=2, beta=0.1)(z, v)
    assert torch.allclose(
        ours, 4 * losses.jsd(student=z, teacher=v, beta=0.1, temperature=2.0).mean()
    )


def test_transform_comes_before_the_temperature() -> None:
    z, v = logits(4, 3), logits(4, 3).detach()
    ours, _ = KD(temperature=2, transform=losses.standardize)(z, v)
    z, v = losses.standardize(z), losses.standardize(v)
    assert torch.allclose(ours, 4 * losses.kl(student=z, teacher=v, temperature=2.0).mean())


def test_kd_on_another_signal() -> None:
    z, v = logits(4, 3), logits(4, 3).detach()
    assert torch.allclose(KD(on="aux")({"aux": z}, {"aux": v})[0], KD()(z, v)[0])


def test_a_loss_of_ones_own() -> None:
    def l1(*, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).abs().mean(-1)

    z, v = logits(4, 3), logits(4, 3).detach()
    term = KD(l1)
    assert torch.allclose(term(z, v)[0], (z - v).abs().mean())
    assert str(term) == "l1" and term.latex() == r"\mathrm{l1}(p \,\|\, q)"


@pytest.mark.parametrize("T", [2, linear(4, 1)])
def test_a_temperature_for_a_loss_that_takes_none_is_refused(T) -> None:
    with pytest.raises(ValueError, match=r"mse_logits takes no temperature, got .*; leave it out"):
        KD(losses.mse_logits, temperature=T)


def test_an_option_that_the_loss_does_not_take_is_refused() -> None:
    with pytest.raises(TypeError, match="kl takes no argument 'beta'"):
        KD(beta=0.5)


def test_a_temperature_is_a_number_or_a_schedule() -> None:
    with pytest.raises(TypeError, match="expected a number or a schedule"):
        KD(temperature="hot")


@pytest.mark.parametrize(("classes", "items"), [(4, 4), (3, 5)])
def test_shapes_that_do_not_fit_are_refused(classes: int, items: int) -> None:
    with pytest.raises(ValueError, match=r"\[4, 3\].*" + rf"\[{items}, {classes}\]"):
        KD()(logits(4, 3), logits(items, classes))


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_an_unknown_signal_names_its_owner(who: str) -> None:
    said = {"student": {"logits": logits(4, 3)}, "teacher": {"logits": logits(4, 3)}}
    said[who] = {"logit": logits(4, 3)}
    with pytest.raises(KeyError, match=rf"{who} has no signal 'logits'.*Did you mean 'logit'\?"):
        KD()(said["student"], said["teacher"])


@pytest.mark.parametrize(
    ("term", "text"),
    [
        (CE(), "CE"),
        (CE(label_smoothing=0.1), "CE(ε=0.1)"),
        (KD(), "KL"),
        (KD(temperature=4), "KL(T=4)"),
        (KD(losses.reverse_kl, temperature=linear(8, 1)), "RKL(T=8→1)"),
        (KD(losses.jsd, beta=0.1), "JSD(beta=0.1)"),
        (KD(losses.jsd, normalized=True), "JSD(normalized=True)"),
        (KD(losses.mse_logits), "MSE"),
        (KD(temperature=2, transform=losses.standardize), "KL(T=2, standardize)"),
        (DKD(), "DKD(T=4, alpha=1, beta=8)"),
        (Match("layer3"), "hint(layer3)"),
        (Match("a", "b", loss=losses.cosine), "cosine(a~b)"),
        (Relation("h"), "rkd_distance(h)"),
    ],
)
def test_a_term_prints_its_formula(term, text: str) -> None:
    assert str(term) == text
    assert term._repr_latex_().startswith("$")


# ---- Match and Relation ----


def test_match_compares_inner_signals_through_a_projector() -> None:
    project = nn.Linear(2, 5).double()
    s, t = logits(4, 2), logits(4, 5).detach()
    loss, parts = Match("small", "big", project=project)({"small": s}, {"big": t})
    loss.backward()
    assert torch.allclose(loss, (project(s) - t).square().mean(-1).mean())
    assert project.weight.grad is not None and set(parts) == {"match"}


def test_match_takes_paths() -> None:
    s, t = logits(4, 2), logits(4, 2).detach()
    loss, _ = Match("hidden_states/1", "hidden_states/0")(
        {"hidden_states": (t, s)}, {"hidden_states": (t,)}
    )
    assert torch.allclose(loss, (s - t).square().mean())


@pytest.mark.parametrize(
    "loss", [losses.similarity, losses.pkt, losses.rkd_distance, losses.rkd_angle]
)
def test_relations_need_no_projector(loss) -> None:
    s, t = logits(6, 2), logits(6, 5).detach()
    value, parts = Relation("h", loss=loss)({"h": s}, {"h": t})
    assert torch.allclose(value, loss(student=s, teacher=t).mean())
    assert set(parts) == {"relation"}


def test_widths_that_differ_ask_for_a_projector() -> None:
    with pytest.raises(ValueError, match=r"Match\(\.\.\., project="):
        Match("h")({"h": logits(4, 2)}, {"h": logits(4, 5)})


@pytest.mark.parametrize("kind", [Match, Relation])
@pytest.mark.parametrize(("student", "teacher"), [("", None), (None, None), ("a", ""), (3, None)])
def test_nothing_to_match_is_refused_at_once(kind, student, teacher) -> None:
    with pytest.raises(ValueError, match=r"has nothing to match.*name one, such as 'layer3'"):
        kind(student, teacher)


def test_a_projector_is_a_module() -> None:
    with pytest.raises(TypeError, match="project is a module, so that it can be trained"):
        Match("h", project=lambda x: x)


def test_options_of_a_feature_loss_reach_it_and_the_mask_comes_from_the_batch() -> None:
    seen = {}

    def loss(*, student: Tensor, teacher: Tensor, power: float, mask: Tensor | None) -> Tensor:
        seen.update(power=power, mask=mask)
        return (student - teacher).abs().pow(power).sum(-1)

    said = {"x": torch.ones(2, 3, 4)}
    batch = {"attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    value, _ = Match("x", loss=loss, power=2.0)(said, {"x": torch.zeros(2, 3, 4)}, batch)
    assert value.item() == 4.0
    assert seen["power"] == 2.0 and torch.equal(seen["mask"], batch["attention_mask"])
    Match("x", loss=loss, power=2.0)(said, said, {})
    assert seen["mask"] is None


def test_match_refuses_an_option_that_its_loss_does_not_take() -> None:
    with pytest.raises(TypeError, match="hint takes no argument 'heads'"):
        Match("x", heads=2)


def test_the_teachers_signal_may_be_mapped_by_what_is_fixed() -> None:
    s, t = torch.randn(3, 4, 6, requires_grad=True), torch.randn(3, 4, 12)
    term = Match("logits", project_teacher=nn.AvgPool1d(2))
    want = losses.hint(student=s, teacher=t.view(3, 4, 6, 2).mean(-1)).mean()
    torch.testing.assert_close(term(s, t)[0], want)
    assert not list(term.parameters())
    frozen = nn.Linear(12, 6).requires_grad_(False)
    loss, _ = Match("logits", project_teacher=frozen)(s, t)
    torch.testing.assert_close(loss, losses.hint(student=s, teacher=frozen(t)).mean())


@pytest.mark.parametrize("module", [nn.Linear(12, 6), nn.LazyLinear(6), nn.BatchNorm1d(4)])
def test_a_map_of_the_teachers_that_would_learn_is_refused(module: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"0 on both sides would match.*requires_grad_\(False\)"):
        Match("logits", project_teacher=module)


@pytest.mark.parametrize(
    ("lazy", "mine", "theirs"),
    [(nn.LazyLinear(7), (3, 4), (3, 7)), (nn.LazyConv2d(5, 1), (2, 3, 4, 4), (2, 5, 4, 4))],
)
def test_a_lazy_projector_finds_the_students_width(
    lazy: nn.Module, mine: tuple[int, ...], theirs: tuple[int, ...]
) -> None:
    loss, _ = Match("logits", project=lazy)(torch.randn(mine), torch.randn(theirs))
    assert loss.requires_grad


@pytest.mark.parametrize("name", ["project", "project_teacher"])
def test_a_map_that_does_not_fit_its_signal_is_named(name: str) -> None:
    term = Match("a", "b", **{name: nn.Conv2d(8, 5, 1).requires_grad_(name == "project")})
    said = torch.randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match=rf"hint\(a~b\): {name}=Conv2d.*\[2, 3, 4, 4\].*Lazy"):
        term({"a": said}, {"b": said})
    odd = Match("a", project=nn.LSTM(4, 4))
    with pytest.raises(TypeError, match="project made a tuple, not a tensor"):
        odd({"a": said[0]}, {"a": said[0]})


def test_maps_of_other_places_ask_for_pooling() -> None:
    term = Match("a", project=nn.LazyConv2d(5, 1))
    with pytest.raises(ValueError, match="or a pooling layer for sizes"):
        term({"a": torch.randn(2, 3, 4, 4)}, {"a": torch.randn(2, 5, 2, 2)})


def test_a_lazy_projector_is_trained_and_goes_on_from_its_checkpoint(tmp_path) -> None:
    def run(epochs: list[int]) -> dict[str, Tensor]:
        for epoch in epochs:
            torch.manual_seed(0)
            student = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
            teacher = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
            batches = [{"inputs": torch.randn(5, 4), "labels": torch.arange(5) % 2}] * 3
            objective = CE() + Match("1", project=nn.LazyLinear(6))
            distill(
                student, teacher, batches, objective, epochs=epoch, seed=0,
                checkpoint=tmp_path / f"{len(epochs)}.pt", resume=epoch > epochs[0],
            )  # fmt: skip
        return {**student.state_dict(), **objective.state_dict()}

    whole, parts = run([4]), run([2, 4])
    assert whole["terms.1.project.weight"].shape == (6, 3)
    for key, value in whole.items():
        torch.testing.assert_close(value, parts[key])


@pytest.mark.parametrize("loss", [4, 0.5, "hint", torch.nn.MSELoss(), len])
def test_what_is_no_loss_of_two_models_is_refused(loss: Any) -> None:
    with pytest.raises(TypeError, match=r"Match expected a loss.*(weight|such as losses\.hint)"):
        Match("logits", loss=loss)


# ---- half precision ----


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("given_in", [torch.float32, None])
@pytest.mark.parametrize(
    "term",
    [
        *(CE(label_smoothing=0.1), KD(), KD(losses.jsd, temperature=2), DKD()),
        *(Match("map", loss=loss) for loss in (losses.hint, losses.cosine, losses.channel_kl)),
        Match("map", loss=losses.attention_transfer),
        Match("map", project=nn.LazyConv2d(3, 1)),
        *(Relation("map", loss=loss) for loss in (losses.similarity, losses.pkt)),
        *(Relation("map", loss=loss) for loss in (losses.rkd_distance, losses.rkd_angle)),
        CRD("map", index=torch.arange(9), width=4, negatives=3),
    ],
    ids=str,
)
def test_terms_are_finite_under_autocast(
    term: Term, half: torch.dtype, given_in: torch.dtype | None
) -> None:
    """Logits and features of some thousands, whose squares no float16 can hold."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"logits": (4, 3), "map": (4, 3, 2, 2)}
    student, teacher = (
        {k: 3e3 * torch.randn(s, generator=draw) for k, s in shapes.items()} for _ in range(2)
    )
    student = {k: x.to(given_in or half).requires_grad_() for k, x in student.items()}
    teacher = {k: x.to(given_in or half) for k, x in teacher.items()}
    with torch.autocast("cpu", half):
        loss, _ = term(student, teacher, {"labels": LABELS, "index": torch.arange(4)})
    assert loss.dtype == torch.float32 and loss.isfinite()
    loss.backward()
    grads = [x.grad for x in student.values() if x.grad is not None]
    assert grads and all(grad.isfinite().all() for grad in grads)
