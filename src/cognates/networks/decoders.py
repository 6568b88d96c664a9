"""Decoders: from a latent to the logits of an image.

Each is the counterpart of an encoder in `networks.spatial`. Parameters:

    mlp       10-500-500-2000-784                  2,826,784    released by SimVE: 2,826,784
    resnet    d = 64, 32 x 32 x 3                  8,984,387    released: 8,984,393
    resnet    d = 64, 64 x 64 x 3                  9,383,747    released: 9,383,753
    convnet   d = 64, 32 x 32 x 3                    298,691    no counterpart

The released residual decoder has six parameters more, as many as a batch norm of three channels;
and its blocks without upsampling have no shortcut, which ours have: it needs no parameter.

References:
    A Probabilistic Model behind Self-Supervised Learning (Bizeul, Schoelkopf and Allen, 2024),
    https://arxiv.org/abs/2402.01399.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from cognates.errors import ConfigError, nearest
from cognates.networks.spatial import HIDDEN


class MLPDecoder(nn.Module):
    """Linear layers with ReLU in between, d-500-500-2000-(c h w).

    Args:
        channels: of the images, at least 1.
        image_size: height and width of the images in pixels, at least 1.
        latent_dim: d, at least 1.

    Returns:
        From `forward`: logits (n, channels, image_size, image_size) of latents (n, d).

    Example:
        >>> MLPDecoder(channels=1, image_size=8, latent_dim=4)(torch.zeros(2, 4)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, *, channels: int, image_size: int, latent_dim: int) -> None:
        """Make the network; see the class for the arguments."""
        super().__init__()
        sizes = [latent_dim, *reversed(HIDDEN), channels * image_size**2]
        modules: list[nn.Module] = []
        for before, after in pairwise(sizes):
            modules += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*modules[:-1])
        self.shape = (channels, image_size, image_size)

    def forward(self, z: Tensor) -> Tensor:
        """Return logits (n, c, h, w) of latents (n, d)."""
        return self.layers(z).unflatten(1, self.shape)


class ConvDecoder(nn.Module):
    """A linear layer and three transposed convolutions that double the side: fast on a CPU.

    Args:
        channels: of the images, at least 1.
        image_size: height and width in pixels, at least 1; other sizes than multiples of 8 are
            drawn larger and cropped in the middle.
        latent_dim: d, at least 1.

    Returns:
        From `forward`: logits (n, channels, image_size, image_size) of latents (n, d).

    Example:
        >>> ConvDecoder(channels=1, image_size=28, latent_dim=4)(torch.zeros(2, 4)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(self, *, channels: int, image_size: int, latent_dim: int) -> None:
        """Make the network; see the class for the arguments."""
        super().__init__()
        self.size, self.side = image_size, -(-image_size // 8)
        self.first = nn.Sequential(nn.Linear(latent_dim, 128 * self.side**2), nn.ReLU())
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, channels, 4, 2, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return logits (n, c, h, w) of latents (n, d)."""
        x = self.first(z).unflatten(1, (128, self.side, self.side))
        drawn = self.layers(x.contiguous(memory_format=torch.channels_last))
        start = (drawn.shape[-1] - self.size) // 2
        return drawn[..., start : start + self.size, start : start + self.size]


class TransposedBlock(nn.Module):
    """Two transposed 3x3 convolutions and a shortcut.

    The first convolution changes the width and, with a stride of 2, doubles the side.
    """

    def __init__(self, before: int, width: int, stride: int) -> None:
        """Make the block from `before` to `width` channels."""
        super().__init__()
        grow = stride - 1
        self.conv1 = nn.ConvTranspose2d(before, width, 3, stride, 1, grow, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.ConvTranspose2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.upsample: nn.Module = nn.Identity()
        if stride > 1 or before != width:
            self.upsample = nn.Sequential(
                nn.ConvTranspose2d(before, width, 1, stride, 0, grow, bias=False),
                nn.BatchNorm2d(width),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, width, stride h, stride w)."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.upsample(x))


class ResNetDecoder(nn.Module):
    """A residual network of transposed convolutions, from 512 channels to the image.

    Args:
        channels: of the images, at least 1.
        image_size: height and width in pixels, a multiple of 16.
        latent_dim: d, at least 1.

    Returns:
        From `forward`: logits (n, channels, image_size, image_size) of latents (n, d).

    Raises:
        ConfigError: the image size is no multiple of 16.

    Example:
        >>> ResNetDecoder(channels=3, image_size=16, latent_dim=4)(torch.zeros(2, 4)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(self, *, channels: int, image_size: int, latent_dim: int) -> None:
        """Make the network; see the class for the arguments."""
        super().__init__()
        if image_size % 16:
            raise ConfigError(
                "Expected an image size that is a multiple of 16 for the decoder 'resnet', got "
                f"{image_size}: choose the decoder 'convnet' or another size."
            )
        self.side = image_size // 16
        self.first = nn.Linear(latent_dim, 512 * self.side**2)
        self.stages = nn.Sequential()
        for before, width, stride in ((512, 256, 2), (256, 128, 2), (128, 64, 2), (64, 64, 1)):
            self.stages.append(TransposedBlock(before, before, 1))
            self.stages.append(TransposedBlock(before, width, stride))
        self.last = nn.ConvTranspose2d(64, channels, 7, 2, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Return logits (n, c, h, w) of latents (n, d)."""
        x = self.first(z).unflatten(1, (512, self.side, self.side))
        return self.last(self.stages(x))


_DECODERS: dict[str, type[MLPDecoder] | type[ConvDecoder] | type[ResNetDecoder]] = {
    "convnet": ConvDecoder,
    "mlp": MLPDecoder,
    "resnet": ResNetDecoder,
}


def decoder_names() -> list[str]:
    """Return the names of the decoders.

    Example:
        >>> decoder_names()
        ['convnet', 'mlp', 'resnet']
    """
    return list(_DECODERS)


def build_decoder(name: str, *, channels: int, image_size: int, latent_dim: int) -> nn.Module:
    """Make a decoder with random weights, drawn from torch's global generator.

    Args:
        name: one of `decoder_names()`.
        channels: of the images, at least 1.
        image_size: height and width of the images in pixels, at least 1.
        latent_dim: d, at least 1.

    Returns:
        A module (n, d) -> logits (n, channels, image_size, image_size).

    Raises:
        ConfigError: the name is unknown (the nearest one is offered) or a number does not fit.

    Example:
        >>> build_decoder("mlp", channels=1, image_size=8, latent_dim=4)(torch.zeros(2, 4)).shape
        torch.Size([2, 1, 8, 8])
    """
    if min(channels, image_size, latent_dim) < 1:
        raise ConfigError(
            f"Expected at least 1 channel, 1 pixel and 1 latent, got {channels}, {image_size} and "
            f"{latent_dim}."
        )
    if name not in _DECODERS:
        raise ConfigError(
            f"Expected the name of a decoder, got '{name}': {nearest(name, _DECODERS)}."
        )
    return _DECODERS[name](channels=channels, image_size=image_size, latent_dim=latent_dim)
