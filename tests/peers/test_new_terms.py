"""Terms for labels of every kind and for maps, against the peers' formulas, written again.

torchvision's references, timm and sentence-transformers are large, and what is compared are a few
lines of each; these are stated here in plain torch, as the batch means that they train with.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib import BCE, CE, KD, Label, Match, evaluate, losses

pytestmark = pytest.mark.peers
IGNORED = 255


def answers(*shape: int) -> tuple[Tensor, Tensor]:
    z, v = (2 * torch.randn(*(shape or (6, 5)), dtype=torch.float64) for _ in range(2))
    return z.requires_grad_(), v


def agree(ours: Tensor, theirs: Tensor, z: Tensor) -> None:
    """Values, and gradients of the student."""
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(value, z, retain_graph=True)[0] for value in (ours, theirs)]
    torch.testing.assert_close(grads[0], grads[1])


# ---- torch ----


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", [-100, IGNORED, 0])
def test_cross_entropy_is_torchs(smoothing: float, weighted: bool, ignore: int) -> None:
    z, _ = answers()
    y = torch.tensor([1, ignore, 3, 4, ignore, 2])
    w = torch.rand(5, dtype=torch.float64) + 0.1 if weighted else None
    theirs = F.cross_entropy(z, y, weight=w, ignore_index=ignore, label_smoothing=smoothing)
    ours = CE(smoothing, weight=w, ignore_index=ignore)(z, batch={"labels": y})[0]
    agree(ours, theirs, z)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_soft_labels_are_torchs(smoothing: float, weighted: bool) -> None:
    z, v = answers()
    y = v.softmax(-1)
    w = torch.rand(5, dtype=torch.float64) + 0.1 if weighted else None
    theirs = F.cross_entropy(z, y, weight=w, label_smoothing=smoothing)
    agree(CE(smoothing, weight=w)(z, batch={"labels": y})[0], theirs, z)


@pytest.mark.parametrize("weighted", [False, True])
def test_binary_cross_entropy_is_torchs(weighted: bool) -> None:
    z, v = answers()
    w = torch.rand(5, dtype=torch.float64) + 0.1 if weighted else None
    y = (v > 0).double()
    theirs = F.binary_cross_entropy_with_logits(z, y, pos_weight=w)
    agree(BCE(pos_weight=w)(z, batch={"labels": y})[0], theirs, z)


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_bernoulli_divergence_is_torchs_cross_entropy_without_the_teachers_entropy(
    T: float,
) -> None:
    z, v = answers()
    p = (v / T).sigmoid()
    cross = F.binary_cross_entropy_with_logits(z / T, p)
    own = F.binary_cross_entropy_with_logits(v / T, p)
    agree(KD(losses.bernoulli_kl, T)(z, v)[0], T**2 * (cross - own), z)


def test_the_two_sides_of_the_divergence_are_torchs_distributions() -> None:
    z, v = answers()
    p, q = (torch.distributions.Bernoulli(logits=x) for x in (v, z))
    theirs = torch.distributions.kl_divergence(p, q).mean()
    agree(KD(losses.bernoulli_kl)(z, v)[0], theirs, z)


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss])
def test_regression_is_torchs(loss: object) -> None:
    z, y = answers(6, 1)
    agree(Label(loss)(z, batch={"labels": y[:, 0]})[0], loss(z, y), z)  # type: ignore[arg-type, operator]


# ---- torchvision's references ----


def test_segmentation_trains_on_the_mean_over_known_pixels() -> None:
    """Its reference: cross-entropy with 255 left out, half of the auxiliary head's on top."""
    z, side = answers(2, 5, 4, 3)
    y = torch.randint(5, (2, 4, 3))
    y[0, :2] = IGNORED
    theirs = sum(w * F.cross_entropy(x, y, ignore_index=IGNORED) for w, x in ((1, z), (0.5, side)))
    one = CE(axis=1, ignore_index=IGNORED)
    objective = one + 0.5 * CE(axis=1, ignore_index=IGNORED, on="aux")
    agree(objective({"logits": z, "aux": side}, None, {"labels": y})[0], theirs, z)  # type: ignore[arg-type]


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_distillation_of_pixels_is_that_of_a_batch_of_pixels(T: float) -> None:
    z, v = answers(2, 5, 4, 3)
    rows = [x.permute(0, 2, 3, 1).reshape(-1, 5) / T for x in (z, v)]
    theirs = T**2 * F.kl_div(
        rows[0].log_softmax(1), rows[1].log_softmax(1), log_target=True, reduction="batchmean"
    )
    agree(KD(temperature=T, axis=1)(z, v)[0], theirs, z)


