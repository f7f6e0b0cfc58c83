"""A model that goes on with texts looks back alone, and knows their ids, places and lengths."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from torch import Tensor, nn

from distill_lib.models import SmallGPT, small_llama
from distill_lib.sequences import acceptance, sample, speculate, tokens_a_call, verified
from distill_lib.sequences.drafts import leftover
from distill_lib.sequences.sampling import probabilities

V, PLACES = 16, 12
SIZES: dict[str, Any] = dict(
    vocab_size=V, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
)
IDS = torch.randint(2, V, (2, 6), generator=torch.Generator().manual_seed(0))


def made(kind: str, seed: int = 0, **more: Any) -> nn.Module:
    """A small model of a family, whose weights are large enough to say something."""
    name, _, tail = kind.partition(":")
    sizes = {**SIZES, "initializer_range": 0.5, "max_position_embeddings": PLACES, **more}
    if name == "GPT2":
        names = ("vocab_size", "initializer_range")
        sizes = {k: sizes[k] for k in names} | dict(n_embd=16, n_layer=2, n_head=2)
        sizes |= dict(n_positions=PLACES, bos_token_id=0, eos_token_id=0, **more)
    torch.manual_seed(seed)
    model = getattr(transformers, name + (tail or "ForCausalLM"))
    return model(getattr(transformers, f"{name}Config")(**sizes)).eval()


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "GPT2": lambda: made("GPT2:LMHeadModel"),
    "Llama": lambda: made("Llama"),
    "Roberta": lambda: made("Roberta", is_decoder=True, pad_token_id=1),
    "Bert": lambda: made("Bert:LMHeadModel", is_decoder=True),
    "SmallGPT": lambda: SmallGPT(V, length=PLACES),
}


@torch.no_grad()
def alone(model: nn.Module, ids: Tensor, new: int) -> Tensor:
    """The most probable words, one text, without a cache, a mask or a place that was told."""
    for _ in range(new):
        said: Any = model(input_ids=ids)
        ids = torch.cat([ids, getattr(said, "logits", said)[:, -1:].argmax(-1)], 1)
    return ids


# ---- places and lengths ----


@pytest.mark.parametrize("name", FAMILIES)
def test_padded_prompts_are_written_on_as_each_alone(name: str) -> None:
    """RoBERTa's first place has the number after that of its padding."""
    model = FAMILIES[name]()
    found = sample(model, [IDS[0, :3], IDS[1]], 4, temperature=0)["input_ids"]
    assert found[0, 3:].tolist() == alone(model, IDS[:1, :3], 4)[0].tolist()
    assert found[1].tolist() == alone(model, IDS[1:], 4)[0].tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_text_has_the_places_that_the_model_has(name: str) -> None:
    model = FAMILIES[name]()
    places = PLACES - 2 if name == "Roberta" else PLACES
    # the last word is not read again
    sample(model, IDS, places - 6 + 1)
    sample(model, [IDS[0, :2], IDS[1]], places - 6 + 1)
    with pytest.raises(ValueError, match=f"a text of {places + 1} tokens, in a model of at most"):
        sample(model, IDS, places - 6 + 2)
    long = torch.randint(2, V, (2, places + 2))
    acceptance(model, model, long[:, : places + 1])
    with pytest.raises(ValueError, match="tokens, in a model of at most"):
        acceptance(model, model, long)
    with pytest.raises(ValueError, match="tokens, in a model of at most"):
        speculate(model, model, IDS, places)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("wrong", [V, -1])
def test_ids_that_nobody_knows_are_refused(name: str, wrong: int) -> None:
    model, ids = FAMILIES[name](), IDS.clone()
    ids[1, 2] = wrong
    for ask in (
        lambda: sample(model, ids, 2),
        lambda: speculate(model, model, ids, 2),
        lambda: acceptance(model, model, ids),
    ):
        with pytest.raises(ValueError, match=r"ids run from|ids from 0 on"):
            ask()


