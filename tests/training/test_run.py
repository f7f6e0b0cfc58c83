"""run: layers, projectors, accumulation, precision, trackers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill_lib import CE, KD, Match, Stacked, distill


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


def data(n: int = 6, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(size, 5), torch.randint(0, 3, (size,))) for _ in range(n)]


def weights(*models: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for m in models for p in m.parameters()])


def sgd(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


# ---- inner layers ----


def test_layers_that_an_objective_names_are_captured_and_released() -> None:
    student, teacher, project = mlp(), mlp(), nn.Linear(8, 3)
    history = distill(
        student, teacher, data(), KD() + Match("0", "2", project=project), epochs=4, lr=0.01
    )
    assert history["match"][-1] < history["match"][0]
    assert not any(part._forward_hooks for part in student.modules())


def test_layers_are_released_after_an_error_too() -> None:
    student = mlp()
    batches = [*data(1), (torch.randn(2, 99), torch.zeros(2))]
    with pytest.raises(RuntimeError):
        distill(student, mlp(), batches, Match("0"), epochs=1)
    assert not any(part._forward_hooks for part in student.modules())


def test_a_projector_is_trained_along() -> None:
    project = nn.Linear(8, 8)
    before = weights(project)
    distill(mlp(), mlp(), data(), Match("0", project=project), epochs=1)
    assert not torch.equal(before, weights(project))


def test_a_forgotten_projector_is_found() -> None:
    student = mlp()
    objective = CE() + Match("0", project=nn.Linear(8, 8))
    with pytest.raises(ValueError, match=r"the optimizer forgets 2 of 6 parameters.*projectors"):
        distill(student, mlp(), data(), objective, epochs=1, optimizer=sgd(student.parameters()))
    both = [*student.parameters(), *objective.parameters()]
    assert len(distill(student, mlp(), data(), objective, epochs=1, optimizer=sgd(both))) == 6


def test_frozen_parameters_stay() -> None:
    student = mlp()
    student[0].requires_grad_(False)
    before = weights(student[0])
    distill(student, None, data(), CE(), epochs=1, optimizer=sgd)
    assert torch.equal(before, weights(student[0]))


# ---- accumulation ----


def accumulated(by: int, objective: Any, batches: Any, *, clip: float | None = None) -> Tensor:
    from accelerate import Accelerator

    torch.manual_seed(5)
    student, teacher = mlp().double(), mlp().double()
    accelerator = Accelerator(gradient_accumulation_steps=by, cpu=True)
    distill(
        student,
        teacher,
        batches,
        objective,
        epochs=2,
        optimizer=sgd,
        accelerator=accelerator,
        clip_norm=clip,
    )
    return weights(student)


@pytest.mark.usefixtures("own_accelerate")
@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("sizes", [[16] * 4, [16, 16, 16, 5], [1, 40, 7, 3]])
def test_accumulation_is_exact(sizes: list[int], clip: float | None) -> None:
    x, y = torch.randn(3 * sum(sizes), 5).double(), torch.randint(-1, 3, (3 * sum(sizes),))
    y[y < 0] = -100
    objective = CE() + KD(temperature=2)
    whole = [*zip(x.split(sum(sizes)), y.split(sum(sizes)), strict=True)]
    pieces = [piece for a, b in whole for piece in zip(a.split(sizes), b.split(sizes), strict=True)]
    one = accumulated(1, objective, whole, clip=clip)
    assert torch.allclose(one, accumulated(4, objective, pieces, clip=clip), atol=1e-6)


@pytest.mark.usefixtures("own_accelerate")
def test_the_last_group_may_be_smaller() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(gradient_accumulation_steps=4, cpu=True)
    history = distill(mlp(), None, data(6), CE(), epochs=2, accelerator=accelerator)
    assert len(history) == 4


@pytest.mark.usefixtures("own_accelerate")
def test_accumulation_counts_every_student_of_a_stack() -> None:
    from accelerate import Accelerator

    ends = []
    x, y = torch.randn(16, 5), torch.arange(16) % 3
    for by, sizes in ((1, 16), (2, 8)):
        torch.manual_seed(1)
        student = Stacked([mlp() for _ in range(3)], ndim=2)
        batches = [*zip(x.split(sizes), y.split(sizes), strict=True)]
        accelerator = Accelerator(gradient_accumulation_steps=by, cpu=True)
        distill(student, None, batches, CE(), epochs=3, optimizer=sgd, accelerator=accelerator)
        ends.append(weights(student))
    assert torch.allclose(*ends, atol=1e-6)


# ---- precision and devices ----


@pytest.mark.usefixtures("own_accelerate")
def test_bf16_autocast_on_cpu() -> None:
    from accelerate import Accelerator

    seen = []
    student = mlp()
    student[1].register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    before = student.forward.__func__
    history = distill(
        student,
        mlp(),
        data(),
        CE() + KD() + Match("0", project=nn.Linear(8, 8)),
        epochs=2,
        lr=0.01,
        accelerator=Accelerator(mixed_precision="bf16", cpu=True),
        clip_norm=1.0,
    )
    assert set(seen) == {torch.bfloat16}
    assert history["loss"][-1] < history["loss"][0]
    assert weights(student).dtype == torch.float32
    assert student.forward.__func__ is before
    assert student(torch.randn(2, 5)).dtype == torch.float32


@pytest.mark.usefixtures("own_accelerate")
def test_the_default_accelerator_decides_nothing_for_later_ones() -> None:
    from accelerate import Accelerator

    distill(mlp(), None, data(1), CE(), steps=1)
    assert Accelerator(mixed_precision="bf16", cpu=True).mixed_precision == "bf16"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.usefixtures("own_accelerate")
def test_on_cuda(precision: str) -> None:
    from accelerate import Accelerator

    student, teacher = mlp(), mlp()
    history = distill(
        student,
        teacher,
        data(),
        CE() + KD() + Match("0", project=nn.Linear(8, 8)),
        epochs=4,
        lr=0.01,
        accelerator=Accelerator(mixed_precision=precision),
        clip_norm=1.0,
    )
    assert history["loss"][-1] < history["loss"][0]
    assert next(student.parameters()).device.type == "cpu"  # as it was found


# ---- TensorBoard ----


@pytest.mark.usefixtures("own_accelerate")
def test_tensorboard_gets_every_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from accelerate import Accelerator
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator = Accelerator(log_with="tensorboard", project_dir=str(tmp_path), cpu=True)
    history = distill(mlp(), mlp(), data(), CE() + KD(), epochs=2, accelerator=accelerator)
    (file,) = tmp_path.rglob("events.out.tfevents*")
    events = EventAccumulator(str(file.parent)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "ce", "kd", "lr"}
    scalars = events.Scalars("kd")
    assert [s.step for s in scalars] == list(range(1, 13))
    assert [s.value for s in scalars] == pytest.approx(history["kd"])
    assert accelerator.trackers == []


@pytest.mark.usefixtures("own_accelerate")
def test_trackers_that_the_caller_started_go_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from accelerate import Accelerator

    accelerator = Accelerator(log_with="tensorboard", project_dir=str(tmp_path), cpu=True)
    accelerator.init_trackers("mine")
    distill(mlp(), None, data(), CE(), epochs=1, accelerator=accelerator)
    assert len(accelerator.trackers) == 1
    assert [p.parent.name for p in tmp_path.rglob("events.out*")] == ["mine"]
    accelerator.end_training()
