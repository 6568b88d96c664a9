"""The colour operations of a view, with own factors and an own order for every image.

Brightness, contrast, saturation and a turn of hue are affine in the pixel and in the image's mean
pixel, so a chain of them, in any order, is one affine map per image:

    x <- clamp(A x + B mean(x), 0, 1),

worked out in 3 x 3 matrices from the drawn factors and applied in one pass, where operation after
operation takes some thirty. Two things differ from torchvision: values are clamped once, after the
last operation, and hue is turned about the axis of greys, where torchvision turns the hexagon of
HSV (`hue_turn` says by how much they differ). Pixels are (n, c, p): nothing here knows where a
pixel lies.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cognates.data.draws import CONTRAST, ViewParameters

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey: ITU-R BT.601, as in Pillow and torchvision."""


class ColourMaps(NamedTuple):
    """What becomes of an image's colours: x <- clamp(pixel x + mean mean(x), 0, 1)."""

    pixel: Tensor
    """(n, c, c): A."""
    mean: Tensor
    """(n, c, c): B."""


def colour_maps(
    parameters: ViewParameters, *, channels: int, device: torch.device, dtype: torch.dtype
) -> ColourMaps | None:
    r"""Return the map that an image's jitter and grey amount to, or None where no image changes.

    With grey(x) = l . x and J = 1 l^T: brightness b is b I, saturation s is s I + (1 - s) J, hue
    `hue_turn`, grey J; contrast k blends with the grey of the mean, (A, B) <- (k A, k B + (1 - k)
    J (A + B)), because the mean of A x + B mean(x) is (A + B) mean(x).

    Args:
        parameters: of n images, on the CPU.
        channels: 3, or 1: then saturation, hue and grey do nothing.
        device: of the maps.
        dtype: of the maps; they are worked out in float64.

    Returns:
        The maps of all images, the identity for those that are not changed.

    Example:
        >>> from cognates.data.draws import draw
        >>> from cognates.data.views import ViewSpec
        >>> spec = ViewSpec(size=8, jitter=0, grey=1)
        >>> parameters = draw(spec, 1, height=8, width=8, generator=torch.Generator())
        >>> kind = {"device": torch.device("cpu"), "dtype": torch.float32}
        >>> colour_maps(parameters, channels=3, **kind).pixel[0, 0]
        tensor([0.2990, 0.5870, 0.1140])
    """
    grey = parameters.grey & (channels == 3)
    if not bool((parameters.jitter | grey).any()):
        return None
    luma = torch.tensor(LUMA if channels == 3 else (1.0,), dtype=torch.float64)
    blend, same = luma.expand(channels, channels), torch.eye(channels, dtype=torch.float64)
    brightness, contrast, saturation = (
        torch.where(parameters.jitter, factor, 1.0).view(-1, 1, 1)
        for factor in (parameters.brightness, parameters.contrast, parameters.saturation)
    )
    saturate = saturation * same + (1 - saturation) * blend
    turn = torch.where(parameters.jitter, parameters.hue, 0.0)
    turn = hue_turn(turn) if channels == 3 else torch.ones_like(saturate)
    operations = torch.stack([brightness * same, contrast * same, saturate, turn], dim=1)
    towards_mean = (1 - contrast) * blend
    pixel, mean = same.expand_as(turn), torch.zeros_like(turn)
    image = torch.arange(len(turn))
    for operation in parameters.order.unbind(1):
        contrasted = (operation == CONTRAST).view(-1, 1, 1)
        target = torch.where(contrasted, towards_mean @ (pixel + mean), 0.0)
        chosen = operations[image, operation]
        pixel, mean = chosen @ pixel, chosen @ mean + target
    greyed = grey.view(-1, 1, 1)
    pixel = torch.where(greyed, blend @ pixel, pixel)
    mean = torch.where(greyed, blend @ mean, mean)
    return ColourMaps(pixel.to(device, dtype), mean.to(device, dtype))


def recolour(pixels: Tensor, maps: ColourMaps) -> Tensor:
    r"""Apply the map of each image.

    Args:
        pixels: (m, c, p) in [0, 1].
        maps: of these m images.

    Returns:
        (m, c, p) in [0, 1].
    """
    shift = torch.bmm(maps.mean, pixels.mean(dim=2, keepdim=True))
    return torch.baddbmm(shift, maps.pixel, pixels).clamp_(0, 1)


def hue_turn(shift: Tensor) -> Tensor:
    r"""Return the rotations of red, green and blue about the axis of greys.

    With t = 2 pi shift: cos t I + (1 - cos t) / 3 + sin t / sqrt(3) [[0, -1, 1], [1, 0, -1],
    [-1, 1, 0]]. Thirds of a turn exchange the channels, as in HSV. The mean of the three channels
    stays, while HSV keeps the largest: over uniform colours and shifts in [-.1, .1] the two differ
    by .038 in the mean (the shift itself changes a channel by .050), over colours of a third of
    that saturation by .013 (.017).

    Args:
        shift: (n,) in turns of the colour circle.

    Returns:
        (n, 3, 3).

    Example:
        >>> hue_turn(torch.tensor([1 / 3]))[0].round().abs()
        tensor([[0., 0., 1.],
                [1., 0., 0.],
                [0., 1., 0.]])
    """
    angle = (2 * math.pi * shift).view(-1, 1, 1)
    cross = shift.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    same = torch.eye(3, dtype=shift.dtype, device=shift.device)
    return angle.cos() * same + (1 - angle.cos()) / 3 + angle.sin() * cross


def solarise(pixels: Tensor) -> Tensor:
    """Invert the values of at least 1/2; of x and 1 - x that leaves the smaller."""
    return torch.minimum(pixels, 1 - pixels)
