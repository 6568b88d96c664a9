"""Percentile bootstrap over test images: 2,000 resamples, one fixed seed, everything vectorised.

A resample is a row of counts, so a statistic of 2,000 resamples is a weighted statistic over a
matrix (r, n). The counts are a function of (n, seed) alone: statistics of the same images are
computed on the same resamples, and their differences are paired without further bookkeeping.
Bootstrap Methods and Their Application (Davison and Hinkley, 1997), section 5.3.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from cognates.evaluation.ranks import row_ranks
from cognates.random import fold_in

RESAMPLES = 2000  # evaluation.md, section 11
_ELEMENTS = 1 << 22  # 4 million weights at a time: 32 MB in float64


@functools.lru_cache(maxsize=2)
def counts(n: int, *, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    r"""How often each of `n` images occurs in each resample.

    Args:
        n: images, at least 1.
        seed: the protocol's seed.
        resamples: r.

    Returns:
        (r, n) uint8, read-only, rows summing to n. A count above 255 does not happen: counts are
        close to Poisson(1), for which it has probability below 1e-500.

    Example:
        >>> counts(5, seed=0, resamples=3).sum(axis=1).tolist()
        [5, 5, 5]
    """
    generator = np.random.default_rng(fold_in(seed, "bootstrap", n))
    drawn = np.empty((resamples, n), dtype=np.uint8)
    for row in drawn:
        row[:] = np.bincount(generator.integers(0, n, size=n), minlength=n)
    drawn.setflags(write=False)
    return drawn


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the central interval of bootstrap `samples` (r,), by default from 2.5 % to 97.5 %."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def means(values: np.ndarray, *, seed: int) -> np.ndarray:
    r"""Means of `values` over each resample.

    Args:
        values: (n,) or (n, m).
        seed: the protocol's seed.

    Returns:
        (r,) or (r, m) float64.
    """
    n = len(values)
    weights = counts(n, seed=seed)
    flat = np.asarray(values, dtype=np.float64).reshape(n, -1)
    parts = [weights[rows].astype(np.float64) @ flat for rows in _chunks(*weights.shape)]
    return (np.concatenate(parts) / n).reshape(-1, *np.shape(values)[1:])


def rank_statistics(
    uncertainty: np.ndarray, wrong: np.ndarray, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    r"""AUROC and Spearman's correlation of an uncertainty with errors over each resample.

    Both follow from the weighted mid-ranks: with a binary second variable Spearman's correlation is
    Pearson's between ranks and indicator. A resample without an error, or with nothing but errors,
    says nothing about the ranking and counts as .5 and 0.

    Args:
        uncertainty: (n,) finite.
        wrong: (n,) bool.
        seed: the protocol's seed.

    Returns:
        auroc (r,) and spearman (r,).
    """
    aurocs, correlations = [], []
    for ranks, weights, positive in _ranked(uncertainty, np.asarray(wrong, dtype=float), seed):
        n = weights.sum(axis=1)
        positives = weights @ positive
        negatives = n - positives
        weighted = weights * ranks
        of_positives = weighted @ positive
        defined = (positives > 0) & (negatives > 0)
        pairs = np.where(defined, positives * negatives, 1.0)
        area = (of_positives - positives * (positives + 1) / 2) / pairs
        aurocs.append(np.where(defined, area, 0.5))
        middle = (n + 1) / 2
        covariance = of_positives - positives * middle
        spread = (weighted * ranks).sum(axis=1) - n * middle**2
        variance = np.maximum(spread, 0.0) * pairs / n
        usable = defined & (variance > 0)
        correlations.append(
            np.where(usable, covariance / np.sqrt(np.where(usable, variance, 1)), 0)
        )
    return np.concatenate(aurocs), np.concatenate(correlations)


def spearmans(
    first: np.ndarray, second: np.ndarray, *, images: np.ndarray, seed: int
) -> np.ndarray:
    r"""Spearman's correlation over each resample of images, where an image may own several rows.

    Args:
        first: (m,) finite.
        second: (m,) finite.
        images: (m,) the image, 0..n-1, that each row belongs to; it is resampled as a whole.
        seed: the protocol's seed.

    Returns:
        (r,)
    """
    weights_of_images = counts(int(images.max()) + 1, seed=seed)
    parts = []
    for rows in _chunks(RESAMPLES, first.size):
        weights = weights_of_images[rows][:, images].astype(np.float64)
        a, b = _weighted_ranks(first, weights), _weighted_ranks(second, weights)
        middle = ((weights.sum(axis=1) + 1) / 2)[:, None]
        a, b = a - middle, b - middle
        scale = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
        usable = scale > 0
        parts.append(
            np.where(usable, (weights * a * b).sum(axis=1) / np.where(usable, scale, 1), 0)
        )
    return np.concatenate(parts)


def group_accuracies(
    correct: np.ndarray, order: np.ndarray, *, groups: int = 10, seed: int
) -> np.ndarray:
    r"""Accuracy in each of `groups` equal groups of every sorted resample.

    A copy of an image next to a border falls on both sides in the exact proportion, because the
    cumulated number of right answers is linear in the cumulated number of images within copies of
    one image.

    Args:
        correct: (n,) bool.
        order: (n,) indices from the least to the most uncertain image.
        groups: number of groups, at most n.
        seed: the protocol's seed.

    Returns:
        (r, groups)
    """
    n = len(correct)
    borders = np.arange(groups + 1) * (n / groups)
    right = np.asarray(correct, dtype=np.float64)[order]
    weights = counts(n, seed=seed)
    result = np.empty((len(weights), groups))
    for rows in _chunks(*weights.shape):
        ordered = weights[rows][:, order].astype(np.float64)
        seen = np.cumsum(ordered, axis=1)
        hits = np.cumsum(ordered * right, axis=1)
        for row, x, y in zip(range(rows.start, rows.stop), seen, hits, strict=True):
            at = np.interp(borders, np.concatenate([[0.0], x]), np.concatenate([[0.0], y]))
            result[row] = np.diff(at) * (groups / n)
    return result


def _chunks(resamples: int, n: int) -> Iterator[slice]:
    step = max(1, _ELEMENTS // n)
    for start in range(0, resamples, step):
        yield slice(start, min(start + step, resamples))


def _ranked(
    values: np.ndarray, other: np.ndarray, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (ranks, weights, other) chunk by chunk, all in ascending order of `values`."""
    order = np.argsort(values, kind="stable")
    weights = counts(values.size, seed=seed)
    ordered = values[order]
    for rows in _chunks(*weights.shape):
        taken = weights[rows][:, order].astype(np.float64)
        yield _ranks_of_sorted(ordered, taken), taken, other[order]


