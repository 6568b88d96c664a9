"""A fully connected encoder for small images: the cheapest thing that can learn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cognates.errors import ConfigError

_LARGEST = 128
"""Above this image size the first layer alone would have more than 25 million parameters."""


class MLP(nn.Module):
    """Three linear layers on the flattened image, each with batch normalisation and ReLU.

    Args:
        channels: of the images, at least 1.
        image_size: height and width of the images in pixels, 1 to 128.
        width: features of every layer, at least 1.

    Returns:
        From `forward`: (n, width), of images (n, channels, image_size, image_size).

    Raises:
        ConfigError: a number is out of range, or an image has another shape.

    Example:
        >>> net = MLP(channels=1, image_size=28, width=64)
        >>> net(torch.zeros(2, 1, 28, 28)).shape, net.width
        (torch.Size([2, 64]), 64)
    """

    def __init__(self, *, channels: int = 1, image_size: int, width: int = 512) -> None:
        """Make the network; see the class for the arguments."""
        super().__init__()
        if channels < 1 or width < 1:
            raise ConfigError(
                f"Expected channels and width of at least 1, got {channels} and {width}."
            )
        if not 1 <= image_size <= _LARGEST:
            raise ConfigError(
                f"Expected an image size from 1 to {_LARGEST} for the encoder 'mlp', got "
                f"{image_size}: choose 'convnet' or a resnet."
            )
        self.shape, self.width = (channels, image_size, image_size), width
        modules: list[nn.Module] = [nn.Flatten()]
        before = channels * image_size**2
        for _ in range(3):
            modules += [nn.Linear(before, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
            before = width
        self.layers = nn.Sequential(*modules)

    def forward(self, images: Tensor) -> Tensor:
        """Return the representation (n, width) of images (n, c, h, w)."""
        if images.shape[1:] != torch.Size(self.shape):
            raise ConfigError(
                f"Expected images of shape {self.shape} for this mlp, got "
                f"{tuple(images.shape[1:])}: resize them, or make an mlp for that size."
            )
        return self.layers(images)
