"""Encoders that keep where things are: what a decoder needs to draw the image again.

Global average pooling, with which the other encoders end, forgets positions; these flatten their
last feature maps instead. Two of them are built like the networks of SimVE's released code.
Parameters, with the linear layer to 2 d outputs that `PosteriorHead` adds:

    vae-mlp       784-2000-500-500, d = 10, 28 x 28 x 1    2,831,020    released: 2,831,020
    vae-resnet    d = 64, 32 x 32 x 3                        969,920    released:   969,920
    vae-resnet    d = 64, 64 x 64 x 3                      1,757,632    released: 1,757,632
    vae-convnet   d = 64, 32 x 32 x 3                        557,088    no counterpart

References:
    A Probabilistic Model behind Self-Supervised Learning (Bizeul, Schoelkopf and Allen, 2024),
    https://arxiv.org/abs/2402.01399.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cognates.errors import ConfigError
from cognates.networks.convnet import ConvNet
from cognates.networks.resnet import BasicBlock

HIDDEN = (2000, 500, 500)
"""Features between the layers of the released MLP, from the image inwards."""
_LARGEST = 128
"""Above this image size the first layer of the MLP alone would have 98 million parameters."""
_GRID = 4
"""Side of the feature maps that the convolutional network flattens: at most 4 x 4."""
_STEM = 32
"""Largest image size, in pixels, with the 3x3 stem; above it the released stem is 4x4."""


class SpatialMLP(nn.Module):
    """Linear layers on the flattened image, each with ReLU and without normalisation.

    Args:
        channels: of the images, at least 1.
        image_size: height and width of the images in pixels, 1 to 128.

    Returns:
        From `forward`: (n, 500), of images (n, channels, image_size, image_size).

    Raises:
        ConfigError: a number is out of range, or an image has another shape.

    Example:
        >>> SpatialMLP(channels=1, image_size=8)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 500])
    """

    def __init__(self, *, channels: int = 1, image_size: int) -> None:
        """Make the network; see the class for the arguments."""
        super().__init__()
        if channels < 1 or not 1 <= image_size <= _LARGEST:
            raise ConfigError(
                f"Expected at least 1 channel and an image size from 1 to {_LARGEST} for the "
                f"encoder 'vae-mlp', got {channels} and {image_size}: choose 'vae-convnet'."
            )
        self.shape, self.width = (channels, image_size, image_size), HIDDEN[-1]
        modules: list[nn.Module] = [nn.Flatten()]
        before = channels * image_size**2
        for width in HIDDEN:
            modules += [nn.Linear(before, width), nn.ReLU()]
            before = width
        self.layers = nn.Sequential(*modules)

    def forward(self, images: Tensor) -> Tensor:
        """Return the representation (n, 500) of images (n, c, h, w)."""
        require_shape(images, self.shape)
        return self.layers(images)


class SpatialConvNet(nn.Module):
    """The layers of `ConvNet`, whose maps are averaged to at most 4 x 4 and flattened: fast.

    Args:
        channels: of the images, at least 1.
        image_size: height and width of the images in pixels, at least 1.

    Returns:
        From `forward`: (n, 256 s^2) with s = min(4, ceil(image_size / 16)).

    Raises:
        ConfigError: a number is below 1, or an image has another shape.

    Example:
        >>> SpatialConvNet(image_size=28)(torch.zeros(2, 3, 28, 28)).shape
        torch.Size([2, 1024])
    """

    def __init__(self, *, channels: int = 3, image_size: int) -> None:
        """Make the network; see the class for the arguments."""
        super().__init__()
        if image_size < 1:
            raise ConfigError(f"Expected an image size of at least 1, got {image_size}.")
        network = ConvNet(channels=channels)
        self.layers = network.layers
        self.shape = (channels, image_size, image_size)
        self.side = min(_GRID, -(-image_size // 16))  # four strides of 2
        self.width = network.width * self.side**2

    def forward(self, images: Tensor) -> Tensor:
        """Return the representation (n, width) of images (n, c, h, w)."""
        require_shape(images, self.shape)
        x = images
        for layer in self.layers:
            x = layer(x.contiguous(memory_format=torch.channels_last))
        return functional.adaptive_avg_pool2d(x, self.side).flatten(1)


class SpatialResNet(nn.Module):
    """A narrow residual network of three stages without global pooling, as SimVE's released code.

    An unpadded convolution to 64 channels and max-pooling, then two basic blocks each of 32, 64 and
    128 channels.

    Args:
        channels: of the images, at least 1.
        image_size: height and width of the images in pixels, at least 8.

    Returns:
        From `forward`: (n, 128 s^2), s = 4 for 32 pixels and 8 for 64.

    Raises:
        ConfigError: a number is out of range, or an image has another shape.

    Example:
        >>> SpatialResNet(image_size=32)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 2048])
    """

    def __init__(self, *, channels: int = 3, image_size: int) -> None:
        """Make the network; see the class for the arguments."""
        super().__init__()
        if channels < 1 or image_size < 8:
            raise ConfigError(
                "Expected at least 1 channel and an image size of at least 8 for the encoder "
                f"'vae-resnet', got {channels} and {image_size}."
            )
        self.shape = (channels, image_size, image_size)
        kernel = 3 if image_size <= _STEM else 4
        # The bias of the small stem is of no use before a batch norm; the counts are to agree.
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 64, kernel, bias=image_size <= _STEM),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        self.stages = nn.Sequential()
        before = 64
        for width, stride in ((32, 1), (64, 2), (128, 2)):
            self.stages.append(BasicBlock(before, width, stride))
            self.stages.append(BasicBlock(width, width, 1))
            before = width
        for module in self.stages.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        side = image_size - kernel + 1
        for _ in range(3):  # the pooling and two stages
            side = -(-side // 2)
        self.width = before * side**2

    def forward(self, images: Tensor) -> Tensor:
        """Return the representation (n, width) of images (n, c, h, w)."""
        require_shape(images, self.shape)
        return self.stages(self.stem(images)).flatten(1)


def require_shape(images: Tensor, shape: tuple[int, int, int]) -> None:
    """Require images (n, *shape); a flattened map of another size would not fit what follows."""
    if images.shape[1:] != torch.Size(shape):
        raise ConfigError(
            f"Expected images of shape {shape} for this encoder, got {tuple(images.shape[1:])}: "
            "resize them, or make an encoder for that size."
        )