def _ranks_of_sorted(ordered: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mid-ranks under `weights` (r, n) of values that are already sorted."""
    seen = np.cumsum(weights, axis=1)
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    if last.size == ordered.size:
        return seen - (weights - 1) / 2
    sizes = np.diff(np.append(-1, last))
    ends = seen[:, last]
    starts = np.concatenate([np.zeros((len(ends), 1)), ends[:, :-1]], axis=1)
    return np.repeat((starts + ends + 1) / 2, sizes, axis=1)


def _weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(values, kind="stable")
    back = np.argsort(order, kind="stable")
    return _ranks_of_sorted(values[order], weights[:, order])[:, back]


def group_spearmans(accuracies: np.ndarray) -> np.ndarray:
    """Spearman's correlation of the group's number and its accuracy, for each row (r, groups)."""
    groups = accuracies.shape[1]
    number = np.arange(groups) - (groups - 1) / 2
    ranks = row_ranks(accuracies) - (groups + 1) / 2
    scale = np.sqrt((number @ number) * (ranks * ranks).sum(axis=1))
    usable = scale > 0
    return np.where(usable, ranks @ number / np.where(usable, scale, 1), 0)


def sequences(values: np.ndarray, order: np.ndarray, *, seed: int) -> Iterator[np.ndarray]:
    """Yield the resamples of `values` (n,) in the order of images `order`, chunk by chunk.

    Returns:
        Arrays (rows, n), r rows in all: a value stands there as often as its image was drawn.
    """
    weights = counts(len(values), seed=seed)
    ordered = np.asarray(values)[order]
    for rows in _chunks(*weights.shape):
        taken = weights[rows][:, order]
        spread = np.broadcast_to(ordered, taken.shape)
        yield np.repeat(spread.ravel(), taken.ravel()).reshape(taken.shape)


def separation(
    inside: np.ndarray, outside: np.ndarray, *, accepted: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    r"""AUROC and false acceptance of one set of images against another, both resampled.

    Args:
        inside: (n,) uncertainties of the images that should be accepted.
        outside: (m,) of those that should not.
        accepted: percent of `inside` that the threshold has to accept, in 1..100.
        seed: the protocol's seed; the two sets have resamples of their own.

    Returns:
        auroc (r,), and the share (r,) of `outside` that is at most as uncertain as the threshold.
    """
    n, m = len(inside), len(outside)
    values = np.concatenate([inside, outside])
    order = np.argsort(values, kind="stable")
    ordered, is_outside = values[order], (order >= n).astype(np.float64)
    last = np.searchsorted(ordered, ordered, side="right") - 1
    of_inside, of_outside = counts(n, seed=seed), counts(m, seed=fold_in(seed, "outside"))
    aurocs, shares = [], []
    for rows in _chunks(RESAMPLES, n + m):
        weights = np.concatenate([of_inside[rows], of_outside[rows]], axis=1)[:, order]
        weights = weights.astype(np.float64)
        above = (weights * _ranks_of_sorted(ordered, weights)) @ is_outside
        aurocs.append((above - m * (m + 1) / 2) / (m * n))
        seen_outside = np.cumsum(weights * is_outside, axis=1)
        seen_inside = np.cumsum(weights, axis=1) - seen_outside
        threshold = np.argmax(100 * seen_inside >= accepted * n, axis=1)
        shares.append(seen_outside[np.arange(len(weights)), last[threshold]] / m)
    return np.concatenate(aurocs), np.concatenate(shares)
