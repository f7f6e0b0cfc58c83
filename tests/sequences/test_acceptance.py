"""What a draft is worth, read off texts that the target wrote."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_lib import losses
from distill_lib.models import SmallGPT, small_llama
from distill_lib.sequences import Completions, acceptance, sample, speculate, tokens_a_call

V = 5
TARGET = SmallGPT(V, width=16, layers=1)
DRAFT = SmallGPT(V, width=8, layers=1, seed=3)
PROMPT = torch.tensor([[2, 0]])


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def texts(n: int, new: int = 12) -> dict[str, torch.Tensor]:
    return sample(TARGET, PROMPT.expand(n, -1), new, generator=draw())


def labeled(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ids, mask = found["input_ids"], found["completion_mask"]
    labels = torch.full_like(ids, -100)
    labels[..., :-1] = torch.where(mask[..., 1:] == 1, ids[..., 1:], -100)
    return {k: found[k] for k in ("input_ids", "attention_mask")} | {"shift_labels": labels}


@given(st.integers(0, 1_000))
@settings(deadline=None, max_examples=20)
def test_it_is_one_minus_the_total_variation(seed: int) -> None:
    ids = torch.randint(V, (3, 7), generator=draw(seed))
    tv = losses.tvd(student=DRAFT(ids)[:, :-1], teacher=TARGET(ids)[:, :-1])
    torch.testing.assert_close(acceptance(TARGET, DRAFT, ids), 1 - tv.mean())
    torch.testing.assert_close(acceptance(TARGET, DRAFT, ids), acceptance(DRAFT, TARGET, ids))
    assert acceptance(TARGET, TARGET, ids) == pytest.approx(1)


def test_only_what_counts_is_counted() -> None:
    ids = torch.randint(V, (2, 6), generator=draw())
    each = 1 - losses.tvd(student=DRAFT(ids)[:, :-1], teacher=TARGET(ids)[:, :-1])
    after = torch.full_like(ids, -100)
    after[0, 3], after[1, 1:3] = ids[0, 4], ids[1, 2:4]
    want = torch.stack([each[0, 3], each[1, 1], each[1, 2]]).mean()
    torch.testing.assert_close(
        acceptance(TARGET, DRAFT, {"input_ids": ids, "shift_labels": after}), want
    )
    labels = torch.full_like(ids, -100)  # as causal models of 🤗 Transformers have them
    labels[0, 4], labels[1, 2:4] = ids[0, 4], ids[1, 2:4]
    torch.testing.assert_close(
        acceptance(TARGET, DRAFT, {"input_ids": ids, "labels": labels}), want
    )
    shifted = {"input_ids": ids, "labels": after, "shift": 1}  # as distill_lib.aligned has them
    torch.testing.assert_close(acceptance(TARGET, DRAFT, shifted), want)


@pytest.mark.parametrize("left", [True, False])
def test_padding_counts_for_nothing(left: bool) -> None:
    rows = [torch.randint(V, (n,), generator=draw(n)) for n in (6, 3)]
    parts = [acceptance(TARGET, DRAFT, row[None]) * (len(row) - 1) for row in rows]
    ids, mask = torch.full((2, 7), 4), torch.zeros(2, 7, dtype=torch.int64)
    for i, row in enumerate(rows):
        at = slice(7 - len(row), 7) if left else slice(0, len(row))
        ids[i, at], mask[i, at] = row, 1
    found = acceptance(TARGET, DRAFT, {"input_ids": ids, "attention_mask": mask})
    torch.testing.assert_close(found, (parts[0] + parts[1]) / 7)


def test_several_drafts_have_each_their_own() -> None:
    stack, ids = SmallGPT(V, width=8, seeds=3), torch.randint(V, (40, 6), generator=draw())
    for measure in (acceptance, tokens_a_call):
        found = measure(TARGET, stack, ids)
        want = torch.stack([measure(TARGET, stack.one(i), ids) for i in range(3)])
        torch.testing.assert_close(found, want)
    own = torch.randint(V, (3, 4, 6), generator=draw())
    want = torch.stack([acceptance(TARGET, stack.one(i), own[i]) for i in range(3)])
    torch.testing.assert_close(acceptance(TARGET, stack, own), want)


def test_batches_of_completions_are_read() -> None:
    words = Completions(
        PROMPT.expand(9, -1), teacher=TARGET, own=0.0, new=5, stop=1, seeds=3, batch_size=4
    )
    assert acceptance(TARGET, SmallGPT(V, seeds=3, seed=5), next(iter(words))).shape == (3,)


@pytest.mark.parametrize("ahead", [1, 4, 9])
def test_tokens_a_call_are_those_of_speculation(ahead: int) -> None:
    batch = labeled(texts(800))
    _, record = speculate(TARGET, DRAFT, PROMPT.expand(800, -1), 12, ahead=ahead, generator=draw(1))
    ratio = tokens_a_call(TARGET, DRAFT, batch, ahead=ahead) / record.tokens_a_call
    spread = (record.calls.float().std() / record.calls.float().mean() / 800**0.5).item()
    assert ratio.item() == pytest.approx(1, abs=6 * spread)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_other_temperatures_are_those_of_speculation(temperature: float) -> None:
    many = PROMPT.expand(1_000, -1)
    found = sample(TARGET, many, 9, temperature=temperature, generator=draw())
    _, record = speculate(TARGET, DRAFT, many, 9, temperature=temperature, generator=draw(1))
    batch = labeled(found)
    want = tokens_a_call(TARGET, DRAFT, batch, temperature=temperature).item()
    assert record.tokens_a_call.item() == pytest.approx(want, rel=0.05 if temperature else 1e-12)
    both = acceptance(TARGET, DRAFT, batch, temperature=temperature)
    if not temperature:
        agree = TARGET(found["input_ids"]).argmax(-1) == DRAFT(found["input_ids"]).argmax(-1)
        assert both == agree[:, 1:-1].float().mean()


def test_texts_that_end_early_are_read_as_they_are_written() -> None:
    found = sample(TARGET, PROMPT.expand(800, -1), 12, stop=1, generator=draw())
    _, record = speculate(TARGET, DRAFT, PROMPT.expand(800, -1), 12, stop=1, generator=draw(1))
    assert tokens_a_call(TARGET, DRAFT, labeled(found)).item() == pytest.approx(
        record.tokens_a_call.item(), rel=0.04
    )


def test_calls_are_the_mean_over_all_that_can_happen() -> None:
    """Three tokens, two ahead, all ways of keeping and refusing written out."""
    ids = torch.tensor([[2, 0, 3, 1]])
    p, q = TARGET(ids)[0, :-1].softmax(-1), DRAFT(ids)[0, :-1].softmax(-1)
    at = torch.arange(3), ids[0, 1:]
    r = (q[at] / p[at]).clamp_max(1).tolist()
    calls = 0.0
    for kept in itertools.product([True, False], repeat=3):
        chance, place, count = 1.0, 0, 0
        for keep, rate in zip(kept, r, strict=True):
            chance *= rate if keep else 1 - rate
        while place < 3:
            count += 1
            for j in range(3):  # two proposals, then one of the target
                place += 1
                if place == 3 or j == 2 or not kept[place - 1]:
                    break
        calls += chance * count
    assert tokens_a_call(TARGET, DRAFT, ids, ahead=2).item() == pytest.approx(3 / calls)


def test_models_of_transformers_are_read() -> None:
    llama = small_llama(V, hidden=16, heads=2, seed=0)
    ids = torch.randint(V, (3, 6), generator=draw())
    tv = losses.tvd(student=DRAFT(ids), teacher=llama(input_ids=ids).logits)[:, :-1]
    torch.testing.assert_close(acceptance(llama, DRAFT, ids), 1 - tv.mean())


def test_wrong_batches_are_refused() -> None:
    ids = torch.randint(V, (2, 4), generator=draw())
    with pytest.raises(TypeError, match="input_ids"):
        acceptance(TARGET, DRAFT, {"inputs": ids})
    with pytest.raises(TypeError, match="input_ids"):
        acceptance(TARGET, DRAFT, ids.float())
    with pytest.raises(ValueError, match="no token counts"):
        acceptance(TARGET, DRAFT, ids[:, :1])
    with pytest.raises(ValueError, match="no token counts"):
        acceptance(TARGET, DRAFT, {"input_ids": ids, "labels": torch.full_like(ids, -100)})
    with pytest.raises(ValueError, match="of the shape of the ids"):
        acceptance(TARGET, DRAFT, {"input_ids": ids, "labels": ids[:, 1:]})
    with pytest.raises(ValueError, match="knows 5 tokens and the draft 16"):
        acceptance(TARGET, SmallGPT(16), ids)
    with pytest.raises(ValueError, match="temperature"):
        acceptance(TARGET, DRAFT, ids, temperature=-1.0)
    with pytest.raises(ValueError, match="ahead"):
        tokens_a_call(TARGET, DRAFT, ids, ahead=0)
    sure = SmallGPT(V)
    with torch.no_grad():
        sure.head[..., 0] = -torch.inf
    with pytest.raises(ValueError, match=r"nothing to draw|did not write"):
        tokens_a_call(sure, DRAFT, torch.zeros_like(ids))
