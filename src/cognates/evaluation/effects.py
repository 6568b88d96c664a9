"""What does each augmentation, alone and at a given strength, do to the uncertainty of an image?

After the study of augmentations in Representation Uncertainty in Self-Supervised Learning as
Variational Inference (Nakamura et al., 2023), https://arxiv.org/abs/2203.11437. The augmentations
are those of `cognates.data.augment`, one at a time, of the test view; the scores come from a sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cognates.data.augment import ViewParameters, apply
from cognates.data.corrupt import uniform_of
from cognates.errors import DataError
from cognates.evaluation import bootstrap
from cognates.evaluation.measures import Estimate
from cognates.evaluation.sweeps import (
    Change,
    drawn_like,
    same_images,
    sweep_name,
    swept_beside,
)
from cognates.evaluation.uncertainty import LABELLED, RANDOM, compared
from cognates.random import fold_in
from cognates.types import Features, Result

NAME = "augmentation-uncertainty"
AUGMENTED = "augmented-"
"""Before the name of an augmentation: the change of a sweep."""
CONCENTRATION = "concentration"
"""The score (d-1)/(kappa+d-1), from which kappa is read."""
UNCHANGED = "unchanged"
"""In place of an augmentation's name: the images as they are."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """One way to change an image, and how much."""

    strengths: tuple[float, ...]
    neutral: float
    """The strength that changes nothing."""
    unit: str
    """What a strength is."""
    fields: Callable[[float], Mapping[str, float]]
    """The fields of `ViewParameters` that a strength sets; a crop is made apart."""
    colour: bool = False
    """Whether it does nothing to images of one channel."""


def _factor(name: str, *, colour: bool = False) -> Augmentation:
    return Augmentation(
        # the ends of [1 - s, 1 + s] for the s of SimSiam, .4, and of SimCLR, .8
        strengths=(0.2, 0.6, 1.4, 1.8),
        neutral=1.0,
        unit="factor",
        fields=lambda strength: {"jitter": 1.0, name: strength},
        colour=colour,
    )


def _switch(name: str, *, colour: bool = False) -> Augmentation:
    return Augmentation(
        strengths=(1.0,),
        neutral=0.0,
        unit="no or yes",
        fields=lambda strength: {name: strength},
        colour=colour,
    )


AUGMENTATIONS = {
    # .2 and .08: the smallest crops of SimSiam and of SimCLR
    "crop": Augmentation(
        strengths=(0.8, 0.6, 0.4, 0.2, 0.08),
        neutral=1.0,
        unit="share of the area that is kept",
        fields=lambda strength: {},
    ),
    "flip": _switch("flip"),
    "brightness": _factor("brightness"),
    "contrast": _factor("contrast"),
    "saturation": _factor("saturation", colour=True),
    # the ends of [-h, h] for the h of SimSiam, .1, and of SimCLR, .2
    "hue": Augmentation(
        strengths=(-0.2, -0.1, 0.1, 0.2),
        neutral=0.0,
        unit="turns of the colour circle",
        fields=lambda strength: {"jitter": 1.0, "hue": strength},
        colour=True,
    ),
    "grey": _switch("grey", colour=True),
    # up to the largest sigma of SimSiam and SimCLR
    "blur": Augmentation(
        strengths=(0.5, 1.0, 1.5, 2.0),
        neutral=0.0,
        unit="standard deviation in pixels",
        fields=lambda strength: {"blur": 1.0, "sigma": strength},
    ),
    "solarise": _switch("solarise"),
}
"""Every augmentation of a `ViewSpec`, in the order in which they are made."""


def augmented(images: Tensor, name: str, strength: float, *, index: Tensor, seed: int) -> Tensor:
    r"""Return images under one augmentation of a fixed strength.

    A crop is square and lies anywhere: where belongs to the image and the seed, and a smaller crop
    lies within the larger one. Nothing else is drawn.

    Args:
        images: (n, c, s, s) floating point in [0, 1].
        name: one of `AUGMENTATIONS`.
        strength: in its unit; its neutral strength gives the images up to rounding.
        index: (n,) int64: which image each is.
        seed: of the places of crops.

    Returns:
        Images of the same shape, in [0, 1].

    Example:
        >>> left = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
        >>> augmented(left, "flip", 1.0, index=torch.tensor([0]), seed=0)[0, 0, 0].tolist()
        [1.0, 0.0]
    """
    n, size = len(images), images.shape[-1]
    parameters = _unchanged(n, size)
    if name == "crop":
        side = max(1, round(strength**0.5 * size))
        place = uniform_of(index.cpu(), 2, seed=fold_in(seed, NAME, name))
        corner = (place * (size - side)).round().long()
        sides = torch.full((n,), side)
        parameters = parameters._replace(
            top=corner[:, 0], left=corner[:, 1], height=sides, width=sides
        )
    for field, value in AUGMENTATIONS[name].fields(strength).items():
        like = getattr(parameters, field)
        parameters = parameters._replace(**{field: torch.full_like(like, value)})
    return apply(images, parameters, size=size, mean=None, std=None, dtype=images.dtype)


def _unchanged(n: int, size: int) -> ViewParameters:
    zero, no = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.bool)
    one = torch.ones(n, dtype=torch.float64)
    return ViewParameters(
        top=zero,
        left=zero,
        height=zero + size,
        width=zero + size,
        flip=no,
        jitter=no,
        order=torch.arange(4).expand(n, 4),
        brightness=one,
        contrast=one,
        saturation=one,
        hue=0 * one,
        grey=no,
        blur=no,
        sigma=one,
        solarise=no,
    )


