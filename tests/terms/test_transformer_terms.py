"""TinyBERT's objective, layer maps, starts from the teacher: what they hold, copy, and refuse."""

from __future__ import annotations

import copy
import doctest
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from distill_lib import Match, distill, linear, losses, steps
from distill_lib.signals import tell
from distill_lib.terms import transformer as transformer_terms
from distill_lib.terms.transformer import fit_projectors, initialize, layer_map, tinybert
from distill_lib.zoo import small_bert

LENGTHS = torch.tensor([6, 4, 2])


def bert(layers: int = 2, width: int = 8, heads: int = 2, seed: int = 0, **k: Any) -> nn.Module:
    torch.manual_seed(seed)
    config: dict[str, Any] = dict(
        vocab_size=30,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
        initializer_range=0.3,
    )
    return BertForSequenceClassification(BertConfig(**{**config, **k})).eval()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    mask = (torch.arange(6) < LENGTHS[:, None]).long()
    ids = torch.randint(1, 30, (3, 6), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": torch.tensor([0, 1, 1])}


def said(model: nn.Module, batch: dict[str, Tensor]) -> Any:
    undo = tell(model, ["hidden_states/0", "attentions/0"])
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    undo()
    return output


# ---- layer maps ----


@pytest.mark.parametrize(
    ("how", "pairs"),
    [
        ("uniform", [(1, 3), (2, 6), (3, 9), (4, 12)]),
        ("top", [(1, 9), (2, 10), (3, 11), (4, 12)]),
        ("bottom", [(1, 1), (2, 2), (3, 3), (4, 4)]),
        ("last", [(4, 12)]),
    ],
)
def test_the_maps_of_the_paper(how: str, pairs: list[tuple[int, int]]) -> None:
    assert layer_map(4, 12, how) == pairs


@pytest.mark.parametrize("how", ["uniform", "top", "bottom", "last"])
def test_a_student_as_deep_as_its_teacher_ends_where_it_ends(how: str) -> None:
    assert layer_map(6, 6, how)[-1] == (6, 6)


def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"6 layers cannot be walked in 4.*of 1, 2, 3, 6 layers"):
        layer_map(4, 6)
    with pytest.raises(ValueError, match=r"at least as many; got 7 and 6"):
        layer_map(7, 6, "top")
    with pytest.raises(ValueError, match=r"M ≥ 1"):
        layer_map(0, 6)
    with pytest.raises(ValueError, match=r"no layer map 'middle'; there are uniform, top, bottom"):
        layer_map(2, 6, "middle")


@pytest.mark.parametrize("pair", [(0, 1), (3, 1), (1, 0), (1, 5)])
def test_pairs_that_name_no_layer_are_refused(pair: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"names no layers: the student has 1 to 2, the teacher"):
        tinybert(bert(2), bert(4, seed=1), [pair])


# ---- the objective ----


def by_hand(student: nn.Module, teacher: nn.Module, batch: dict[str, Tensor], **maps: Any) -> Any:
    """All parts, token by token, for a student of 2 layers and a teacher of 4."""
    s, t, real = said(student, batch), said(teacher, batch), batch["attention_mask"].bool()
    found: dict[str, Tensor] = {}
    for name, a, b in (("embedding", 0, 0), ("one", 1, 2), ("two", 2, 4)):
        rows = s.hidden_states[a] @ maps[name].weight.T - t.hidden_states[b]
        found[name] = rows[real].square().mean()
    for name, a, b in (("maps one", 0, 1), ("maps two", 1, 3)):
        each = []
        for i, n in enumerate(LENGTHS.tolist()):
            logs = [x.attentions[k][i, :, :n, :n].log() for x, k in ((s, a), (t, b))]
            logs = [x - x.mean(-1, keepdim=True) for x in logs]
            each += list((logs[0] - logs[1]).square().mean((0, 2)))
        found[name] = torch.stack(each).mean()
    q, p = s.logits.log_softmax(-1), t.logits.log_softmax(-1)
    found["answers"] = (p.exp() * (p - q)).sum(-1).mean()
    return found


