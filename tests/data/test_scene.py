"""Scenes: every pixel has its garment's class, every garment its box."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_lib.data import DataError, Dataset, scenes


def garments(count: int = 6, size: int = 5) -> Dataset:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(count, 1, size, size, generator=draw) + 0.5
    images[:, :, 0] = 0  # the frame's upper row is transparent
    images[:, :, :, -1] = 0
    return Dataset(images - 0.25, torch.arange(count) % 3, ("a", "b", "c"))


@given(size=st.integers(5, 12), each=st.integers(1, 4), seed=st.integers(0, 99))
def test_pixels_masks_and_boxes_agree(size: int, each: int, seed: int) -> None:
    made = scenes(garments(), 4, size=size, each=each, seed=seed)
    assert made.inputs.shape == (4, 1, size, size) and made.labels.shape == (4, size, size)
    assert made.boxes.shape == (4, each, 4) and made.kinds.shape == (4, each)
    # dark exactly where the background is
    assert torch.equal(made.inputs[:, 0] == -0.25, made.labels == 0)
    for labels, boxes, kinds in zip(made.labels, made.boxes, made.kinds, strict=True):
        left, top, right, bottom = boxes[-1].tolist()  # nothing is in front of the last
        assert (right - left, bottom - top) == (4, 4)
        assert (labels[top:bottom, left:right] == kinds[-1]).all()
        outside = labels.clone()
        for left, top, right, bottom in boxes.tolist():
            outside[top:bottom, left:right] = 0
        assert (outside == 0).all()
        assert set(labels.unique().tolist()) <= {0, *kinds.tolist()}


def test_one_seed_gives_one_set_of_scenes() -> None:
    one, same, other = (scenes(garments(), 3, size=9, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.inputs, same.inputs) and torch.equal(one.boxes, same.boxes)
    assert not torch.equal(one.inputs, other.inputs)


def test_scenes_are_batched_and_cut_as_other_data() -> None:
    made = scenes(garments(), 5, size=9)
    part = made.subset([3, 1])
    assert torch.equal(part.boxes, made.boxes[[3, 1]]) and part.index.tolist() == [3, 1]
    assert torch.equal(part[0]["kinds"], made.kinds[3])
    batch = next(iter(made.batches(2, shuffle=False)))
    assert torch.equal(batch["labels"], made.labels[:2])
    assert repr(made) == "Scenes(data/scenes: 5 items of 1x9x9, 4 classes)"
    assert (made.without_labels().labels == -100).all()
    with pytest.raises(DataError, match="several classes"):
        made.per_class(1)


def test_what_makes_no_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="4 pixels cannot hold images of 5 x 5"):
        scenes(garments(), 2, size=4)
    with pytest.raises(ValueError, match=r"subset\(labels >= 0\)"):
        scenes(garments().without_labels(), 2, size=9)
    made = scenes(garments(), 2, size=9)
    with pytest.raises(ValueError, match="with a label each"):
        scenes(made, 2, size=20)
    with pytest.raises(ValueError, match="each"):
        scenes(garments(), 2, each=0)


def test_all_that_a_scene_holds_moves_to_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    made, moved, to = scenes(garments(), 3, size=8), [], torch.Tensor.to

    def seen(self: torch.Tensor, device: torch.device) -> torch.Tensor:
        moved.append(self.data_ptr())
        return to(self, device)

    monkeypatch.setattr(torch.Tensor, "to", seen)
    made.to("cpu")
    parts = (made.inputs, made.labels, made.index, made.boxes, made.kinds)
    assert {part.data_ptr() for part in parts} <= set(moved)
