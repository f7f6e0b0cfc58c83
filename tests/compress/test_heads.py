"""Heads and hidden units of a BERT."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distill_lib import Teacher
from distill_lib.compress import load_pruned, prune_transformer, save_pruned, unit_scores

transformers = pytest.importorskip("transformers")
IDS = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": IDS, "labels": torch.tensor([0, 1, 1])}


def bert() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=24, num_labels=2,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).eval()


def answer(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def loss(model: nn.Module, batch) -> Tensor:
    found = model(input_ids=batch["input_ids"], labels=batch["labels"]).loss
    assert isinstance(found, Tensor)
    return found


def test_heads_and_units_go_and_the_rest_comes_back(tmp_path: Path) -> None:
    model = bert()
    plan = prune_transformer(model, heads=0.5, ffn=0.75)
    for layer in model.bert.encoder.layer:
        attention = layer.attention.self
        assert attention.num_attention_heads == 2 and attention.all_head_size == 8
        assert attention.query.weight.shape == (8, 16)
        assert layer.attention.output.dense.weight.shape == (16, 8)
        assert layer.intermediate.dense.out_features == layer.output.dense.in_features == 6
    said = answer(model)
    save_pruned(model, tmp_path / "b.safetensors", plan)
    assert torch.equal(answer(load_pruned(bert, tmp_path / "b.safetensors").eval()), said)
    loss(model, BATCH).backward()


def test_heads_that_nobody_reads_go_first_and_change_nothing() -> None:
    model = bert()
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.output.dense.weight[:, 4:8] = 0  # the second head
            layer.attention.output.dense.weight[:, 12:] = 0  # the fourth
            layer.output.dense.weight[:, ::2] = 0
    said = answer(model)
    prune_transformer(model, heads=0.5, ffn=0.5)
    torch.testing.assert_close(answer(model), said)


def test_scores_are_the_gradient_with_respect_to_a_gate() -> None:
    """For a single position: |x · ∂L/∂x| of a head is |∂L/∂g| of a gate g on it."""
    model, ids, label = bert(), IDS[:1, :1], torch.tensor([1])
    batch = {"input_ids": ids, "labels": label}
    scores = unit_scores(model, [batch, batch], loss)
    name = "bert.encoder.layer.1.attention.output.dense"
    gates = torch.ones(4, requires_grad=True)
    dense = model.get_submodule(name)
    handle = dense.register_forward_pre_hook(lambda _, a: (a[0] * gates.repeat_interleave(4),))
    loss(model, batch).backward()
    handle.remove()
    torch.testing.assert_close(scores[name], 2 * gates.grad.abs())
    assert scores["bert.encoder.layer.0.output.dense"].shape == (24,)
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("frozen", ["all", "the first layer"])
def test_frozen_weights_change_no_score(frozen: str) -> None:
    model = bert()
    expected = unit_scores(model, [BATCH], loss)
    (model if frozen == "all" else model.bert.encoder.layer[0]).requires_grad_(False)
    found = unit_scores(model, [BATCH], loss)
    assert found.keys() == expected.keys() and len(found) == 4
    for name, scores in expected.items():
        torch.testing.assert_close(found[name], scores)
    assert all(p.grad is None for p in model.parameters())


def test_a_shipped_teacher_is_scored_as_it_comes() -> None:
    teacher = Teacher(bert())
    scores = unit_scores(teacher.model, [BATCH], loss)
    assert all(v.sum() > 0 for v in scores.values())


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "Electra"])
def test_fewer_hidden_units_are_a_configuration(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=24, pad_token_id=0,
    )  # fmt: skip
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    dense, plan = copy.deepcopy(model), prune_transformer(model, ffn=0.75)
    model.save_pretrained(tmp_path / "hub")
    again = type(model).from_pretrained(tmp_path / "hub").eval()
    assert again.config.intermediate_size == 6 and torch.equal(answer(again), answer(model))
    save_pruned(model, tmp_path / "b.safetensors", plan)
    read = load_pruned(lambda: dense, tmp_path / "b.safetensors")
    assert read.config.intermediate_size == 6
    assert model.config.intermediate_size == 6 and config.num_attention_heads == 4


def test_scores_decide() -> None:
    model = bert()
    kept = model.bert.encoder.layer[0].attention.self.query.weight[8:12].clone()
    scores = {
        f"bert.encoder.layer.{i}.attention.output.dense": torch.tensor([0.0, 1.0, 9.0, 2.0])
        for i in range(2)
    }
    prune_transformer(model, heads=0.75, scores=scores)
    assert torch.equal(model.bert.encoder.layer[0].attention.self.query.weight, kept)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: prune_transformer(bert()), "got none"),
        (lambda: prune_transformer(bert(), heads=1.0), "heads expected a share"),
        (lambda: prune_transformer(bert(), ffn=-0.5), "ffn expected a share"),
        (lambda: prune_transformer(nn.Linear(2, 2), heads=0.5), "layers as in BERT.*Linear has"),
    ],
)
def test_what_is_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_scores_of_a_frozen_model_are_those_of_one_that_learns() -> None:
    free, frozen = bert(), bert().requires_grad_(False)
    wanted, found = (unit_scores(m, [BATCH, BATCH], loss) for m in (free, frozen))
    assert wanted.keys() == found.keys() and len(wanted) == 4
    for name, worth in wanted.items():
        torch.testing.assert_close(found[name], worth)
    assert not any(p.requires_grad or p.grad is not None for p in frozen.parameters())
    assert all(p.grad is None for p in free.parameters())


def test_scores_without_batches_or_gradient_are_refused() -> None:
    with pytest.raises(ValueError, match="batches is empty"):
        unit_scores(bert(), [], loss)
    with pytest.raises(ValueError, match="no gradient"):
        unit_scores(bert(), [BATCH], lambda model, batch: loss(model, batch).detach())


def test_without_hidden_units_a_model_goes_the_way_of_transformers(tmp_path: Path) -> None:
    model = bert()
    prune_transformer(model, ffn=0.75)
    model.save_pretrained(tmp_path)
    again = transformers.BertForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.intermediate_size == 6
    assert torch.equal(answer(again.eval()), answer(model))


def test_without_heads_it_is_refused_there_and_never_another_model(tmp_path: Path) -> None:
    model = bert()
    prune_transformer(model, heads=0.5, ffn=0.5)
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="mismatched"):
        transformers.BertForSequenceClassification.from_pretrained(tmp_path)
