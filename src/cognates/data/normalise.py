"""Normalisation: mean and deviation of the training images' channels, and how to apply them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cognates.data.images import Images
from cognates.errors import ConfigError, DataError


def channel_statistics(
    images: Images, limit: int = 10_000
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    r"""Return each channel's mean and standard deviation over the pixels of the training images.

    Args:
        images: at least one image.
        limit: at most so many are read, evenly spaced over the data set.

    Returns:
        Mean and population standard deviation per channel, in [0, 1]; the latter at least 1e-3, so
        that constant images stay finite. Counted in whole numbers: the same on every machine.

    Raises:
        DataError: there is no image.

    Example:
        >>> pixels = np.zeros((2, 1, 4, 4), np.uint8)
        >>> channel_statistics(Images(pixels=pixels, dataset="black", split="train"))
        ((0.0,), (0.001,))
    """
    n = len(images)
    if n == 0:
        raise DataError("Expected at least one image to measure mean and deviation on, got none.")
    chosen = np.linspace(0, n - 1, min(n, limit)).round().astype(np.int64)
    channels = images.pixels.shape[1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for part in np.array_split(chosen, -(-len(chosen) // 256)):
        pixels = np.asarray(images.pixels[part])
        for channel in range(channels):
            counts[channel] += np.bincount(pixels[:, channel].reshape(-1), minlength=256)
    values = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(axis=1)
    std = np.maximum(np.sqrt(variance), 1e-3)
    return tuple(map(float, mean)), tuple(map(float, std))


def normalisation(
    channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    r"""Return factor and shift with which x factor + shift = (x - mean) / std.

    Args:
        channels: of the images.
        mean: one per channel; None: 0.
        std: one per channel, greater than 0; None: 1.
        device: of both results.
        dtype: of both results.

    Returns:
        Two tensors (1, c, 1, 1).

    Raises:
        ConfigError: there is not one mean and one positive deviation per channel.

    Example:
        >>> kind = {"device": torch.device("cpu"), "dtype": torch.float32}
        >>> factor, shift = normalisation(1, [0.5], [0.25], **kind)
        >>> factor.item(), shift.item()
        (4.0, -2.0)
    """
    mean = [0.0] * channels if mean is None else mean
    std = [1.0] * channels if std is None else std
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ConfigError(
            f"Expected a mean and a positive deviation for each of {channels} channel(s), got "
            f"{tuple(mean)} and {tuple(std)}."
        )
    factor = 1 / torch.tensor(list(std), dtype=torch.float64)
    shift = -torch.tensor(list(mean), dtype=torch.float64) * factor
    both = torch.stack([factor, shift]).view(2, 1, channels, 1, 1).to(device, dtype)
    return both[0], both[1]
