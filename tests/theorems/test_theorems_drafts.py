r"""The theorems on speculative decoding, checked without drawing anything.

p is the target's distribution of the next token, q the draft's, α = Σ min(p, q).
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import losses
from distill_lib.models import SmallGPT
from distill_lib.sequences import leftover, tokens_a_call

V = 3


def distributions(seed: int, count: int = 2, zeros: bool = True) -> Tensor:
    """[count, 5] distributions; in some, tokens have no chance."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 5, generator=draw, dtype=torch.float64) ** 3
    if zeros:
        x = x * (torch.rand(count, 5, generator=draw) < 0.7)
    x[:, seed % 5] += 1e-3
    return x / x.sum(-1, keepdim=True)


# D1: one token


@given(st.integers(0, 10_000))
def test_d1_a_token_that_is_kept_or_replaced_has_the_targets_distribution(seed: int) -> None:
    """q · min(1, p/q) + (1 - α) · (p - q)+ / Σ(p - q)+ = p, also where one of them is 0."""
    p, q = distributions(seed)
    kept = torch.where(q > 0, q * (p / q).clamp_max(1), 0.0)
    alpha = kept.sum()
    torch.testing.assert_close(kept, torch.minimum(p, q))
    torch.testing.assert_close(kept + (1 - alpha) * leftover(p, q), p)


@given(st.integers(0, 10_000))
def test_d1_the_share_kept_is_one_minus_the_total_variation(seed: int) -> None:
    p, q = distributions(seed)
    tv = losses.tvd(student=q.log(), teacher=p.log())
    torch.testing.assert_close(torch.minimum(p, q).sum(), 1 - tv)
    torch.testing.assert_close((p - q).clamp_min(0).sum(), tv)


