"""order: whatever the order of the batches comes from, it survives a kill and a look."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from distill_lib import CE, distill, evaluate
from distill_lib.training.order import OrderOf

ITEMS = TensorDataset(
    torch.randn(24, 4, generator=torch.Generator().manual_seed(5)), torch.arange(24) % 3
)


class Stop(Exception):
    """Stands for a kill."""


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


class Drawing(Sampler[int]):
    """A sampler of the user's that draws by a generator of some library."""

    def __init__(self, rng: Any) -> None:
        self.rng = rng

    def __len__(self) -> int:
        return 24

    def __iter__(self) -> Iterator[int]:
        if isinstance(self.rng, random.Random):
            return iter(self.rng.sample(range(24), 24))
        return iter(self.rng.permutation(24).tolist())


class Kept(Drawing):
    """One with a state of its own, which it goes on changing."""

    def __init__(self) -> None:
        self.held = {"walk": 0}

    def __iter__(self) -> Iterator[int]:
        self.held["walk"] += 1
        return iter(random.Random(self.held["walk"]).sample(range(24), 24))

    def state_dict(self) -> dict[str, int]:
        return self.held

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.held = dict(state)


class Counting(Drawing):
    """One that counts its walks."""

    def __init__(self) -> None:
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter(random.Random(self.epoch).sample(range(24), 24))


class Streamed(IterableDataset[Any]):
    def __init__(self) -> None:
        self.generator = seeded()

    def __iter__(self) -> Iterator[Any]:
        return (ITEMS[i] for i in torch.randperm(24, generator=self.generator).tolist())


class Noisy(Dataset[Any]):
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> Any:
        return ITEMS[i][0] + self.rng.normal(), ITEMS[i][1]