def test_it_is_the_sum_of_its_parts_token_by_token(batch: dict[str, Tensor]) -> None:
    student, teacher = bert(2, 8), bert(4, 12, seed=1)
    objective = tinybert(student, teacher, embedding=2.0, attention=3.0, hidden=5.0, prediction=7.0)
    projects = [t.project for t in objective.terms if isinstance(t, Match) and t.project]
    names = dict(embedding=projects[0], one=projects[1], two=projects[2])
    want = by_hand(student, teacher, batch, **names)
    loss, parts = objective(said(student, batch), said(teacher, batch), batch)
    total = (
        2 * want["embedding"]
        + 3 * (want["maps one"] + want["maps two"])
        + 5 * (want["one"] + want["two"])
        + 7 * want["answers"]
    )
    torch.testing.assert_close(loss, total)
    assert len(parts) == 6


def test_one_projector_serves_all_layers_and_another_the_embeddings() -> None:
    objective = tinybert(bert(2, 8), bert(4, 12, seed=1))
    assert sum(p.numel() for p in objective.parameters()) == 2 * 8 * 12
    assert not list(tinybert(bert(2), bert(4, seed=1)).parameters())  # equal widths need none


def test_parts_of_weight_0_are_left_out() -> None:
    objective = tinybert(bert(2, 8), bert(4, 12, seed=1), embedding=0, attention=0, prediction=0)
    assert str(objective) == (
        "hint(hidden_states/1~hidden_states/2) + hint(hidden_states/2~hidden_states/4)"
    )
    with pytest.raises(ValueError, match="nothing to match"):
        tinybert(bert(), bert(seed=1), embedding=0, attention=0, hidden=0, prediction=0)


def test_two_stages_are_schedules() -> None:
    inside, answers = steps({0: 1, 0.5: 0}), steps({0: 0, 0.5: 1})
    objective = tinybert(
        bert(2), bert(4, seed=1),
        embedding=inside, attention=inside, hidden=inside, prediction=answers,
    )  # fmt: skip
    weights = [[w(at) for w, _ in objective.pairs()] for at in (0.25, 0.75)]
    assert weights == [[1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1]]
    moving = tinybert(bert(2), bert(4, seed=1), hidden=linear(1, 0))
    assert "1→0·hint" in str(moving)


def test_other_numbers_of_heads_are_refused_unless_maps_are_left_out() -> None:
    student, teacher = bert(2, 8, heads=4), bert(4, 8, seed=1)
    with pytest.raises(ValueError, match=r"has 4 heads, the teacher 2.*cost no parameters.*=0"):
        tinybert(student, teacher)
    assert len(tinybert(student, teacher, attention=0).terms) == 4


def test_models_that_are_no_transformers_are_refused() -> None:
    with pytest.raises(ValueError, match="the student is a Linear without the configuration"):
        tinybert(nn.Linear(2, 2), bert())


@pytest.mark.parametrize("maps", [losses.attention, losses.attention_scores, losses.attention_kl])
def test_training_lowers_every_part(batch: dict[str, Tensor], maps: Any) -> None:
    student, teacher = bert(2, 8), bert(4, 12, seed=1)
    objective = tinybert(student, teacher, maps=maps)
    before = [p.detach().clone() for p in objective.parameters()]
    history = distill(student, teacher, [batch], objective, steps=60, lr=1e-2)
    for name in objective.names:
        assert history[name][-1] < history[name][0], name
    after = objective.parameters()
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_padding_changes_nothing(batch: dict[str, Tensor]) -> None:
    student, teacher = bert(2, 8, max_position_embeddings=80), bert(4, 12, seed=1,
        max_position_embeddings=80)  # fmt: skip
    objective = tinybert(student, teacher)
    wide = {k: nn.functional.pad(v, (0, 64)) if v.ndim == 2 else v for k, v in batch.items()}
    values = [objective(said(student, b), said(teacher, b), b)[0] for b in (batch, wide)]
    torch.testing.assert_close(*values)


