"""What a view is: the distribution that augmentations are drawn from, as plain numbers.

`augment` says how views are made; this module knows no tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cognates.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """The augmentation distribution of one view, in the order in which it is applied."""

    size: int
    """Height and width of the view in pixels."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Range of the crop's share of the image's area; (1, 1) crops nothing."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width over height, drawn uniformly in its logarithm."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: float = 0.8
    """Probability of the colour jitter, whose four parts are drawn in a random order."""
    brightness: float = 0.4
    """Factor drawn from [1 - b, 1 + b]."""
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    """Shift drawn from [-h, h] turns of the colour circle; at most 0.5."""
    grey: float = 0.2
    """Probability of dropping colour."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation in pixels."""
    solarise: float = 0.0
    """Probability of inverting every value of at least 0.5."""

    def __post_init__(self) -> None:
        """Check ranges; a bad one is a `ConfigError` that names it."""
        if self.size < 1:
            raise ConfigError(f"Expected a view size of at least 1 pixel, got {self.size}.")
        for name in ("flip", "jitter", "grey", "blur", "solarise"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"Expected the probability '{name}' in [0, 1], got {value}.")
        for name in ("scale", "ratio", "sigma"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high:
                raise ConfigError(f"Expected 0 < low <= high for '{name}', got ({low}, {high}).")
        if self.scale[1] > 1.0:
            raise ConfigError(f"Expected a crop scale of at most 1, got {self.scale}.")
        for name, most in (
            ("brightness", 1.0),
            ("contrast", 1.0),
            ("saturation", 1.0),
            ("hue", 0.5),
        ):
            value = getattr(self, name)
            if not 0.0 <= value <= most:
                raise ConfigError(f"Expected '{name}' in [0, {most}], got {value}.")


def changing(views: Sequence[ViewSpec]) -> ViewSpec:
    """Return the first of a run's views that crops, else the first: what it learns to see past.

    The first view of CR-VAE is the image itself, in which nothing is drawn.

    Args:
        views: at least one.

    Example:
        >>> whole, cropped = crop_and_flip(28, scale=(1.0, 1.0)), crop_and_flip(28)
        >>> changing([whole, cropped]) is changing([cropped, whole]) is cropped
        True
    """
    return next((view for view in views if view.scale != (1.0, 1.0)), views[0])


def simsiam_imagenet(size: int) -> ViewSpec:
    """SimSiam's views for photographs: crop, jitter, grey, blur (Chen and He 2021, appendix A)."""
    return ViewSpec(size=size, blur=0.5)


def simsiam_cifar(size: int) -> ViewSpec:
    """SimSiam's views for small images: the same without blur (Chen and He 2021, appendix D)."""
    return ViewSpec(size=size)


def crop_and_flip(size: int, scale: tuple[float, float] = (0.2, 1.0)) -> ViewSpec:
    """Views for grey images: a resized crop and a flip, nothing about colour."""
    return ViewSpec(
        size=size,
        scale=scale,
        jitter=0.0,
        brightness=0.0,
        contrast=0.0,
        saturation=0.0,
        hue=0.0,
        grey=0.0,
    )


def grey_images(
    size: int, scale: tuple[float, float] = (0.2, 1.0), *, jitter: float = 0.8
) -> ViewSpec:
    """Views for grey images: a resized crop, a flip, and strong changes of brightness and contrast.

    Without the latter an encoder tells images apart by how bright they are: on 10,000 images of
    Fashion-MNIST the linear probe of VI-SimSiam fell behind raw pixels, with them it led.
    """
    return ViewSpec(
        size=size,
        scale=scale,
        jitter=jitter,
        brightness=0.8,
        contrast=0.8,
        saturation=0.0,
        hue=0.0,
        grey=0.0,
    )