def test_what_stands_at_padding_may_be_no_id() -> None:
    model, other, mask = SmallGPT(V), SmallGPT(V, seed=1), torch.ones_like(IDS)
    mask[0, :2] = 0
    odd = IDS.masked_fill(mask == 0, -100)
    for one in (IDS, odd):
        batch = {"input_ids": one, "attention_mask": mask}
        found = sample(model, batch, 3, temperature=0)["input_ids"]
        assert found[0, 2:].tolist() == alone(model, IDS[:1, 2:], 3)[0].tolist()
        want = acceptance(model, other, {"input_ids": IDS, "attention_mask": mask})
        assert acceptance(model, other, batch) == want


def test_stacked_networks_go_on_with_the_same_prompts() -> None:
    stack = SmallGPT(V, seeds=3)
    found = sample(stack, [IDS[0, :3], IDS[1]], 4, temperature=0)["input_ids"]
    for k in range(3):
        want = sample(stack.one(k), [IDS[0, :3], IDS[1]], 4, temperature=0)["input_ids"]
        assert found[k].equal(want)


# ---- both directions, virtual tokens ----


@pytest.mark.parametrize(
    "kind", ["Bert:LMHeadModel", "Bert:ForMaskedLM", "Roberta:ForMaskedLM", "Electra:ForMaskedLM"]
)
@pytest.mark.parametrize("size", [0.02, 0.5])
def test_a_model_that_sees_the_answer_is_refused(kind: str, size: float) -> None:
    model = made(kind, initializer_range=size)
    for ask in (
        lambda: acceptance(SmallGPT(V), model, IDS),
        lambda: tokens_a_call(model, SmallGPT(V), IDS),
        lambda: speculate(model, SmallGPT(V), IDS, 2),
        lambda: sample(model, IDS, 2),
    ):
        with pytest.raises(ValueError, match=r"both directions|causal language model"):
            ask()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT reads it