# ---- projectors ----


def test_fitted_projectors_are_the_least_squares_solution(batch: dict[str, Tensor]) -> None:
    student, teacher = bert(2, 8), bert(4, 12, seed=1)
    objective = tinybert(student, teacher, attention=0, prediction=0, hidden=0)
    assert fit_projectors(objective, student, teacher, batch, ridge=1e-6) is objective
    real = batch["attention_mask"].bool()
    x = said(student, batch).hidden_states[0][real]
    y = said(teacher, batch).hidden_states[0][real]
    want = x @ torch.linalg.lstsq(x, y, driver="gelsd").solution
    (weight,) = objective.parameters()
    torch.testing.assert_close(x @ weight.T, want, rtol=0, atol=1e-3)


def test_no_other_projector_has_a_smaller_loss(batch: dict[str, Tensor]) -> None:
    student, teacher = bert(2, 8), bert(4, 12, seed=1)
    objective = tinybert(student, teacher, attention=0, prediction=0)

    def value() -> float:
        return objective(said(student, batch), said(teacher, batch), batch)[0].item()

    random = value()
    student.train()
    fit_projectors(objective, student, teacher, batch, ridge=1e-6)
    assert student.training
    student.eval()
    best = value()
    assert best < random
    for seed in range(5):
        torch.manual_seed(seed)
        with torch.no_grad():
            moved = [0.01 * torch.randn_like(p) for p in objective.parameters()]
            for p, d in zip(objective.parameters(), moved, strict=True):
                p += d
            assert value() > best
            for p, d in zip(objective.parameters(), moved, strict=True):
                p -= d


def test_a_bias_is_fitted_too_and_other_terms_are_left_alone(batch: dict[str, Tensor]) -> None:
    student, teacher = bert(2, 8), bert(4, 12, seed=1)
    biased = Match("hidden_states/1", "hidden_states/2", project=nn.Linear(8, 12))
    other = Match("hidden_states/2", "hidden_states/4", project=nn.Sequential(nn.Linear(8, 12)))
    before = next(other.parameters()).detach().clone()
    fit_projectors(1.0 * biased + other, student, teacher, batch, ridge=1e-6)
    assert torch.equal(before, next(other.parameters()))
    assert isinstance(biased.project, nn.Linear)
    real = batch["attention_mask"].bool()
    gap = (
        biased.project(said(student, batch).hidden_states[1])
        - said(teacher, batch).hidden_states[2]
    )
    torch.testing.assert_close(gap[real].mean(0), torch.zeros(12), rtol=0, atol=1e-4)


# ---- starts ----


def test_it_copies_what_it_says() -> None:
    student, teacher = bert(2, seed=5), bert(4, seed=1)
    assert initialize(student, teacher, [(1, 2), (2, 4)]) is student
    mine, theirs = dict(student.named_parameters()), dict(teacher.named_parameters())
    for name, value in mine.items():
        source = name.replace("layer.0.", "layer.A.").replace("layer.1.", "layer.3.")
        assert torch.equal(value, theirs[source.replace("layer.A.", "layer.1.")]), name
    assert all(a is not b for a, b in zip(mine.values(), theirs.values(), strict=False))


def test_a_student_as_deep_as_its_teacher_becomes_it(batch: dict[str, Tensor]) -> None:
    student, teacher = bert(2, seed=5), bert(2, seed=1)
    initialize(student, teacher)
    torch.testing.assert_close(said(student, batch).logits, said(teacher, batch).logits)


def test_a_trimmed_vocabulary_gets_its_rows(batch: dict[str, Tensor]) -> None:
    teacher = bert(2, seed=1)
    torch.manual_seed(3)
    student = small_bert(
        batch["input_ids"].unique(), layers=2, hidden=8, heads=2, intermediate=16, max_length=6,
        dropout=0.0,
    ).eval()  # fmt: skip
    initialize(student, teacher)
    torch.testing.assert_close(said(student, batch).logits, said(teacher, batch).logits)


