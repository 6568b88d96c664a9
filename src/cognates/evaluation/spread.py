"""Is the representation spread out or collapsed? Effective rank and spread, without labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cognates.types import Features, Result

_ENOUGH = 10
"""Images from which an interval is given: fewer were not simulated (see `spread_interval`)."""
_ELEMENTS = 1 << 22  # left-out deviations at a time: 32 MB in float64


def effective_rank(representation: np.ndarray) -> float:
    r"""Effective rank of the centred representation.

    Formula: exp(-sum_i p_i log p_i), p_i = s_i / sum_j s_j with the singular values s of x -
    mean(x).

    Args:
        representation: (n, d) finite.

    Returns:
        A number in [1, min(n - 1, d)]; 1 for a constant representation.

    References:
        The effective rank: A measure of effective dimensionality (Roy and Vetterli, 2007),
        definition 1.

    Example:
        >>> round(effective_rank(np.concatenate([np.eye(3), -np.eye(3)])), 6)
        3.0
    """
    x = np.asarray(representation, dtype=np.float64)
    # dividing by the largest entry keeps the squares below from overflowing
    x = x / max(float(np.abs(x).max()), np.finfo(np.float64).tiny)
    size = np.linalg.norm(x)
    x = x - x.mean(axis=0)
    gram = x.T @ x if x.shape[1] <= x.shape[0] else x @ x.T
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0.0))
    # what is below float32's rounding of the features is no direction of theirs
    values = values[values > 1e-7 * size]
    if not values.size:
        return 1.0
    p = values / values.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def spread(representation: np.ndarray) -> float:
    r"""Mean standard deviation of the normalised representation, against the uniform one.

    Formula: sqrt(d) mean_j std_i(z_ij), z = h / |h|.

    Args:
        representation: (n, d).

    Returns:
        A number in [0, 1]: 1 for directions spread over the sphere, 0 for a collapsed
        representation.

    References:
        Exploring Simple Siamese Representation Learning (Chen and He, 2021),
        https://arxiv.org/abs/2011.10566, section 4.1.
    """
    z = _directions(representation)
    return float(np.sqrt(z.shape[1]) * z.std(axis=0).mean())


def spread_interval(representation: np.ndarray) -> tuple[float, float] | None:
    r"""Return the 95 % jackknife interval of `spread`, or None below ten images.

    Formula: s~ -+ t(.975, n - 1) e with s~ = n s - (n - 1) mean_i s_i, e^2 = (n - 1)/n sum_i (s_i -
    mean_i s_i)^2, where s_i is the spread without image i; stretched to hold s, cut to [0, 1].

    A bootstrap is wrong here. A resample repeats images, so its variance is (n - 1)/n of the
    sample's in expectation, while the mean over d dimensions leaves the resamples little scatter:
    all of them may lie below s. The percentile interval then excludes s, the basic one lies above
    it whole, and BCa's correction is infinite. The jackknife repeats no image, and its estimate of
    the bias of s (s is too small, by about s/n) is part of the interval.

    Simulated for four kinds of features, d = 16 and 256, n = 10, 40 and 400, 200 times each:
    s~ -+ t e covers the spread of the population in 92 to 99 % of the cases, the percentile
    bootstrap in 0 to 92 %.

    Args:
        representation: (n, d).

    References:
        The Jackknife, the Bootstrap and Other Resampling Plans (Efron, 1982), chapters 2 (bias) and
        3 (variance).
    """
    z = _directions(representation)
    n, d = z.shape
    if n < _ENOUGH:
        return None
    from scipy.stats import t

    z = z - z.mean(axis=0)
    squares = (z * z).sum(axis=0)
    left_out = np.empty(n)
    step = max(1, _ELEMENTS // d)
    for start in range(0, n, step):
        rows = z[start : start + step]
        # Without image i the mean moves by -z_i / (n - 1).
        variance = (squares - rows**2) / (n - 1) - (rows / (n - 1)) ** 2
        left_out[start : start + step] = np.sqrt(np.maximum(variance, 0.0)).mean(axis=1)
    left_out *= np.sqrt(d)
    value, mean = spread(representation), left_out.mean()
    corrected = n * value - (n - 1) * mean
    error = np.sqrt((n - 1) / n * ((left_out - mean) ** 2).sum())
    half = t.ppf(0.975, n - 1) * error
    low, high = max(0.0, corrected - half), min(1.0, corrected + half)
    return float(min(value, low)), float(max(value, high))


def representation_spread(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    """Protocol `spread`: `spread` and `effective-rank` of test features, trained and untrained.

    The spread has a jackknife interval from ten images on. The effective rank has none: a resample
    with repeated images has a smaller rank by construction.
    """
    del train
    results = []
    for subject in ("trained", "untrained"):
        features = test if subject == "trained" else (others or {}).get("untrained-test")
        if features is None:
            continue
        n, d = features.representation.shape
        found = spread_interval(features.representation)
        for metric, value, limits in (
            ("spread", spread(features.representation), found),
            ("effective-rank", effective_rank(features.representation), None),
        ):
            results.append(
                Result(
                    protocol="spread",
                    metric=metric,
                    value=value,
                    low=None if limits is None else limits[0],
                    high=None if limits is None else limits[1],
                    n=n,
                    protocol_seed=seed,
                    settings={"width": d},
                    subject=subject,
                    interval="none" if limits is None else "jackknife-images",
                )
            )
    return results


def _directions(representation: np.ndarray) -> np.ndarray:
    h = np.asarray(representation, dtype=np.float64)
    return h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), np.finfo(np.float64).tiny)
