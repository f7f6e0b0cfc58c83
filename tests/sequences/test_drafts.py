"""Speculative decoding: the text is the target's, whatever the draft is."""

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
from distill_lib.sequences import drafts, leftover, sample, speculate, verified

V, NEW, MANY = 5, 3, 4_000
STRINGS = torch.tensor(list(itertools.product(range(V), repeat=NEW)))
PROMPT = torch.tensor([[2, 0]])


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Altered(nn.Module):
    """A small GPT whose logits are changed: some tokens are never said, or one is always."""

    def __init__(self, inner: SmallGPT, change: Any) -> None:
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        from transformers.modeling_outputs import CausalLMOutput

        logits = self.inner(input_ids)
        return CausalLMOutput(logits=self.change(logits, input_ids))  # type: ignore[arg-type]


def without(*tokens: int) -> Any:
    gone = torch.zeros(V).index_fill(0, torch.tensor(tokens), -math.inf)
    return lambda logits, ids: logits + gone


def one_hot(logits: Tensor, ids: Tensor) -> Tensor:
    """The token after the one that was read, and no other."""
    return torch.zeros_like(logits).scatter_(
        -1, ((ids + 1) % V).unsqueeze(-1), math.inf
    ).nan_to_num(posinf=0.0) + torch.full_like(logits, -math.inf).scatter_(
        -1, ((ids + 1) % V).unsqueeze(-1), 0.0
    )


def gpt(seed: int, **more: Any) -> SmallGPT:
    model = SmallGPT(V, seed=seed, **{"width": 16, "layers": 1, **more})
    with torch.no_grad():
        model.head *= 2  # far from uniform
    return model


TARGET, OTHER = gpt(0), gpt(7, width=8)
PAIRS = {
    "another": (TARGET, OTHER),
    "itself": (TARGET, TARGET),
    "one-hot draft": (TARGET, Altered(OTHER, one_hot)),
    "draft with zeros": (TARGET, Altered(OTHER, without(1, 3))),
    "target with zeros": (Altered(TARGET, without(1, 3)), OTHER),
    "zeros of both": (Altered(TARGET, without(1)), Altered(OTHER, without(3))),
    "no token in common": (Altered(TARGET, without(0, 1)), Altered(OTHER, without(2, 3, 4))),
    "one-hot target": (Altered(TARGET, one_hot), OTHER),
}


def law(target: nn.Module, temperature: float) -> Tensor:
    """The probability of each string of three tokens after the prompt."""
    whole = torch.cat([PROMPT.expand(len(STRINGS), -1), STRINGS], -1)
    said = target(whole)
    logits = said if isinstance(said, Tensor) else said.logits
    p = (logits[:, 1:-1].double() / temperature).softmax(-1)
    return p.gather(-1, STRINGS.unsqueeze(-1)).squeeze(-1).prod(-1).detach()


def misfit(ids: Tensor, p: Tensor) -> float:
    """The probability of a chi-square as large as that of the strings found."""
    number = ids @ torch.tensor([V**2, V, 1])
    found, want = number.bincount(minlength=len(p)).double(), p * len(ids)
    if bool(found[p == 0].any()):
        return 0.0
    common = want >= 5
    found, want = (torch.cat([x[common], x[~common].sum()[None]]) for x in (found, want))
    kept = want > 0
    if int(kept.sum()) == 1:
        return 1.0
    chi2 = ((found - want)[kept] ** 2 / want[kept]).sum()
    return 1 - torch.special.gammainc((kept.sum() - 1) / 2.0, chi2 / 2).item()


