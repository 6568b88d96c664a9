"""Weighted k nearest neighbours on normalised features.

Unsupervised Feature Learning via Non-Parametric Instance Discrimination (Wu et al., 2018),
https://arxiv.org/abs/1805.01978, section 3.4; k = 20 and T = 0.07 as in DINOv2's `eval/knn.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from cognates.errors import ConfigError, DataError
from cognates.evaluation.memory import once_per_pair
from cognates.evaluation.subjects import labels, per_image, subjects
from cognates.types import Features, Result

NEIGHBOURS = 20
TEMPERATURE = 0.07
DISTANCE = "knn-distance"
_ELEMENTS = 1 << 23  # similarities at a time: 32 MB


class Neighbours(NamedTuple):
    """The nearest training images of every test image, nearest first."""

    similarity: np.ndarray
    """(n, k) float32 cosines."""
    position: np.ndarray
    """(n, k) int64: rows of the training features."""


def normalise(representation: np.ndarray) -> torch.Tensor:
    """Return the rows divided by their length; a row of zeros stays, similar to nothing."""
    return torch.nn.functional.normalize(
        torch.from_numpy(np.array(representation, dtype=np.float32)), dim=1
    )


@once_per_pair
def neighbours(train: Features, test: Features, *, k: int = NEIGHBOURS) -> Neighbours:
    """Return the k most similar training features of every test feature, by cosine, chunk by chunk.

    Raises:
        ConfigError: k is larger than the number of training images.
    """
    if not 1 <= k <= len(train.representation):
        raise ConfigError(
            f"Expected 1 <= k <= {len(train.representation)} training images, got k = {k}."
        )
    return _nearest(normalise(train.representation), normalise(test.representation), k)


@once_per_pair
def predict(
    train: Features, test: Features, *, k: int = NEIGHBOURS, temperature: float = TEMPERATURE
) -> np.ndarray:
    r"""Predict the class of every test image by a weighted vote of its neighbours.

    Formula: score_c(i) = sum over j in N_k(i) of exp(z_i . z_j / T) [y_j = c]; the prediction is
    the argmax, ties going to the smaller class.

    Args:
        train: with labels.
        test: labels are not read.
        k: neighbours, at most the number of training images.
        temperature: T > 0.

    Returns:
        (n,) int64 predicted labels.
    """
    found = neighbours(train, test, k=k)
    classes, target = np.unique(labels(train), return_inverse=True)
    # the row's maximum is subtracted: exp(1 / 0.07) is 1.6e6, and a smaller T would overflow
    similarity = found.similarity.astype(np.float64)
    weight = np.exp((similarity - similarity[:, :1]) / temperature)
    rows = np.arange(len(similarity))[:, None] * len(classes)
    votes = np.bincount(
        (rows + target[found.position]).ravel(),
        weights=weight.ravel(),
        minlength=len(similarity) * len(classes),
    )
    return classes[votes.reshape(len(similarity), len(classes)).argmax(axis=1)]


def knn(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    """Protocol `knn`: accuracy with k = 20 and T = 0.07, by subject, with paired differences."""
    return _protocol("knn", train, test, seed, others, k=NEIGHBOURS, temperature=TEMPERATURE)


def knn_200(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    """Protocol `knn-200`: k = 200, T = 0.1 (arXiv 1805.01978), to compare with published tables."""
    return _protocol("knn-200", train, test, seed, others, k=200, temperature=0.1)


def knn_distance(bank: Features, queries: Features) -> np.ndarray:
    r"""Uncertainty by distance: 1 - mean cosine to the 20 nearest features of the bank.

    An image is never its own neighbour: if `queries` is `bank` itself, each image is left out of
    its own search.

    Returns:
        (n,) float64 in [0, 2].
    """
    if queries is not bank:
        k = min(NEIGHBOURS, len(bank.representation))
        found = neighbours(bank, queries, k=k)
    else:
        k = min(NEIGHBOURS, len(bank.representation) - 1)
        if k < 1:
            raise ConfigError(f"Expected at least 2 images for '{DISTANCE}', got {k + 1}.")
        z = normalise(bank.representation)
        found = _nearest(z, z, k, exclude_self=True)
    return 1 - found.similarity.astype(np.float64).mean(axis=1)


def nearest_other(features: Features) -> np.ndarray:
    """Return the row (n,) of the nearest other image of every image, by cosine.

    Raises:
        DataError: there are fewer than two images.
    """
    if len(features.representation) < 2:
        raise DataError(
            f"Expected at least 2 images, got {len(features.representation)}: an image is not its "
            "own neighbour."
        )
    z = normalise(features.representation)
    return _nearest(z, z, 1, exclude_self=True).position[:, 0]


def with_bank_scores(train: Features, test: Features) -> tuple[Features, Features]:
    """Return both splits with the score `knn-distance` to the training features added."""
    added = []
    for features in (train, test):
        distance = knn_distance(train, features)
        added.append(replace(features, scores={**features.scores, DISTANCE: distance}))
    return added[0], added[1]


def _protocol(
    name: str,
    train: Features,
    test: Features,
    seed: int,
    others: Mapping[str, Features] | None,
    *,
    k: int,
    temperature: float,
) -> list[Result]:
    correct = {
        subject: predict(a, b, k=k, temperature=temperature) == labels(b)
        for subject, (a, b) in subjects(train, test, others or {}).items()
    }
    settings = {"k": k, "temperature": temperature}
    return per_image(name, "accuracy", correct, seed=seed, settings=settings)


def _nearest(
    bank: torch.Tensor, queries: torch.Tensor, k: int, *, exclude_self: bool = False
) -> Neighbours:
    step = max(1, _ELEMENTS // len(bank))
    similarity, position = [], []
    for start in range(0, len(queries), step):
        chunk = queries[start : start + step] @ bank.T
        if exclude_self:
            rows = torch.arange(len(chunk))
            chunk[rows, rows + start] = -torch.inf
        values, rows = chunk.topk(k, dim=1)
        similarity.append(values)
        position.append(rows)
    return Neighbours(torch.cat(similarity).numpy(), torch.cat(position).numpy())
