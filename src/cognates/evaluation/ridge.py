r"""Ridge regression in closed form over a path of penalties, chosen on held-out training images.

    W(lambda) = (X'X/n + lambda I)^-1 X'Y/n      X scaled by rule 4, Y less its training mean

One eigen-decomposition of X'X/n serves all penalties. The idea of a path from one decomposition is
that of the few-shot evaluator of https://github.com/google-research/big_vision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from cognates.errors import DataError
from cognates.evaluation.logistic import Scaling
from cognates.evaluation.splits import holdout

PENALTIES = np.logspace(4, -6, 21)
"""From strong to weak. After the scaling the mean eigenvalue of X'X/n is 1: the strongest explains
nothing, the weakest changes nothing but directions of a millionth of the mean variance."""


class Prediction(NamedTuple):
    """What a regression says about the test images."""

    values: np.ndarray
    """(m, k) float64"""
    reference: np.ndarray
    """(k,) mean of the training images, which R^2 is measured against."""
    selected: Mapping[str, object]
    flags: tuple[str, ...]


def fit(x: np.ndarray, target: np.ndarray, unseen: np.ndarray) -> Prediction:
    r"""Fit the regression and predict `unseen`.

    The penalty is chosen on 20 % of the training images (seed 0) by R^2, all columns of the target
    together and ties going to the stronger penalty; then it is fitted on all of them.

    Args:
        x: (n, d) features of the training images.
        target: (n,) or (n, k) finite numbers.
        unseen: (m, d) features to predict.

    Returns:
        Predicted values, the chosen penalty, and the flag `edge` if it is at the path's border.

    Raises:
        DataError: the target does not vary, or there are too few images to hold one out.

    References:
        The Elements of Statistical Learning (Hastie, Tibshirani and Friedman, 2009), equation 3.47

    Example:
        >>> x = np.random.default_rng(0).normal(size=(100, 3))
        >>> found = fit(x[:80], x[:80, 0] * 2 + 5, x[80:])
        >>> bool(np.allclose(found.values[:, 0], x[80:, 0] * 2 + 5, atol=1e-3))
        True
    """
    y = columns(target)
    held = heldout(y)
    scores = [
        explained(y[held], values, y[~held].mean(axis=0))
        for values in _path(x[~held], y[~held], x[held], PENALTIES)
    ]
    best = int(np.argmax(scores))
    values = next(_path(x, y, unseen, PENALTIES[best : best + 1]))
    selected = {"penalty": float(PENALTIES[best]), "heldout_r2": scores[best]}
    flags = ("edge",) if best in (0, len(PENALTIES) - 1) else ()
    return Prediction(values, y.mean(axis=0), selected, flags)


def columns(target: np.ndarray) -> np.ndarray:
    """Return a target as (n, k) float64.

    Raises:
        DataError: a column is the same for all images, or there are fewer than five of them.
    """
    y = np.asarray(target, dtype=np.float64)
    y = y[:, None] if y.ndim == 1 else y
    if len(y) < 5 or not np.isfinite(y).all() or (np.ptp(y, axis=0) == 0).any():
        raise DataError(
            f"Expected finite numbers that vary over at least 5 images, got {len(y)} images: "
            "leave out a target that is the same for all."
        )
    return y


def heldout(y: np.ndarray) -> np.ndarray:
    """Return a mask of the 20 % of the images that are held out: there are no strata."""
    return holdout(np.zeros(len(y), dtype=np.int64))


def explained(y: np.ndarray, values: np.ndarray, reference: np.ndarray) -> float:
    r"""Return R^2 = 1 - SSE/SST, all columns together, against the mean of other images.

    Example:
        >>> explained(np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]]), np.array([2.0]))
        0.5
    """
    total = float(((y - reference) ** 2).sum())
    # a held-out part that lies on the reference says nothing, about any penalty
    return 1 - float(((y - values) ** 2).sum()) / total if total > 0 else 0.0


def _path(
    x: np.ndarray, y: np.ndarray, unseen: np.ndarray, penalties: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the predictions of `unseen` (m, k) for each penalty."""
    scaling = Scaling.of(x)
    scaled, mean = scaling(x), y.mean(axis=0)
    spectrum, vectors = np.linalg.eigh(scaled.T @ scaled / len(x))
    moment = vectors.T @ (scaled.T @ (y - mean) / len(x))
    rotated = scaling(unseen) @ vectors
    for penalty in penalties:
        yield rotated @ (moment / (np.maximum(spectrum, 0) + penalty)[:, None]) + mean
