r"""Does the uncertainty tell images of another set from those of this one?

The other set is the positive class: AUROC = P(u of an outsider > u of a test image), ties half.
FPR95 is the share of outsiders that are accepted at the threshold which accepts 95 % of the test
images, the convention of OpenOOD (Yang et al., 2022), https://arxiv.org/abs/2210.07242; others set
the threshold at 95 % of the outsiders, which gives other numbers.

A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks (Lee et
al., 2018), https://arxiv.org/abs/1807.03888, is where the distance to a Gaussian of the training
features comes from; here one Gaussian, as a class has none without labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cognates.data.images import Images
from cognates.errors import ConfigError, DataError
from cognates.evaluation import bootstrap, linear
from cognates.evaluation.measures import Estimate
from cognates.evaluation.ranks import auroc
from cognates.evaluation.store import data_digest
from cognates.evaluation.subjects import has_labels
from cognates.evaluation.uncertainty import BASELINES, all_scores, compared
from cognates.random import fold_in
from cognates.types import Features, Result

OUTSIDE = "ood-"
"""Before the name of another set: features of its images."""
LIMIT = 10_000
"""Images of another set that are taken: the interval is no wider than that of most test splits."""
MAHALANOBIS = "mahalanobis"
ACCEPTED = 95  # percent: evaluation.md, section 10
SHRINKAGE = 1e-6
"""Share of the mean variance that is added to every one: it makes directions count that the
training features lack, and is large against the rounding of float32, 1e-14 of a variance."""


def ood(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    grid: int = linear.GRID,
) -> list[Result]:
    r"""Protocol `ood`: AUROC and FPR95 of every score for images of other sets.

    Metrics, for the other set NAME: `NAME/auroc/SCORE`, larger is better, and `NAME/fpr95/SCORE`,
    smaller is better, each with the default's paired differences `.../default-minus-SCORE`. One
    more baseline costs no label: `mahalanobis`, (h - m)^T S^-1 (h - m) with mean and covariance
    of the training features.

    Args:
        train: its labels are read for `max-softmax`, where both splits have them.
        test: what should be accepted.
        seed: of the resamples, in which both sets are drawn anew, and of the random score.
        others: `ood-NAME`: features of another set's images.
        grid: number of penalties of the linear probe behind `max-softmax`.

    Returns:
        Records; `n` counts the images of both sets, `settings` each: `inside` and `outside`.

    Raises:
        DataError: there is no other set.
    """
    found = {
        name.removeprefix(OUTSIDE): features
        for name, features in (others or {}).items()
        if name.startswith(OUTSIDE)
    }
    if not found:
        raise DataError(
            "Expected features of another set of images ('ood-NAME'), got none: name one with "
            "--ood SOURCE."
        )
    kind = {"grid": grid, "labelled": has_labels(train, test)}
    inside = with_mahalanobis(train, test, all_scores(train, test, seed=seed, **kind))
    results = []
    for name, outside in found.items():
        # a seed of its own: with that of `inside` both random scores would be the same numbers
        there = all_scores(train, outside, seed=fold_in(seed, OUTSIDE), **kind)
        there = with_mahalanobis(train, outside, there)
        estimates = {
            score: _estimates(values, there[score], seed)
            for score, values in inside.items()
            if score in there
        }
        n, m = len(test.representation), len(outside.representation)
        for number, (measure, best) in enumerate((("auroc", max), ("fpr95", min))):
            results += compared(
                "ood",
                f"{name}/{measure}/",
                {score: both[number] for score, both in estimates.items()},
                test,
                seed=seed,
                settings={"inside": n, "outside": m, "split": outside.split, "grid": grid},
                best=best,
                baselines=(*BASELINES, MAHALANOBIS),
                n=n + m,
            )
    return results


def require_others(outside: Mapping[str, Images] | None, test: Images) -> Mapping[str, Images]:
    """Return the other sets of images by name.

    Raises:
        ConfigError: there is none, one is the test set itself, or one has other channels. Sizes may
            differ: all come to the encoder at the size of its test view.
    """
    if not outside:
        raise ConfigError(
            "Expected images of another set for the protocol 'ood', got none: name one with "
            "--ood SOURCE."
        )
    channels = test.pixels.shape[1]
    for name, images in outside.items():
        if data_digest(images) == data_digest(test):
            raise ConfigError(
                f"Expected another set than '{test.dataset}' for the protocol 'ood', got its own "
                "images: name another with --ood SOURCE."
            )
        if images.pixels.shape[1] != channels:
            raise ConfigError(
                f"Expected images of {channels} channels in '{name}', as in '{test.dataset}', got "
                f"{images.pixels.shape[1]}: convert them."
            )
    return outside


def false_acceptance(inside: np.ndarray, outside: np.ndarray) -> float:
    r"""Return FPR95: the share of `outside` accepted where 95 % of `inside` are.

    Formula: mean of [u_out <= t], t the ceil(.95 n)-th smallest u_in.

    Args:
        inside: (n,) uncertainties, larger is less certain.
        outside: (m,)

    Example:
        >>> false_acceptance(np.arange(100.0), np.array([94.0, 95.0]))
        0.5
    """
    n = len(inside)
    threshold = np.sort(inside)[-(-ACCEPTED * n // 100) - 1]
    return float(np.mean(outside <= threshold))


def mahalanobis(train: Features, features: Features) -> np.ndarray:
    r"""Return (h - m)^T S^-1 (h - m), with mean and covariance of the training features.

    Formula: S = covariance + 1e-6 (tr(covariance) / d) I; in float64. Where all training features
    are equal, S is the identity.

    Args:
        train: the Gaussian's, at least one image.
        features: whose distances are returned.

    Returns:
        (n,) squared distances, 0 or more.
    """
    x = train.representation.astype(np.float64)
    mean = x.mean(axis=0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    variance, directions = np.linalg.eigh(covariance)
    typical = variance.mean()
    scale = variance.clip(min=0) + SHRINKAGE * typical if typical > 0 else np.ones_like(variance)
    along = (features.representation.astype(np.float64) - mean) @ directions
    return (along**2 / scale).sum(axis=1)


def with_mahalanobis(
    train: Features, features: Features, scores: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the scores with `mahalanobis` among them."""
    return {**scores, MAHALANOBIS: mahalanobis(train, features)}


def _estimates(inside: np.ndarray, outside: np.ndarray, seed: int) -> tuple[Estimate, Estimate]:
    is_outside = np.repeat([False, True], [len(inside), len(outside)])
    aurocs, shares = bootstrap.separation(inside, outside, accepted=ACCEPTED, seed=seed)
    return (
        Estimate(auroc(np.concatenate([inside, outside]), is_outside), aurocs),
        Estimate(false_acceptance(inside, outside), shares),
    )
