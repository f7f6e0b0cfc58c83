"""Law: a label or a mask counts exactly for the tokens that it is about.

The judge is the model itself: the loss that it computes of labels is that of ``CE()``.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers as tr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import (
    CE,
    KD,
    Cache,
    Match,
    Relation,
    Teacher,
    agreement,
    aligned,
    distill,
    evaluate,
    losses,
)
from distill_lib.masks import about, following
from distill_lib.signals import capture

WORDS, LENGTH = 13, 6
SMALL: dict[str, Any] = {"vocab_size": WORDS, "bos_token_id": 0, "eos_token_id": 1}
ROPE: dict[str, Any] = {
    **SMALL, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
GPT = tr.GPT2Config(**SMALL, n_embd=8, n_layer=1, n_head=2, n_positions=16)
BART = tr.BartConfig(
    vocab_size=WORDS, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
    decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=16,
    pad_token_id=0, bos_token_id=0, eos_token_id=1, decoder_start_token_id=1,
)  # fmt: skip
T5 = tr.T5Config(
    vocab_size=WORDS, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, pad_token_id=0,
    decoder_start_token_id=0,
)  # fmt: skip
BERT = tr.BertConfig(
    vocab_size=WORDS, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=8, max_position_embeddings=16,
)  # fmt: skip


class MyStudent(tr.GPT2LMHeadModel):
    """A class that no list of names holds."""


class Mine(tr.T5ForConditionalGeneration):
    """Nor this one."""


MODELS: dict[str, Any] = {
    "gpt2": lambda: tr.GPT2LMHeadModel(GPT),
    "derived": lambda: MyStudent(GPT),
    "llama": lambda: tr.LlamaForCausalLM(tr.LlamaConfig(**ROPE)),
    "qwen2": lambda: tr.Qwen2ForCausalLM(tr.Qwen2Config(**ROPE)),
    "opt": lambda: tr.OPTForCausalLM(
        tr.OPTConfig(**SMALL, hidden_size=8, ffn_dim=8, num_hidden_layers=1, pad_token_id=0,
                     num_attention_heads=2, max_position_embeddings=16, word_embed_proj_dim=8)
    ),
    "bart's decoder": lambda: tr.BartForCausalLM(copy.deepcopy(BART)),  # its loss does not shift
    "bert": lambda: tr.BertForMaskedLM(BERT),
    "bert, causal": lambda: tr.BertLMHeadModel(
        tr.BertConfig(**{**BERT.to_diff_dict(), "is_decoder": True})
    ),
    "tagger": lambda: tr.BertForTokenClassification(
        tr.BertConfig(**{**BERT.to_diff_dict(), "num_labels": WORDS})
    ),
    "tagger, gpt2": lambda: tr.GPT2ForTokenClassification(
        tr.GPT2Config(**{**GPT.to_diff_dict(), "num_labels": WORDS})
    ),
    "t5": lambda: tr.T5ForConditionalGeneration(T5),
    "derived t5": lambda: Mine(T5),
    "bart": lambda: tr.BartForConditionalGeneration(copy.deepcopy(BART)),
}  # fmt: skip
SEQ2SEQ = {"t5", "derived t5", "bart"}


def made(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return MODELS[name]().eval()


def text(name: str, padding: str = "right", seed: int = 0) -> dict[str, Tensor]:
    """Two texts, the second of them shorter; labels as the library's collators make them."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, WORDS, (2, LENGTH), generator=draw)
    short = slice(0, 2) if padding == "left" else slice(LENGTH - 2, LENGTH)
    mask = torch.ones_like(ids)
    mask[1, short], ids[1, short] = 0, 0
    labels = ids if name not in SEQ2SEQ else torch.randint(2, WORDS, (2, LENGTH), generator=draw)
    labels = labels.masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_our_loss_is_the_model_s_own(name: str, padding: str) -> None:
    model, batch = made(name), text(name, padding)
    own = model(**batch)
    seen = aligned(batch, model)
    loss = CE()(own, None, seen)[0]
    torch.testing.assert_close(loss, own.loss, rtol=1e-5, atol=1e-6)
    assert aligned(seen, model) is seen or "shift" not in seen
    assert evaluate(model, [batch])["nll"] == pytest.approx(own.loss.item(), rel=1e-5)
    # the loop starts from the same loss, in whatever wrapper
    trained = copy.deepcopy(model)
    for part in trained.modules():
        part.p = 0.0 if isinstance(part, nn.Dropout) else getattr(part, "p", None)
    for value in ("dropout", "attention_dropout", "activation_dropout", "attn_pdrop"):
        for part in trained.modules():
            if isinstance(getattr(part, value, None), float):
                setattr(part, value, 0.0)
    first = distill(trained, None, [batch], CE(), steps=1, lr=0.0).last["loss"]
    assert first == pytest.approx(own.loss.item(), rel=1e-4)
    again = distill(capture(trained), None, [batch], CE(), steps=1, lr=0.0).last["loss"]
    assert again == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "derived", "llama"])