@pytest.mark.parametrize("room", [4, 8, 12])
def test_positions_are_copied_as_far_as_both_have_them(room: int) -> None:
    student, teacher = bert(2, seed=5, max_position_embeddings=room), bert(2, seed=1)
    initialize(student, teacher)
    name = "bert.embeddings.position_embeddings.weight"
    mine, theirs = (dict(m.named_parameters())[name] for m in (student, teacher))
    both = min(room, 8)
    assert torch.equal(mine[:both], theirs[:both]) and len(mine) == room


@pytest.mark.parametrize(
    ("student", "key"),
    [
        (dict(width=12), "hidden_size is 12 in the student and 8"),
        (dict(intermediate_size=32), "intermediate_size is 32"),
        (dict(heads=4), "num_attention_heads is 4"),
    ],
)
def test_other_shapes_are_refused(student: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=rf"{key}.*narrower student begins with its own weights"):
        initialize(bert(2, **student), bert(4, seed=1))


SMALL: dict[str, Any] = dict(vocab_size=30, max_position_embeddings=8, pad_token_id=0)
WIDTHS: dict[str, Any] = dict(hidden_size=8, num_attention_heads=2, intermediate_size=16)


def family(kind: str, layers: int, seed: int) -> nn.Module:
    """A small model of another family."""
    torch.manual_seed(seed)
    if kind == "DistilBert":
        sizes = dict(dim=8, n_heads=2, hidden_dim=16, n_layers=layers)
    else:
        sizes = dict(**WIDTHS, num_hidden_layers=layers)
    if kind == "Albert":
        sizes |= dict(embedding_size=4)
    if kind == "ModernBert":
        sizes |= dict(cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2)
    config = getattr(transformers, f"{kind}Config")(**SMALL, **sizes, attn_implementation="eager")
    model: nn.Module = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    return model.eval()


@pytest.mark.parametrize(
    "kind", ["Bert", "Roberta", "DistilBert", "Albert", "ModernBert", "Electra"]
)
def test_other_families_become_their_teacher_too(kind: str, batch: dict[str, Tensor]) -> None:
    student, teacher = family(kind, 2, 5), family(kind, 2, 1)
    before = said(student, batch).logits
    initialize(student, teacher)
    torch.testing.assert_close(said(student, batch).logits, said(teacher, batch).logits)
    assert (before - said(student, batch).logits).abs().max() > 1e-4


def test_one_set_of_weights_for_all_layers_is_copied_whatever_the_map() -> None:
    student, teacher = family("Albert", 2, 5), family("Albert", 4, 1)
    initialize(student, teacher)
    for mine, theirs in zip(student.parameters(), teacher.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_layers_of_other_parts_are_refused_before_anything_is_copied() -> None:
    student, teacher = family("ModernBert", 2, 5), family("ModernBert", 4, 1)
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(ValueError, match=r"layer 1 of the student and layer 2 .* attn_norm\.w"):
        initialize(student, teacher)
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    initialize(student, teacher, [(1, 1), (2, 4)])
    mine, theirs = student.state_dict(), teacher.state_dict()
    assert torch.equal(mine["model.layers.1.mlp.Wi.weight"], theirs["model.layers.3.mlp.Wi.weight"])


@pytest.mark.parametrize("pair", [("DistilBert", "Bert"), ("Bert", "Roberta"), ("Roberta", "Bert")])
def test_another_family_is_refused(pair: tuple[str, str]) -> None:
    """Also where the layers are alike, and the embeddings would silently stay as they were."""
    student, teacher = (family(kind, 2, seed) for seed, kind in enumerate(pair))
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(ValueError, match="of the family"):
        initialize(student, teacher)
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())


def test_examples_run() -> None:
    assert doctest.testmod(transformer_terms).failed == 0