class Wrapped:
    """A loader in something of the user's."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)


class Plain:
    """A batch sampler that is of no class of torch."""

    def __init__(self) -> None:
        self.sampler = RandomSampler(ITEMS, generator=seeded())

    def __iter__(self) -> Iterator[list[int]]:
        return iter(BatchSampler(self.sampler, 4, False))

    def __len__(self) -> int:
        return 6


def sampled(sampler: Any) -> DataLoader[Any]:
    return DataLoader(ITEMS, 4, sampler=sampler)


def grouped(sampler: Any) -> DataLoader[Any]:
    return DataLoader(ITEMS, batch_sampler=BatchSampler(sampler, 4, False))


def prepared(loader: DataLoader[Any], seedable: bool = False) -> Any:
    from accelerate.data_loader import prepare_data_loader

    torch.manual_seed(3)  # of which Accelerate's sampler takes its seed
    return prepare_data_loader(loader, device="cpu", use_seedable_sampler=seedable)


SOURCES: dict[str, Callable[[], Any]] = {
    "in the loader": lambda: DataLoader(ITEMS, 4, shuffle=True, generator=seeded()),
    "in a batch sampler": lambda: grouped(RandomSampler(ITEMS, generator=seeded())),
    "two deep": lambda: DataLoader(
        ITEMS, None, sampler=BatchSampler(RandomSampler(ITEMS, generator=seeded()), 4, False)
    ),
    "weighted": lambda: grouped(WeightedRandomSampler([1.0] * 24, 24, generator=seeded())),
    "no class of torch": lambda: DataLoader(ITEMS, batch_sampler=Plain()),
    "of NumPy": lambda: grouped(Drawing(np.random.default_rng(1))),
    "of NumPy, before": lambda: sampled(Drawing(np.random.RandomState(1))),
    "of Python": lambda: grouped(Drawing(random.Random(1))),
    "a state of its own": lambda: grouped(Kept()),
    "a number of its own": lambda: sampled(Counting()),
    "a stream": lambda: DataLoader(Streamed(), 4),
    "augmented": lambda: DataLoader(Subset(Noisy(), range(24)), 4),
    "in something": lambda: Wrapped(grouped(RandomSampler(ITEMS, generator=seeded()))),
    "prepared": lambda: prepared(grouped(RandomSampler(ITEMS, generator=seeded()))),
    "prepared, seedable": lambda: prepared(DataLoader(ITEMS, 4, shuffle=True), True),
}


def train(
    batches: Any, path: Path | None = None, kill: int = -1, every: int = 2, look: Any = None
) -> tuple[Tensor, list[Any]]:
    torch.manual_seed(0)
    student, seen = nn.Linear(4, 3), []

    def ask(model: nn.Module, batch: Any) -> Tensor:
        if len(seen) == kill:
            raise Stop
        if model.training:
            seen.append(batch["inputs"].tolist())
        return model(batch["inputs"])

    try:
        distill(student, None, batches, CE(), steps=18, checkpoint=path, save_every=every, seed=3,
                forward=ask, each_epoch=look and (lambda e, h: look(student, e)))  # fmt: skip
    except Stop:
        assert kill >= 0
    return student.weight.detach().clone(), seen


@pytest.mark.usefixtures("own_accelerate")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("kill", "every"), [(11, 2), (6, 6), (17, 5)])
def test_a_kill_changes_no_batch(source: str, kill: int, every: int, tmp_path: Path) -> None:
    weight, batches = train(SOURCES[source]())
    train(SOURCES[source](), tmp_path / "c", kill, every)
    again, rest = train(SOURCES[source](), tmp_path / "c", every=every)
    assert 0 < len(rest) < 18 and rest == batches[-len(rest) :]
    assert torch.equal(again, weight)


@pytest.mark.usefixtures("own_accelerate")
@pytest.mark.parametrize("source", SOURCES)
def test_a_look_at_the_same_batches_changes_none(source: str) -> None:
    weight, batches = train(SOURCES[source]())
    loader = SOURCES[source]()
    looked, same = train(loader, look=lambda student, epoch: evaluate(student, loader))
    assert same == batches and torch.equal(looked, weight)


@given(
    kind=st.sampled_from(["torch", "numpy", "old", "python"]),
    seed=st.integers(0, 2**31),
    before=st.integers(0, 700),
    after=st.integers(0, 700),
)
@settings(max_examples=60, deadline=None)
def test_every_kind_of_generator_comes_back(kind: str, seed: int, before: int, after: int) -> None:
    makers: dict[str, Callable[[], Any]] = {
        "torch": lambda: torch.Generator().manual_seed(seed),
        "numpy": lambda: np.random.default_rng(seed),
        "old": lambda: np.random.RandomState(seed),
        "python": lambda: random.Random(seed),
    }
    rng = makers[kind]()

    def draw(number: int) -> list[float]:
        if isinstance(rng, torch.Generator):
            return torch.randn(number, generator=rng).tolist()
        one = rng.gauss if isinstance(rng, random.Random) else rng.normal
        return [float(one(0, 1)) for _ in range(number)]

    order = OrderOf(grouped(Drawing(rng)))
    draw(before)
    state = order.state()
    expected = draw(5)
    draw(after)
    order.set(state)
    assert draw(5) == expected


@pytest.mark.parametrize("put", [DistributedSampler.set_epoch, lambda s, e: None])
def test_an_epoch_that_a_look_tells_a_sampler_stays_and_survives(put: Any, tmp_path: Path) -> None:
    def run(path: Path | None, kill: int = -1) -> list[Any]:
        sampler: Any = DistributedSampler(ITEMS, 1, 0)
        return train(sampled(sampler), path, kill, look=lambda _, epoch: put(sampler, epoch))[1]

    whole = run(None)
    assert (whole[:6] != whole[6:12]) == (put is DistributedSampler.set_epoch)
    run(tmp_path / "c", 11)
    rest = run(tmp_path / "c")
    assert len(rest) < 18 and rest == whole[-len(rest) :]


def test_a_loader_without_its_generator_is_refused(tmp_path: Path) -> None:
    train(SOURCES["in a batch sampler"](), tmp_path / "c", 11)
    for other in (grouped(RandomSampler(ITEMS)), SOURCES["in the loader"]()):
        with pytest.raises(ValueError, match=r"came from the generators .*make the loader as it"):
            train(other, tmp_path / "c")


def test_files_of_before_know_of_one_generator() -> None:
    generator = seeded()
    state = {"generator": generator.get_state()}
    expected = torch.rand(3, generator=generator)
    OrderOf(DataLoader(ITEMS, 4, shuffle=True, generator=generator)).set(state)
    assert torch.equal(torch.rand(3, generator=generator), expected)
    two = DataLoader(Streamed(), 4, generator=seeded())
    with pytest.raises(ValueError, match="make the loader as it was made then"):
        OrderOf(two).set(state)


def test_a_stream_of_hugging_face_goes_on(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {"inputs": ITEMS.tensors[0].tolist(), "labels": ITEMS.tensors[1].tolist()}

    def stream() -> Any:
        items = datasets.Dataset.from_dict(columns).to_iterable_dataset()
        return items.shuffle(seed=1, buffer_size=8).batch(4).with_format("torch")

    whole = train(stream())[1]
    train(stream(), tmp_path / "c", 11)
    rest = train(stream(), tmp_path / "c")[1]
    assert 0 < len(rest) < 18 and rest == whole[-len(rest) :]
