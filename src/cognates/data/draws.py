"""The random half of a view: every number an augmentation needs, drawn before any pixel is touched.

Each image takes the same fixed amount of random numbers, whatever they decide, so that image i's
draw depends on the generator and on i alone. Drawn on the CPU for the global batch, a draw is the
same on every machine and however the batch is shared out.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from cognates.data.views import ViewSpec
from cognates.errors import ConfigError
from cognates.random import generator as folded_generator

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""The four parts of the colour jitter, as `ViewParameters.order` names them."""

_ORDERS = tuple(itertools.permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE)))
_NUMBERS = 15
"""Random numbers per image: area, ratio, x, y, flip, jitter and its order, four factors, grey,
blur, sigma, solarise."""


class ViewParameters(NamedTuple):
    """The drawn parameters of one view of each of n images: CPU tensors with leading axis n."""

    top: Tensor
    """(n,) int64: first row of the crop."""
    left: Tensor
    """(n,) int64: first column of the crop."""
    height: Tensor
    """(n,) int64: rows of the crop, at least 1."""
    width: Tensor
    """(n,) int64: columns of the crop, at least 1."""
    flip: Tensor
    """(n,) bool: mirrored left to right."""
    jitter: Tensor
    """(n,) bool: whether the four colour operations are applied."""
    order: Tensor
    """(n, 4) int64: the colour operations in the order of application, 0 brightness to 3 hue."""
    brightness: Tensor
    """(n,) float64 factor."""
    contrast: Tensor
    """(n,) float64 factor."""
    saturation: Tensor
    """(n,) float64 factor."""
    hue: Tensor
    """(n,) float64 shift in turns of the colour circle."""
    grey: Tensor
    """(n,) bool"""
    blur: Tensor
    """(n,) bool"""
    sigma: Tensor
    """(n,) float64: standard deviation of the blur in pixels of the view."""
    solarise: Tensor
    """(n,) bool"""

    def rows(self, start: int, stop: int) -> ViewParameters:
        """Return the parameters of images start to stop - 1: one process's share of a draw."""
        return ViewParameters(*(field[start:stop] for field in self))

    def expand(self, n: int) -> ViewParameters:
        """Return the parameters of a single image repeated for n images, without copying.

        Raises:
            ConfigError: the parameters are not those of one image.
        """
        if len(self.top) != 1:
            raise ConfigError(
                f"Expected the parameters of one image to expand, got those of {len(self.top)}: "
                "pick one with rows(i, i + 1)."
            )
        return ViewParameters(*(field.expand(n, *field.shape[1:]) for field in self))


def draw(
    spec: ViewSpec, n: int, *, height: int, width: int, generator: torch.Generator
) -> ViewParameters:
    r"""Draw the parameters of one view for each of n images of height x width pixels.

    Crop law: area A = H W a with a uniform in `spec.scale`, ratio r log-uniform in `spec.ratio`;
    the box is round(sqrt(A r)) wide and round(sqrt(A / r)) high. Where it does not fit, the long
    side is cut to the image's and the short one becomes A over it: the ratio gives way, not the
    area. The position is uniform over the whole pixels at which the box fits.

    Args:
        spec: the distribution.
        n: images, at least 0.
        height: rows of the images that will be cropped, at least 1.
        width: columns of the images.
        generator: a CPU generator; 15 numbers per image are taken from it, image after image, so
            the first m images of a longer draw are those of a draw of m.

    Returns:
        Parameters of n images on the CPU.

    Raises:
        ConfigError: n is negative, the image has no pixels, or the generator is not on the CPU.

    Notes:
        torchvision draws box by box until one fits, up to ten times, and then takes a central crop.
        That needs a random amount of random numbers and disfavours large crops: with scale (.2, 1)
        and ratio (3/4, 4/3) one box in seven does not fit a square image, and the mean share of
        the area is .54 there against .60 here, where the area is uniform as written. With scale
        (1, 1) the view is the whole image.

    References:
        "Going deeper with convolutions" (Szegedy et al., 2014), https://arxiv.org/abs/1409.4842,
        section 6, for the resized crop.

    Example:
        >>> spec = ViewSpec(size=32)
        >>> generator = torch.Generator().manual_seed(0)
        >>> parameters = draw(spec, 4, height=36, width=36, generator=generator)
        >>> parameters.order.shape
        torch.Size([4, 4])
    """
    if n < 0 or height < 1 or width < 1:
        raise ConfigError(
            f"Expected n >= 0 images of at least 1 x 1 pixels, got {n} of {height} x {width}."
        )
    if generator.device.type != "cpu":
        raise ConfigError(
            f"Expected a generator on the CPU, got one on {generator.device}: parameters are drawn "
            "there so that every machine draws the same."
        )
    numbers = torch.rand((n, _NUMBERS), generator=generator, dtype=torch.float64)
    area, ratio, x, y, flip, jitter, order, b, c, s, h, grey, blur, sigma, solarise = numbers.T
    top, left, box_height, box_width = _boxes(spec, (area, ratio, x, y), height, width)
    which = (order * len(_ORDERS)).long().clamp_(max=len(_ORDERS) - 1)
    return ViewParameters(
        top=top,
        left=left,
        height=box_height,
        width=box_width,
        flip=flip < spec.flip,
        jitter=jitter < spec.jitter,
        order=torch.tensor(_ORDERS)[which],
        brightness=1 + spec.brightness * (2 * b - 1),
        contrast=1 + spec.contrast * (2 * c - 1),
        saturation=1 + spec.saturation * (2 * s - 1),
        hue=spec.hue * (2 * h - 1),
        grey=grey < spec.grey,
        blur=blur < spec.blur,
        sigma=_between(sigma, *spec.sigma),
        solarise=solarise < spec.solarise,
    )


