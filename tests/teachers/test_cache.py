"""cache: ask once, read for ever, refuse what is stale or torn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from distill_lib import EMA, KD, Cache, Teacher, distill
from distill_lib.teachers.cache import HEADER, CacheError


class Items(Dataset):
    """Items with ids, which need not be their positions."""

    def __init__(self, n: int = 20, ids: Tensor | None = None, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(n, 4, generator=generator)
        self.ids = torch.arange(n) if ids is None else ids

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"inputs": self.inputs[i], "labels": i % 3, "index": self.ids[i]}


class Counted(Teacher):
    """A teacher that counts its calls, and can be killed at one of them."""

    calls, kill_at = 0, -1

    def __call__(self, batch: Any) -> Any:
        self.calls += 1
        if self.calls == self.kill_at:
            raise KeyboardInterrupt
        return super().__call__(batch)


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(4, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "teacher.cache"


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


# ---- what it answers ----


def test_it_says_what_the_teacher_says(path: Path, model: nn.Module) -> None:
    items = Items()
    cache = Cache.build(path, Teacher(model), items, block=6)
    said = cache({"index": torch.arange(20)})
    assert torch.equal(said["logits"], torch.cat([model(b) for b in items.inputs.split(6)]))
    assert len(cache) == 20
    assert repr(cache).endswith("logits, 20 rows of [3])")


def test_shuffled_batches_find_their_rows(path: Path, model: nn.Module) -> None:
    cache = Cache.build(path, model, Items())
    for batch in DataLoader(Items(), batch_size=7, shuffle=True):
        assert torch.allclose(cache(batch)["logits"], model(batch["inputs"]), atol=1e-6)


def test_a_subset_of_the_items_finds_its_rows(path: Path, model: nn.Module) -> None:
    cache = Cache.build(path, model, Items())
    (batch,) = DataLoader(Subset(Items(), [3, 17, 5]), batch_size=3)
    assert torch.allclose(cache(batch)["logits"], model(batch["inputs"]), atol=1e-6)


def test_ids_need_not_be_positions(path: Path, model: nn.Module) -> None:
    ids = torch.randperm(20) * 10**9 - 7
    cache = Cache.build(path, model, Items(ids=ids), block=6)
    for batch in DataLoader(Items(ids=ids), batch_size=5, shuffle=True):
        assert torch.allclose(cache(batch)["logits"], model(batch["inputs"]), atol=1e-6)


@pytest.mark.parametrize("ids", [None, torch.arange(20) * 2 + 1])
@pytest.mark.parametrize("unknown", [-1, 20, 10**6])
def test_an_unknown_id_is_refused(path: Path, model: nn.Module, ids, unknown: int) -> None:
    cache = Cache.build(path, model, Items(ids=ids))
    with pytest.raises(CacheError, match=rf"id {unknown} is not among the 20 rows"):
        cache({"index": torch.tensor([1, unknown])})


def test_pairs_are_known_by_position(path: Path, model: nn.Module) -> None:
    x = torch.randn(9, 4)
    pairs = [(one, 0) for one in x]
    cache = Cache.build(path, model, pairs, block=4)
    assert torch.allclose(cache({"index": [8, 0]})["logits"], model(x[[8, 0]]), atol=1e-6)


def test_a_data_set_with_batches_is_walked_by_them(path: Path, model: nn.Module) -> None:
    class Fast(Items):
        def batches(self, batch_size: int, shuffle: bool) -> Any:
            assert not shuffle
            for at in range(0, len(self), batch_size):
                yield {"inputs": self.inputs[at : at + batch_size], "index": self.ids[at:][:8]}

        def fingerprint(self) -> str:
            return "fast"

    cache = Cache.build(path, model, Fast(), block=8)
    assert cache.meta["data"] == "fast"
    assert torch.allclose(cache({"index": torch.tensor([13])})["logits"], model(Fast().inputs[13]))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.float32, 0), (torch.float64, 0)]
)
def test_number_types(path: Path, model: nn.Module, dtype: torch.dtype, tolerance: float) -> None:
    cache = Cache.build(path, model, Items(), dtype=dtype)
    said = cache({"index": torch.arange(20)})["logits"]
    assert said.dtype == dtype
    assert (said.double() - model(Items().inputs).double()).abs().max() <= tolerance + 1e-6
    assert path.stat().st_size == HEADER + 20 * 8 + 16 + 20 * 3 * dtype.itemsize


def test_another_signal_is_kept(path: Path) -> None:
    teacher = Teacher(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)))
    teacher.reveal(["0"])
    cache = Cache.build(path, teacher, Items(), what="0")
    assert cache({"index": torch.tensor([2])})["0"].shape == (1, 5)


def test_training_from_a_cache_is_training_from_the_teacher(path: Path, model: nn.Module) -> None:
    loader = DataLoader(Items(), batch_size=5)
    weights = []
    for teacher in (Teacher(model), Cache.build(path, model, Items(), block=5)):
        torch.manual_seed(1)
        student = nn.Linear(4, 3)
        distill(student, teacher, loader, KD(temperature=2), epochs=3, lr=0.05)
        weights.append(student.weight.detach())
    assert torch.equal(*weights)


def test_a_cache_moves_nowhere(path: Path, model: nn.Module) -> None:
    cache = Cache.build(path, model, Items())
    assert cache.to("cpu") is cache


def test_a_batch_without_ids_is_refused(path: Path, model: nn.Module) -> None:
    cache = Cache.build(path, model, Items())
    with pytest.raises(CacheError, match=r"needs an 'index' \(it has inputs, labels\)"):
        cache((torch.zeros(2, 4), torch.zeros(2)))


# ---- augmentation ----


def test_inputs_augmented_otherwise_are_refused(path: Path, model: nn.Module) -> None:
    cache = Cache.build(path, model, Items())
    with pytest.raises(CacheError, match=r"augmentation None, this batch has 'flip'"):
        cache({"index": torch.tensor([0]), "augmentation": "flip"})


def test_the_same_augmentation_is_served(path: Path, model: nn.Module) -> None:
    cache = Cache.build(path, model, Items(), augmentation="flip-0")
    index = torch.tensor([0, 1])
    assert cache({"index": index, "augmentation": "flip-0"})["logits"].shape == (2, 3)
    assert cache({"index": index, "augmentation": ["flip-0", "flip-0"]})["logits"].shape == (2, 3)
    with pytest.raises(CacheError, match="flip-1"):
        cache({"index": index, "augmentation": ["flip-0", "flip-1"]})
    with pytest.raises(CacheError, match=r"'flip-0', this batch has None"):
        cache({"index": index})


# ---- building ----


def test_building_twice_asks_once(path: Path, model: nn.Module) -> None:
    teacher = Counted(model)
    Cache.build(path, teacher, Items(), block=6)
    content = path.read_bytes()
    Cache.build(path, teacher, Items(), block=6)
    assert teacher.calls == 4
    assert path.read_bytes() == content


def test_a_finished_file_is_opened_without_walking_the_data(path: Path, model: nn.Module) -> None:
    class Walked(Items):
        walks = 0

        def batches(self, batch_size: int, shuffle: bool) -> Any:
            self.walks += 1
            yield {"inputs": self.inputs, "index": self.ids}

    items = Walked()
    for _ in range(2):
        Cache.build(path, model, items)
    assert items.walks == 1


@pytest.mark.parametrize("kill_at", [1, 2, 4])
def test_an_interrupted_build_goes_on(path: Path, model: nn.Module, kill_at: int) -> None:
    teacher = Counted(model)
    teacher.kill_at = kill_at
    with pytest.raises(KeyboardInterrupt):
        Cache.build(path, teacher, Items(), block=6)
    if kill_at > 1:
        with pytest.raises(CacheError, match=rf"unfinished: {kill_at - 1} of 4 blocks.*to go on"):
            Cache(path)
    cache = Cache.build(path, teacher, Items(), block=6)
    assert teacher.calls == 5  # the killed call is the only one repeated
    whole = Cache.build(path.with_name("whole"), model, Items(), block=6)
    index = {"index": torch.arange(20)}
    assert torch.equal(cache(index)["logits"], whole(index)["logits"])
    assert path.read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teacher": nn.Linear(4, 3)}, r"stale: .* another teacher \(its weights differ\)"),
        ({"dataset": Items(seed=1)}, "other data"),
        ({"dataset": Items(21)}, "other data"),
        ({"what": "hidden"}, "another signal: 'logits', now 'hidden'"),
        ({"augmentation": "flip"}, "another augmentation: None, now 'flip'"),
        ({"dtype": torch.float16}, "another number type"),
        ({"block": 7}, "another block size"),
    ],
    ids=["teacher", "data", "length", "what", "augmentation", "dtype", "block"],
)
def test_a_stale_file_is_refused(path: Path, model: nn.Module, change, words: str) -> None:
    settings = {"teacher": model, "dataset": Items(), "block": 6}
    Cache.build(path, **settings)
    with pytest.raises(CacheError, match=words + ".*Delete it, or give this cache another path"):
        Cache.build(path, **{**settings, **change})


def test_another_number_of_items_is_refused(path: Path, model: nn.Module) -> None:
    class Named(Items):
        def fingerprint(self) -> str:
            return "named"

    Cache.build(path, model, Named(20))
    with pytest.raises(CacheError, match="another number of items: 20, now 21"):
        Cache.build(path, model, Named(21))


def test_a_changed_teacher_has_another_fingerprint(path: Path, model: nn.Module) -> None:
    one = Cache.build(path, model, Items()).fingerprint()
    with torch.no_grad():
        model.weight += 1
    assert one != Cache.build(path.with_name("b"), model, Items()).fingerprint()
    assert one == Cache(path).fingerprint()


def test_the_name_of_an_augmentation_fits_the_header(path: Path, model: nn.Module) -> None:
    with pytest.raises(CacheError, match="header of the cache is too long"):
        Cache.build(path, model, Items(), augmentation="x" * HEADER)


def test_rows_have_one_shape(path: Path) -> None:
    class Ragged(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, : len(x)]

    with pytest.raises(CacheError, match=r"shape \[2, 2\] where \[2, 4\] was expected.*pad"):
        Cache.build(path, Ragged(), Items(20), block=6)


def test_a_row_an_item(path: Path) -> None:
    with pytest.raises(CacheError, match=r"shape \[12, 4\] where \[6, 4\]"):
        Cache.build(
            path,
            Teacher(nn.Identity(), forward=lambda m, b: b["inputs"].repeat(2, 1)),
            Items(),
            block=6,
        )


@pytest.mark.parametrize("count", [17, 18, 26])
def test_a_data_set_that_miscounts_is_refused(path: Path, model: nn.Module, count: int) -> None:
    class Miscounted(Items):
        def batches(self, batch_size: int, shuffle: bool) -> Any:
            for at in range(0, count, batch_size):
                size = min(batch_size, count - at)
                yield {"inputs": torch.zeros(size, 4), "index": torch.arange(at, at + size)}

    with pytest.raises(CacheError, match=r"20 items (and gave 18|gave \d at item 1?[28])"):
        Cache.build(path, model, Miscounted(20), block=6)


def test_number_types_that_a_file_cannot_hold(path: Path, model: nn.Module) -> None:
    with pytest.raises(TypeError, match=r"float16, float32 or float64.*bfloat16"):
        Cache.build(path, model, Items(), dtype=torch.bfloat16)
    assert not path.exists()


def test_an_average_can_be_cached(path: Path, model: nn.Module) -> None:
    assert len(Cache.build(path, EMA(model, 0.9), Items())) == 20


def test_loaders_and_batches_are_no_data_sets(tmp_path: Path) -> None:
    loader = DataLoader(Items(), batch_size=4)
    with pytest.raises(TypeError, match=r"items by position, got DataLoader.*\.dataset"):
        Cache.build(tmp_path / "c", nn.Linear(4, 3), loader)
