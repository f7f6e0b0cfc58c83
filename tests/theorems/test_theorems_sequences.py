r"""Whose words, checked in float64: the divergences of whole texts, and what a gradient leaves out.

All texts of three words of a small model are written down, so that every expectation is a sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distill_lib import losses
from distill_lib.models import SmallGPT

V, LENGTH, STOP = 3, 3, 2
PROMPT = torch.tensor([1, 0])


def texts() -> tuple[Tensor, Tensor]:
    """All texts [n, 2 + 3] with their masks [n, 3]: a text is over after its stop."""
    found = set()
    for words in itertools.product(range(V), repeat=LENGTH):
        cut = words.index(STOP) + 1 if STOP in words else LENGTH
        found.add((words[:cut] + (0,) * (LENGTH - cut), cut))
    ids = torch.tensor([words for words, _ in sorted(found)])
    live = torch.tensor([[t < cut for t in range(LENGTH)] for _, cut in sorted(found)])
    return torch.cat([PROMPT.expand(len(ids), -1), ids], -1), live


IDS, LIVE = texts()
WORDS = IDS[:, 2:]


def model(seed: int) -> SmallGPT:
    return SmallGPT(V, width=8, layers=1, length=8, seed=seed).double()


def said(of: SmallGPT) -> Tensor:
    """Log-probabilities [n, 3, V] of each next word."""
    logits: Tensor = of(IDS)
    return logits[:, 1:-1].log_softmax(-1)


def spoken(log_p: Tensor) -> Tensor:
    """Those of the words that stand there [n, 3]; 0 after the end."""
    return log_p.gather(-1, WORDS.unsqueeze(-1)).squeeze(-1) * LIVE


def each_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p‖q) [n, 3] of the next word."""
    return (log_p.exp() * (log_p - log_q)).sum(-1) * LIVE


def gradient(of: SmallGPT, loss: Tensor) -> Tensor:
    found = torch.autograd.grad(loss, list(of.parameters()), retain_graph=True, allow_unused=True)
    flat = [g if g is not None else torch.zeros_like(p)
            for g, p in zip(found, of.parameters(), strict=True)]  # fmt: skip
    return torch.cat([g.flatten() for g in flat])


def later(x: Tensor) -> Tensor:
    """The sum of what comes after each place."""
    return x.flip(-1).cumsum(-1).flip(-1) - x


@pytest.fixture(params=[0, 1, 2])
def both(request: pytest.FixtureRequest) -> tuple[SmallGPT, SmallGPT]:
    return model(request.param), model(request.param + 10)


Pair = tuple[SmallGPT, SmallGPT]


def test_the_texts_are_all_the_texts(both: Pair) -> None:
    student, _ = both
    assert spoken(said(student)).sum(-1).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("forward", [True, False])
def test_a_divergence_of_texts_is_a_sum_over_words(both: Pair, forward: bool) -> None:
    """KL(P‖Q) = E_P Σ_t KL(p_t‖q_t), with the words before drawn from the first of the two."""
    first, second = both if forward else both[::-1]
    log_p, log_q = said(first), said(second)
    p = spoken(log_p).sum(-1).exp()
    whole = (p * (spoken(log_p) - spoken(log_q)).sum(-1)).sum()
    words = (p * each_kl(log_p, log_q).sum(-1)).sum()
    torch.testing.assert_close(whole, words)


def test_the_teachers_words_leave_nothing_out(both: Pair) -> None:
    """Forward: soft answers at the teacher's words, and its words as labels (SFT), both have the
    gradient of the divergence of texts."""
    student, teacher = both
    log_p, log_q = said(teacher).detach(), said(student)
    p = spoken(log_p).sum(-1).exp()
    whole = gradient(student, (p * (spoken(log_p) - spoken(log_q)).sum(-1)).sum())
    soft = gradient(student, (p * each_kl(log_p, log_q).sum(-1)).sum())
    labels = gradient(student, -(p * spoken(log_q).sum(-1)).sum())
    torch.testing.assert_close(soft, whole)
    torch.testing.assert_close(labels, whole)


def test_the_students_words_leave_something_out(both: Pair) -> None:
    """Reverse: ∇KL(Q‖P) = E_Q Σ_t ∇KL(q_t‖p_t) + E_Q Σ_t ∇log q_t(y_t) Σ_{k>t} KL(q_k‖p_k)."""
    student, teacher = both
    log_p, log_q = said(teacher).detach(), said(student)
    log_Q = spoken(log_q).sum(-1)
    Q = log_Q.exp().detach()
    whole = gradient(student, (log_Q.exp() * (log_Q - spoken(log_p).sum(-1))).sum())
    words = each_kl(log_q, log_p)
    usual = gradient(student, (Q * words.sum(-1)).sum())
    missing = gradient(student, (Q * (spoken(log_q) * later(words.detach())).sum(-1)).sum())
    torch.testing.assert_close(usual + missing, whole)
    assert missing.norm() > 1e-3 * whole.norm()


@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_log_ratios_as_advantages_have_the_same_mean(both: Pair, discount: float) -> None:
    """With the advantage log p/q of the word alone, that of the per-word divergences; with those
    of the words after it as well, that of the divergence of texts."""
    student, teacher = both
    log_p, log_q = said(teacher).detach(), said(student)
    log_Q = spoken(log_q).sum(-1)
    Q = log_Q.exp().detach()
    ratio = (spoken(log_p) - spoken(log_q)).detach()
    advantage = ratio + discount * later(ratio)
    found = gradient(student, -(Q * (advantage * spoken(log_q)).sum(-1)).sum())
    if discount:
        want = gradient(student, (log_Q.exp() * (log_Q - spoken(log_p).sum(-1))).sum())
    else:
        want = gradient(student, (Q * each_kl(log_q, log_p).sum(-1)).sum())
    torch.testing.assert_close(found, want)


def test_a_sampled_ratio_that_is_backpropagated_has_no_teacher(both: Pair) -> None:
    """E_Q Σ_t ∇(log q_t(y_t) − log p_t(y_t)) = 0, whoever the teacher is."""
    student, teacher = both
    log_p, log_q = said(teacher).detach(), said(student)
    Q = spoken(log_q).sum(-1).exp().detach()
    found = gradient(student, (Q * (spoken(log_q) - spoken(log_p)).sum(-1)).sum())
    assert found.norm() < 1e-12


def noise(per_text: Callable[[int], Tensor], Q: Tensor) -> Tensor:
    """The trace of the covariance of a gradient that one text gives."""
    all_of = torch.stack([per_text(i) for i in range(len(Q))])
    mean = Q @ all_of
    return Q @ (all_of - mean).square().sum(-1)


def test_drawing_the_word_adds_variance(both: Pair) -> None:
    """One text: the advantage's gradient is that of the divergences plus noise of mean 0."""
    student, teacher = both
    log_p, log_q = said(teacher).detach(), said(student)
    Q = spoken(log_q).sum(-1).exp().detach()
    ratio = (spoken(log_p) - spoken(log_q)).detach()
    words, drawn = each_kl(log_q, log_p), -ratio * spoken(log_q)
    full = noise(lambda i: gradient(student, words[i].sum()), Q)
    sampled = noise(lambda i: gradient(student, drawn[i].sum()), Q)
    assert sampled > full


def test_shared_mass_is_one_less_the_total_variation() -> None:
    p, q = torch.rand(2, 50, 7, dtype=torch.float64).softmax(-1)
    shared = torch.minimum(p, q).sum(-1)
    torch.testing.assert_close(shared, 1 - losses.tvd(student=q.log(), teacher=p.log()))
