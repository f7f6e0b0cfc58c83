"""Whoever writes: a padded text is gone on with as it is alone, and read again where it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import KD, losses
from distill_lib.sequences import Completions, sample, speculate
from distill_lib.sequences.sampling import padded

transformers = pytest.importorskip("transformers")
WORDS, NEW = 17, 5
SMALL = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2}
DECODER = {"vocab_size": WORDS, "d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2}
# with what each of them lacks: keys and values, a mask, places, a cache that holds its layers
WRITERS: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT2LMHeadModel": ("GPT2Config", {"vocab_size": WORDS, "n_embd": 16, "n_head": 2}),
    "MambaForCausalLM": ("MambaConfig", {**SMALL, "state_size": 4}),
    "RwkvForCausalLM": ("RwkvConfig", SMALL),
    "OpenAIGPTLMHeadModel": (
        "OpenAIGPTConfig",
        {"vocab_size": WORDS, "n_embd": 16, "n_head": 2, "n_layer": 2},
    ),
    "TrOCRForCausalLM": ("TrOCRConfig", {**DECODER, "decoder_ffn_dim": 16}),
    "BartForCausalLM": (
        "BartConfig",
        {**DECODER, "decoder_ffn_dim": 16, "encoder_layers": 1, "encoder_attention_heads": 2},
    ),
}
_made: dict[str, Any] = {}


def writer(name: str) -> Any:
    if name not in _made:
        torch.manual_seed(0)
        config, options = WRITERS[name]
        made = getattr(transformers, config)(**options)
        model = getattr(transformers, name)(made).eval()
        with torch.no_grad():  # words that differ from one another
            for p in model.parameters():
                if p.ndim > 1:
                    p.mul_(6)
        _made[name] = model
    return _made[name]


@torch.no_grad()
def alone(model: nn.Module, text: Tensor) -> list[int]:
    """The most probable words after one text, read anew for each."""
    row = text.clone()
    for _ in range(NEW):
        said = model(input_ids=row[None], use_cache=False).logits[0, -1]
        row = torch.cat([row, said.argmax()[None]])
    return list(row[len(text) :].tolist())


@pytest.mark.parametrize("name", WRITERS)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=4, deadline=None)
def test_texts_of_any_lengths_are_gone_on_with_as_alone(
    name: str, lengths: list[int], seed: int
) -> None:
    draw, model = torch.Generator().manual_seed(seed), writer(name)
    texts = [torch.randint(WORDS, (n,), generator=draw) for n in lengths]
    wanted = [alone(model, text) for text in texts]
    assert sample(model, texts, NEW, temperature=0)["input_ids"][:, -NEW:].tolist() == wanted
    found, _ = speculate(model, model, texts, NEW, temperature=0)
    assert found["input_ids"][:, -NEW:].tolist() == wanted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_reads_both_ways_is_refused_in_any_precision(
    dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    bert = transformers.BertForMaskedLM(
        transformers.BertConfig(
            **SMALL, num_attention_heads=2, intermediate_size=16, max_position_embeddings=32
        )
    ).to(dtype)
    with pytest.raises(ValueError, match="reads in both directions"):
        sample(bert, torch.tensor([[3, 4]]), 2)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    own=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=10, deadline=None)
def test_batches_of_completions_are_answered_as_each_text_alone(
    lengths: list[int], own: float, seed: int
) -> None:
    # GPT-2 numbers its places: a text after padding would stand at others than it was written at
    draw, model = torch.Generator().manual_seed(seed), writer("GPT2LMHeadModel")
    prompts = [torch.randint(1, WORDS, (n,), generator=draw) for n in lengths]
    texts = [torch.randint(1, WORDS, (1 + n % NEW,), generator=draw) for n in lengths]
    words = Completions(
        prompts, model, own=own, texts=texts, new=NEW, batch_size=4, stop=3, seed=seed
    )
    batch = words.draw(own)
    with torch.no_grad():
        said = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        for row, ids in enumerate(batch["input_ids"]):
            real = ids[batch["attention_mask"][row].bool()]
            single = model(input_ids=real[None]).logits[0]
            seen = said[row][batch["attention_mask"][row].bool()]
            assert torch.allclose(seen, single, rtol=1e-4, atol=1e-4)
            counted = batch["shift_labels"][row] != -100
            after = torch.cat([real[1:], real[:1]])
            kept = counted[batch["attention_mask"][row].bool()]
            assert batch["shift_labels"][row][counted].equal(after[kept])
            start, _ = padded([real[: int(kept.long().argmax()) + 1]])
            assert any(start[0].equal(prompt) for prompt in prompts)
    objective = KD(losses.reverse_kl)
    loss, _ = objective({"logits": said}, {"logits": said}, {**batch, "shift": 1})
    assert abs(float(loss)) < 1e-6
