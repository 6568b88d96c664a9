"""Is the representation spread out or collapsed? Effective rank and spread, without labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cognates.evaluation import bootstrap
from cognates.types import Features, Result


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


def representation_spread(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    """Protocol `spread`: `spread` and `effective-rank` of test features, trained and untrained.

    The effective rank has no interval: a resample with repeated images has a smaller rank by
    construction.
    """
    del train
    results = []
    for subject in ("trained", "untrained"):
        features = test if subject == "trained" else (others or {}).get("untrained-test")
        if features is None:
            continue
        z = _directions(features.representation)
        n, d = z.shape
        first = bootstrap.means(z, seed=seed)
        second = bootstrap.means(z * z, seed=seed)
        deviations = np.sqrt(np.maximum(second - first**2, 0.0)).mean(axis=1) * np.sqrt(d)
        low, high = bootstrap.interval(deviations)
        common = {"protocol": "spread", "n": n, "protocol_seed": seed, "subject": subject}
        results += [
            Result(
                metric="spread",
                value=spread(features.representation),
                low=low,
                high=high,
                settings={"width": d},
                **common,
            ),
            Result(
                metric="effective-rank",
                value=effective_rank(features.representation),
                low=None,
                high=None,
                settings={"width": d},
                interval="none",
                **common,
            ),
        ]
    return results


def _directions(representation: np.ndarray) -> np.ndarray:
    h = np.asarray(representation, dtype=np.float64)
    return h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), np.finfo(np.float64).tiny)
