r"""`dsprites`: which generative factors of an image its representation holds, and how plainly.

Orientation is an angle that a shape repeats: with m = 4, 2, 1 equal positions in a full turn for
square, ellipse and heart, the target is (cos m t, sin m t), for each shape on its own.

References:
    dSprites: Disentanglement testing Sprites dataset (Matthey, Higgins, Hassabis and Lerchner,
    2017), https://github.com/google-deepmind/dsprites-dataset
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cognates.errors import DataError
from cognates.evaluation.linear import GRID
from cognates.evaluation.probing import Plan, Target, probe
from cognates.random import fold_in
from cognates.types import Features, Result

FACTORS = "factors"
TRAIN, TEST = 20_000, 5_000
"""Images that `cognates evaluate` takes unless it is told otherwise: the pixels of all 737,280 are
3 billion numbers."""
SHAPES = {"square": 4, "ellipse": 2, "heart": 1}
"""Equal positions in a full turn, in the order of the data set's numbers."""
TURN = 39
"""Steps of orientation in a full turn: the 40 angles are evenly spaced from 0 to 2 pi with both
ends, so the last one shows the first one's image."""


def dsprites(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    grid: int = GRID,
    images: tuple[int, int] | None = None,
) -> list[Result]:
    """Protocol `dsprites`: shape, scale, position and orientation by a linear and an MLP probe.

    Args:
        train: with the target `factors` (n, 5), positions on the grid, and their names in
            `target_names`: shape, scale, orientation, pos_x, pos_y.
        test: with the same.
        seed: of the images that are drawn, the MLP probe and the resamples.
        others: features of the baselines, for the same rows.
        grid: number of penalties of the linear probe.
        images: at most so many training and test images are taken, drawn by the seed; None: all.

    Returns:
        `shape/accuracy/PROBE`, `scale/accuracy/PROBE`, `x/r2/PROBE`, `y/r2/PROBE`, and
        `orientation-SHAPE/r2/PROBE`; PROBE is `linear` or `mlp` for accuracies, `ridge` or `mlp`
        for R^2. `n` is the number of test images behind each.

    Raises:
        DataError: the features have no such factors.
    """
    most = images or (len(train.representation), len(test.representation))
    drawn = {"train": _drawn(train, most[0], seed), "test": _drawn(test, most[1], seed)}
    kept = {
        name: _rows(features, drawn[name.rpartition("-")[2]])
        for name, features in (others or {}).items()
        if name in ("untrained-train", "untrained-test", "pixels-train", "pixels-test")
    }
    train, test = _rows(train, drawn["train"]), _rows(test, drawn["test"])
    given, asked = columns(train), columns(test)
    targets = [
        Target(name=name, train=given[name], test=asked[name]) for name in ("shape", "scale")
    ]
    targets += [
        Target(
            name=name[-1],
            train=given[name].astype(np.float64),
            test=asked[name].astype(np.float64),
            measures=("r2",),
        )
        for name in ("pos_x", "pos_y")
    ]
    targets += [
        Target(
            name=f"orientation-{shape}",
            train=angles(given, shape),
            test=angles(asked, shape),
            measures=("r2",),
        )
        for shape in SHAPES
    ]
    settings = {"train": len(drawn["train"]), "test": len(drawn["test"])}
    plan = Plan(protocol="dsprites", seed=seed, grid=grid, settings=settings)
    return probe(train, test, targets, plan, others=kept)


def columns(features: Features) -> dict[str, np.ndarray]:
    """Return the factors (n,) int64 by name.

    Raises:
        DataError: the features have no factors with these names, or they are not whole numbers.
    """
    values = np.asarray(features.targets.get(FACTORS, np.empty(0)))
    names = features.target_names.get(FACTORS, ())
    wanted = ("shape", "scale", "orientation", "pos_x", "pos_y")
    if values.ndim != 2 or not set(wanted) <= set(names):
        raise DataError(
            f"Expected a target '{FACTORS}' with the columns {', '.join(wanted)}, got "
            f"{', '.join(names) or sorted(features.targets) or 'none'}: this protocol is about "
            "dSprites."
        )
    if not np.array_equal(values, values.astype(np.int64)):
        raise DataError(
            f"Expected positions on the grid in '{FACTORS}', got numbers that are not whole: give "
            "classes, not values."
        )
    return {name: values[:, names.index(name)].astype(np.int64) for name in wanted}


def angles(factors: Mapping[str, np.ndarray], shape: str) -> np.ndarray:
    """Return (cos m t, sin m t) (n, 2) of the images of one shape, NaN for the others.

    Example:
        >>> factors = {"shape": np.array([0, 2]), "orientation": np.array([0, 39])}
        >>> angles(factors, "heart").round(6).tolist()
        [[nan, nan], [1.0, -0.0]]
    """
    turn = SHAPES[shape] * factors["orientation"] * (2 * np.pi / TURN)
    found = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return np.where((factors["shape"] == list(SHAPES).index(shape))[:, None], found, np.nan)


def _drawn(features: Features, most: int, seed: int) -> np.ndarray:
    n = len(features.representation)
    if n <= most:
        return np.arange(n)
    generator = np.random.default_rng(fold_in(seed, FACTORS, features.split))
    return np.sort(generator.choice(n, most, replace=False))


def _rows(features: Features, rows: np.ndarray) -> Features:
    """Return some of the images, without what is not read."""
    if len(rows) == len(features.representation):
        return features
    return replace(
        features,
        representation=features.representation[rows],
        index=features.index[rows],
        path=None,
        targets={name: values[rows] for name, values in features.targets.items()},
        scores={},
        default_score=None,
    )
