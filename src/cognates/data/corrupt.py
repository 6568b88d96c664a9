r"""Corruptions of growing severity, made in batches: noise, blur, occlusion, JPEG and others.

What is random about a corruption depends on (seed, corruption, image) alone: not on the batch an
image comes in, nor on the severity. So the noise of a higher severity is the same noise, louder,
and a larger patch covers the smaller one.

Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (Hendrycks and
Dietterich, 2019), https://arxiv.org/abs/1903.12261, is where noise, contrast, pixelation and JPEG
have their strengths from; its blur is in pixels of 224, this one a share of the side.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from cognates.errors import ConfigError, DataError, nearest
from cognates.random import fold_in, normal_of

if TYPE_CHECKING:
    import numpy as np

SEVERITIES = 5
"""Beside 0, which changes nothing."""


def corrupt(
    images: Tensor, corruption: str, severity: int, *, index: Tensor, seed: int = 0
) -> Tensor:
    r"""Return corrupted images.

    `noise`: x + s e, e standard normal per pixel and channel; `blur`: a Gaussian of deviation s
    times the longer side; `occlusion`: a mid-grey rectangle of s times height and width, anywhere
    inside; `contrast`: m + s (x - m), m the mean of each channel; `pixelation`: means over a grid
    of s times height and width; `jpeg`: Pillow's encoder at quality s. Results are cut to [0, 1].

    Args:
        images: (n, c, h, w), c 1 or 3, h and w at least 1: uint8, or floating point in [0, 1].
        corruption: one of `CORRUPTIONS`.
        severity: 0, which returns the images as they are, to 5.
        index: (n,) int64: which image each is, for example its position in the data set.
        seed: of what is random.

    Returns:
        Images of the same shape and dtype on the same device; uint8 is rounded. JPEG rounds to
        8 bits in any case.

    Raises:
        ConfigError: the corruption is not known, or the severity not one of 0 to 5.
        DataError: the images are of another shape or dtype, or `index` of another length.

    Example:
        >>> grey = torch.full((2, 1, 8, 8), 200, dtype=torch.uint8)
        >>> corrupt(grey, "occlusion", 5, index=torch.arange(2)).unique().tolist()
        [128, 200]
    """
    if corruption not in CORRUPTIONS:
        raise ConfigError(
            f"Expected a corruption, got '{corruption}': {nearest(corruption, [*CORRUPTIONS])}."
        )
    if not 0 <= severity <= SEVERITIES:
        raise ConfigError(f"Expected a severity from 0 to {SEVERITIES}, got {severity}.")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(index) != len(images):
        raise DataError(
            f"Expected images (n, 1 or 3, h, w) and n numbers of images, got {tuple(images.shape)} "
            f"and {len(index)}."
        )
    stored = images.dtype == torch.uint8
    if not stored and not images.is_floating_point():
        raise DataError(f"Expected images of uint8 or floating point, got {images.dtype}.")
    if severity == 0 or not len(images):
        return images
    kind = CORRUPTIONS[corruption]
    made = kind.apply(
        images.float() / 255 if stored else images,
        kind.strengths[severity - 1],
        index.to(images.device),
        fold_in(seed, "corruption", corruption),
    ).clamp(0, 1)
    return (made * 255).round().to(torch.uint8) if stored else made.to(images.dtype)


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """What is done to images, and how much of it."""

    apply: Callable[[Tensor, float, Tensor, int], Tensor]
    """Of images (n, c, h, w) in [0, 1], a strength, their numbers (n,) and the seed."""
    strengths: tuple[float, ...]
    """From severity 1 to 5."""


def blur(images: Tensor, strength: float) -> Tensor:
    """Return images (n, c, h, w) under a Gaussian; edges repeat.

    Args:
        images: floating point.
        strength: standard deviation over the longer side, at least 0.
    """
    sigma = strength * max(images.shape[-2:])
    if sigma == 0:
        return images
    radius = math.ceil(3 * sigma)  # beyond three standard deviations lies 0.3 % of the mass
    steps = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    padded = pad(images, (radius, radius, radius, radius), mode="replicate")
    rows = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    across = conv2d(padded, rows, groups=channels)
    return conv2d(across, rows.transpose(2, 3), groups=channels)


def uniform_of(index: Tensor, *shape: int, seed: int) -> Tensor:
    """Return float64 numbers in [0, 1], uniform, that depend on an image's number and the seed.

    Args:
        index: (n,) int64.
        shape: of what each image gets.
        seed: from `fold_in`, so that uses differ.

    Returns:
        (n, *shape), each the distribution function at a normal number of `random.normal_of`.

    Example:
        >>> uniform_of(torch.tensor([4, 4, 5]), seed=1).unique().shape
        torch.Size([2])
    """
    return torch.special.ndtr(normal_of(index, *shape, seed=seed, dtype=torch.float64))


def _noise(images: Tensor, strength: float, index: Tensor, seed: int) -> Tensor:
    noise = [
        normal_of(part, *images.shape[1:], seed=seed, dtype=images.dtype)
        for part in index.split(64)  # made in float64: 64 images of 3 x 224 x 224 take 0.4 GB
    ]
    return images + strength * torch.cat(noise)


def _blur(images: Tensor, strength: float, index: Tensor, seed: int) -> Tensor:
    del index, seed
    return blur(images, strength)


def _occlusion(images: Tensor, strength: float, index: Tensor, seed: int) -> Tensor:
    """Cover [u (h - s), u (h - s) + s), which lies within that of any larger s."""
    place = uniform_of(index, 2, seed=seed)
    inside = []
    for axis, length in enumerate(images.shape[-2:]):
        side = max(1, round(strength * length))
        start = (place[:, axis] * (length - side)).round()[:, None]
        at = torch.arange(length, device=images.device)
        inside.append((at >= start) & (at < start + side))
    rows, columns = inside
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], 0.5, images)


def _contrast(images: Tensor, strength: float, index: Tensor, seed: int) -> Tensor:
    del index, seed
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + strength * (images - mean)


def _pixelation(images: Tensor, strength: float, index: Tensor, seed: int) -> Tensor:
    del index, seed
    height, width = images.shape[-2:]
    coarse = (max(1, round(strength * height)), max(1, round(strength * width)))
    means = interpolate(images, size=coarse, mode="area")
    return interpolate(means, size=(height, width), mode="nearest-exact")


def _jpeg(images: Tensor, strength: float, index: Tensor, seed: int) -> Tensor:
    del index, seed
    eight_bit = (images * 255).round().to(torch.uint8).cpu().numpy()
    back = torch.stack(
        [torch.from_numpy(_through_jpeg(image, int(strength))) for image in eight_bit]
    )
    return back.to(images) / 255


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Return (c, h, w) uint8 as it comes back from a JPEG file."""
    import numpy as np
    from PIL import Image

    grey = len(image) == 1
    buffer = io.BytesIO()
    picture = Image.fromarray(image[0] if grey else np.ascontiguousarray(image.transpose(1, 2, 0)))
    picture.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as opened:
        array = np.array(opened)
    return array[None] if grey else np.ascontiguousarray(array.transpose(2, 0, 1))


CORRUPTIONS: dict[str, Corruption] = {
    # gaussian_noise, contrast, pixelate and jpeg_compression of ImageNet-C; contrast of CIFAR-10-C,
    # whose weakest step is still a change and whose strongest leaves something to see.
    "noise": Corruption(apply=_noise, strengths=(0.08, 0.12, 0.18, 0.26, 0.38)),
    # .6 to 2.8 pixels at 28, 4 to 22 at 224: below half a pixel a blur changes next to nothing.
    "blur": Corruption(apply=_blur, strengths=(0.02, 0.03, 0.045, 0.07, 0.1)),
    # From 4 % to 36 % of the area: what is left shows most objects in part.
    "occlusion": Corruption(apply=_occlusion, strengths=(0.2, 0.3, 0.4, 0.5, 0.6)),
    "contrast": Corruption(apply=_contrast, strengths=(0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelation": Corruption(apply=_pixelation, strengths=(0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": Corruption(apply=_jpeg, strengths=(25, 18, 15, 10, 7)),
}
"""By name; see `corrupt`."""
