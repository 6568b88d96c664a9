"""What a person does with an uncertainty: look at the worst first, or refuse the least certain."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from cognates.errors import ConfigError
from cognates.evaluation.ranks import require_finite


class Ranking(NamedTuple):
    """Images in the order of their uncertainty."""

    order: np.ndarray
    """(n,) int64: positions, the least certain first; among equals the one that came first."""
    uncertainty: np.ndarray
    """(n,) float64, in the order of the images."""
    percentile: np.ndarray
    """(n,) float64 among the training images, in the order of the images; NaN if not known."""


class Rejection(NamedTuple):
    """Which images are certain enough."""

    kept: np.ndarray
    """(n,) bool: the uncertainty is at most the threshold."""
    threshold: float
    uncertainty: np.ndarray
    """(n,) float64"""
    percentile: np.ndarray
    """(n,) float64 among the training images; NaN if not known."""


def least_certain_first(uncertainty: np.ndarray) -> np.ndarray:
    """Return the positions of images (n,), the least certain first; equals keep their order.

    Example:
        >>> least_certain_first(np.array([0.1, 0.9, 0.1, 0.5])).tolist()
        [1, 3, 0, 2]
    """
    require_finite("the uncertainty", uncertainty)
    return np.argsort(-uncertainty, kind="stable")


def threshold_of(uncertainty: np.ndarray, coverage: float) -> float:
    r"""Return the smallest threshold that keeps at least the share `coverage` of images.

    Formula: the ceil(coverage n)-th smallest uncertainty; an image is kept if its own is at most
    that, so equals are kept together.

    Args:
        uncertainty: (n,) finite, n at least 1.
        coverage: a share in (0, 1].

    Raises:
        ConfigError: the share is not within 0 and 1.

    Example:
        >>> threshold_of(np.array([0.4, 0.1, 0.3, 0.2]), 0.5)
        0.2
    """
    require_coverage(coverage)
    values = np.sort(require_finite("the uncertainty", uncertainty))
    # .9 of 10 images are 9 of them, though .9 * 10 may be rounded up to a little more
    return float(values[max(math.ceil(coverage * len(values) - 1e-9), 1) - 1])


def require_coverage(coverage: float) -> None:
    """Raise a `ConfigError` unless `coverage` is a share in (0, 1]."""
    if not 0 < coverage <= 1:
        raise ConfigError(
            f"Expected a coverage above 0 and at most 1, got {coverage}: 0.9 keeps nine in ten."
        )
