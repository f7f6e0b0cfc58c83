"""The same numbers as the losses of TRL's trainers, and where its conventions differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_lib import CE, KD, losses

pytestmark = pytest.mark.peers
Peer = Callable[..., Tensor]


def sequences(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    z, v = (2 * torch.randn(3, 7, 11, dtype=torch.float64) for _ in range(2))
    return z.to(dtype), v.to(dtype)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_and_its_gradient(trl_jsd: Peer, beta: float, temperature: float) -> None:
    z, v = sequences()
    z.requires_grad_()
    one = losses.jsd(student=z, teacher=v, beta=beta, temperature=temperature)
    other = trl_jsd(z, v, beta=beta, temperature=temperature, reduction="none").sum(-1)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    grads = [torch.autograd.grad(x.sum(), z)[0] for x in (one, other)]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("beta", "ours"), [(0, losses.kl), (1, losses.reverse_kl)], ids=["forward", "reverse"]
)
def test_its_ends_are_the_plain_divergences(trl_jsd: Peer, beta: int, ours: Peer) -> None:
    z, v = sequences()
    peer = trl_jsd(z, v, beta=beta, reduction="none").sum(-1)
    torch.testing.assert_close(ours(student=z, teacher=v), peer)
    torch.testing.assert_close(losses.jsd(student=z, teacher=v, beta=beta, normalized=True), peer)


def test_masked_tokens_are_our_mask_and_mean(trl_jsd: Peer) -> None:
    z, v = sequences()
    labels = torch.randint(11, (3, 7)).masked_fill(torch.rand(3, 7) < 0.4, -100)
    kept = labels != -100
    ours = losses.jsd(student=z, teacher=v)[kept].mean()
    torch.testing.assert_close(ours, trl_jsd(z, v, labels=labels))


def test_difference_beta_jumps_at_the_ends(trl_jsd: Peer) -> None:
    """β from 0 to 0.001 makes its loss a thousand times smaller; our normalized form goes on."""
    z, v = sequences()
    at, beside = (trl_jsd(z, v, beta=b).item() for b in (0, 1e-3))
    assert at / beside > 900
    one, other = (
        losses.jsd(student=z, teacher=v, beta=b, normalized=True).mean().item() for b in (0, 1e-3)
    )
    assert other == pytest.approx(one, rel=0.1)


def test_difference_no_temperature_squared(trl_jsd: Peer) -> None:
    """Neither has it: here the objective multiplies by T², there nothing does."""
    z, v = sequences()
    warm, hot = (trl_jsd(z, v, temperature=T).item() for T in (64.0, 128.0))
    assert warm / hot == pytest.approx(4, rel=0.1)


def test_difference_the_mean_counts_sequences_when_there_are_no_labels(trl_jsd: Peer) -> None:
    """Its "batchmean" is then too large by the length, its "mean" too small by the vocabulary."""
    z, v = sequences()
    ours = losses.jsd(student=z, teacher=v).mean()
    assert (trl_jsd(z, v) / ours).item() == pytest.approx(7.0)
    assert (ours / trl_jsd(z, v, reduction="mean")).item() == pytest.approx(11.0)


def test_fault_a_masked_vocabulary_gives_nan(trl_jsd: Peer) -> None:
    z, v = sequences()
    z[..., -1] = v[..., -1] = -math.inf
    assert trl_jsd(z, v).isnan()
    want = losses.jsd(student=z[..., :-1], teacher=v[..., :-1])
    torch.testing.assert_close(losses.jsd(student=z, teacher=v), want)


def test_fault_half_precision_is_not_lifted(trl_jsd: Peer) -> None:
    """In bfloat16 its sum over the vocabulary is off by percents; ours computes in float32."""
    z, v = (torch.randn(4, 1, 4096) for _ in range(2))
    z, v = z.bfloat16(), v.bfloat16()
    exact = losses.jsd(student=z.double(), teacher=v.double()).squeeze()
    theirs = trl_jsd(z, v, reduction="none").sum(-1).squeeze().double()
    ours = losses.jsd(student=z, teacher=v).squeeze().double()
    assert (theirs / exact - 1).abs().max() > 20 * (ours / exact - 1).abs().max()
    assert (ours / exact - 1).abs().max() < 1e-4


# ---- the stable trainer's loss, from hidden states ----


def hidden(peer: Peer, beta: float, temperature: float, half: bool = False) -> list[list[Tensor]]:
    """Value and gradients of TRL's chunked loss and of ours, on tokens of which some count."""
    torch.manual_seed(0)
    mine, theirs = torch.randn(3, 7, 4).double(), torch.randn(3, 7, 6).double()
    heads = torch.randn(11, 4).double(), torch.randn(11, 6).double()
    kept = torch.rand(3, 7) < 0.6
    mine.requires_grad_(), heads[0].requires_grad_()
    peers, _, count = peer(mine, theirs, *heads, kept.long(), beta, temperature=temperature)
    assert count == kept.sum()
    z, v = mine @ heads[0].T, theirs @ heads[1].T
    loss = {0.0: KD(losses.kl, temperature), 1.0: KD(losses.reverse_kl, temperature)}.get(
        beta, KD(losses.jsd, temperature, beta=beta) if 0 < beta < 1 else None
    )
    assert loss is not None
    ours = loss(z, v, {"mask": kept})[0] / temperature**2  # TRL has no T²
    return [[x, *torch.autograd.grad(x, [mine, heads[0]])] for x in (ours, peers)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_stable_loss_and_its_gradients(
    trl_chunked: Peer, beta: float, temperature: float
) -> None:
    ours, theirs = hidden(trl_chunked, beta, temperature)
    # it computes in float32, whatever it is given
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-6, check_dtype=False)


