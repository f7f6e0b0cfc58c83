"""batches: usual batches that are none are refused in our words, with the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from distill_lib import CE, KD, Match, distill

X, Y = torch.randn(8, 4), torch.arange(8) % 3


def hf() -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"inputs": X.tolist(), "labels": Y.tolist()})


def splits() -> Any:
    return pytest.importorskip("datasets").DatasetDict({"train": hf()})


LOADER = r"DataLoader\(data, batch_size=64\)"
TORCH = r"with_format\('torch'\)"
SPLIT = r"choose one .*DataLoader\(data\['train'\], batch_size=64\)"
FOREIGN: dict[str, tuple[Callable[[], Any], str]] = {
    "arrays": (lambda: [{"inputs": X.numpy(), "labels": Y.numpy()}], r"torch\.as_tensor"),
    "a pair of arrays": (lambda: [(X.numpy(), Y.numpy())], r"torch\.as_tensor"),
    "lists": (lambda: [{"inputs": X.tolist(), "labels": Y.tolist()}], r"torch\.as_tensor"),
    "arrays by name": (lambda: [{"input": X.numpy(), "labels": Y}], r"batch\['input'\] is an arr"),
    "a stream": (lambda: hf().to_iterable_dataset(), f"single item.*{LOADER}.*{TORCH}"),
    "a stream of tensors": (
        lambda: hf().with_format("torch").to_iterable_dataset(), f"single item.*{LOADER}"
    ),
    "a stream of lists": (lambda: hf().to_iterable_dataset().batch(4), TORCH),
    "a stream without labels": (
        lambda: hf().remove_columns("labels").to_iterable_dataset(), f"{LOADER}.*{TORCH}"
    ),
    "several data sets": (splits, SPLIT),
    "several of torch": (lambda: {"train": TensorDataset(X, Y)}, SPLIT),
    "several loaders": (lambda: {"train": DataLoader(TensorDataset(X, Y), 4)}, "choose one"),
    "one batch": (lambda: {"inputs": X, "labels": Y}, r"\(inputs, labels\), .* \[batch\]"),
    "one pair": (lambda: (X, Y), r"two tensors.*\[batch\]"),
    "items": (lambda: [(x, y) for x, y in zip(X, Y, strict=True)], f"single item.*{LOADER}"),
    "items with names": (lambda: [{"inputs": X[0], "labels": 1}], f"single item.*{LOADER}"),
    "items with ids": (lambda: [{"inputs": X[0], "index": torch.tensor(3)}], "'index' is one"),
    "items without labels": (lambda: [{"inputs": x} for x in X], f"a single item.*{LOADER}"),
    "an array": (lambda: X.numpy(), f"single items; give {LOADER}"),
    "inputs alone": (lambda: [X, X, X], r"Inputs alone are \{\"inputs\": x\}"),
    "a text": (lambda: "train.csv", "expected batches, a DataLoader, a list or the like"),
    "ids of one column": (
        lambda: [{"inputs": X, "labels": Y, "index": torch.arange(8)[:, None]}],
        r"index \[8, 1\] of two axes .*\[S, B, \.\.\.\].*index\.flatten\(\)",
    ),
    "nothing": (lambda: [], "batches is empty.*drop_last"),
    "fewer than a batch": (
        lambda: DataLoader(TensorDataset(X, Y), 64, drop_last=True), "nothing to train on.*drop_l"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("time", ["steps", "epochs"])
def test_it_is_refused_with_the_way_out(kind: str, time: str) -> None:
    make, words = FOREIGN[kind]
    batches, student, teacher = make(), nn.Linear(4, 3), nn.Linear(4, 3)
    words = words.replace("batches is empty", "batches (is empty|gave nothing)")
    if time == "epochs" and not hasattr(type(batches), "__len__"):
        words = "no length"
    before = student.weight.detach().clone()
    objective = KD() if "without" in kind or "ids" in kind else KD() + CE()
    with pytest.raises((TypeError, ValueError), match=f"(?s){words}"):
        distill(student, teacher, batches, objective, **{time: 2})
    assert torch.equal(student.weight, before)


class Reads(nn.Linear):
    """A student that reads what is no tensor."""

    def forward(self, x: Any) -> Tensor:
        return super().forward(torch.tensor([[float(len(text))] * 4 for text in x]))


@pytest.mark.parametrize("brought", [["a", "bcd"], np.zeros((2, 5), "float32")])
def test_who_reads_something_else_may(brought: Any) -> None:
    batch = {"inputs": brought, "labels": torch.tensor([0, 1])}
    assert len(distill(Reads(4, 3), None, [batch], CE(), steps=2)) == 2
    # an error of another kind keeps its own words
    with pytest.raises(ValueError, match=r"^(?!.*as_tensor)"):
        distill(Reads(4, 3), None, [{**batch, "labels": torch.tensor([0, 9])}], CE(), steps=2)


def test_who_says_how_to_ask_gets_his_own_error() -> None:
    def ask(model: nn.Module, batch: Any) -> Tensor:
        raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^mine$"):
        distill(nn.Linear(4, 3), None, [(X.numpy(), Y)], CE(), steps=1, forward=ask)


def test_a_row_of_numbers_may_be_a_batch() -> None:
    class Curve(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, None])

    term = Match("logits")
    assert len(distill(Curve(1, 3), Curve(1, 3), [{"inputs": X[:, 0]}], term, steps=2)) == 2


# ---- a walk is as long as it said ----


class Says(IterableDataset[Any]):
    """Batches that say one number and give another."""

    def __init__(self, gives: int, says: int, changes: int = 0) -> None:
        self.gives, self.says, self.changes = gives, says, changes

    def __len__(self) -> int:
        return self.says

    def __iter__(self) -> Iterator[Any]:
        yield from ({"inputs": torch.full((2, 4), float(i))} for i in range(self.gives))
        self.gives += self.changes


@given(
    gives=st.integers(1, 9), says=st.integers(1, 9), epochs=st.integers(1, 3),
    cut=st.integers(1, 4), changes=st.sampled_from([0, 0, -1, 1]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_epochs_are_walks_or_it_is_refused(
    gives: int, says: int, epochs: int, cut: int, changes: int
) -> None:
    from accelerate import Accelerator

    batches, seen, looks = Says(gives, says, changes), [], []
    right = gives == says and (changes == 0 or epochs == 1)

    def ask(model: nn.Module, batch: Any) -> Tensor:
        seen.append(int(batch["inputs"][0, 0]))
        return model(batch["inputs"])

    how: dict[str, Any] = {
        "accelerator": Accelerator(cpu=True, gradient_accumulation_steps=cut),
        "each_epoch": lambda epoch, history: looks.append(epoch),
        "forward": ask,
    }
    if right:
        history = distill(nn.Linear(4, 3), nn.Linear(4, 3), batches, KD(), epochs=epochs, **how)
        assert len(history) == epochs * -(-gives // cut)
        assert seen == [*range(gives)] * epochs and looks == [*range(1, epochs + 1)]
    else:
        with pytest.raises(ValueError, match=r"a walk has \d batches.*give steps= instead"):
            distill(nn.Linear(4, 3), nn.Linear(4, 3), batches, KD(), epochs=epochs, **how)
    assert len(distill(nn.Linear(4, 3), nn.Linear(4, 3), Says(gives, says), KD(), steps=5)) == 5


def test_endless_batches_are_not_walked_for_ever() -> None:
    with pytest.raises(ValueError, match="has 3 batches, and this one went on after them"):
        distill(nn.Linear(4, 3), nn.Linear(4, 3), Says(10**9, 3), KD(), epochs=1)


def test_more_epochs_go_on_where_a_whole_walk_ended(tmp_path: Any) -> None:
    def run(path: Any, *epochs: int) -> Tensor:
        for number in epochs:
            torch.manual_seed(0)
            items = TensorDataset(X, Y)
            loader = DataLoader(items, 3, shuffle=True)
            student = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))
            distill(student, None, loader, CE(), epochs=number, lr=0.1, checkpoint=path, seed=1)
        return student[1].weight.detach()

    assert torch.equal(run(tmp_path / "a", 3), run(tmp_path / "b", 1, 2, 3))