@pytest.mark.parametrize("ahead", [1, 2, 5])
@pytest.mark.parametrize("name", PAIRS)
def test_all_strings_of_three_have_the_targets_probability(name: str, ahead: int) -> None:
    target, draft = PAIRS[name]
    temperature = 0.6 if ahead == 5 else 1.0
    found, record = speculate(
        target, draft, PROMPT.expand(MANY, -1), NEW, ahead=ahead, temperature=temperature,
        generator=draw(ahead),
    )  # fmt: skip
    assert misfit(found["input_ids"][:, 2:], law(target, temperature)) > 1e-4
    gap = (record.accepted - record.expected).sum() / record.proposed.sum()
    assert abs(gap) < 4 / (4 * record.proposed.sum()) ** 0.5  # four standard deviations


@pytest.mark.parametrize("name", ["another", "draft with zeros", "target with zeros"])
def test_the_usual_mistake_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a refusal, a draw from p instead of (p - q)+ is too often what was refused."""
    target, draft = PAIRS[name]
    monkeypatch.setattr(drafts, "leftover", lambda p, q: p)
    found, _ = speculate(target, draft, PROMPT.expand(MANY, -1), NEW, ahead=2, generator=draw())
    assert misfit(found["input_ids"][:, 2:], law(target, 1.0)) < 1e-6


def test_a_draft_that_says_its_best_is_not_one_that_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy proposals, judged as if they were drawn from the draft's softmax, change the text."""
    plain = drafts._drawn
    monkeypatch.setattr(drafts, "_written_ahead", _greedy(plain))
    found, _ = speculate(TARGET, OTHER, PROMPT.expand(MANY, -1), NEW, ahead=2, generator=draw())
    assert misfit(found["input_ids"][:, 2:], law(TARGET, 1.0)) < 1e-6


def _greedy(_: Any) -> Any:
    def written(draft: Any, text: Tensor, width: int, place: Tensor, T: float, g: Any) -> Tensor:
        asked = []
        for at in place.unbind(-1):
            asked.append(drafts.chances(draft, text[..., :width], at.unsqueeze(-1), T))
            text.scatter_(-1, at.unsqueeze(-1), asked[-1].argmax(-1))
        return torch.cat(asked, -2)

    return written


# ---- the record ----


def test_a_draft_that_is_the_target_is_always_kept() -> None:
    _, record = speculate(TARGET, TARGET, PROMPT.expand(50, -1), 11, ahead=4, generator=draw())
    assert record.acceptance.item() == 1
    assert record.tokens.eq(11).all() and record.calls.eq(3).all()  # 5 + 5 + 1
    want = torch.tensor([1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1])
    assert record.by_draft.eq(want).all()
    assert record.proposed.eq(9).all() and record.accepted.eq(9).all()


def test_a_draft_that_is_never_right_costs_a_call_a_token() -> None:
    target, draft = PAIRS["no token in common"]
    _, record = speculate(target, draft, PROMPT.expand(50, -1), 6, generator=draw())
    assert record.acceptance.item() == 0 and record.tokens_a_call.item() == 1
    assert record.proposed.eq(6).all() and not record.by_draft.any()


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_the_counts_fit_the_text(seed: int, ahead: int, new: int) -> None:
    """Tokens are proposals kept and one of the target a call, but for texts that end before."""
    prompts = torch.randint(V, (4, 3), generator=draw(seed))
    found, record = speculate(
        TARGET, OTHER, prompts, new, ahead=ahead, stop=1, pad=4, generator=draw(seed)
    )
    live = found["completion_mask"][:, 3:]
    assert record.tokens.equal(live.sum(-1)) and record.accepted.equal(record.by_draft.sum(-1))
    last = record.by_draft.gather(-1, record.tokens.unsqueeze(-1) - 1).squeeze(-1)
    assert (record.tokens - record.accepted).equal(record.calls - last)
    assert (record.proposed >= record.accepted).all() and (record.proposed <= record.tokens).all()
    assert (record.expected <= record.proposed + 1e-9).all()
    stops = found["input_ids"][:, 3:] == 1
    for row, stop in enumerate(stops):
        over = int(stop.nonzero()[0]) + 1 if bool((stop & live[row].bool()).any()) else new
        assert int(record.tokens[row]) == over
        assert found["input_ids"][row, 3 + over :].eq(4).all()


