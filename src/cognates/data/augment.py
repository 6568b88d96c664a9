"""How views are made: batched, on the images' device, with an own draw for every image.

`draws` holds the random half; here the drawn numbers are applied: resized crop and flip in one
resampling, colour jitter, grey, blur, solarise, normalise, in that order. What is made of an image
depends on its pixels and its parameters and on no other image: any slice of a batch gives exactly
that slice of the views.

Views leave in the channels-last memory format, in which convolutions on a CPU are fastest; the
last copy transposes anyway, so that costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cognates.data.colour import ColourMaps, colour_maps, recolour, solarise
from cognates.data.draws import ViewParameters, certain, draw, fixed_draws
from cognates.data.normalise import channel_statistics, normalisation
from cognates.data.resample import Taps, crop_taps, gaussian_taps, resample_rows, transpose
from cognates.data.views import ViewSpec
from cognates.errors import ConfigError
from cognates.random import generator as folded_generator

__all__ = [
    "ViewParameters",
    "apply",
    "certain",
    "channel_statistics",
    "draw",
    "fixed_draws",
    "make_views",
    "test_view",
]

_CHUNK, _FEWEST = 2**19, 16
"""How many values of views, and at least how many images, are worked on at once on a CPU: few
enough to stay in the cache over the passes that are made of them, and enough for the overhead of a
pass not to count (measured; a GPU takes the batch whole)."""

_Change = Callable[[Tensor, Tensor], Tensor]
"""(m, c, x, y) images and their (m,) sigmas to changed images."""


@torch.no_grad()
def apply(
    images: Tensor,
    parameters: ViewParameters,
    *,
    size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Make the views that `parameters` describe, one per image.

    Crop and flip: the antialiased bilinear filter of Pillow and torchvision on the cropped image.
    Colour: brightness, contrast, saturation, hue and grey as one affine map per image
    (`colour_maps`), clamped to [0, 1] once. Blur: a Gaussian window of a tenth of the size.
    Before `mean` and `std` every value is in [0, 1], also where no colour changes.
    Everything is computed in float32, or in float64 for float64 views, and rounded to `dtype` once,
    at the end.

    Args:
        images: (n, c, h, w) uint8, or floating point in [0, 1]; c is 1 or 3.
        parameters: of n images of h x w pixels; on one channel saturation, hue and grey are
            identities.
        size: height and width of the views in pixels.
        mean: per-channel mean that is subtracted, in [0, 1]; None: 0.
        std: per-channel standard deviation that is divided by; None: 1.
        dtype: of the views.

    Returns:
        (n, c, size, size) on the images' device, in channels-last memory format.

    Raises:
        ConfigError: shapes, the number of parameters, or mean and std do not fit the images, or a
            box leaves them.

    Notes:
        torchvision clamps after every colour operation, and its hue turns the hexagon of HSV. On
        smooth images with saturated colours, some of them at the ends of the range, the jitter
        (.4, .4, .4, .1) deviates from that by .036 in the mean and by less than .19 in 99 of 100
        values, where the jitter itself changes them by .129. torchvision's Pillow backend also
        rounds to eight bits after every operation.

    Example:
        >>> spec = ViewSpec(size=32)
        >>> parameters = draw(spec, 2, height=36, width=36, generator=torch.Generator())
        >>> images = torch.zeros(2, 3, 36, 36, dtype=torch.uint8)
        >>> apply(images, parameters, size=32, mean=None, std=None).shape
        torch.Size([2, 3, 32, 32])
    """
    _check(images, parameters, size)
    n, channels = images.shape[:2]
    device, compute = images.device, torch.float64 if dtype == torch.float64 else torch.float32
    factor, shift = normalisation(channels, mean, std, device=device, dtype=compute)
    rows, columns = _crops(images, parameters, size, compute)
    maps = colour_maps(parameters, channels=channels, device=device, dtype=compute)
    changes = _changes(parameters)
    views = torch.empty((n, size, size, channels), dtype=dtype, device=device)
    together = _together(images, size)
    for start in range(0, n, together):
        part = slice(start, min(start + together, n))
        made = images[part].to(compute, memory_format=torch.contiguous_format)
        made = transpose(resample_rows(made, rows.of(part)))
        made = resample_rows(made, columns.of(part))  # (m, c, x, y): columns before rows
        if maps is None:
            made.clamp_(0, 1)  # as `recolour` does: weights of taps sum to 1 up to rounding
        else:
            mapped = recolour(made.flatten(2), ColourMaps(*(kind[part] for kind in maps)))
            made = mapped.view_as(made)
        for flags, change in changes:
            _change_(made, flags[part], parameters.sigma[part], change)
        made.mul_(factor).add_(shift)
        views[part].copy_(made.permute(0, 3, 2, 1))
    return views.permute(0, 3, 1, 2)


