"""Scenes: several images of a data set on one larger canvas, with a mask and a box for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from distill_lib.arguments import check_counts, checked
from distill_lib.data.dataset import NO_LABEL, DataError, Dataset, _generator

__all__ = ["Scenes", "scenes"]


@checked
@dataclass(frozen=True, eq=False, repr=False)
class Scenes(Dataset):
    """Images in which every pixel has a class, made by :func:`scenes`.

    A :class:`Dataset` whose labels are maps: 0 is the background, and class ``c`` of the garments
    is ``c + 1``.

    Args:
        inputs: ``[N, C, H, W]``.
        labels: ``[N, H, W]`` int64; -100 for a pixel without a label.
        classes: Names, ``"background"`` first.
        boxes: ``[N, K, 4]`` int64, (left, top, right, bottom) in pixels, the last two exclusive, of
            what was put there, also where something covers it.
        kinds: ``[N, K]`` int64, the classes of the boxes.

    Raises:
        DataError: Shapes that do not fit, or a label that is no class.
    """

    boxes: Tensor = field(default_factory=lambda: torch.empty(0, 0, 4, dtype=torch.int64))
    kinds: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.int64))

    def _check_labels(self) -> None:
        fits = self.inputs.ndim == 4 and self.labels.ndim == 3 and self.labels.dtype == torch.int64
        fits = fits and self.labels.shape[1:] == self.inputs.shape[2:]
        fits = fits and self.boxes.shape == (*self.kinds.shape, 4)
        if not fits or len(self.kinds) != len(self.labels):
            raise DataError(
                f"{self.name}: inputs [N, C, H, W], labels [N, H, W] of int64, boxes [N, K, 4] and "
                f"kinds [N, K] were expected, got {list(self.inputs.shape)}, "
                f"{list(self.labels.shape)} of {self.labels.dtype}, {list(self.boxes.shape)} and "
                f"{list(self.kinds.shape)}."
            )
        inside = (self.labels >= 0) & (self.labels < len(self.classes))
        if not bool((inside | (self.labels == NO_LABEL)).all()):
            raise DataError(f"{self.name}: a label is none of {len(self.classes)} classes.")

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {**super().__getitem__(i), "boxes": self.boxes[i], "kinds": self.kinds[i]}

    def subset(self, indices: Tensor | Sequence[int]) -> Self:
        """The scenes at some positions (or under a mask ``[N]`` of bools), with their ids."""
        at = self._positions(indices)
        parts = ("inputs", "labels", "index", "boxes", "kinds")
        return replace(self, **{name: getattr(self, name)[at] for name in parts})

    def per_class(self, k: int) -> Self:
        """Refused: a scene is of several classes.

        Raises:
            DataError: Always.
        """
        raise DataError(f"{self.name}: a scene has several classes; take a subset.")


@checked
def scenes(
    garments: Dataset, count: int, *, size: int = 56, each: int = 3, seed: int = 0
) -> Scenes:
    """Draw scenes: images of a data set, put anywhere on a dark canvas, later ones in front.

    What is not as dark as the darkest pixel belongs to the garment; the rest of its frame is
    transparent. The same arguments give the same scenes.

    Args:
        garments: Images ``[M, C, h, w]`` with a label each, on a dark ground, such as
            ``load("fashion_mnist")``.
        count: How many scenes.
        size: Height and width of the canvas.
        each: Garments a scene.
        seed: Of the choice of the garments and of their places.

    Raises:
        ValueError: No images with labels, or a canvas that is smaller than they are.

    Example:
        >>> dot = torch.zeros(1, 1, 4, 4)
        >>> dot[..., 1:3, 1:3] = 1
        >>> made = scenes(Dataset(dot, torch.tensor([0]), ("dot",)), 5, size=8, each=1)
        >>> made
        Scenes(data/scenes: 5 items of 1x8x8, 2 classes)
        >>> (made.boxes[:, 0, 2:] - made.boxes[:, 0, :2]).unique().tolist()
        [2]
    """
    check_counts(count=count, each=each, size=size)
    images, labels = garments.inputs, garments.labels
    if images.ndim != 4 or not len(images) or labels.ndim != 1 or bool((labels < 0).any()):
        raise ValueError(
            f"scenes expected images [M, C, h, w] with a label each, got {list(images.shape)} and "
            f"labels {list(labels.shape)}; take the labeled ones with subset(labels >= 0)"
        )
    high, wide = images.shape[2:]
    if size < max(high, wide):
        raise ValueError(f"a canvas of {size} pixels cannot hold images of {high} x {wide}")
    draw = _generator("scenes", seed)
    chosen = torch.randint(len(images), (count, each), generator=draw)
    top = torch.randint(size - high + 1, (count, each), generator=draw)
    left = torch.randint(size - wide + 1, (count, each), generator=draw)
    dark, bright = images.min(), images.max()
    inputs = dark.expand(count, images.shape[1], size, size).clone()
    masks = torch.zeros(count, size, size, dtype=torch.int64)
    boxes = torch.zeros(count, each, 4, dtype=torch.int64)
    number = torch.arange(count).view(-1, 1, 1)
    for k in range(each):
        rows = top[:, k].view(-1, 1, 1) + torch.arange(high).view(1, -1, 1)
        columns = left[:, k].view(-1, 1, 1) + torch.arange(wide).view(1, 1, -1)
        image = images[chosen[:, k]]
        solid = (image > dark + 0.02 * (bright - dark)).any(1)
        below = inputs[number, :, rows, columns]  # channels last
        above = torch.where(solid.unsqueeze(-1), image.movedim(1, -1), below)
        inputs[number, :, rows, columns] = above
        kind = labels[chosen[:, k]].view(-1, 1, 1) + 1
        masks[number, rows, columns] = torch.where(solid, kind, masks[number, rows, columns])
        boxes[:, k] = _box(solid) + torch.stack([left[:, k], top[:, k]] * 2, -1)
    return Scenes(
        inputs,
        masks,
        ("background", *garments.classes),
        name=f"{garments.name}/scenes",
        origin=garments.origin,
        license=garments.license,
        boxes=boxes,
        kinds=labels[chosen] + 1,
    )


def _box(solid: Tensor) -> Tensor:
    """[N, 4] left, top, right and bottom of what is true in [N, h, w]; zeros where nothing is."""
    sides = []
    for axis in (1, 2):
        line = solid.any(axis).long()  # [N, w], then [N, h]
        there = line.amax(-1)
        first = line.argmax(-1)
        last = line.shape[-1] - line.flip(-1).argmax(-1)
        sides.append((first * there, last * there))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], -1)
