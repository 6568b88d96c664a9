"""A small convolutional encoder that trains fast on a CPU.

Five 3x3 convolutions in four stages of 32, 64, 128 and 256 channels, each stage at half the
resolution of the one before; each convolution with batch normalisation and ReLU; then global
average pooling. 6.1 million multiply-adds for a 32x32x3 image, 0.43 million parameters. The first
convolution has a stride of 2 already: at full resolution even a layer with little arithmetic moves
much memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cognates.errors import ConfigError

_LAYERS = ((1, 2), (2, 2), (2, 1), (4, 2), (8, 2))
"""(channels as a multiple of the first stage's, stride)"""


class ConvNet(nn.Module):
    """A plain convolutional network in four stages.

    Args:
        channels: of the images, at least 1.
        width: channels of the first stage, at least 1; the output is 8 times as wide.

    Returns:
        From `forward`: (n, 8 width), of images (n, channels, h, w) of any size.

    Raises:
        ConfigError: a number is below 1.

    Example:
        >>> net = ConvNet(channels=3)
        >>> net(torch.zeros(2, 3, 32, 32)).shape, net.width
        (torch.Size([2, 256]), 256)
    """

    def __init__(self, *, channels: int = 3, width: int = 32) -> None:
        """Make the network; see the class for the arguments."""
        super().__init__()
        if channels < 1 or width < 1:
            raise ConfigError(
                f"Expected channels and width of at least 1, got {channels} and {width}."
            )
        self.channels, self.width = channels, 8 * width
        self.layers = nn.ModuleList()
        before = channels
        for multiple, stride in _LAYERS:
            self.layers.append(_layer(before, multiple * width, stride))
            before = multiple * width

    def forward(self, images: Tensor) -> Tensor:
        """Return the representation (n, 8 width) of images (n, c, h, w)."""
        x = images
        for layer in self.layers:
            # Channels last is faster on a CPU. Asked for before every layer, because the layout of
            # a one-channel image is ambiguous; where it holds already this costs nothing.
            x = layer(x.contiguous(memory_format=torch.channels_last))
        return x.mean((2, 3))


def _layer(before: int, after: int, stride: int) -> nn.Sequential:
    # PyTorch's initial weights, not the larger ones of He's rule: under batch normalisation the
    # smaller the weight, the larger the step, and short runs learn more.
    convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))