# ---- prompts, stacks, models ----


def hub_models() -> dict[str, nn.Module]:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = dict(vocab_size=11, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    gpt2 = GPT2LMHeadModel(GPT2Config(**sizes))
    llama = small_llama(11, hidden=16, seed=0, heads=2, initializer_range=0.5)
    return {"SmallGPT": SmallGPT(11), "Llama": llama, "GPT-2": gpt2}


@pytest.mark.parametrize("mine", ["SmallGPT", "Llama", "GPT-2"])
def test_greedy_text_is_the_targets_token_by_token(mine: str) -> None:
    models = hub_models()
    prompts = [torch.randint(11, (n,), generator=draw(n)) for n in (5, 1, 3)]
    want = sample(models[mine], prompts, 9, temperature=0, stop=3, pad=9)
    for ahead, draft in enumerate(models.values(), 1):
        found, _ = speculate(
            models[mine], draft, prompts, 9, ahead=ahead, temperature=0, stop=3, pad=9
        )
        assert all(found[name].equal(want[name]) for name in want)


def test_greedy_text_is_that_of_assisted_generation() -> None:
    """🤗 Transformers' own, which writes one text at a time."""
    models: dict[str, Any] = hub_models()
    target = models["Llama"]
    draft = small_llama(11, hidden=16, seed=1, heads=2, initializer_range=0.5)
    for prompt in torch.randint(11, (2, 1, 4), generator=draw()):
        theirs = target.generate(
            prompt, attention_mask=torch.ones_like(prompt), assistant_model=draft,
            max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        ours, _ = speculate(target, draft, prompt, 12, temperature=0)
        assert ours["input_ids"].tolist() == theirs.tolist()


def test_ragged_prompts_are_written_on_as_each_alone() -> None:
    """The law of a text does not depend on the others of its batch."""
    rows = [torch.tensor([2, 0]), torch.tensor([1, 4, 3, 0])]
    both, _ = speculate(TARGET, OTHER, rows * 3_000, NEW, ahead=2, generator=draw())
    for i, row in enumerate(rows):
        ids = both["input_ids"][i::2]
        assert ids[:, 4 - len(row) : 4].eq(row).all()
        whole = torch.cat([row.expand(len(STRINGS), -1), STRINGS], -1)
        p = TARGET(whole)[:, len(row) - 1 : -1].double().softmax(-1)
        p = p.gather(-1, STRINGS.unsqueeze(-1)).squeeze(-1).prod(-1).detach()
        assert misfit(ids[:, 4:], p) > 1e-4


@given(st.integers(0, 99), st.booleans())
@settings(deadline=None, max_examples=20)
def test_padding_on_either_side_is_the_same(seed: int, left: bool) -> None:
    lengths = torch.randint(1, 6, (3,), generator=draw(seed))
    rows = [torch.randint(V, (int(n),), generator=draw(seed)) for n in lengths]
    wide = int(lengths.max()) + 1
    ids, mask = torch.full((3, wide), 3), torch.zeros(3, wide, dtype=torch.int64)
    for i, row in enumerate(rows):
        at = slice(wide - len(row), wide) if left else slice(0, len(row))
        ids[i, at], mask[i, at] = row, 1
    given_so = {"input_ids": ids, "attention_mask": mask}
    one = speculate(TARGET, OTHER, given_so, 4, generator=draw(seed))[0]["input_ids"]
    other = speculate(TARGET, OTHER, rows, 4, generator=draw(seed))[0]["input_ids"]
    assert one[:, 1:].equal(other)


def test_several_drafts_write_with_one_target() -> None:
    stack = SmallGPT(V, width=8, layers=1, seeds=3)
    prompts = torch.randint(V, (3, 4, 2), generator=draw())
    found, record = speculate(TARGET, stack, prompts, 7, temperature=0)
    assert found["input_ids"].shape == (3, 4, 9) and record.acceptance.shape == (3,)
    for i in range(3):
        alone, counts = speculate(TARGET, stack.one(i), prompts[i], 7, temperature=0)
        assert found["input_ids"][i].equal(alone["input_ids"])
        assert record.calls[i].equal(counts.calls)
    shared, _ = speculate(TARGET, stack, PROMPT, 7, temperature=0)
    assert shared["input_ids"].shape == (3, 1, 9)
    both, _ = speculate(TARGET.copies(3), stack, prompts, 7, temperature=0)
    assert both["input_ids"].equal(found["input_ids"])


def test_a_text_may_fill_the_whole_model() -> None:
    target, draft = SmallGPT(V, length=8), SmallGPT(V, length=8, seed=1)
    ids = speculate(target, draft, [PROMPT[0], PROMPT[0, :1]], 6, generator=draw())[0]["input_ids"]
    assert ids.shape == (2, 8)
    with pytest.raises(ValueError, match="at most 8"):
        speculate(target, draft, PROMPT, 8, generator=draw())


def test_modes_and_gradients_are_left_alone() -> None:
    target, draft = gpt(1).train(), gpt(2).train()
    found, _ = speculate(target, draft, PROMPT, 3)
    assert target.training and draft.training and not found["input_ids"].requires_grad


def test_half_precision_is_judged_in_full() -> None:
    target, draft = gpt(0).bfloat16(), gpt(7, width=8).bfloat16()
    found, _ = speculate(target, draft, PROMPT.expand(MANY, -1), NEW, ahead=2, generator=draw())
    assert misfit(found["input_ids"][:, 2:], law(target, 1.0)) > 1e-4


def test_wrong_arguments_are_refused() -> None:
    for wrong in (-1.0, math.nan, math.inf, "hot"):
        with pytest.raises(ValueError, match="temperature"):
            speculate(TARGET, OTHER, PROMPT, 2, temperature=wrong)  # type: ignore[arg-type]
    for name in ("new", "ahead"):
        with pytest.raises(ValueError, match=f"{name} expected a whole number of 1"):
            speculate(TARGET, OTHER, PROMPT, **{"new": 2, "ahead": 4, name: 0})
    with pytest.raises(ValueError, match="knows 5 tokens and the draft 16"):
        speculate(TARGET, SmallGPT(16), PROMPT, 2)
    with pytest.raises(ValueError, match="stacks of"):
        speculate(SmallGPT(V, seeds=2), SmallGPT(V, seeds=3), PROMPT, 2)
    with pytest.raises(ValueError, match="stacks of"):
        speculate(TARGET, SmallGPT(V, seeds=3), PROMPT.expand(2, 1, 2), 2)
    with pytest.raises(ValueError, match="a prompt is empty"):
        speculate(TARGET, OTHER, [torch.tensor([], dtype=torch.int64), PROMPT[0]], 2)
    with pytest.raises(ValueError, match="causal language model"):
        speculate(TARGET, nn.Linear(2, 2), PROMPT, 2)
    silent = Altered(OTHER, without(0, 1, 2, 3, 4))
    for pair in ((TARGET, silent), (silent, TARGET)):
        with pytest.raises(ValueError, match="nothing to draw"):
            speculate(*pair, PROMPT, 2)


def test_models_with_an_encoder_are_refused() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = dict(vocab_size=V, d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4)
    with pytest.raises(ValueError, match="has an encoder"):
        speculate(TARGET, T5ForConditionalGeneration(T5Config(**sizes)), PROMPT, 2)


# ---- one step ----


def test_equal_chances_leave_the_target() -> None:
    p = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    assert leftover(p, p).equal(p)


def test_a_proposal_without_a_chance_is_refused() -> None:
    p, q = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    for proposed, want in ((0, (0, 1)), (1, (1, 0))):
        kept, last = verified(p, q, torch.tensor([proposed]))
        assert (kept.item(), last.item()) == want
