"""One epoch of distillation: our loop, a loop written by hand, and two libraries'."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from distill_lib import data

from .setting import BATCH, LR, TEMPERATURE, WEIGHT, images, loader, models


def ours(
    n: int = 6400, loaded: bool = True, small: bool = False
) -> tuple[Callable[[], None], nn.Module]:
    """``distill`` with an objective of labels and teacher.

    Args:
        n: Number of images.
        loaded: Take the batches of a DataLoader, as the loop by hand does; else the data set's own,
            as the book does. The other libraries bring their data loading with them, too.
        small: As in :func:`benchmarks.setting.models`.
    """
    from distill_lib import CE, KD, Teacher, distill

    student, teacher = models(small)
    batches: Any = loader(n)
    if not loaded:
        train = data.load("fashion_mnist", split="train").subset(range(n))
        batches = train.batches(BATCH, shuffle=False)
    objective = (1 - WEIGHT) * CE() + WEIGHT * KD(temperature=TEMPERATURE)

    def run() -> None:
        distill(student, Teacher(teacher), batches, objective, epochs=1, optimizer=_sgd)

    return run, student


def by_hand(n: int = 6400, small: bool = False) -> tuple[Callable[[], None], nn.Module]:
    """The ten lines that one writes without a library."""
    student, teacher = models(small)
    batches = loader(n)
    T, w = TEMPERATURE, WEIGHT

    def run() -> None:
        optimizer = _sgd(student.parameters())
        student.train()
        for x, y in batches:
            z = student(x)
            with torch.no_grad():
                v = teacher(x)
            kd = F.kl_div(
                F.log_softmax(z / T, -1),
                F.log_softmax(v / T, -1),
                log_target=True,
                reduction="batchmean",
            )
            loss = (1 - w) * F.cross_entropy(z, y) + w * T * T * kd
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run, student


def torchdistill_box(n: int = 6400, small: bool = False) -> tuple[Callable[[], None], nn.Module]:
    """torchdistill's distillation box, configured as its examples are."""
    import logging

    with _without_torchvision():
        from torchdistill.core.distillation import get_distillation_box

    logging.disable(logging.INFO)
    student, teacher = models(small)
    kd = {
        "key": "KDLoss",
        "kwargs": {
            "student_module_path": ".",
            "student_module_io": "output",
            "teacher_module_path": ".",
            "teacher_module_io": "output",
            "temperature": TEMPERATURE,
            "alpha": 1 - WEIGHT,
            "reduction": "batchmean",
        },
    }
    config: dict[str, Any] = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": torch.utils.data.SequentialSampler},
            "kwargs": {"batch_size": BATCH},
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": {"lr": LR, "momentum": 0.9}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}},
        },
    }
    sets = {"train": torch.utils.data.TensorDataset(*images(n))}
    box = get_distillation_box(
        teacher, student, sets, config, torch.device("cpu"), None, False, 1.0
    )

    def run() -> None:
        box.pre_epoch_process(epoch=0)
        for x, y, extra in box.train_data_loader:
            box.pre_forward_process()
            loss = box.forward_process(x, y, extra)
            box.post_forward_process(loss=loss)
        box.post_epoch_process()

    return run, student


def trainer(n: int = 6400, ours: bool = False) -> tuple[Callable[[], None], nn.Module]:
    """``transformers.Trainer`` with the usual overridden ``compute_loss``, or with ours."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from distill_lib import CE, KD
    from distill_lib.integrations.transformers import DistillationTrainer

    student, teacher = models()
    T, w = TEMPERATURE, WEIGHT

    class InOrder:
        train_dataset: Any

        def get_train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.train_dataset, batch_size=BATCH, collate_fn=_named)

    class Ours(InOrder, DistillationTrainer):
        pass

    class Usual(InOrder, Trainer):  # type: ignore[misc]
        def compute_loss(self, model: nn.Module, inputs: Any, **kwargs: Any) -> Any:
            z = model(inputs["inputs"])
            with torch.no_grad():
                v = teacher(inputs["inputs"])
            kd = F.kl_div(
                F.log_softmax(z / T, -1),
                F.log_softmax(v / T, -1),
                log_target=True,
                reduction="batchmean",
            )
            return (1 - w) * F.cross_entropy(z, inputs["labels"]) + w * T * T * kd

    folder = tempfile.mkdtemp()
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )
    train = torch.utils.data.TensorDataset(*images(n))
    settings = {"teacher": teacher, "objective": (1 - w) * CE() + w * KD(temperature=T)}

    def run() -> None:
        optimizer = _sgd(student.parameters())
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        both = {"train_dataset": train, "optimizers": (optimizer, rate)}
        job: Any = (
            Ours(student, arguments, **both, **settings)
            if ours
            else Usual(student, arguments, **both)
        )
        job.remove_callback(PrinterCallback)
        job.train()

    return run, student


def _named(items: Any) -> dict[str, torch.Tensor]:
    return {
        "inputs": torch.stack([x for x, _ in items]),
        "labels": torch.stack([y for _, y in items]),
    }


def _sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=LR, momentum=0.9)


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Stand-ins for the torchvision names that torchdistill imports and nothing here calls.

    torchvision has no build for every torch; where the real one imports, it is used.
    """
    try:
        import torchvision  # noqa: F401

        yield
    except (ImportError, RuntimeError):
        _forget_torchvision()
        finder = _StandIns()
        sys.meta_path.insert(0, finder)
        for part in ("datasets", "models", "ops", "transforms"):
            importlib.import_module(f"torchvision.{part}")
        yield
        sys.meta_path.remove(finder)
        _forget_torchvision()


def _forget_torchvision() -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[name]


class _StandIn(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        ours = name.split(".")[0] == "torchvision"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if ours else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass
