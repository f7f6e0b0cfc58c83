"""peers: students teach each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distill_lib import CE, KD, Peers, distill


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))


def test_each_peer_is_taught_by_the_mean_of_the_others() -> None:
    cohort = Peers([nn.Linear(4, 3) for _ in range(3)])
    said = cohort(torch.randn(5, 4)).detach()
    taught = cohort.others()({})
    mean = (said[1].softmax(-1) + said[2].softmax(-1)) / 2
    assert torch.allclose(taught[0].exp(), mean, atol=1e-6)
    assert not taught.requires_grad


def test_two_peers_teach_each_other() -> None:
    cohort = Peers([nn.Linear(4, 3), nn.Linear(4, 3)])
    said = cohort(torch.randn(5, 4)).detach()
    assert torch.allclose(cohort.others()({}), said.flip(0).log_softmax(-1), atol=1e-6)


def test_peers_in_half_precision_teach_in_full() -> None:
    cohort = Peers([nn.Linear(4, 3).bfloat16(), nn.Linear(4, 3).bfloat16()])
    cohort(torch.randn(5, 4).bfloat16())
    assert cohort.others()({}).dtype == torch.float32


def test_mutual_learning_in_one_run_improves_every_peer() -> None:
    truth = torch.randn(4, 3)
    x = torch.randn(256, 4)
    batches = [{"inputs": x[i::8], "labels": (x[i::8] @ truth).argmax(-1)} for i in range(8)]
    cohort = Peers([nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))])

    def accuracies() -> Tensor:
        with torch.no_grad():
            return (cohort(x).argmax(-1) == (x @ truth).argmax(-1)).float().mean(-1)

    before = accuracies()
    history = distill(cohort, cohort.others(), batches, CE() + KD(), epochs=8, lr=0.02)
    after = accuracies()
    assert (after > before + 0.1).all() and (after > 0.85).all()
    assert history["kd"][-1] < history["kd"][0]


def test_peers_are_several() -> None:
    with pytest.raises(ValueError, match="at least two models, got 1"):
        Peers([net()])


def test_the_others_speak_after_the_cohort() -> None:
    others = Peers([net(), net()]).others()
    with pytest.raises(RuntimeError, match="seen no batch yet"):
        others({})
    assert others.fingerprint() != Peers([net(), net(), net()]).others().fingerprint()


@pytest.mark.parametrize("axis", [1, -3])
def test_peers_that_answer_of_pixels_name_the_axis_of_the_classes(axis: int) -> None:
    cohort, x = Peers([nn.Conv2d(1, 3, 1) for _ in range(3)]), torch.randn(2, 1, 4, 4)
    said, labels = cohort(x).detach(), torch.zeros(2, 4, 4, dtype=torch.int64)
    taught = cohort.others(axis=axis)({"inputs": x, "labels": labels})
    for k in range(3):
        mean = torch.stack([said[j].softmax(1) for j in range(3) if j != k]).mean(0)
        assert torch.allclose(taught[k].exp(), mean, atol=1e-6)
    for batch in ({}, {"labels": labels}, {"labels": labels.tolist()}):
        with pytest.raises(ValueError, match=r"which axis of the logits \[2, 3, 4, 4\]"):
            cohort.others()({"inputs": x, **batch})
    with pytest.raises(ValueError, match="have no axis 4"):
        cohort.others(axis=4)({"inputs": x})


@pytest.mark.parametrize("shape", [(5, 1), (5,)])
def test_one_logit_is_no_distribution_over_classes(shape: tuple[int, ...]) -> None:
    cohort = Peers([nn.Identity(), nn.Identity()])
    cohort(torch.randn(shape))
    with pytest.raises(ValueError, match="as two classes"):
        cohort.others()({})


def test_peers_name_the_same_classes() -> None:
    with pytest.raises(ValueError, match=r"logits of one shape, got \[\[5, 3\], \[5, 2\]\]"):
        Peers([nn.Linear(4, 3), nn.Linear(4, 2)])(torch.randn(5, 4))
