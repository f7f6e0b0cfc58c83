"""A frozen encoder under a trained head, in the loop: eval mode, no moments, not one bit moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill_lib import CE, KD, Cache, Teacher, distill
from distill_lib.teachers import CacheError, fingerprint

pytestmark = pytest.mark.usefixtures("own_accelerate")


class Model(nn.Module):
    """Batch normalization and dropout in the encoder: both would change it, or its answers."""

    def __init__(self) -> None:
        super().__init__()
        parts = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
        self.encoder = nn.Sequential(*parts)
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


def frozen() -> Model:
    model = Model()
    model.encoder(torch.randn(16, 1, 8, 8))  # statistics of its own
    model.encoder.requires_grad_(False).eval()
    return model


def data(n: int = 48) -> list[dict[str, Any]]:
    x, y = torch.randn(n, 1, 8, 8), torch.randint(3, (n,))
    return [{"inputs": x[i], "labels": y[i], "index": i} for i in range(n)]


def batches(rows: list[dict[str, Any]], size: int = 16) -> list[dict[str, Tensor]]:
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [
        {
            "inputs": torch.stack([row["inputs"] for row in part]),
            "labels": torch.stack([row["labels"] for row in part]),
            "index": torch.tensor([row["index"] for row in part]),
        }
        for part in parts
    ]


def bits(module: nn.Module) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_the_encoder_keeps_every_bit_and_the_optimizer_has_never_heard_of_it(
    optimizer: Any,
) -> None:
    model, seen, modes = frozen(), [], []
    before, rows = bits(model.encoder), batches(data())
    model.encoder.register_forward_hook(lambda part, *_: modes.append(part.training))

    def make(params: list[nn.Parameter]) -> Any:
        seen.append(optimizer(params, lr=1e-2, weight_decay=0.1))
        return seen[0]

    history = distill(model, None, rows, CE(), epochs=20, optimizer=make)
    assert history["ce"][-1] < history["ce"][0]
    assert bits(model.encoder) == before
    assert not any(modes), "eval mode: fixed statistics and no dropout"
    held = [p for group in seen[0].param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.head.parameters()}
    assert {id(p) for p in seen[0].state} <= {id(p) for p in model.head.parameters()}
    assert all(p.grad is None for p in model.encoder.parameters())


def test_frozen_parameters_in_train_mode_are_not_a_frozen_encoder() -> None:
    """requires_grad alone leaves statistics and dropout at work; eval() belongs to it."""
    model = frozen()
    model.encoder.train()
    before = bits(model.encoder)
    distill(model, None, batches(data()), CE(), epochs=1)
    after = bits(model.encoder)
    assert {k for k in before if before[k] != after[k]} == {
        *("1.running_mean", "1.running_var", "1.num_batches_tracked")
    }


def test_a_teacher_and_its_student_may_share_the_encoder() -> None:
    teacher, student = frozen(), Model()
    student.encoder = teacher.encoder
    before = bits(teacher)
    history = distill(student, teacher, batches(data()), KD(), epochs=30, lr=1e-2)
    assert history["kd"][-1] < 0.2 * history["kd"][0]
    assert bits(teacher) == before


def test_features_on_disk_train_the_head_that_the_encoder_would_have_trained(
    tmp_path: Path,
) -> None:
    rows = data()
    whole, parts = frozen(), frozen()
    parts.load_state_dict(whole.state_dict())
    features = Cache.build(tmp_path / "features.cache", whole.encoder, rows, progress=False)
    assert features.meta["teacher"] == fingerprint(whole.encoder) and features.meta["what"]
    distill(whole, None, batches(rows), CE(), epochs=5, seed=0)
    distill(
        parts.head,
        None,
        batches(rows),
        CE(),
        epochs=5,
        seed=0,
        forward=lambda head, batch: head(features(batch)["logits"]),
    )
    for mine, theirs in zip(parts.head.parameters(), whole.head.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_features_of_another_encoder_are_refused(tmp_path: Path) -> None:
    rows, model = data(), frozen()
    path = tmp_path / "features.cache"
    Cache.build(path, model.encoder, rows, progress=False)
    with torch.no_grad():
        next(model.encoder.parameters()).view(-1)[0].add_(1e-6)
    with pytest.raises(CacheError, match="made from another teacher"):
        Cache.build(path, model.encoder, rows, progress=False)


def test_an_inner_layer_is_cached_by_its_name(tmp_path: Path) -> None:
    rows, model = data(), frozen()
    teacher = Teacher(model)
    teacher.reveal(["encoder.4"])
    cache = Cache.build(tmp_path / "a.cache", teacher, rows, what="encoder.4", progress=False)
    batch = batches(rows)[0]
    torch.testing.assert_close(cache(batch)["encoder.4"], model.encoder(batch["inputs"]))