def confusion_of(answer: Tensor, label: Tensor, classes: int) -> Tensor:
    """Its ConfusionMatrix, pixel by pixel: rows are labels, columns answers."""
    found = torch.zeros(classes, classes, dtype=torch.float64)
    for a, b in zip(label.flatten().tolist(), answer.flatten().tolist(), strict=True):
        if 0 <= a < classes:
            found[a, b] += 1
    return found


def test_miou_is_that_of_the_confusion_matrix() -> None:
    z, _ = answers(4, 5, 4, 3)
    y = torch.randint(5, (4, 4, 3))
    y[0, :2] = IGNORED
    h = confusion_of(z.argmax(1), y, 5)
    theirs = h.diag() / (h.sum(1) + h.sum(0) - h.diag())
    halves = [{"inputs": z[i : i + 2].detach(), "labels": y[i : i + 2]} for i in (0, 2)]
    ours = evaluate(nn.Identity(), halves, axis=1, ignore_index=IGNORED)
    torch.testing.assert_close(torch.tensor(ours["iou"]).double(), theirs, rtol=0, atol=1e-6)
    assert ours["miou"] == pytest.approx(theirs.mean().item(), abs=1e-6)
    assert ours["accuracy"] == pytest.approx((h.diag().sum() / h.sum()).item(), abs=1e-6)


# ---- channel-wise distillation, Shu et al. 2021 ----


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_channel_wise_distillation_is_the_authors(T: float) -> None:
    """A softmax over the positions of a channel, KL as a sum, over items and channels, times T²."""
    z, v = answers(2, 5, 4, 3)
    q, p = ((x / T).reshape(2, 5, 12).softmax(-1).reshape(2, 5, 4, 3) for x in (z, v))
    theirs = F.kl_div(q.log(), p, reduction="sum") / (2 * 5) * T**2
    agree(KD(losses.channel_kl, T)(z, v)[0], theirs, z)


# ---- timm ----


def test_soft_target_cross_entropy_is_timms() -> None:
    z, v = answers()
    y = v.softmax(-1)
    theirs = torch.sum(-y * F.log_softmax(z, dim=-1), dim=-1).mean()
    agree(CE()(z, batch={"labels": y})[0], theirs, z)


def test_label_smoothing_is_timms() -> None:
    z, _ = answers()
    y = torch.randint(5, (6,))
    logq = F.log_softmax(z, dim=-1)
    theirs = (0.9 * -logq.gather(-1, y[:, None])[:, 0] - 0.1 * logq.mean(-1)).mean()
    agree(CE(0.1)(z, batch={"labels": y})[0], theirs, z)


@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("sum_classes", [False, True])
def test_binary_cross_entropy_of_classes_is_timms(
    threshold: float | None, sum_classes: bool
) -> None:
    """Class numbers become 1 - ε + ε/C and ε/C; the sum over the classes is C times the mean."""
    z, _ = answers()
    y = torch.randint(5, (6,))
    off, on = 0.1 / 5, 1 - 0.1 + 0.1 / 5
    dense = torch.full((6, 5), off, dtype=torch.float64).scatter_(1, y[:, None], on)
    dense = dense if threshold is None else dense.gt(threshold).double()
    values = F.binary_cross_entropy_with_logits(z, dense, reduction="none")
    theirs = values.sum(-1).mean() if sum_classes else values.mean()
    ours = (5 if sum_classes else 1) * BCE()
    agree(ours(z, batch={"labels": dense})[0], theirs, z)


