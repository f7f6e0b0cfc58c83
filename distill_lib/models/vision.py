"""Image classifiers of the book: a residual network to teach, a small one to be taught."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from distill_lib.arguments import check_counts, checked

__all__ = ["MLP", "DepthwiseNet", "ResNet", "SmallConvNet"]


class _Block(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


@checked
class ResNet(nn.Module):
    r"""The CIFAR-style residual network of depth ``6 * blocks + 2``.

    Three stages of ``blocks`` residual blocks with ``width``, ``2 * width`` and ``4 * width``
    channels, the second and third halving the resolution, then a global average and a linear
    layer. ``layer1``, ``layer2`` and ``layer3`` are the stages, in the names of the field, so that
    :func:`distill_lib.capture` and :class:`distill_lib.Match` can address them.

    Args:
        blocks: Residual blocks a stage; 3 gives ResNet-20, 1 gives ResNet-8.
        width: Channels of the first stage.
        num_classes: Outputs of the linear layer.
        in_channels: Channels of the image.

    Shape:
        ``[B, in_channels, H, W]`` to ``[B, num_classes]``.

    Reference:
        He et al., *Deep residual learning for image recognition*, 2016, section 4.2.

    Example:
        >>> import torch
        >>> ResNet(blocks=1, width=4)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(
        self, blocks: int = 3, width: int = 16, num_classes: int = 10, in_channels: int = 1
    ) -> None:
        super().__init__()
        check_counts(blocks=blocks, width=width, num_classes=num_classes, in_channels=in_channels)
        self.conv: nn.Conv2d = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn: nn.BatchNorm2d = nn.BatchNorm2d(width)
        channels = [width, width, 2 * width, 4 * width]
        for stage in (1, 2, 3):
            first = _Block(channels[stage - 1], channels[stage], 1 if stage == 1 else 2)
            rest = [_Block(channels[stage], channels[stage], 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *rest))
        self.fc: nn.Linear = nn.Linear(channels[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return cast(Tensor, self.fc(x.mean((2, 3))))


@checked
class SmallConvNet(nn.Module):
    r"""Two strided convolutions and a linear layer: a student for one thread.

    A 6x6 kernel of stride 4 makes 7x7 places of a 28x28 image, a 3x3 kernel of stride 2 makes 4x4
    of these, and the linear layer sees every place. Without normalization and without an average
    over places, nets this small learn faster, above all from few images. ``layer1`` and ``layer2``
    can be addressed by :class:`distill_lib.Match`.

    Args:
        width: Channels of both layers. With 16 the net has 5,482 parameters for ten classes.
        num_classes: Outputs of the linear layer.
        in_channels: Channels of the image.

    Shape:
        ``[B, in_channels, H, W]`` to ``[B, num_classes]``.

    Example:
        >>> import torch
        >>> SmallConvNet()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, width: int = 16, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        check_counts(width=width, num_classes=num_classes, in_channels=in_channels)
        self.layer1: nn.Sequential = nn.Sequential(
            nn.Conv2d(in_channels, width, 6, 4, 1), nn.ReLU()
        )
        self.layer2: nn.Sequential = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.ReLU())
        self.fc: nn.Linear = nn.Linear(16 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(x))
        if x.shape[-2:] != (4, 4):  # images of another size than 28x28
            x = F.adaptive_avg_pool2d(x, 4)
        return cast(Tensor, self.fc(x.flatten(1)))


@checked
class DepthwiseNet(nn.Module):
    r"""A convolution and two depthwise separable ones: a student with few parameters.

    A separable convolution filters each channel on its own, 3x3 with stride 2, and then mixes the
    channels at each place. ``layer1`` and ``layer2`` have ``2 * width`` and ``4 * width`` channels
    and can be addressed by :class:`distill_lib.Match`.

    Args:
        width: Channels of the first convolution. With 8 the net has 1,474 parameters for ten
            classes.
        num_classes: Outputs of the linear layer.
        in_channels: Channels of the image.

    Shape:
        ``[B, in_channels, H, W]`` to ``[B, num_classes]``.

    Reference:
        Howard et al., *MobileNets*, 2017, section 3.1.

    Example:
        >>> import torch
        >>> DepthwiseNet()(torch.zeros(2, 1, 14, 14)).shape
        torch.Size([2, 10])
    """

    def __init__(self, width: int = 8, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        check_counts(width=width, num_classes=num_classes, in_channels=in_channels)
        self.conv: nn.Sequential = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.layer1: nn.Sequential = self._separable(width, 2 * width)
        self.layer2: nn.Sequential = self._separable(2 * width, 4 * width)
        self.fc: nn.Linear = nn.Linear(4 * width, num_classes)

    @staticmethod
    def _separable(cin: int, cout: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(cin, cin, 3, 2, 1, groups=cin, bias=False),
            nn.Conv2d(cin, cout, 1, bias=False),
            nn.BatchNorm2d(cout),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.conv(x)))
        return cast(Tensor, self.fc(x.mean((2, 3))))


@checked
class MLP(nn.Module):
    r"""Linear layers with ReLU between them, for the digits and other flat inputs.

    Args:
        sizes: Widths from input to output, such as ``(64, 32, 10)``.

    Shape:
        ``[B, ...]`` with ``sizes[0]`` values an item, to ``[B, sizes[-1]]``.

    Raises:
        ValueError: Fewer than two sizes.

    Example:
        >>> import torch
        >>> MLP((64, 32, 10))(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        if len(sizes) < 2:
            raise ValueError(f"MLP wants at least an input and an output size, got {list(sizes)}.")
        check_counts(**{f"sizes[{i}]": size for i, size in enumerate(sizes)})
        layers: list[nn.Module] = [nn.Flatten()]
        for cin, cout in pairwise(sizes):
            layers += [nn.Linear(cin, cout), nn.ReLU()]
        self.layers: nn.Sequential = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layers(x))
