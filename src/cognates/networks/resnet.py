r"""Residual networks without a classifier, with torchvision's parameter names.

Two stems: `standard` is the paper's (7x7 convolution of stride 2, max-pooling); `small` is a 3x3
convolution of stride 1 without pooling, as is usual for CIFAR-10 and images of up to 64 pixels.

References:
    Deep Residual Learning for Image Recognition (He et al., 2015),
    https://arxiv.org/abs/1512.03385, table 1. The stride of a bottleneck sits in its 3x3
    convolution, as in torchvision, whose weights therefore fit.
    Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour (Goyal et al., 2017),
    https://arxiv.org/abs/1706.02677, section 5.1: the last scale of a residual branch starts at 0.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from cognates.errors import ConfigError

DEPTHS: dict[str, tuple[int, int, int, int]] = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
}
"""Blocks per stage."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; output width = `width`."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int) -> None:
        """Make the block from `before` to `width` channels."""
        super().__init__()
        self.conv1 = _convolution(before, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, width, h / stride, w / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; output width = 4 `width`."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int) -> None:
        """Make the block from `before` to 4 `width` channels."""
        super().__init__()
        after = width * self.expansion
        self.conv1 = _convolution(before, width, 1, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, after, 1, 1)
        self.bn3 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(before, after, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 4 width, h / stride, w / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A residual network that ends with global average pooling.

    Args:
        name: resnet18, resnet34 or resnet50.
        channels: of the images, at least 1.
        stem: `standard` or `small`; see the module.
        zero_last: start the last scale of every residual branch at 0, so that blocks start as the
            identity.

    Returns:
        From `forward`: (n, width) with width 512, for resnet50 2048.

    Raises:
        ConfigError: the name or the stem is unknown, or there is no channel.

    Example:
        >>> import torch
        >>> net = ResNet("resnet18", channels=1, stem="small")
        >>> net(torch.zeros(2, 1, 8, 8)).shape, net.width
        (torch.Size([2, 512]), 512)
    """

    def __init__(
        self,
        name: str,
        *,
        channels: int = 3,
        stem: Literal["standard", "small"] = "standard",
        zero_last: bool = False,
    ) -> None:
        """Make the network; see the class for the arguments."""
        super().__init__()
        if name not in DEPTHS or stem not in ("standard", "small") or channels < 1:
            raise ConfigError(
                f"Expected one of {', '.join(DEPTHS)}, the stem standard or small and at least 1 "
                f"channel, got '{name}', '{stem}' and {channels}."
            )
        self.name, self.stem, self.channels = name, stem, channels
        small = stem == "small"
        self.conv1 = _convolution(channels, 64, 3 if small else 7, 1 if small else 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        block = Bottleneck if name == "resnet50" else BasicBlock
        before = 64
        for i, depth in enumerate(DEPTHS[name]):
            stage = []
            for j in range(depth):
                stage.append(block(before, 64 * 2**i, 2 if i > 0 and j == 0 else 1))
                before = 64 * 2**i * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.width = before
        _initialise(self, zero_last)

    def forward(self, images: Tensor) -> Tensor:
        """Return the representation (n, width) of images (n, c, h, w)."""
        x = self.relu(self.bn1(self.conv1(images)))
        if self.stem == "standard":
            x = functional.max_pool2d(x, 3, 2, 1)
        for i in range(4):
            x = getattr(self, f"layer{i + 1}")(x)
        return x.mean((2, 3))


def _convolution(before: int, after: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)


def _shortcut(before: int, after: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and before == after:
        return None
    return nn.Sequential(_convolution(before, after, 1, stride), nn.BatchNorm2d(after))


def _initialise(network: nn.Module, zero_last: bool) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif zero_last and isinstance(module, (BasicBlock, Bottleneck)):
            last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
            nn.init.zeros_(last.weight)
