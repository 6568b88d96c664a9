r"""Clusters of the representation beside the classes: a Gaussian mixture and k-means.

With n_ck images of cluster c and class k, row sums a_c and column sums b_k:

    accuracy = max over assignments pi of (1/n) sum_c n_{c, pi(c)}
    NMI      = I(C; Y) / ((H(C) + H(Y)) / 2)
    ARI      = (S - E) / (M - E)         S = sum_ck binom(n_ck, 2)
               E = sum_c binom(a_c, 2) sum_k binom(b_k, 2) / binom(n, 2)
               M = (sum_c binom(a_c, 2) + sum_k binom(b_k, 2)) / 2

Clusters are fitted to training features, without labels but for their number, and scored on test
images.

References:
    Comparing partitions (Hubert and Arabie, 1985), https://doi.org/10.1007/BF01908075, equation 5
    A Probabilistic Model behind Self-Supervised Learning (Bizeul, Schoelkopf and Allen, 2024),
    https://arxiv.org/abs/2402.01399: the mixture as a measure of a representation
    Choosing starting values for the EM algorithm (Biernacki, Celeux and Govaert, 2003),
    https://doi.org/10.1016/S0167-9473(02)00163-9: short runs, the best of which goes on
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cognates.errors import DataError
from cognates.evaluation import bootstrap
from cognates.evaluation.components import PIXELS, reduce
from cognates.evaluation.knn import normalise
from cognates.evaluation.logistic import Scaling, matching_threads
from cognates.evaluation.subjects import BASELINES, labels, subjects
from cognates.random import fold_in
from cognates.types import Features, Result

STARTS = 20  # evaluation.md, section 5
SHORT, LONG = 10, 200
"""Steps of a start, and at most of the likeliest start afterwards. To run each of the twenty to its
end, as the paper's script does, took eight times as long on 10,000 images in 64 dimensions."""
COMPONENTS = 64  # evaluation.md, section 5
FITTED = 10_000
"""Most training images that a mixture is fitted to: twenty starts take minutes on one core in 64
dimensions, and the time grows with the images."""


class Clusters(NamedTuple):
    """The cluster of every test image."""

    cluster: np.ndarray
    """(n,) int64 in 0..k-1"""
    flags: tuple[str, ...]
    settings: Mapping[str, object]


def scores(table: np.ndarray) -> dict[str, np.ndarray]:
    r"""Return accuracy, NMI and ARI of contingency tables, formulas as in the module.

    Args:
        table: (..., c, k) counts, each table of at least one image.

    Returns:
        By name (...) float64: `accuracy` and `nmi` in [0, 1], `ari` at most 1. Where there is one
        cluster and one class, both are the same partition: NMI and ARI are 1.

    Example:
        >>> found = scores(np.array([[0, 5], [7, 0]]))
        >>> {name: float(value) for name, value in found.items()}
        {'accuracy': 1.0, 'nmi': 1.0, 'ari': 1.0}
    """
    from scipy.optimize import linear_sum_assignment

    shape = np.shape(table)[:-2]
    counts = np.asarray(table, dtype=np.float64).reshape(-1, *np.shape(table)[-2:])
    a, b = counts.sum(axis=2), counts.sum(axis=1)
    n = a.sum(axis=1)
    matched = np.empty(len(counts))
    for row, one in enumerate(counts):
        matched[row] = one[linear_sum_assignment(one, maximize=True)].sum()
    of_clusters, of_classes = _entropy(a, n), _entropy(b, n)
    mean = (of_clusters + of_classes) / 2
    information = of_clusters + of_classes - _entropy(counts.reshape(len(n), -1), n)
    nmi = np.divide(np.maximum(information, 0.0), mean, out=np.ones_like(n), where=mean > 0)
    together = _pairs(counts).sum(axis=(1, 2))
    in_clusters, in_classes = _pairs(a).sum(axis=1), _pairs(b).sum(axis=1)
    expected = in_clusters * in_classes / np.maximum(_pairs(n), 1.0)
    above, most = together - expected, (in_clusters + in_classes) / 2 - expected
    ari = np.divide(above, most, out=np.ones_like(n), where=most != 0)
    found = {"accuracy": matched / n, "nmi": nmi, "ari": ari}
    return {name: values.reshape(shape) for name, values in found.items()}