@given(st.integers(0, 10_000))
def test_d1_no_rule_keeps_more(seed: int) -> None:
    """However X ~ q and Y ~ p are drawn together, P(X = Y) is at most Σ min(p, q)."""
    p, q = distributions(seed)
    joint = torch.rand(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    joint = joint + 20 * (seed % 2) * torch.eye(5, dtype=torch.float64)
    joint = joint * (q[:, None] > 0) * (p > 0)
    for _ in range(300):  # Sinkhorn: rows to q, columns to p
        joint = joint * (q / joint.sum(1).clamp_min(1e-300))[:, None]
        joint = joint * (p / joint.sum(0).clamp_min(1e-300))
    # the rows are q up to what is left of the error
    slack = (joint.sum(1) - q).abs().sum()
    assert joint.diagonal().sum() <= torch.minimum(p, q).sum() + slack + 1e-9


@given(st.integers(0, 10_000))
def test_d1_the_usual_mistake_is_off_by_what_was_refused(seed: int) -> None:
    """With p in the place of (p - q)+, the token has min(p, q) + (1 - α) p."""
    p, q = distributions(seed)
    shared = torch.minimum(p, q)
    wrong = shared + (1 - shared.sum()) * p
    torch.testing.assert_close(wrong.sum(), torch.ones((), dtype=torch.float64))
    gap = losses.tvd(student=wrong.log(), teacher=p.log())
    assert gap <= (1 - shared.sum()) * shared.sum() + 1e-12
    if (shared < p).any() and shared.sum() > 0:
        assert gap > 0 or torch.allclose(shared / shared.sum(), p)


# D2: a text


def exact_law(p: dict[str, Tensor], q: dict[str, Tensor], ahead: int, new: int) -> dict[str, float]:
    """The probability of each text, by going through all that can be proposed and kept."""
    found: dict[str, float] = {}

    def call(text: str, chance: float) -> None:
        if len(text) == new:
            found[text] = found.get(text, 0.0) + chance
        else:
            judge(text, ahead, chance)

    def judge(text: str, left: int, chance: float) -> None:
        if len(text) == new:
            return call(text, chance)
        said = p[text] if left == 0 else leftover(p[text], q[text])
        shared = torch.minimum(p[text], q[text])
        refused = 1.0 if left == 0 else 1 - shared.sum().item()
        for token in range(V):
            if left:
                judge(text + str(token), left - 1, chance * shared[token].item())
            call(text + str(token), chance * refused * said[token].item())

    call("", 1.0)
    return found


def tables(seed: int, new: int) -> list[dict[str, Tensor]]:
    """Two models as tables: a distribution for each text so far."""
    draw = torch.Generator().manual_seed(seed)
    prefixes = [""]
    for _ in range(new):
        prefixes += [x + str(t) for x in prefixes if len(x) == len(prefixes[-1]) for t in range(V)]
    return [
        {x: (2 * torch.randn(V, generator=draw, dtype=torch.float64)).softmax(0) for x in prefixes}
        for _ in range(2)
    ]


@pytest.mark.parametrize("ahead", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_d2_a_text_has_the_targets_distribution(seed: int, ahead: int) -> None:
    p, q = tables(seed, 3)
    found = exact_law(p, q, ahead, 3)
    assert len(found) == V**3
    for text, chance in found.items():
        want = math.prod(p[text[:i]][int(text[i])].item() for i in range(3))
        assert chance == pytest.approx(want, rel=1e-10)


# D3: calls


@pytest.mark.parametrize("seed", range(3))
def test_d3_with_all_written_ahead_refusals_are_the_sum_of_total_variations(seed: int) -> None:
    """Each refusal is at a text of the target's, and its probability there is TV(p, q)."""
    new = 3
    p, q = tables(seed, new)
    refusals = want = 0.0

    def walk(text: str, chance: float) -> None:
        nonlocal refusals
        if len(text) == new:
            return
        shared = torch.minimum(p[text], q[text])
        refusals += chance * (1 - shared.sum().item())
        said = shared + (1 - shared.sum()) * leftover(p[text], q[text])
        for token in range(V):
            walk(text + str(token), chance * said[token].item())

    def texts(text: str, chance: float) -> None:
        nonlocal want
        if len(text) < new:
            want += chance * losses.tvd(student=q[text].log(), teacher=p[text].log()).item()
            for token in range(V):
                texts(text + str(token), chance * p[text][token].item())

    walk("", 1.0)
    texts("", 1.0)
    assert refusals == pytest.approx(want, rel=1e-10)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_d3_given_its_token_a_proposal_was_kept_with_min_1_q_over_p(seed: int) -> None:
    """Bayes: min(p, q) of the p with which the token is said came from the draft."""
    p, q = distributions(seed, zeros=False)
    kept = torch.minimum(p, q)
    torch.testing.assert_close(kept / p, (q / p).clamp_max(1))
    torch.testing.assert_close((p * (q / p).clamp_max(1)).sum(), kept.sum())


@pytest.mark.parametrize("ahead", [1, 2, 4, 8])
def test_d3_with_equal_chances_the_tokens_of_a_call_are_a_geometric_sum(ahead: int) -> None:
    """(1 - α^(k+1)) / (1 - α), if every proposal is kept with α, whatever the place."""
    length, alpha = 2_000, 0.7
    target, draft = (SmallGPT(2, width=2, heads=1, layers=1, length=length) for _ in "pq")
    with torch.no_grad():  # the target says 0 for sure, the draft with probability α
        for model, odds in ((target, 1e9), (draft, math.log(alpha / (1 - alpha)))):
            model.head.copy_(torch.tensor([[[0.0, 0.0], [0.0, 0.0]]]))
            model.register_forward_hook(
                lambda m, args, out, odds=odds: out + torch.tensor([odds, 0.0])
            )
    ids = torch.zeros(1, length, dtype=torch.int64)
    want = (1 - alpha ** (ahead + 1)) / (1 - alpha)
    found = tokens_a_call(target, draft, ids, ahead=ahead).item()
    assert found == pytest.approx(want, rel=2e-3)


# D4: divergences and acceptance


@given(st.integers(0, 10_000))
def test_d4_a_small_divergence_is_a_large_acceptance(seed: int) -> None:
    """TV ≤ √(KL/2) both ways, and TV²/2 ≤ JSD ≤ TV · log 2: only JSD is bounded by TV as well."""
    p, q = distributions(seed, zeros=False).log()
    tv = losses.tvd(student=q, teacher=p)
    kl, rkl = losses.kl(student=q, teacher=p), losses.reverse_kl(student=q, teacher=p)
    jsd = losses.jsd(student=q, teacher=p)
    assert tv <= math.sqrt(min(kl, rkl) / 2) + 1e-12
    assert tv**2 / 2 - 1e-12 <= jsd <= tv * math.log(2) + 1e-12


def test_d4_no_multiple_of_tv_bounds_a_kl() -> None:
    p, q = torch.tensor([0.9, 0.1, 0.0]).double(), torch.tensor([0.9, 0.0999, 0.0001]).double()
    p = p.clamp_min(1e-300)
    tv = losses.tvd(student=q.log(), teacher=p.log())
    assert losses.reverse_kl(student=q.log(), teacher=p.log()) > 600 * tv
    assert losses.kl(student=p.log(), teacher=q.log()) > 600 * tv


@given(st.integers(0, 10_000))
def test_d4_the_gradient_of_log_acceptance_is_that_of_tv_over_acceptance(seed: int) -> None:
    p = distributions(seed, zeros=False)[0]
    z = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    z.requires_grad_()
    alpha = torch.minimum(p, z.softmax(0)).sum()
    (log,) = torch.autograd.grad(-alpha.log(), z, retain_graph=True)
    (plain,) = torch.autograd.grad(losses.tvd(student=z, teacher=p.log()), z)
    torch.testing.assert_close(log, plain / alpha.detach())
