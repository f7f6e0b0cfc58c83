"""terms.sequences: when the policy gradient is that of the divergence, by enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import KD, losses
from distill_lib.terms import LogRatio

V = 3  # words


def tables(length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits after each prefix: one row a prefix, of the student and the teacher."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(V**t for t in range(length))
    z, v = (torch.randn(rows, V, generator=generator, dtype=torch.float64) for _ in range(2))
    return z.requires_grad_(), v


def expected(z: Tensor, v: Tensor, sampled: Tensor, term: LogRatio | None = None) -> Tensor:
    """The mean gradient over one next word from ``sampled``, at each of the positions."""
    n = len(z)
    total = torch.zeros_like(z)
    for word in range(V):
        labels = torch.full((n,), word)
        loss, _ = (term or LogRatio())(z, v, {"labels": labels, "weight": sampled[:, word]})
        total += torch.autograd.grad(loss * n, z)[0]
    return total


@given(st.integers(0, 10**6), st.sampled_from([1.0, 0.5, 3.0]))
def test_over_the_students_own_next_word_it_is_the_reverse_kl(seed: int, T: float) -> None:
    z, v = tables(2, seed)
    own = (z.detach() / T).softmax(-1)
    want = torch.autograd.grad(losses.reverse_kl(student=z, teacher=v, temperature=T).sum(), z)[0]
    torch.testing.assert_close(expected(z, v, own, LogRatio(T)), want)
    exact = torch.autograd.grad(KD(losses.reverse_kl, T)(z, v)[0] * len(z), z)[0]
    torch.testing.assert_close(T**2 * want, exact)  # the factor that KD has, and this has not


def test_a_constant_baseline_changes_nothing_in_the_mean() -> None:
    """E[∇ log q] = 0: what does not depend on the word may be subtracted."""
    z, v = tables(2)
    own = z.detach().softmax(-1)
    torch.testing.assert_close(expected(z, v + 1.0, own), expected(z, v, own))
    shift = torch.zeros_like(z)
    for word in range(V):
        log_q = losses.policy.log_prob(z, torch.full((len(z),), word))
        shift += torch.autograd.grad((own[:, word] * log_q).sum(), z)[0]
    assert shift.abs().max() < 1e-12


def test_of_the_backpropagated_log_ratio_no_teacher_is_left() -> None:
    """k1 by backpropagation: its mean gradient is 0, with any teacher."""
    z, v = tables(2)
    own, total = z.detach().softmax(-1), torch.zeros_like(z)
    for word in range(V):
        labels = torch.full((len(z),), word)
        k1 = losses.policy.log_prob(z, labels) - losses.policy.log_prob(v, labels)
        total += torch.autograd.grad((own[:, word] * k1).sum(), z)[0]
    assert total.abs().max() < 1e-12
    assert expected(z, v, own).abs().max() > 0.05


def test_on_somebody_elses_words_it_is_another_gradient_unless_weighted() -> None:
    z, v = tables(2)
    own, theirs = z.detach().softmax(-1), v.softmax(-1)
    want = expected(z, v, own)
    assert (expected(z, v, theirs) - want).norm() > 0.3 * want.norm()
    torch.testing.assert_close(expected(z, v, theirs * (own / theirs)), want)


def texts(length: int) -> tuple[Tensor, Tensor]:
    """Every text, and the rows of its prefixes."""
    words = torch.tensor(list(itertools.product(range(V), repeat=length)))
    starts = list(itertools.accumulate([V**t for t in range(length)], initial=0))
    rows = [
        starts[t] + sum(words[:, i] * V ** (t - 1 - i) for i in range(t)) for t in range(length)
    ]
    return words, torch.stack([torch.as_tensor(r).expand(len(words)) for r in rows], 1)


@pytest.mark.parametrize("seed", range(3))
def test_over_whole_texts_a_word_answers_for_where_it_leads(seed: int) -> None:
    """γ = 1 is the gradient of the divergence of texts; γ = 0 that of the next words alone."""
    length = 3
    z, v = tables(length, seed)
    words, rows = texts(length)
    log_q, log_p = (losses.policy.log_prob(x[rows], words).sum(1) for x in (z, v))
    whole = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum(), z)[0]
    found = {}
    for discount in (0.0, 1.0):
        weight = log_q.detach().exp()
        batch = {"labels": words, "weight": weight}
        loss, _ = LogRatio(discount=discount)(z[rows], v[rows], batch, denom=1.0)
        found[discount] = torch.autograd.grad(loss, z)[0]
    torch.testing.assert_close(found[1.0], whole)
    assert (found[0.0] - whole).norm() > 0.1 * whole.norm()
    reach = torch.zeros(len(z), dtype=z.dtype)  # how often the student gets to a prefix
    for t in range(length):
        own = log_q.detach().exp()
        reach.index_add_(0, rows[:, t], own)
    each = (reach * losses.reverse_kl(student=z, teacher=v)).sum()
    torch.testing.assert_close(found[0.0], torch.autograd.grad(each, z)[0])


def test_the_value_estimates_the_divergence() -> None:
    z, v = tables(2)
    own = z.detach().softmax(-1)
    values = [LogRatio()(z, v, {"labels": torch.full((len(z),), w), "weight": own[:, w]})[0]
              for w in range(V)]  # fmt: skip
    torch.testing.assert_close(sum(values), losses.reverse_kl(student=z, teacher=v).mean())


# ---- advantages ----


def batch(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    z, v = (torch.randn(*shape, V, dtype=torch.float64) for _ in range(2))
    return z.requires_grad_(), v, torch.randint(V, shape)


def advantages(term: LogRatio, z: Tensor, v: Tensor, batch: Any) -> Tensor:
    return -term.values(z, v, batch, 0.0).detach()


def test_they_are_clipped_centered_and_standardized_over_what_is_kept() -> None:
    z, v, words = batch(2, 4)
    words[0, 2:] = -100
    kept = words != -100
    raw = advantages(LogRatio(), z, v, {"labels": words})
    ratio = losses.policy.log_prob(v, words.clamp(0)) - losses.policy.log_prob(z, words.clamp(0))
    torch.testing.assert_close(raw[kept], ratio[kept].detach())
    cut = advantages(LogRatio(clip=0.5), z, v, {"labels": words})
    torch.testing.assert_close(cut, raw.clamp(-0.5, 0.5))
    for kind, scale in (("centered", 1.0), ("standardized", raw[kept].std(correction=0))):
        found = advantages(LogRatio(advantages=kind), z, v, {"labels": words})
        torch.testing.assert_close(found[kept], (raw[kept] - raw[kept].mean()) / scale)
    equal = advantages(LogRatio(advantages="standardized"), z, z, {"labels": words})
    assert not equal.any()


def test_each_of_several_students_has_its_own_mean() -> None:
    z, v, words = batch(3, 2, 4)
    term = LogRatio(advantages="standardized", discount=0.5)
    together = advantages(term, z, v, {"labels": words})
    for i in range(3):
        torch.testing.assert_close(together[i], advantages(term, z[i], v[i], {"labels": words[i]}))


def test_rewards_are_discounted_backwards_and_skip_what_is_left_out() -> None:
    z, v, words = batch(1, 4)
    words[0, 1] = -100
    r = advantages(LogRatio(), z, v, {"labels": words})[0]
    found = advantages(LogRatio(discount=0.5), z, v, {"labels": words})[0]
    want = torch.stack([r[0] + r[2] / 4 + r[3] / 8, r[2] / 2 + r[3] / 4, r[2] + r[3] / 2, r[3]])
    torch.testing.assert_close(found, want)


def test_log_probabilities_of_the_words_are_enough() -> None:
    z, v, words = batch(2, 4)
    known = losses.policy.log_prob(v, words)
    one = LogRatio()(z, v, {"labels": words})[0]
    other = LogRatio(on=("logits", "log_prob"))(z, {"log_prob": known}, {"labels": words})[0]
    torch.testing.assert_close(one, other)


def test_no_gradient_reaches_the_teacher_and_masked_words_cost_nothing() -> None:
    z, v, words = batch(2, 4)
    v.requires_grad_()
    words[1] = -100
    loss, _ = LogRatio(discount=1.0)(z, v, {"labels": words})
    gradient, of_teacher = torch.autograd.grad(loss, [z, v], allow_unused=True)
    assert of_teacher is None and not gradient[1].any() and gradient[0].any()
    alone = LogRatio(discount=1.0)(z[:1], v[:1], {"labels": words[:1]})[0]
    torch.testing.assert_close(loss, alone)


def test_a_word_that_the_teacher_excludes_has_a_finite_price() -> None:
    z, v, words = batch(1, 2)
    v[0, 0, words[0, 0]] = -torch.inf
    assert LogRatio(clip=5.0)(z, v, {"labels": words})[0].isfinite()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"temperature": 0.0}, "temperature expected a number > 0"),
        ({"clip": -1.0}, "clip expected a number > 0"),
        ({"discount": 1.5}, r"discount lies in \[0, 1\]"),
        ({"advantages": "whitened"}, "'raw', 'centered' or 'standardized'"),
        ({"on": ("a", "b", "c")}, "one signal for both or a pair"),
        ({"temperature": "hot"}, "temperature to be a number"),
    ],
)
def test_arguments(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        LogRatio(**wrong)


def test_signals_of_other_words_are_refused() -> None:
    z, v, words = batch(2, 4)
    with pytest.raises(ValueError, match="differ in the number of classes"):
        LogRatio()(z, v[..., :2], {"labels": words})
    with pytest.raises(ValueError, match="neither logits"):
        LogRatio()(z, v[..., 0][:, :3], {"labels": words})
    with pytest.raises(ValueError, match="neither logits"):
        LogRatio()(z, v[..., 0] + 9, {"labels": words})
    with pytest.raises(ValueError, match="cannot be softened"):
        LogRatio(2.0)(z, v[..., 0] - 9, {"labels": words})
    with pytest.raises(ValueError, match=r"needs batch\['labels'\]"):
        LogRatio()(z, v)


def test_it_says_what_it_does() -> None:
    assert str(0.5 * LogRatio()) == "0.5·log-ratio"
    term = LogRatio(2.0, clip=5.0, discount=1.0, advantages="standardized")
    assert str(term) == "log-ratio(T=2, clip=5, γ=1, standardized)"
    assert term.latex()
