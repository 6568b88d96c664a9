"""The colour operations of a view, with an own factor and an own order for every image.

All are exact, clamped after every operation as torchvision does, in floating point: brightness
blends with black, contrast with the image's mean grey, saturation with the grey image, and hue
turns the hexagon of HSV. The first three are one formula with different constants,

    x <- clamp(a x + w grey(x) + b, 0, 1),

so a batch in which every image has its own order takes three rounds of it, with hue in between for
the images whose turn it is. Pixels are (n, c, p): nothing here knows where a pixel lies.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cognates.data.draws import CONTRAST, HUE, SATURATION, ViewParameters

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey: ITU-R BT.601, as in Pillow and torchvision."""


class JitterPlan(NamedTuple):
    """What the colour jitter does to a batch whose images are sorted by `jitter_order`."""

    turns: tuple[slice, ...]
    """The images whose hue is turned before round 0, 1, 2 and after it; no other is jittered."""
    hue: Tensor
    """(n,) shift in turns."""
    turned: tuple[bool, ...]
    """Whether any image of each slice is turned at all."""
    gain: Tensor
    """(3, n, 1, 1): a of each round."""
    towards_grey: Tensor
    """(3, n, 1, c): w of each round, times the channels' weights in grey."""
    towards_mean: Tensor
    """(3, n, 1, c): b of each round over the channels' means."""

    @property
    def jittered(self) -> int:
        """How many images are jittered: the first of the sorted ones."""
        return self.turns[-1].stop


def jitter_order(parameters: ViewParameters) -> Tensor:
    """Return (n,) positions that sort images by when their hue is turned, the unjittered last.

    Example:
        >>> from cognates.data.draws import draw
        >>> from cognates.data.views import ViewSpec
        >>> spec, generator = ViewSpec(size=8, jitter=0.5), torch.Generator()
        >>> parameters = draw(spec, 100, height=8, width=8, generator=generator)
        >>> jitter = parameters.jitter[jitter_order(parameters)].int()
        >>> bool((jitter.diff() <= 0).all())
        True
    """
    return torch.argsort(_hue_turn(parameters), stable=True)


def plan_jitter(
    parameters: ViewParameters, *, channels: int, device: torch.device, dtype: torch.dtype
) -> JitterPlan:
    """Return the plan for sorted images: what depends on the parameters and on no pixel.

    Args:
        parameters: in the order of `jitter_order`.
        channels: 3, or 1: then saturation and hue do nothing.
        device: of the plan's tensors.
        dtype: of the plan's tensors.

    Returns:
        The plan of all images, of which `jitter_` applies any slice.
    """
    ends = torch.bincount(_hue_turn(parameters), minlength=5)[:4].cumsum(0).tolist()
    turns = tuple(slice(a, b) for a, b in zip([0, *ends[:3]], ends, strict=True))
    operations = parameters.order[parameters.order != HUE].view(-1, 3)
    factors = torch.stack([parameters.brightness, parameters.contrast, parameters.saturation], 1)
    gain = factors.gather(1, operations)
    to_grey = torch.where(operations == SATURATION, 1 - gain, 0.0)
    to_mean = torch.where(operations == CONTRAST, 1 - gain, 0.0)
    if channels == 1:  # grey(x) = x
        gain, to_grey = gain + to_grey, torch.zeros_like(to_grey)
    luma = torch.tensor(LUMA if channels == 3 else (1.0,), dtype=torch.float64)
    gain, to_grey, to_mean = (part.T[..., None, None] for part in (gain, to_grey, to_mean))
    return JitterPlan(
        turns=turns,
        hue=parameters.hue.to(device, dtype),
        turned=tuple(channels == 3 and bool(parameters.hue[turn].any()) for turn in turns),
        gain=gain.to(device, dtype),
        towards_grey=(to_grey * luma).to(device, dtype),
        towards_mean=(to_mean * luma).to(device, dtype),
    )


