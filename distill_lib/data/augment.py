"""Random changes of images that keep their class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib.arguments import check_counts, checked, told

__all__ = ["flip_and_shift"]


@checked
def flip_and_shift(inputs: Tensor, generator: torch.Generator, *, reach: int = 2) -> Tensor:
    """Mirror each image with probability 1/2, and shift it by up to ``reach`` pixels each way.

    What a shift uncovers is filled with the darkest value of the batch, the ground of the images.

    Args:
        inputs: ``[B, C, H, W]``.
        generator: A CPU generator; the same state gives the same result on every device.
        reach: Largest shift in pixels.

    Returns:
        ``[B, C, H, W]``.

    Reference:
        He et al., *Deep residual learning for image recognition*, 2016, section 4.2 (their reach
        is 4 for images of 32 pixels).

    Example:
        >>> flip_and_shift(torch.ones(2, 1, 4, 4), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 4, 4])
    """
    check_counts(0, reach=reach)
    if inputs.ndim != 4 or inputs.is_complex():
        raise ValueError(f"inputs expected images [B, C, H, W], got {told(inputs)}")
    if inputs.numel() == 0:
        return inputs
    count, _, height, width = inputs.shape
    mirrored = torch.rand(count, generator=generator) < 0.5
    shift = torch.randint(0, 2 * reach + 1, (2, count), generator=generator).to(inputs.device)
    rows = shift[0, :, None] + torch.arange(height, device=inputs.device)
    columns = torch.arange(width, device=inputs.device).expand(count, width)
    columns = torch.where(mirrored.to(inputs.device)[:, None], columns.flip(1), columns)
    columns = columns + shift[1, :, None]
    padded = F.pad(inputs, (reach,) * 4, value=inputs.min().item())
    items = torch.arange(count, device=inputs.device)[:, None, None]
    # Advanced indices around a slice come first, so the channels end up last.
    picked = padded[items, :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)