def make_views(
    images: Tensor,
    specs: Sequence[ViewSpec],
    *,
    seed: int,
    step: int,
    n_global: int,
    start: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, ...]:
    r"""Make every view of a batch, or of this process's share of it.

    View k draws for the whole global batch from a generator folded from (seed, "views", step, k)
    and applies rows [start, start + n): the views of an image do not depend on how the batch is
    shared out.

    Args:
        images: (n, c, h, w) uint8 or floating point in [0, 1]: rows of the global batch.
        specs: one distribution per view.
        seed: the run's seed.
        step: the optimiser step.
        n_global: images in the global batch.
        start: position of the first of `images` in the global batch.
        mean: see `apply`.
        std: see `apply`.
        dtype: of the views.

    Returns:
        One tensor (n, c, size, size) per specification.

    Raises:
        ConfigError: the images do not lie in the global batch; otherwise as `apply`.

    Example:
        >>> images = torch.zeros(2, 3, 36, 36, dtype=torch.uint8)
        >>> specs = [ViewSpec(size=32), ViewSpec(size=16)]
        >>> kind = {"seed": 0, "step": 7, "mean": None, "std": None}
        >>> [view.shape[-1] for view in make_views(images, specs, n_global=8, start=2, **kind)]
        [32, 16]
    """
    n, _, height, width = images.shape
    if start < 0 or start + n > n_global:
        raise ConfigError(
            f"Expected images inside the global batch of {n_global}, got rows {start} to "
            f"{start + n}."
        )
    views = []
    for k, spec in enumerate(specs):
        source = folded_generator(seed, "views", step, k)
        drawn = draw(spec, n_global, height=height, width=width, generator=source)
        local = drawn.rows(start, start + n)
        views.append(apply(images, local, size=spec.size, mean=mean, std=std, dtype=dtype))
    return tuple(views)


@torch.no_grad()
def test_view(
    images: Tensor,
    *,
    size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dtype: torch.dtype = torch.float32,  # noqa: PT028  (a view, not a test)
) -> Tensor:
    r"""Return the view that evaluation sees: the central `size` x `size` pixels, normalised.

    Args:
        images: (n, c, h, w) uint8 or floating point in [0, 1], h and w at least `size`.
        size: height and width of the view; images of that size are taken whole.
        mean: see `apply`.
        std: see `apply`.
        dtype: of the view.

    Returns:
        (n, c, size, size) in channels-last memory format.

    Raises:
        ConfigError: the images are smaller than the view.

    Example:
        >>> images = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)
        >>> test_view(images, size=7, mean=[0.5], std=[0.5]).unique()
        tensor([1.])
    """
    height, width = images.shape[-2:]
    if size < 1 or min(height, width) < size:
        raise ConfigError(
            f"Expected a test view of 1 to {min(height, width)} pixels, got {size}: store the "
            "images larger."
        )
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    kind = {"device": images.device, "dtype": compute}
    factor, shift = normalisation(images.shape[1], mean, std, **kind)
    top, left = (height - size) // 2, (width - size) // 2
    centre = images[:, :, top : top + size, left : left + size]
    centre = centre.contiguous(memory_format=torch.channels_last).to(compute)
    if images.dtype == torch.uint8:
        centre = centre / 255
    return (centre * factor + shift).to(dtype)


def _together(images: Tensor, size: int) -> int:
    """Return how many images are worked on at once."""
    n, channels, height, width = images.shape
    if images.device.type != "cpu":
        return max(1, n)
    return max(_FEWEST, _CHUNK // (channels * max(size * size, height * width)))


def _crops(
    images: Tensor, parameters: ViewParameters, size: int, dtype: torch.dtype
) -> tuple[Taps, Taps]:
    box = torch.stack([parameters.top, parameters.height, parameters.left, parameters.width])
    most = box.amax(dim=1).tolist() if box.numel() else [0, 1, 0, 1]
    top, height, left, width = box.unsqueeze(-1).to(images.device, dtype)
    flip = parameters.flip.unsqueeze(-1).to(images.device)
    rows = crop_taps(top, height, size, most=most[1])
    columns = crop_taps(left, width, size, most=most[3], flip=flip)
    if images.dtype == torch.uint8:
        columns.weights.mul_(1 / 255)
    return rows, columns


def _changes(parameters: ViewParameters) -> list[tuple[Tensor, _Change]]:
    """Return which images change after their colours and how, leaving out what changes none."""
    changes: list[tuple[Tensor, _Change]] = [
        (parameters.blur, _blurred),
        (parameters.solarise, lambda some, _: solarise(some)),
    ]
    return [(flags, change) for flags, change in changes if bool(flags.any())]


def _change_(made: Tensor, flags: Tensor, sigma: Tensor, change: _Change) -> None:
    """Change the flagged images in place; the others cost nothing."""
    chosen = flags.nonzero().view(-1)
    if len(chosen):
        place = chosen.to(made.device)
        made.index_copy_(0, place, change(made.index_select(0, place), sigma[chosen]))


def _blurred(some: Tensor, sigma: Tensor) -> Tensor:
    taps = gaussian_taps(sigma.to(some), some.shape[-1])
    return transpose(resample_rows(transpose(resample_rows(some, taps)), taps)).clamp_(0, 1)


def _check(images: Tensor, parameters: ViewParameters, size: int) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:] or size < 1:
        raise ConfigError(
            "Expected images (n, c, h, w) with 1 or 3 channels and a view of at least 1 pixel, got "
            f"{tuple(images.shape)} and {size}."
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ConfigError(f"Expected images in uint8 or floating point, got {images.dtype}.")
    n, _, height, width = images.shape
    if len(parameters.top) != n:
        raise ConfigError(
            f"Expected parameters of {n} images, got {len(parameters.top)}: take the rows of the "
            "batch, or expand those of one image."
        )
    if n and (
        int((parameters.top + parameters.height).max()) > height
        or int((parameters.left + parameters.width).max()) > width
        or int(torch.minimum(parameters.top, parameters.left).min()) < 0
        or int(torch.minimum(parameters.height, parameters.width).min()) < 1
    ):
        raise ConfigError(
            f"Expected crop boxes inside images of {height} x {width} pixels: draw with the size "
            "of these images."
        )
