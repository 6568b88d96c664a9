"""Rank statistics with mid-ranks: AUROC, Spearman's correlation, and an order with fixed ties.

Uncertainties tie (a constant score, a saturated concentration), so every statistic here says what
it does with ties: ranks are mid-ranks, an order breaks ties by a fixed random permutation.
"""

from __future__ import annotations

import numpy as np

from cognates.errors import DataError
from cognates.random import fold_in


def require_finite(name: str, values: np.ndarray) -> np.ndarray:
    """Return `values`, or raise a `DataError` that names them if one is NaN or infinite."""
    if not np.all(np.isfinite(values)):
        bad = int(values.size - np.count_nonzero(np.isfinite(values)))
        raise DataError(
            f"Expected finite values of {name}, got {bad} that are NaN or infinite: "
            "look for a diverged run or broken images."
        )
    return values


def mid_ranks(values: np.ndarray) -> np.ndarray:
    r"""Return the ranks 1..n of `values`; equal values share the mean of their ranks.

    Args:
        values: (n,) finite numbers.

    Returns:
        (n,) float64.

    Example:
        >>> mid_ranks(np.array([0.3, 0.1, 0.3])).tolist()
        [2.5, 1.0, 2.5]
    """
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    return (ends - (sizes - 1) / 2)[group]


def row_ranks(table: np.ndarray) -> np.ndarray:
    """Return the mid-ranks of every row of a table (n, s) with few columns.

    Example:
        >>> row_ranks(np.array([[0.3, 0.1, 0.3], [1.0, 2.0, 3.0]])).tolist()
        [[2.5, 1.0, 2.5], [1.0, 2.0, 3.0]]
    """
    own, other = table[:, :, None], table[:, None, :]
    return (other < own).sum(axis=2) + ((other == own).sum(axis=2) + 1) / 2


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    r"""Spearman's rank correlation with mid-ranks.

    Formula: Pearson's correlation of the mid-ranks; 0 if one side is constant (no monotone
    relation), as a constant score has an AUROC of .5.

    Args:
        first: (n,) finite numbers.
        second: (n,) finite numbers.

    Returns:
        A correlation in [-1, 1].

    Raises:
        DataError: a value is not finite.

    Example:
        >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 15.0]))
        0.5
    """
    a = mid_ranks(require_finite("the first ranking", first))
    b = mid_ranks(require_finite("the second ranking", second))
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else 0.0


def auroc(uncertainty: np.ndarray, positive: np.ndarray) -> float:
    r"""Area under the ROC curve: the chance that a positive ranks above a negative, ties half.

    Formula: (sum of the positives' mid-ranks - P (P + 1) / 2) / (P N), the Mann-Whitney statistic.

    Args:
        uncertainty: (n,) finite numbers, larger for what should be positive.
        positive: (n,) bool, with at least one True and one False.

    Returns:
        A fraction in [0, 1]; .5 for a constant score.

    Raises:
        DataError: a value is not finite, or one of the two classes is empty.

    Example:
        >>> auroc(np.array([0.9, 0.2, 0.4]), np.array([True, False, True]))
        1.0
    """
    require_finite("the uncertainty", uncertainty)
    positive = np.asarray(positive, dtype=bool)
    positives = int(positive.sum())
    negatives = positive.size - positives
    if not positives or not negatives:
        raise DataError(
            f"Expected right and wrong predictions, got {negatives} right and {positives} wrong: "
            "the AUROC is not defined."
        )
    total = mid_ranks(uncertainty)[positive].sum()
    return float((total - positives * (positives + 1) / 2) / (positives * negatives))


def order(values: np.ndarray, *, seed: int) -> np.ndarray:
    """Return the indices that sort `values` upwards; a fixed permutation decides among ties."""
    tie_breaker = np.random.default_rng(fold_in(seed, "ties")).permutation(values.size)
    return np.lexsort((tie_breaker, values))