@pytest.mark.parametrize("name", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_virtual_tokens_are_read_or_refused(name: str) -> None:
    """A cache would lose the text, and places are counted without them."""
    torch.manual_seed(0)
    config = getattr(peft, name)(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(made("Llama", max_position_embeddings=40), config).eval()
    with torch.no_grad():
        for p in model.prompt_encoder.parameters():
            p.mul_(3.0)
        said = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[:, -6:]
    other = SmallGPT(V)
    shared = torch.minimum(said.softmax(-1), other(IDS).softmax(-1)).sum(-1)[:, :-1].mean()
    torch.testing.assert_close(acceptance(model, other, IDS), shared)
    found, _ = speculate(model, other, IDS, 3, temperature=0)
    ids = IDS
    for _ in range(3):
        said = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        ids = torch.cat([ids, said[:, -1:].argmax(-1)], 1)
    assert found["input_ids"].equal(ids)
    with pytest.raises(ValueError, match=r"virtual tokens.*its own generate"):
        sample(model, IDS, 2)


# ---- temperatures ----


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_no_temperature_is_too_small(dtype: torch.dtype) -> None:
    z = torch.randn(7, V, generator=torch.Generator().manual_seed(1)).to(dtype)
    z[0, 3] = -math.inf
    greedy = probabilities(z, 0)
    assert greedy.argmax(-1).equal(z.argmax(-1)) and (greedy.sum(-1) == 1).all()
    for T in (1e-5, 1e-20, 1e-40, 5e-324):
        for shift in (0.0, -30.0):
            assert probabilities(z + shift, T).argmax(-1).equal((z + shift).argmax(-1))
    for T in (0.5, 1.0, 3.0):
        torch.testing.assert_close(
            probabilities(z, T).double(), (z.double() / T).softmax(-1), rtol=1e-6, atol=1e-9
        )


def test_logits_of_double_precision_are_not_cut() -> None:
    model = SmallGPT(V).double()
    with torch.no_grad():
        model.head.mul_(1e39)
    assert sample(model, IDS, 3)["input_ids"].equal(
        sample(model, IDS, 3, temperature=0)["input_ids"]
    )


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_logits_that_say_nothing_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="nothing to draw from"):
        probabilities(torch.tensor([[0.0, wrong]]), 1.0)


# ---- masks and labels, as they come ----

MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])
FORMS: dict[str, Callable[[Tensor], Any]] = {
    "bool": Tensor.bool,
    "uint8": lambda x: x.to(torch.uint8),
    "float": Tensor.float,
    "half": lambda x: x / 2,
    "list": Tensor.tolist,
    "array": Tensor.numpy,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_counts_as_it_comes(form: str) -> None:
    p, q, brought = SmallGPT(V), SmallGPT(V, seed=1), FORMS[form](MASK)
    plain = {"input_ids": IDS, "attention_mask": MASK}
    batch = {"input_ids": IDS, "attention_mask": brought}
    want, found = (sample(p, b, 3, temperature=0) for b in (plain, batch))
    assert all(found[k].equal(want[k]) for k in want)
    assert acceptance(p, q, batch) == acceptance(p, q, plain)
    # beside the answers, and one a text
    beside = torch.tensor([[0, 0, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]])
    labels = IDS.roll(-1, 1).masked_fill(beside == 0, -100)
    want = acceptance(p, q, {**plain, "shift_labels": labels})
    assert acceptance(p, q, {**plain, "mask": FORMS[form](beside)}) == want
    one = acceptance(p, q, {"input_ids": IDS[:1], "attention_mask": MASK[:1]})
    assert acceptance(p, q, {**plain, "mask": FORMS[form](torch.tensor([1, 0]))}) == one


def test_a_mask_that_is_added_is_refused() -> None:
    added = torch.zeros(2, 6).masked_fill(MASK == 0, -1e9)
    batch = {"input_ids": IDS, "attention_mask": added}
    for ask in (
        lambda: sample(SmallGPT(V), batch, 2),
        lambda: acceptance(SmallGPT(V), SmallGPT(V), batch),
    ):
        with pytest.raises(ValueError, match="added to scores"):
            ask()


@pytest.mark.parametrize("form", [Tensor.tolist, Tensor.numpy, Tensor.int])
@pytest.mark.parametrize("key", ["labels", "shift_labels"])
def test_labels_count_as_they_come(key: str, form: Callable[[Tensor], Any]) -> None:
    p, q, labels = SmallGPT(V), SmallGPT(V, seed=1), IDS.masked_fill(MASK == 0, -100)
    want = acceptance(p, q, {"input_ids": IDS, key: labels})
    assert acceptance(p, q, {"input_ids": IDS, key: form(labels)}) == want


def test_a_mask_of_other_texts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a mask \[3\] says nothing of ids \[2, 6\]"):
        acceptance(SmallGPT(V), SmallGPT(V), {"input_ids": IDS, "mask": torch.ones(3)})


def test_calls_are_counted_over_one_run_of_tokens() -> None:
    p, q = SmallGPT(V), SmallGPT(V, seed=1)
    for begin in range(1, 5):
        for end in range(begin + 1, 7):
            labels = IDS.clone()
            labels[:, :begin], labels[:, end:] = -100, -100
            tokens_a_call(p, q, {"input_ids": IDS, "labels": labels})
            if end - begin > 2:
                labels[0, begin + 1] = -100
                with pytest.raises(ValueError, match="others between them"):
                    tokens_a_call(p, q, {"input_ids": IDS, "labels": labels})


# ---- one step ----


def test_what_is_no_probability_is_refused() -> None:
    p, q = torch.randn(3, 4).softmax(-1), torch.randn(2, 4).softmax(-1)
    verified(p, q, torch.tensor([0, 3]))
    for wrong in (p.log(), p * 2, p * math.nan, p.long(), 1 - p):
        with pytest.raises(ValueError, match="expected probabilities"):
            verified(wrong, q, torch.tensor([0, 3]))
        with pytest.raises(ValueError, match="expected probabilities"):
            leftover(p, wrong)
    with pytest.raises(ValueError, match="of one vocabulary"):
        leftover(p[0], torch.full((5,), 0.2))
    for shapes in ((p[:2], q), (p, q[:1]), (p.expand(2, 3, 4), q)):
        with pytest.raises(ValueError, match="k proposals"):
            verified(*shapes, torch.tensor([0, 3]))
    for token in (-1, 4):
        with pytest.raises(ValueError, match="tokens from 0 to 3"):
            verified(p, q, torch.tensor([0, token]))


def test_lengths_of_numpy_are_lengths() -> None:
    model = small_llama(V, hidden=16, heads=2, seed=0)
    assert sample(model, IDS, np.int64(2))["input_ids"].shape == (2, 8)