def gmm(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    """Protocol `gmm`: a mixture of as many normals as there are classes, full covariances.

    Above 64 dimensions all subjects are reduced to 64 principal components, and the records are
    those of `gmm-pca64`; up to 64, baselines that are wider are reduced, which their flag says.
    Fitted to at most 10,000 training images drawn by the seed: twenty starts of ten steps, and the
    likeliest goes on until it converges.

    Returns:
        `accuracy`, `nmi` and `ari` of the test images by subject, with paired differences.

    Raises:
        DataError: there are no labels, only one class, or fewer training images than classes.
    """
    wide = train.representation.shape[1] > COMPONENTS
    name = f"gmm-pca{COMPONENTS}" if wide else "gmm"
    return _protocol(name, _mixture, COMPONENTS, train, test, seed, others)


def kmeans(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    """Protocol `kmeans`: Lloyd's clusters of the normalised features, the best of twenty starts.

    Pixels beyond 256 dimensions are reduced to their 256 principal components first.

    Returns:
        `accuracy`, `nmi` and `ari` of the test images by subject, with paired differences.

    Raises:
        DataError: there are no labels, only one class, or fewer training images than classes.
    """
    return _protocol("kmeans", _lloyd, PIXELS, train, test, seed, others)


def _protocol(
    name: str,
    cluster: Callable[[Features, Features, int, int], Clusters],
    most: int,
    train: Features,
    test: Features,
    seed: int,
    others: Mapping[str, Features] | None,
) -> list[Result]:
    classes, truth = np.unique(labels(train)), labels(test)
    if not 2 <= len(classes) <= len(train.representation):
        raise DataError(
            f"Expected at least two classes among the training images, got {len(classes)} among "
            f"{len(train.representation)}: their number is that of the clusters."
        )
    kinds = np.unique(truth)
    values, samples, found = {}, {}, {}
    for subject, pair in subjects(train, test, others or {}).items():
        # k-means of a representation is in all its dimensions, whatever their number
        whole = name == "kmeans" and subject != "pixels"
        reduced = pair if whole else reduce(*pair, most=most)
        one = cluster(*reduced, len(classes), seed)
        if reduced[0] is not pair[0] and name != f"gmm-pca{most}":
            one = one._replace(flags=(*one.flags, f"pca-{most}"))
        table = np.zeros((len(classes), len(kinds)))
        position = one.cluster * len(kinds) + np.searchsorted(kinds, truth)
        np.add.at(table.reshape(-1), position, 1)
        values[subject] = {metric: float(value) for metric, value in scores(table).items()}
        samples[subject] = _resampled(position, table.shape, seed)
        found[subject] = one
    return _records(name, values, samples, found, n=len(truth), seed=seed)


def _records(
    name: str,
    values: Mapping[str, Mapping[str, float]],
    samples: Mapping[str, Mapping[str, np.ndarray]],
    found: Mapping[str, Clusters],
    *,
    n: int,
    seed: int,
) -> list[Result]:
    """Return a record for every metric and subject, and the trained encoder's differences."""
    results = []
    for metric in ("accuracy", "nmi", "ari"):
        rows = [(metric, s, values[s][metric], samples[s][metric]) for s in values] + [
            (
                f"{metric}-minus-{other}",
                "trained",
                values["trained"][metric] - values[other][metric],
                samples["trained"][metric] - samples[other][metric],
            )
            for other in BASELINES
            if other in values
        ]
        for label, subject, value, drawn in rows:
            low, high = bootstrap.interval(drawn)
            results.append(
                Result(
                    protocol=name,
                    metric=label,
                    value=value,
                    low=low,
                    high=high,
                    n=n,
                    protocol_seed=seed,
                    settings={"starts": STARTS, **found[subject].settings},
                    subject=subject,
                    flags=found[subject].flags,
                )
            )
    return results


def _mixture(train: Features, test: Features, count: int, seed: int) -> Clusters:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    scaling = Scaling.of(train.representation)  # the floor of the variances is a number
    x = scaling(train.representation)
    if len(x) > FITTED:
        drawn = np.random.default_rng(fold_in(seed, "gmm", "images"))
        x = x[np.sort(drawn.choice(len(x), FITTED, replace=False))]
    state = fold_in(seed, "gmm") % 2**32
    with warnings.catch_warnings(), matching_threads(x.size):
        warnings.simplefilter("ignore", ConvergenceWarning)  # expected of ten steps; else the flag
        start = GaussianMixture(count, n_init=STARTS, max_iter=SHORT, random_state=state).fit(x)
        model = GaussianMixture(
            count,
            max_iter=LONG,
            weights_init=start.weights_,
            means_init=start.means_,
            precisions_init=start.precisions_,
            random_state=state,
        ).fit(x)
        cluster = model.predict(scaling(test.representation))
    flags = () if model.converged_ else ("not-converged",)
    settings = {"covariance": "full", "fitted_on": len(x), "steps": [SHORT, LONG]}
    return Clusters(np.asarray(cluster, dtype=np.int64), flags, settings)


def _lloyd(train: Features, test: Features, count: int, seed: int) -> Clusters:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    starts: Any = STARTS  # scikit-learn's default, "auto", reads as its only type
    model = KMeans(count, n_init=starts, random_state=fold_in(seed, "kmeans") % 2**32)
    with warnings.catch_warnings(), matching_threads(train.representation.size):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different points than clusters
        model.fit(normalise(train.representation).numpy())
        cluster = model.predict(normalise(test.representation).numpy())
    distinct = len(np.unique(np.asarray(model.labels_)))
    flags = () if distinct == count else ("fewer-clusters",)
    return Clusters(
        np.asarray(cluster, dtype=np.int64), flags, {"fitted_on": len(train.representation)}
    )


def _resampled(position: np.ndarray, shape: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    """Score every resample of the test images anew; the clusters stay."""
    # only cells that occur are counted: the others stay empty in every resample
    cells, place = np.unique(position, return_inverse=True)
    tables = np.zeros((bootstrap.RESAMPLES, int(np.prod(shape))))
    for row, weights in zip(tables, bootstrap.counts(len(position), seed=seed), strict=True):
        row[cells] = np.bincount(place, weights=weights, minlength=len(cells))
    return scores(tables.reshape(-1, *shape))


def _entropy(counts: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the entropy (r,) in nats of counts (r, m) that sum to n (r,)."""
    share = counts / n[:, None]
    return -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1)


def _pairs(counts: np.ndarray) -> np.ndarray:
    return counts * (counts - 1) / 2