def test_the_two_losses_of_trl_agree(trl_jsd: Peer, trl_chunked: Peer) -> None:
    torch.manual_seed(0)
    h, g, w, u = (torch.randn(*s) for s in ((2, 5, 4), (2, 5, 6), (11, 4), (11, 6)))
    labels = torch.randint(11, (2, 5)).masked_fill(torch.rand(2, 5) < 0.4, -100)
    for beta in (0.0, 0.3, 1.0):
        one = trl_jsd(h @ w.T, g @ u.T, labels=labels, beta=beta)
        other = trl_chunked(h, g, w, u, (labels != -100).long(), beta)[0]
        torch.testing.assert_close(one, other)


# ---- what its GKD trainer does with its settings ----


@pytest.fixture
def small(trl_jsd: Peer, own_accelerate: None) -> Any:
    """Small models and trainers; imported here, as TRL may not be installed."""
    return pytest.importorskip("trl_helpers")


def step(small: Any, path: Path, **settings: Any) -> Tensor:
    """What one step of TRL's GKD trainer changes in a small student."""
    from trl.experimental.gkd import GKDTrainer

    student, teacher = small.llama(), small.llama(16, 2, 5)
    found: Tensor = small.update(small.gkd(GKDTrainer, path, student, teacher, **settings), student)
    return found


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_difference_the_temperature_never_reaches_the_loss_of_gkd(
    small: Any, tmp_path: Path
) -> None:
    """It is that of sampling alone; the stable trainer's is that of the loss as well."""
    one, other = (step(small, tmp_path, lmbda=0.0, temperature=T) for T in (1.0, 3.0))
    assert one.norm() > 1e-3
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_fault_gkd_divides_by_the_words_of_the_data_set_when_the_student_writes(
    small: Any, tmp_path: Path
) -> None:
    """https://github.com/huggingface/trl/issues/4719 made it divide by a count, of other words."""
    from trl.experimental.gkd import GKDTrainer

    seen = []

    class Spy(GKDTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **k: Any) -> Any:
            divisor = k.get("num_items_in_batch", args[1] if len(args) > 1 else None)
            seen.append((int((inputs["labels"][:, 1:] != -100).sum()), int(divisor)))
            return super().compute_loss(model, inputs, *args, **k)

    data = small.texts()
    for lmbda in (0.0, 1.0):
        student, teacher = small.llama(), small.llama(16, 2, 5)
        small.gkd(Spy, tmp_path, student, teacher, lmbda=lmbda, max_new_tokens=1).train()
    (read, divisor), (written, same) = (
        (sum(n for n, _ in part), {d for _, d in part}) for part in (seen[:2], seen[2:])
    )
    assert divisor == {read}, "words of the data set: right"
    assert same == divisor and written == 8 < read / 2, "words of the student: too many by far"
    assert len(data) == 32


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_fault_gkd_divides_by_zero_where_the_data_have_no_answers(
    small: Any, tmp_path: Path
) -> None:
    """The student writes, and would be taught; the words that are counted are the data's: none."""
    from trl.experimental.gkd import GKDTrainer

    asks = small.texts().map(lambda row: {"completion_mask": [0] * len(row["completion_mask"])})
    for kind, k in ((GKDTrainer, {}), (small.GKDTrainer, {"objective": KD(losses.jsd)})):
        student, teacher, k = small.llama(), small.llama(16, 2, 5), {**k, "train_dataset": asks}
        moved = small.update(small.gkd(kind, tmp_path, student, teacher, k, lmbda=1.0), student)
        assert bool(moved.isnan().any()) == (kind is GKDTrainer)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_difference_its_sequence_level_is_a_divergence_on_the_teachers_words(
    small: Any, tmp_path: Path
) -> None:
    """Kim and Rush's is the cross-entropy of those words: another gradient."""
    ours = {}
    for name, objective in (("jsd", KD(losses.jsd)), ("ce", CE())):
        student, teacher = small.llama(), small.llama(16, 2, 5)
        settings = {"lmbda": 0.0, "seq_kd": True, "gradient_accumulation_steps": 1}
        k = {"objective": objective}
        made = small.gkd(small.GKDTrainer, tmp_path, student, teacher, k, **settings)
        ours[name] = small.update(made, student)
    settings = {"lmbda": 0.0, "seq_kd": True, "gradient_accumulation_steps": 1}
    theirs = step(small, tmp_path, **settings)
    cosine = {k: float(torch.cosine_similarity(v, theirs, 0)) for k, v in ours.items()}
    assert cosine["jsd"] == pytest.approx(1, abs=1e-5) and cosine["ce"] < 0.9


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_difference_two_tokenizers_of_one_size_are_not_told_apart(
    small: Any, tmp_path: Path
) -> None:
    """TRL compares the number of entries; ours asks which word each of them is, if it is given."""
    student, teacher = small.llama(), small.llama(16, 2, 5)
    other = small.tokenizer(list("jihgfedcba"))
    k = {"objective": KD(), "teacher_tokenizer": other}
    with pytest.raises(ValueError, match="token 2 is 'a' for the student and 'j' for the teacher"):
        small.gkd(small.GKDTrainer, tmp_path, student, teacher, k)
    with pytest.raises(ValueError, match="vocab_size"):
        small.gkd(small.GKDTrainer, tmp_path, student, small.llama(vocab_size=13), {
            "objective": KD()})  # fmt: skip
