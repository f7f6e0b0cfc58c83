"""What a model writes has its distribution, whatever the prompts' lengths and padding."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib.models import SmallGPT, small_llama
from distill_lib.sequences import sample
from distill_lib.sequences.sampling import padded

pytest.importorskip("transformers", reason="needs 🤗 Transformers: python make.py setup")


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def models() -> list[nn.Module]:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = dict(vocab_size=11, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    gpt2 = GPT2LMHeadModel(GPT2Config(**sizes))
    return [SmallGPT(11), small_llama(11, hidden=16, seed=0, heads=2), gpt2]


@pytest.mark.parametrize("model", models(), ids=["SmallGPT", "Llama", "GPT-2"])
def test_ragged_prompts_are_written_on_as_each_alone(model: nn.Module) -> None:
    prompts = [torch.randint(11, (n,), generator=draw(n)) for n in (5, 1, 3)]
    both = sample(model, prompts, 6, temperature=0)
    for i, prompt in enumerate(prompts):
        alone = sample(model, prompt[None], 6, temperature=0)
        assert both["input_ids"][i, 5 - len(prompt) :].tolist() == alone["input_ids"][0].tolist()
        assert both["attention_mask"][i].sum() == len(prompt) + 6


@pytest.mark.parametrize("number", [1, 2])
def test_greedy_text_is_that_of_generate(number: int) -> None:
    model: Any = models()[number]
    prompt = torch.tensor([[3, 1, 4]])
    want = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=7,
                          do_sample=False, eos_token_id=None, pad_token_id=0)  # fmt: skip
    assert sample(model, prompt, 7, temperature=0)["input_ids"].tolist() == want.tolist()


def test_settings_of_the_models_files_are_not_obeyed() -> None:
    model: Any = models()[1]
    plain = sample(model, torch.tensor([[3, 1]]), 9, generator=draw(1))["input_ids"]
    model.generation_config.top_k = 1
    model.generation_config.repetition_penalty = 5.0
    assert sample(model, torch.tensor([[3, 1]]), 9, generator=draw(1))["input_ids"].equal(plain)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_all_strings_of_two_have_their_probability(temperature: float) -> None:
    model = SmallGPT(4, seed=5)
    n, prompt = 40_000, torch.tensor([[2, 0]])
    strings = torch.tensor(list(itertools.product(range(4), repeat=2)))
    whole = torch.cat([prompt.expand(16, -1), strings], -1)
    logp = (model(whole)[:, 1:3] / temperature).log_softmax(-1)
    p = logp.gather(-1, strings.unsqueeze(-1)).sum((1, 2)).exp().double()
    ids = sample(model, prompt.expand(n, -1), 2, temperature=temperature, generator=draw())
    found = (ids["input_ids"][:, 2:] @ torch.tensor([4, 1])).bincount(minlength=16)
    chi2 = ((found - n * p) ** 2 / (n * p)).sum().item()
    assert chi2 < 50  # 15 degrees of freedom: exceeded once in 70,000


@given(st.integers(0, 99), st.booleans())
@settings(deadline=None, max_examples=20)
def test_padding_on_either_side_is_the_same(seed: int, left: bool) -> None:
    lengths = torch.randint(1, 6, (3,), generator=draw(seed))
    rows = [torch.randint(1, 11, (int(n),), generator=draw(seed)) for n in lengths]
    wide = int(lengths.max()) + 1
    ids, mask = torch.full((3, wide), 7), torch.zeros(3, wide, dtype=torch.int64)
    for i, row in enumerate(rows):
        at = slice(wide - len(row), wide) if left else slice(0, len(row))
        ids[i, at], mask[i, at] = row, 1
    model = SmallGPT(11)
    given_so = sample(model, {"input_ids": ids, "attention_mask": mask}, 4, temperature=0)
    as_list = sample(model, rows, 4, temperature=0)
    assert given_so["input_ids"][:, 1:].equal(as_list["input_ids"])


def test_a_text_ends_with_its_stop_and_then_is_padding() -> None:
    class Counts(SmallGPT):
        """Says the next number after the one it read."""

        def forward(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
            return nn.functional.one_hot((input_ids + 1) % 16, 16).float() * 50

    found = sample(Counts(16), torch.tensor([[3], [9]]), 5, stop=[5, 14], pad=2, temperature=0)
    assert found["input_ids"].tolist() == [[3, 4, 5, 2, 2, 2], [9, 10, 11, 12, 13, 14]]
    assert found["completion_mask"].tolist() == [[0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1]]
    early = sample(Counts(16), torch.tensor([[3], [4]]), 5, stop=5, pad=2, temperature=0)
    assert early["input_ids"].shape == (2, 6)


def test_several_networks_write_each_their_own() -> None:
    model = SmallGPT(16, seeds=3)
    prompts = torch.randint(16, (3, 2, 4), generator=draw())
    found = sample(model, prompts, 5, temperature=0)["input_ids"]
    for i in range(3):
        assert found[i].equal(sample(model.one(i), prompts[i], 5, temperature=0)["input_ids"])


def test_modes_are_put_back() -> None:
    model = SmallGPT(16)
    model.train()
    sample(model, torch.zeros(1, 1, dtype=torch.int64), 2)
    assert model.training and all(p.grad is None for p in model.parameters())


def test_wrong_arguments_are_refused() -> None:
    model, prompt = SmallGPT(16, length=8), torch.zeros(1, 3, dtype=torch.int64)
    for wrong in (-1.0, math.nan, math.inf, "hot"):
        with pytest.raises(ValueError, match="temperature"):
            sample(model, prompt, 2, temperature=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 or more"):
        sample(model, prompt, 0)
    with pytest.raises(ValueError, match="at most 8"):
        sample(model, prompt, 9)
    with pytest.raises(ValueError, match="a prompt is empty"):
        sample(model, [torch.tensor([1]), torch.tensor([], dtype=torch.int64)], 2)
    with pytest.raises(TypeError, match="ids"):
        sample(model, torch.zeros(1, 3), 2)
    with pytest.raises(ValueError, match="got none"):
        sample(model, [], 2)
    with pytest.raises(TypeError, match="return_tensors"):
        sample(model, {"input_ids": [[1, 2]]}, 2)
    with pytest.raises(TypeError, match=r"texts \[P_i\]"):
        sample(model, [[1, 2]], 2)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="causal language model"):
        sample(nn.Linear(3, 3), prompt, 2)
    with torch.no_grad():
        model.head.fill_(math.nan)
    with pytest.raises(ValueError, match="nothing to draw"):
        sample(model, prompt, 2)


def test_models_with_an_encoder_are_refused() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = dict(vocab_size=11, d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4)
    with pytest.raises(ValueError, match="has an encoder"):
        sample(T5ForConditionalGeneration(T5Config(**sizes)), torch.tensor([[1]]), 2)


def test_padded_keeps_the_order_of_words() -> None:
    ids, mask = padded({"input_ids": torch.tensor([[5, 6, 0], [0, 7, 8]]),
                        "attention_mask": torch.tensor([[1, 1, 0], [0, 1, 1]])}, pad=9)  # fmt: skip
    assert ids.tolist() == [[9, 5, 6], [9, 7, 8]] and mask.tolist() == [[0, 1, 1], [0, 1, 1]]