def test_a_loop_of_one_s_own_is_told_what_to_do(name: str) -> None:
    model, batch = made(name), text(name)
    with pytest.raises(ValueError, match=r"pass aligned\(batch, student\)"):
        CE()(model(**batch), None, batch)
    shifted = {**batch, "shift_labels": following(batch["labels"], -100)}
    right = CE()(model(**batch), None, aligned(batch, model))[0]
    assert CE()(model(**batch), None, aligned(shifted, model))[0] == right
    wrapped = torch.nn.DataParallel(model)
    assert torch.equal(aligned(batch, wrapped)["labels"], aligned(batch, model)["labels"])


def test_asking_leaves_the_model_as_it_was() -> None:
    model = made("gpt2").train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    aligned(text("gpt2"), model)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", sorted(SEQ2SEQ))
def test_a_decoder_reads_what_the_model_makes_of_labels(name: str, tmp_path: Any) -> None:
    student, teacher, batch = made(name), made(name, seed=1), text(name)
    history = distill(student, teacher, [batch], CE() + KD(), steps=2)
    assert len(history) == 2
    with torch.no_grad():
        taught = teacher(**batch).logits
    rows = [{**{k: v[i] for k, v in batch.items()}, "index": i} for i in range(2)]
    cache = Cache.build(tmp_path / "cache", teacher, rows, progress=False)
    torch.testing.assert_close(cache({"index": torch.arange(2)})["logits"], taught)
    assert agreement(teacher, Teacher(teacher), [batch]) == 1.0
    assert isinstance(agreement(student, cache, [{**batch, "index": torch.arange(2)}]), float)


def test_a_decoder_without_its_input_is_refused() -> None:
    class Odd(nn.Module):
        config = type("C", (), {"is_encoder_decoder": True})()

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, input_ids: Tensor, decoder_input_ids: Tensor | None = None) -> Tensor:
            raise AssertionError

    with pytest.raises(ValueError, match="put decoder_input_ids"):
        distill(Odd(), None, [text("t5")], CE(), steps=1)


tokens = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=2, max_size=2)


@settings(max_examples=40, deadline=None)
@given(tokens, tokens, st.booleans(), st.integers(0, 99))
def test_every_term_counts_its_own_tokens(mask: Any, known: Any, seq2seq: bool, seed: int) -> None:
    """Of the decoder by labels and the decoder's padding, of the encoder by the encoder's."""
    draw = torch.Generator().manual_seed(seed)
    z, v = torch.randn(2, 2, 4, 5, generator=draw)
    padding = torch.tensor(mask).long()
    labels = torch.where(torch.tensor(known), 1, -100)
    batch = {"attention_mask": padding, "labels": labels}
    if seq2seq:
        batch["decoder_input_ids"] = torch.ones(2, 4, dtype=torch.long)
    layer = "encoder_last_hidden_state" if seq2seq else "layer"
    said, taught = {"logits": z, layer: z}, {"logits": v, layer: v}
    per, gap = losses.kl(student=z, teacher=v), losses.hint(student=z, teacher=v)

    def mean(values: Tensor, kept: Tensor) -> Tensor:
        return (values * kept).sum() / kept.sum().clamp_min(1)

    decoder = labels != -100 if seq2seq else (labels != -100) & padding.bool()
    encoder = padding.bool() if seq2seq else decoder
    torch.testing.assert_close(KD()(said, taught, batch)[0], mean(per, decoder))
    torch.testing.assert_close(Match(layer)(said, taught, batch)[0], mean(gap, encoder))


@settings(max_examples=30, deadline=None)
@given(tokens, st.integers(0, 99))
def test_of_a_shifted_text_what_counts_predicts_a_word(mask: Any, seed: int) -> None:
    padding = torch.tensor(mask).long()
    batch = {"attention_mask": padding, "labels": torch.zeros(2, 4).long(), "shift": 1}
    with_label = about(batch, ("logits",), labeled=True)["attention_mask"]
    without = about(batch, ("logits",), labeled=False)["attention_mask"]
    for row in range(2):
        for at in range(4):
            word = at < 3 and bool(padding[row, at + 1])
            assert bool(with_label[row, at]) == word
            assert bool(without[row, at]) == (word and bool(padding[row, at]))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 99))
def test_as_many_labels_as_tokens_are_no_tokens(classes: int, length: int, seed: int) -> None:
    """Independent labels [B, C] beside a text [B, L], whose padding says nothing of them."""
    draw = torch.Generator().manual_seed(seed)
    z, v = torch.randn(2, 3, classes, generator=draw)
    padding = torch.ones(3, length).long()
    padding[0, 0] = 0
    unknown = torch.where(torch.rand(3, classes, generator=draw) < 0.5, -100, 1)
    batch = {"attention_mask": padding, "labels": unknown, "input_ids": padding}
    right = losses.bernoulli_kl(student=z, teacher=v).mean()
    torch.testing.assert_close(KD(losses.bernoulli_kl)(z, v, batch)[0], right)


