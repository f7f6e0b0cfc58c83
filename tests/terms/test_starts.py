"""Starts from a teacher: all layers, all words, and a student that is left in its modes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from distill_lib import Match, Teacher, losses
from distill_lib.signals import capture
from distill_lib.terms import FusedKD, fit_projectors, hidden_and_head, initialize, layer_map

IDS = torch.randint(1, 16, (4, 6), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(6) < torch.tensor([6, 4, 3, 5])[:, None]).long()
BATCH = {"input_ids": IDS, "attention_mask": MASK}
SMALL: dict[str, Any] = dict(vocab_size=16, bos_token_id=0, eos_token_id=0, pad_token_id=0)


def bert(layers: int = 2, width: int = 8, seed: int = 0, **k: Any) -> nn.Module:
    torch.manual_seed(seed)
    sizes = dict(hidden_size=width, num_attention_heads=2, intermediate_size=16, **k)
    config = dict(num_hidden_layers=layers, max_position_embeddings=8, initializer_range=0.3)
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(**{**SMALL, **config, **sizes})
    ).eval()


def gpt(layers: int, seed: int = 0, **k: Any) -> nn.Module:
    torch.manual_seed(seed)
    sizes = dict(n_embd=8, n_head=2, n_layer=layers, n_positions=8, initializer_range=0.3, **k)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**SMALL, **sizes})).eval()


def bart(layers: int, decoder: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    sizes = dict(d_model=8, encoder_layers=layers, decoder_layers=decoder, init_std=0.3)
    heads = {f"{who}_attention_heads": 2 for who in ("encoder", "decoder")}
    inner = {f"{who}_ffn_dim": 8 for who in ("encoder", "decoder")}
    more = dict(decoder_start_token_id=0, forced_eos_token_id=None, max_position_embeddings=8)
    config = transformers.BartConfig(**SMALL, **sizes, **heads, **inner, **more)
    return transformers.BartForConditionalGeneration(config).eval()


# ---- what is copied ----


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("how", ["uniform", "top", "bottom", "last"])
def test_a_decoder_begins_as_its_map_says(sizes: tuple[int, int], how: str) -> None:
    student, teacher = bart(*sizes, 1), bart(4, 2, 2)
    initialize(student, teacher, how)
    mine, theirs = student.state_dict(), teacher.state_dict()
    for who, m, n in (("encoder", sizes[0], 4), ("decoder", sizes[1], 2)):
        for here, there in layer_map(m, n, how):
            for key in ("self_attn.q_proj.weight", "fc1.bias", "final_layer_norm.weight"):
                name = f"model.{who}.layers.{{}}.{key}"
                assert mine[name.format(here - 1)].equal(theirs[name.format(there - 1)])


def test_a_student_of_both_parts_becomes_its_teacher() -> None:
    student, teacher = bart(2, 2, 1), bart(2, 2, 2)
    initialize(student, teacher)
    for key, value in teacher.state_dict().items():
        assert student.state_dict()[key].equal(value), key


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_its_own_begins_as_the_one_that_is_shared(tied: bool) -> None:
    student, teacher = gpt(2, 1, tie_word_embeddings=tied), gpt(2, 2)
    initialize(student, teacher)
    assert student(IDS).logits.equal(teacher(IDS).logits)


@pytest.mark.parametrize("words", [10, 15, 17, 40])
def test_other_words_are_refused(words: int) -> None:
    student, teacher = gpt(1, 1, vocab_size=words), gpt(2, 2)
    before = {k: v.clone() for k, v in student.state_dict().items()}
    with pytest.raises(ValueError, match=f"student has {words} words and the teacher 16"):
        initialize(student, teacher)
    assert all(v.equal(before[k]) for k, v in student.state_dict().items())


# ---- projectors ----


def regression(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    x, y = x.double(), y.double()
    inner = x.T @ x + ridge * len(x) * torch.eye(x.shape[1])
    return torch.linalg.solve(inner, x.T @ y).T


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("form", [Tensor.tolist, Tensor.bool, Tensor.numpy])
@pytest.mark.parametrize("key", ["attention_mask", "mask", "both"])
def test_it_is_the_regression_over_what_counts(lazy: bool, form: Any, key: str) -> None:
    student, teacher = bert(), bert(width=12, seed=1)
    project = nn.LazyLinear(12, bias=False) if lazy else nn.Linear(8, 12, bias=False)
    kept = MASK * (torch.arange(6) > 0) if key == "both" else MASK
    named = {"attention_mask": MASK} if key != "mask" else {}
    named |= {"mask": form(kept)} if key != "attention_mask" else {"attention_mask": form(MASK)}
    batch = {"input_ids": IDS, **named}
    asked = {**BATCH, "attention_mask": named.get("attention_mask", torch.ones_like(IDS))}
    asked = {k: torch.as_tensor(v) for k, v in asked.items()}
    if key == "attention_mask":
        batch = {"input_ids": IDS, "attention_mask": asked["attention_mask"]}
    fit_projectors(1.0 * Match("hidden_states/1", project=project), student, teacher, batch)
    with torch.no_grad():
        x, y = (
            m(**asked, output_hidden_states=True).hidden_states[1][kept.bool()]
            for m in (student, teacher)
        )
    want = regression(x, y, 0.01)
    torch.testing.assert_close(project.weight.double(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_a_ridge_is_no_less_than_0(wrong: float) -> None:
    term = Match("hidden_states/1", project=nn.Linear(8, 12))
    with pytest.raises(ValueError, match="ridge expected a number from 0 on"):
        fit_projectors(1.0 * term, bert(), bert(width=12), BATCH, wrong)


@pytest.mark.parametrize("inner", [False, True])
def test_student_and_teacher_are_left_as_they_were(inner: bool) -> None:
    student, model = bert().train(), bert(width=12)
    student.bert.embeddings.eval()
    modes = [part.training for part in student.modules()]
    teacher = Teacher(capture(model, "bert.encoder") if inner else model)
    before, told = teacher.model, model.config.output_hidden_states
    term = Match("bert.encoder.layer.0", project=nn.Linear(8, 12))
    objective = term + Match("hidden_states/1", project=nn.Linear(8, 12))
    fit_projectors(objective, capture(student, "bert.encoder.layer.0"), teacher, BATCH)
    assert [part.training for part in student.modules()] == modes
    assert teacher.model is before and model.config.output_hidden_states is told
    with pytest.raises(KeyError):
        fit_projectors(1.0 * Match("nothing", project=nn.Linear(8, 12)), student, teacher, BATCH)
    assert [part.training for part in student.modules()] == modes
    assert teacher.model is before


# ---- hidden states and a head ----


def gemma(cap: float | None, size: float) -> nn.Module:
    torch.manual_seed(0)
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    heads = dict(num_key_value_heads=1, head_dim=4, initializer_range=size)
    config = transformers.Gemma2Config(**SMALL, **sizes, **heads, final_logit_softcapping=cap)
    return transformers.Gemma2ForCausalLM(config).eval()


@pytest.mark.parametrize("cap", [1.0, 30.0, 50.0])
@pytest.mark.parametrize("size", [0.001, 0.02, 0.5])
def test_a_cap_is_found_before_there_is_something_to_cap(cap: float, size: float) -> None:
    with pytest.raises(ValueError, match="does more than multiply"):
        hidden_and_head(gemma(cap, size), BATCH)
    plain = gemma(None, size)
    said = hidden_and_head(plain, BATCH)
    made = said["output_hidden"] @ said["output_matrix"].T
    torch.testing.assert_close(made, plain(**BATCH).logits)


def test_a_look_leaves_modes_and_hooks_as_they_were() -> None:
    model = gpt(1).train()
    model.transformer.drop.eval()
    modes = [part.training for part in model.modules()]
    hidden_and_head(model, BATCH)
    assert [part.training for part in model.modules()] == modes
    assert not model.lm_head._forward_pre_hooks


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT reads it
@pytest.mark.parametrize("name", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_virtual_tokens_are_refused(name: str) -> None:
    """The base would answer without them: of a teacher another answer, of a student no gradient."""
    peft = pytest.importorskip("peft")
    config = getattr(peft, name)(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(ValueError, match=r"virtual tokens.*KD on its logits"):
        hidden_and_head(peft.get_peft_model(gpt(1), config), BATCH)


def test_no_position_is_a_batch_too() -> None:
    h, w = torch.randn(0, 6, 8), torch.randn(16, 8)
    found = losses.fused_divergence(student=h, teacher=h, student_head=w, teacher_head=w)
    assert found.shape == (0, 6)
    assert FusedKD().text() == "fused kl"
