"""Principal components: what stands in for pixels where they are too many for a probe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cognates.evaluation.memory import once_per_pair
from cognates.random import fold_in
from cognates.types import Features

PIXELS = 256
"""Components that raw pixels are reduced to: above the width of the small encoders that they are
compared with, so that the reduction does not favour these."""
_EXACT = 1024  # dimensions up to which the covariance is decomposed in a second


def reduce(train: Features, test: Features, *, most: int = PIXELS) -> tuple[Features, Features]:
    r"""Return both splits in the leading principal components of the training features.

    Formula: (h - mean) V, V the eigenvectors of the `most` largest eigenvalues of the training
    covariance; components are neither whitened nor rescaled.

    Args:
        train: decides mean and components.
        test: projected onto them.
        most: components, at least 1; features of no more dimensions are returned as they are.

    Returns:
        The same features with (n, min(d, most, n_train)) representations.

    Notes:
        Above 1,024 dimensions the components are found by a randomised decomposition from a fixed
        seed.

    References:
        Finding Structure with Randomness (Halko, Martinsson and Tropp, 2011),
        https://arxiv.org/abs/0909.4061, algorithm 4.4
    """
    if train.representation.shape[1] <= most:
        return train, test  # not remembered: an answer that is its own key would never be freed
    return _reduced(train, test, most=most)


@once_per_pair
def _reduced(train: Features, test: Features, *, most: int) -> tuple[Features, Features]:
    count = min(most, len(train.representation))
    project = _projection(train.representation, count)
    projected = [
        replace(
            features,
            representation=project(features.representation).astype(np.float32),
            layer=f"{features.layer}-pca{count}",
        )
        for features in (train, test)
    ]
    return projected[0], projected[1]


def _projection(x: np.ndarray, count: int) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.decomposition import PCA

    if (x == x[0]).all():  # every direction is an eigenvector; scikit-learn divides by the variance
        return lambda rows: rows[:, :count] - x[0, :count]
    solver = "covariance_eigh" if x.shape[1] <= _EXACT else "randomized"
    seed = fold_in(0, "components") % 2**32
    return PCA(count, svd_solver=solver, random_state=seed).fit(x).transform