def changes(channels: int) -> dict[str, Change]:
    """Return the augmentations as changes of a sweep, as far as they change such images.

    Example:
        >>> len(changes(3)), len(changes(1))
        (9, 6)
    """

    def make(name: str, images: Tensor, level: float, index: Tensor, seed: int) -> Tensor:
        strength = AUGMENTATIONS[name].strengths[int(level) - 1]
        return augmented(images, name, strength, index=index, seed=seed)

    return {
        f"{AUGMENTED}{name}": Change(
            apply=partial(make, name),
            levels=tuple(float(level) for level in range(len(kind.strengths) + 1)),
            depends=repr((kind.strengths, kind.unit)),
        )
        for name, kind in AUGMENTATIONS.items()
        if channels > 1 or not kind.colour
    }


def augmentation_uncertainty(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    r"""Protocol `augmentation-uncertainty`: the uncertainty of images under one augmentation each.

    Metrics, for the augmentation A and the number S of its strength, from 1 on: `A/uncertainty-S`,
    the mean of the default score; `A/rise-S`, the mean over images of u(augmented) - u(image), with
    a paired interval; `A/kappa-S`, for a method with a `concentration`, the mean of
    kappa / (d - 1) = 1/u - 1 of that score, which is free of the dimension d; and
    `A/less-certain-S/SCORE`, the share of images with u(image) < u(augmented), in which a tie
    counts as a failure, with the default's paired differences
    `A/less-certain-S/default-minus-SCORE` to the scores that need no labels.
    `unchanged/uncertainty` and `unchanged/kappa` are of the images as they are.

    Args:
        train: not used.
        test: not used.
        seed: of the resamples and the random score.
        others: `augmented-A-test` and `augmented-A-SCORE-test`, as the sweep makes them.

    Returns:
        Records, the strength and its unit in `settings`; uncertainties in the unit of the default
        score, shares as fractions. `view-disagreement` is of few images, and compared on these
        alone.

    Raises:
        DataError: there is no sweep.
    """
    del train, test
    others = others or {}
    results = []
    for name, kind in AUGMENTATIONS.items():
        change = f"{AUGMENTED}{name}"
        own = others.get(sweep_name(change, "", ""))
        if own is None:
            continue
        default = str(own.default_score)
        beside = {
            score: others[sweep_name(change, score, default)]
            for score in swept_beside(change, default, others)
        }
        beside[RANDOM] = drawn_like(own, change, seed)
        concentration = own if default == CONCENTRATION else beside.get(CONCENTRATION)
        if not results:
            results += _unaugmented(own, concentration, seed)
        for level, strength in enumerate(kind.strengths, start=1):
            settings = {"strength": strength, "neutral": kind.neutral, "unit": kind.unit}
            results += _means(name, level, own, concentration, seed, settings)
            results += _shares(name, level, own, beside, seed, settings)
    if not results:
        raise DataError(
            f"Expected the scores of a sweep over augmentations ('{AUGMENTED}crop-test'), got "
            "none: make them with cognates.evaluation.sweeps.sweep."
        )
    return results


def _unaugmented(own: Features, concentration: Features | None, seed: int) -> list[Result]:
    values = {"uncertainty": own.scores["0.00"]}
    if concentration is not None:
        values["kappa"] = _kappa(concentration.scores["0.00"])
    return [
        _mean(f"{UNCHANGED}/{metric}", numbers, own, seed, {}) for metric, numbers in values.items()
    ]


def _means(
    name: str,
    level: int,
    own: Features,
    concentration: Features | None,
    seed: int,
    settings: Mapping[str, object],
) -> list[Result]:
    at = f"{level:.2f}"
    values = {"uncertainty": own.scores[at], "rise": own.scores[at] - own.scores["0.00"]}
    if concentration is not None:
        values["kappa"] = _kappa(concentration.scores[at])
    return [
        _mean(f"{name}/{metric}-{level}", numbers, own, seed, settings)
        for metric, numbers in values.items()
    ]


def _kappa(concentration: np.ndarray) -> np.ndarray:
    """Return kappa / (d - 1) of u = (d-1)/(kappa+d-1)."""
    return 1 / concentration - 1


def _mean(
    metric: str, numbers: np.ndarray, own: Features, seed: int, settings: Mapping[str, object]
) -> Result:
    low, high = bootstrap.interval(bootstrap.means(numbers, seed=seed))
    score = CONCENTRATION if "kappa" in metric else own.default_score
    return Result(
        protocol=NAME,
        metric=metric,
        value=float(numbers.mean()),
        low=low,
        high=high,
        n=len(numbers),
        protocol_seed=seed,
        settings={**settings, "score": score},
        flags=("default",) if score == own.default_score else (),
    )


def _shares(
    name: str,
    level: int,
    own: Features,
    beside: Mapping[str, Features],
    seed: int,
    settings: Mapping[str, object],
) -> Iterator[Result]:
    for part, same, few in same_images(own, beside):
        prefix = f"{name}/less-certain-{level}/"
        found = compared(
            NAME,
            prefix,
            {score: _less_certain(swept, level, seed) for score, swept in same.items()},
            part,
            seed=seed,
            settings=settings,
            baselines=[score for score in same if score not in LABELLED],
        )
        # of few images the default is there for the differences alone
        left_out = f"{prefix}{own.default_score}" if few else ""
        yield from (r for r in found if r.metric != left_out and not r.metric.endswith("-best"))


def _less_certain(swept: Features, level: int, seed: int) -> Estimate:
    larger = swept.scores["0.00"] < swept.scores[f"{level:.2f}"]
    return Estimate(float(larger.mean()), bootstrap.means(larger, seed=seed))