def jitter_(pixels: Tensor, plan: JitterPlan, *, start: int = 0) -> Tensor:
    r"""Jitter the colours of images in place.

    Args:
        pixels: (m, c, p) contiguous, in [0, 1].
        plan: of a batch of which these are images start to start + m - 1.
        start: position of the first image in the plan.

    Returns:
        `pixels`.
    """
    m = len(pixels)
    edges = [min(max(turn.stop - start, 0), m) for turn in plan.turns]
    jittered, rows = pixels[: edges[3]], slice(start, start + edges[3])
    for step, (first, last) in enumerate(zip([0, *edges[:3]], edges, strict=True)):
        if plan.turned[step] and first < last:
            turn_hue_(pixels[first:last], plan.hue[start + first : start + last])
        if step < 3 and edges[3]:
            bias = torch.bmm(plan.towards_mean[step, rows], jittered.mean(dim=2, keepdim=True))
            blended = torch.baddbmm(bias, plan.towards_grey[step, rows], jittered)
            torch.addcmul(blended, jittered, plan.gain[step, rows], out=jittered).clamp_(0, 1)
    return pixels


def turn_hue_(pixels: Tensor, shift: Tensor) -> Tensor:
    r"""Shift the hue of every image in place, keeping HSV's value and saturation.

    With M, m the largest and smallest channel, C = M - m, H in [0, 6) the shifted hue in sixths of
    a turn and [.] a clamp to [0, 1]: red, green, blue = m + C [|H - 3| - 1], m + C [2 - |H - 2|],
    m + C [2 - |H - 4|].

    Args:
        pixels: (n, 3, p) in [0, 1].
        shift: (n,) in turns.

    Returns:
        `pixels`, as a conversion to HSV and back gives them (to rounding: 1e-6 in float32).

    References:
        "Color gamut transform pairs" (Smith, 1978), https://doi.org/10.1145/965139.807361.

    Example:
        >>> red = torch.tensor([[[1.0], [0.0], [0.0]]])
        >>> turn_hue_(red, torch.tensor([1 / 3])).flatten().round()
        tensor([0., 1., 0.])
    """
    red, green, blue = pixels.unbind(1)
    low = pixels.amin(1)
    chroma = pixels.amax(1).sub_(low)
    # With r, g, b from 0 to 1 after (x - m) / C, hue minus half a turn is 2 + r - g - b sixths, up
    # where blue exceeds green and down where it does not: sector by sector the definition of HSV.
    hue = torch.sub(red, green).sub_(blue).add_(low)
    spare = torch.sub(blue, green)
    sixths = chroma.mul_(6)
    hue.div_(sixths.clamp(min=1e-12))  # a grey pixel has no hue, and 0 / 1e-12 is as good as any
    hue.add_(1 / 3).copysign_(spare).add_(shift.view(-1, 1))
    hue.sub_(torch.round(hue, out=spare))
    # each channel rises or falls with the distance from the hue where it is least or greatest
    torch.abs(hue, out=red)
    torch.add(hue, 1 / 6, out=green).abs_()
    torch.sub(hue, 1 / 6, out=blue).abs_()
    pixels.clamp_(1 / 6, 1 / 3)
    rising = torch.add(low, sixths, alpha=-1 / 6, out=spare)
    torch.addcmul(rising, sixths, red, out=red)
    falling = low.add_(sixths, alpha=1 / 3).unsqueeze(1)
    others = pixels[:, 1:]
    torch.addcmul(falling, sixths.unsqueeze(1), others, value=-1, out=others)
    return pixels


def grey(pixels: Tensor) -> Tensor:
    """Return the grey values (n, 1, p) of pixels (n, c, p); of one channel, the pixels."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def solarise(pixels: Tensor) -> Tensor:
    """Invert the values of at least 1/2; of x and 1 - x that leaves the smaller."""
    return torch.minimum(pixels, 1 - pixels)


def _hue_turn(parameters: ViewParameters) -> Tensor:
    """Return (n,) the place of hue among the four operations, or 4 without jitter."""
    place = (parameters.order == HUE).long().argmax(dim=1)
    return torch.where(parameters.jitter, place, 4)