def fixed_draws(
    spec: ViewSpec, views: int, *, height: int, width: int, seed: int = 0
) -> tuple[ViewParameters, ...]:
    r"""Draw parameter sets that all images share, each the parameters of one image.

    Scores such as `view-disagreement` must be free of the batch an image comes in: every image
    gets the same `views` boxes and colours, `fixed_draws(...)[k].expand(n)`.

    Args:
        spec: the distribution, as in training.
        views: how many sets, at least 1.
        height: rows of the images.
        width: columns of the images.
        seed: set k is a function of (spec, k, height, width, seed).

    Returns:
        `views` parameter sets of one image each.

    Raises:
        ConfigError: `views` is less than 1.

    Example:
        >>> sets = fixed_draws(ViewSpec(size=32), 8, height=36, width=36)
        >>> len(sets), sets[0].expand(5).flip.shape
        (8, torch.Size([5]))
    """
    if views < 1:
        raise ConfigError(f"Expected at least 1 shared view, got {views}.")
    source = folded_generator(seed, "fixed views")
    drawn = draw(spec, views, height=height, width=width, generator=source)
    return tuple(drawn.rows(k, k + 1) for k in range(views))


def certain(spec: ViewSpec, *, centre: int, height: int, width: int) -> ViewParameters:
    r"""Return the one view of a distribution in which nothing is drawn: the kind of image it makes.

    What happens to every image happens: flip, grey, blur and solarise of probability 1, the blur
    at the middle of its range. What differs from draw to draw is left out: other probabilities, the
    jitter, whose factors lie around those that change nothing, and the crop, in place of which
    stands the centre, as in `augment.test_view`.

    Args:
        spec: the distribution, as in training.
        centre: height and width of the centre in pixels, at most those of the image.
        height: rows of the images.
        width: columns of the images.

    Returns:
        The parameters of one image, to `expand`.

    Raises:
        ConfigError: the images are smaller than the centre.

    Example:
        >>> grey = ViewSpec(size=20, grey=1.0, blur=0.5)
        >>> parameters = certain(grey, centre=28, height=32, width=32)
        >>> parameters.grey.item(), parameters.blur.item(), parameters.top.item()
        (True, False, 2)
    """
    if not 1 <= centre <= min(height, width):
        raise ConfigError(
            f"Expected a centre of 1 to {min(height, width)} pixels, got {centre}: store the "
            "images larger."
        )
    whole = {"top": (height - centre) // 2, "left": (width - centre) // 2}
    whole |= {"height": centre, "width": centre}
    sure = {name: getattr(spec, name) == 1.0 for name in ("flip", "grey", "blur", "solarise")}
    factors = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    factors["sigma"] = sum(spec.sigma) / 2
    return ViewParameters(
        jitter=torch.tensor([False]),
        order=torch.tensor(_ORDERS[:1]),
        **{name: torch.tensor([value]) for name, value in (whole | sure).items()},
        **{name: torch.tensor([value], dtype=torch.float64) for name, value in factors.items()},
    )


def _boxes(
    spec: ViewSpec, numbers: tuple[Tensor, Tensor, Tensor, Tensor], height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    area, ratio, x, y = numbers
    pixels = height * width * _between(area, *spec.scale)
    shape = _between(ratio, math.log(spec.ratio[0]), math.log(spec.ratio[1])).exp()
    # The ratios at which a box of this area is as high, or as wide, as the image.
    shape = shape.clamp(min=pixels / height**2, max=width**2 / pixels)
    box_width = (pixels * shape).sqrt().round().long().clamp(1, width)
    box_height = (pixels / shape).sqrt().round().long().clamp(1, height)
    left = (x * (width - box_width + 1)).long().clamp(max=width - box_width)
    top = (y * (height - box_height + 1)).long().clamp(max=height - box_height)
    return top, left, box_height, box_width


def _between(uniform: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * uniform