@pytest.mark.parametrize("key", ["attention_mask", "labels"])
def test_padding_and_labels_of_other_tokens_are_refused(key: str) -> None:
    z = torch.randn(2, 4, 5)
    batch = {"attention_mask": torch.ones(2, 4), "labels": torch.zeros(2, 4).long()}
    batch[key] = batch[key][:, :3]
    with pytest.raises(ValueError, match=rf"{key} \[2, 3\] says nothing of values \[2, 4\]"):
        KD()(z, z, batch)


def test_tokens_are_items_for_evaluate_and_agreement() -> None:
    model, other, batch = made("bert"), made("bert", seed=3), text("bert")
    with torch.no_grad():
        a, b = (m(**batch).logits.argmax(-1) for m in (model, other))
    kept = batch["attention_mask"].bool()
    right = (a == batch["labels"])[kept].float().mean().item()
    assert evaluate(model, [batch])["accuracy"] == pytest.approx(right)
    assert evaluate(model, [batch])["n"] == int(kept.sum())
    assert agreement(model, other, [batch]) == pytest.approx((a == b)[kept].float().mean().item())


@pytest.mark.parametrize("name", ["gpt2", "bart's decoder", "t5", "bart", "bert"])
def test_the_trainer_starts_from_the_model_s_own_loss(name: str, tmp_path: Any) -> None:
    from distill_lib.integrations.transformers import DistillationTrainer

    model, batch = made(name), text(name)
    own = model(**batch).loss.item()
    for part in model.modules():
        for value in ("p", "dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(part, value, None), float):
                setattr(part, value, 0.0)
    rows = [{k: v[i] for k, v in batch.items()} for i in range(2)]
    arguments = tr.TrainingArguments(
        str(tmp_path), per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=1,
        learning_rate=0.0, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = DistillationTrainer(
        model,
        arguments,
        train_dataset=rows,
        teacher=made(name, seed=1),
        objective=CE() + 0.0 * KD(),
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(own, rel=1e-3)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_an_adapter_does_not_hide_the_model() -> None:
    peft = pytest.importorskip("peft")
    batch = text("llama")
    adapted = peft.get_peft_model(
        made("llama"), peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    own = adapted(**batch)
    torch.testing.assert_close(CE()(own, None, aligned(batch, adapted))[0], own.loss)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=6, max_size=6), st.integers(0, 99))
def test_who_is_left_out_shapes_no_relation(kept: list[bool], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    z, v, other = torch.randn(3, 6, 4, generator=draw)
    mask = torch.tensor(kept)
    noisy = torch.where(mask.unsqueeze(-1), z, other * 9)
    relational: list[Any] = [
        KD(losses.dist), Relation("logits"), Relation("logits", loss=losses.rkd_angle),
        Relation("logits", loss=losses.similarity), Match("logits", loss=losses.rkd_distance),
    ]  # fmt: skip
    for term in relational:
        mine = z.clone().requires_grad_()
        loss = term(mine, v, {"mask": mask})[0]
        torch.testing.assert_close(term(noisy, v, {"mask": mask})[0], loss.detach())
        loss.backward()
        assert mine.grad is not None and not mine.grad[~mask].any() and mine.grad.isfinite().all()
        if mask.sum() > 1:
            alone = term(z[mask], v[mask])[0]
            torch.testing.assert_close(loss.detach(), alone, rtol=1e-4, atol=1e-6)


def test_padding_shapes_no_relation_of_texts() -> None:
    z, v = torch.randn(2, 3, 4, 5)
    padding = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    term, batch = Relation("hidden_states/0"), {"attention_mask": padding}
    noisy = torch.where(padding.bool().unsqueeze(-1), z, torch.nan)
    said, other = ({"hidden_states": (x,)} for x in (z, noisy))
    taught = {"hidden_states": (v,)}
    torch.testing.assert_close(term(said, taught, batch)[0], term(other, taught, batch)[0])


@pytest.mark.parametrize(
    "term", [KD(losses.dist), Relation("logits"), Match("logits", loss=losses.similarity)]
)
def test_relations_that_accumulation_would_cut_are_refused(term: Any) -> None:
    from accelerate import Accelerator

    batches = [{"inputs": torch.randn(4, 3)}] * 2
    for objective in (term, 1.0 * KD() + term):
        with pytest.raises(ValueError, match="within_micro_batch=True"):
            distill(
                nn.Linear(3, 4), nn.Linear(3, 4), batches, objective, epochs=1,
                accelerator=Accelerator(cpu=True, gradient_accumulation_steps=2),
            )  # fmt: skip


@pytest.mark.parametrize(
    "term",
    [
        KD(losses.dist, within_micro_batch=True), KD(losses.dist, gamma=0.0), KD(),
        Relation("logits", within_micro_batch=True),
    ],
)  # fmt: skip
def test_relations_within_a_micro_batch_are_taken_where_they_are_meant(term: Any) -> None:
    from accelerate import Accelerator

    batches = [{"inputs": torch.randn(4, 3)}] * 2
    parts = Accelerator(cpu=True, gradient_accumulation_steps=2)
    assert len(
        distill(nn.Linear(3, 4), nn.Linear(3, 4), batches, term, epochs=1, accelerator=parts)
    )
