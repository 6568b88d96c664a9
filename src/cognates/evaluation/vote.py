"""`knn-vote`: nearest neighbours with equal votes, k chosen on held-out training images.

The script of A Probabilistic Model behind Self-Supervised Learning (Bizeul, Schoelkopf and Allen,
2024), https://arxiv.org/abs/2402.01399, tries k from 1 to 20 and keeps the best on the test images;
here the test images have no say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from cognates.errors import ConfigError, DataError
from cognates.evaluation.splits import holdout
from cognates.evaluation.subjects import labels, per_image, subjects
from cognates.types import Features, Result

MOST = 20
"""The largest k that is tried: evaluation.md, section 2."""
_ELEMENTS = 1 << 23  # distances at a time: 32 MB


class Vote(NamedTuple):
    """What the neighbours say about the test images."""

    labels: np.ndarray
    """(n,) int64"""
    k: int
    heldout_accuracy: float


def knn_vote(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    most: int | None = None,
) -> list[Result]:
    """Protocol `knn-vote`: accuracy with the k that held-out training images choose, by subject.

    Args:
        train: with labels.
        test: with labels.
        seed: of the resamples.
        others: features of the baselines.
        most: the largest k that is tried, at least 1; None: 20, or as many as there are training
            images that are not held out, if those are fewer. Settings record it.

    Raises:
        ConfigError: `most` is larger than the number of training images that are not held out.
        DataError: there are no labels, or only one class.
    """
    found = subjects(train, test, others or {})
    if most is None:
        most = min(MOST, int(np.count_nonzero(~holdout(labels(train)))))
    votes = {name: predict(a, b, most=most) for name, (a, b) in found.items()}
    truth = labels(test)
    return per_image(
        "knn-vote",
        "accuracy",
        {name: vote.labels == truth for name, vote in votes.items()},
        seed=seed,
        settings={"k": [1, most], "distance": "euclidean", "holdout": 0.2},
        selected={
            name: {"k": vote.k, "heldout_accuracy": vote.heldout_accuracy}
            for name, vote in votes.items()
        },
        flags={name: ("edge",) if vote.k == most else () for name, vote in votes.items()},
    )


def predict(train: Features, test: Features, *, most: int = MOST) -> Vote:
    """Choose k on 20 % of the training images (stratified, seed 0), then ask all of them.

    A tie of votes goes to the smaller class, a tie of accuracies to the smaller k.

    Args:
        train: with labels of at least two classes.
        test: labels are not read.
        most: the largest k that is tried.

    Raises:
        ConfigError: `most` is not between 1 and the number of images that are not held out.
        DataError: there are no labels, or only one class.
    """
    classes, target = np.unique(labels(train), return_inverse=True)
    held = holdout(target)
    if len(classes) < 2 or not held.any():
        raise DataError(
            f"Expected at least two classes and images to hold out, got {len(target)} images of "
            f"{len(classes)} classes: k cannot be chosen."
        )
    fitted = int(np.count_nonzero(~held))
    if not 1 <= most <= fitted:
        raise ConfigError(
            f"Expected 1 <= k <= {fitted} training images that are not held out, got k = {most}: "
            "take a smaller k or more images."
        )
    x = train.representation
    seen = _votes(x[~held], target[~held], x[held], most, len(classes))
    accuracies = (seen == target[held]).mean(axis=1)
    k = int(np.argmax(accuracies)) + 1
    chosen = _votes(x, target, test.representation, k, len(classes))[-1]
    return Vote(classes[chosen], k, float(accuracies[k - 1]))


def _votes(
    bank: np.ndarray, target: np.ndarray, queries: np.ndarray, most: int, classes: int
) -> np.ndarray:
    """Return the winners (most, n) for every k up to `most`, by Euclidean distance."""
    # centred, as |a|^2 - 2 a.b cancels where all features lie far from 0
    middle = bank.mean(axis=0, dtype=np.float64)
    a, b = (torch.from_numpy((part - middle).astype(np.float32)) for part in (bank, queries))
    half = a.square().sum(dim=1) / 2
    step = max(1, _ELEMENTS // len(a))
    winners = np.empty((most, len(b)), dtype=np.int64)
    for start in range(0, len(b), step):
        nearness = b[start : start + step] @ a.T - half
        nearest = target[nearness.topk(most, dim=1).indices.numpy()]
        counts = np.cumsum(nearest[:, :, None] == np.arange(classes), axis=1)
        winners[:, start : start + step] = counts.argmax(axis=2).T
    return winners
