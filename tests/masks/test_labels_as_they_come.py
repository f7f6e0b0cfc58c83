"""Labels of tokens, shifted already or not, may come as lists, arrays and numbers of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from distill_lib import CE, aligned

IDS = torch.randint(1, 16, (2, 6), generator=torch.Generator().manual_seed(0))
FORMS: dict[str, Callable[[Tensor], Any]] = {
    "list": Tensor.tolist,
    "array": Tensor.numpy,
    "int32": Tensor.int,
    "int16": Tensor.short,
    "uint8": lambda x: x.to(torch.uint8),
}


def gpt() -> Any:
    sizes = dict(n_embd=8, n_head=1, n_layer=1, vocab_size=16, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(GPT2Config(**sizes)).eval()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beside", [False, True])
def test_labels_that_are_shifted_are_taken_as_they_are(form: str, beside: bool) -> None:
    """Also beside labels, which are then not asked."""
    model, batch = gpt(), {"input_ids": IDS, "shift_labels": FORMS[form](IDS)}
    found = aligned({**batch, "labels": IDS * 0} if beside else batch, model)
    assert found["shift"] == 1 and torch.equal(found["labels"].long(), IDS)
    said = model(input_ids=IDS)
    want = torch.nn.functional.cross_entropy(said.logits.flatten(0, 1), IDS.flatten())
    torch.testing.assert_close(CE()(said, None, found)[0], want)


@pytest.mark.parametrize("form", FORMS)
def test_labels_that_are_not_are_shifted(form: str) -> None:
    model = gpt()
    found = aligned({"input_ids": IDS, "labels": FORMS[form](IDS)}, model)
    want = torch.nn.functional.pad(IDS[:, 1:], (0, 1), value=-100)
    assert torch.equal(found["labels"].long(), want)
    said = model(input_ids=IDS, labels=IDS)
    torch.testing.assert_close(CE()(said, None, found)[0], said.loss)


@pytest.mark.parametrize("form", FORMS)
def test_a_decoder_reads_them_all(form: str) -> None:
    sizes = dict(vocab_size=16, d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4)
    model: Any = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).eval()
    found = aligned({"input_ids": IDS, "labels": FORMS[form](IDS)}, model)
    want = torch.nn.functional.pad(IDS[:, :-1], (1, 0))
    assert torch.equal(found["decoder_input_ids"].long(), want)