def test_jsd_of_two_views_is_timms() -> None:
    """12 times the mean divergence of the views from their mixture: our jsd at β = 1/2."""
    z, v = answers()
    y = torch.randint(5, (6,))
    views = [z.softmax(1), v.softmax(1)]
    mixture = torch.stack(views).mean(0).clamp(1e-7, 1).log()
    apart = sum(F.kl_div(mixture, p, reduction="batchmean") for p in views) / 2
    theirs = F.cross_entropy(z, y, label_smoothing=0.1) + 12 * apart
    ours = CE(0.1) + 12 * KD(losses.jsd, beta=0.5)
    agree(ours(z, v, {"labels": y})[0], theirs, z)


def test_jsd_of_three_views_is_a_sum_of_divergences_from_their_mixture() -> None:
    z, v = answers()
    views = [z, v, torch.randn(6, 5, dtype=torch.float64)]
    mixture = torch.stack([x.softmax(1) for x in views]).mean(0).clamp(1e-7, 1).log()
    theirs = sum(F.kl_div(mixture, x.softmax(1), reduction="batchmean") for x in views) / 3
    ours = sum(losses.kl(student=mixture, teacher=x).mean() for x in views) / 3
    agree(ours, theirs, z)  # type: ignore[arg-type]


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_distillation_of_logits_and_features_is_timms(T: float) -> None:
    z, v = answers()
    q, p = ((x / T).log_softmax(-1) for x in (z, v))
    theirs = F.kl_div(q, p, reduction="batchmean", log_target=True) * T**2
    agree(KD(temperature=T)(z, v)[0], theirs, z)
    agree(Match("logits")(z, v)[0], F.mse_loss(z, v), z)


# ---- sentence-transformers ----


def test_embeddings_are_compared_as_in_its_mse_and_cosine() -> None:
    z, v = answers(6, 8)
    agree(Match("logits")(z, v)[0], F.mse_loss(z, v), z)
    cosine = (1 - F.cosine_similarity(z, v, dim=-1)).mean()
    agree(Match("logits", loss=losses.cosine)(z, v)[0], cosine, z)


@pytest.mark.parametrize("negatives", [1, 3])
def test_margin_mse_is_a_regression_of_differences(negatives: int) -> None:
    """Scores are products of query and texts; labels the teacher's scores, the first positive."""
    query, _ = answers(6, 8)
    texts = torch.randn(1 + negatives, 6, 8, dtype=torch.float64)
    taught = torch.randn(6, 1 + negatives, dtype=torch.float64)
    scores = torch.stack([(query * text).sum(-1) for text in texts], 1)
    margins = taught[:, :1] - taught[:, 1:]
    theirs = F.mse_loss(scores[:, :1] - scores[:, 1:], margins)
    ours = Label(F.mse_loss)(scores[:, :1] - scores[:, 1:], batch={"labels": margins})[0]
    agree(ours, theirs, query)


@pytest.mark.parametrize(("T", "theirs_too"), [(1.0, 1.0), (2.0, 2.0), (2.0, 5.0)])
def test_divergence_of_scores_is_its_distill_kl_div(T: float, theirs_too: float) -> None:
    """With two temperatures it multiplies by the student's squared, we by their product."""
    z, v = answers(6, 4)
    p = (v / theirs_too).softmax(1)
    theirs = F.kl_div((z / T).log_softmax(1), p, reduction="batchmean") * T**2
    ours = (T / theirs_too) * KD(temperature=(T, theirs_too))
    agree(ours(z, v)[0], theirs, z)
