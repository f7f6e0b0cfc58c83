"""Models that do not tell beforehand where their labels stand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tr
from torch import Tensor, nn

from distill_lib import CE, aligned, distill, evaluate


class Around(nn.Module):
    """A module of the user's around a model, whose answer alone tells that it is causal."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor) -> Any:
        return self.inner(input_ids=input_ids)


def test_labels_beside_a_wrapped_causal_model_are_refused_or_aligned() -> None:
    config = tr.GPT2Config(n_embd=8, n_head=1, n_layer=1, vocab_size=9, bos_token_id=0)
    inner = tr.GPT2LMHeadModel(config).eval()
    words = torch.tensor([[3, 4, 5, 6]])
    batch = {"input_ids": words, "labels": words}
    with pytest.raises(ValueError, match="aligned"):
        evaluate(Around(inner), [batch])
    found = evaluate(Around(inner), [aligned(batch, inner)])["nll"]
    assert found == pytest.approx(inner(**batch).loss.item(), abs=1e-5)


def test_decoders_without_a_method_for_it_get_their_input_too() -> None:
    sizes = {"d_model": 8, "decoder_layers": 1, "encoder_layers": 1, "vocab_size": 20}
    heads = {"decoder_attention_heads": 1, "encoder_attention_heads": 1, "dropout": 0.0}
    off = dict.fromkeys(("attention_dropout", "activation_dropout", "encoder_layerdrop"), 0.0)
    config = tr.M2M100Config(**sizes, **heads, **off, decoder_layerdrop=0.0)
    model = tr.M2M100ForConditionalGeneration(config)
    labels = torch.tensor([[3, 4, 5], [6, 7, -100]])
    batch = {"input_ids": torch.ones(2, 4).long(), "labels": labels}
    own = model(**batch).loss.item()
    assert distill(model, None, [batch], CE(), steps=1)["ce"][0] == pytest.approx(own, abs=1e-5)
