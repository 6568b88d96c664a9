"""Pieces of the images: a random part, and stratified the held-out part, folds and few labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cognates.data.images import Images
from cognates.errors import ConfigError
from cognates.evaluation.store import data_digest
from cognates.random import fold_in


def holdout(labels: np.ndarray, *, share: float = 0.2, seed: int = 0) -> np.ndarray:
    """Return a mask (n,) of the held-out part: `share` of every class, rounded, never all of it.

    Example:
        >>> holdout(np.repeat([0, 1], 10)).reshape(2, 10).sum(axis=1).tolist()
        [2, 2]
    """
    generator = np.random.default_rng(fold_in(seed, "holdout"))
    held = np.zeros(len(labels), dtype=bool)
    for value in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == value))
        held[members[: min(round(share * len(members)), len(members) - 1)]] = True
    if not held.any() and len(labels) > len(np.unique(labels)):
        # classes too small for their share to round up: one image of the largest class
        values, sizes = np.unique(labels, return_counts=True)
        held[np.flatnonzero(labels == values[sizes.argmax()])[-1]] = True
    return held


def folds(labels: np.ndarray, *, count: int = 5, seed: int = 0) -> np.ndarray:
    """Return the fold 0..count-1 of every image, each class dealt out as evenly as it goes."""
    generator = np.random.default_rng(fold_in(seed, "folds"))
    fold = np.empty(len(labels), dtype=np.int64)
    dealt = 0
    for value in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == value))
        # going on where the last class stopped keeps the folds of equal size
        fold[members] = (np.arange(len(members)) + dealt) % count
        dealt += len(members)
    return fold


def per_class(labels: np.ndarray, *, count: int, seed: int) -> np.ndarray:
    """Return sorted positions of `count` random images of every class, all of a smaller one."""
    generator = np.random.default_rng(fold_in(seed, "per-class", count))
    chosen = [
        generator.permutation(np.flatnonzero(labels == value))[:count]
        for value in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))


def part_of(images: Images, most: int | None, *, seed: int) -> Images:
    """Return at most `most` of the images, drawn by the seed, in their order."""
    if most is not None and most < 1:
        raise ConfigError(f"Expected at least 1 image, got {most}.")
    if most is None or len(images) <= most:
        return images
    generator = np.random.default_rng(fold_in(seed, "images", images.split))
    rows = np.sort(generator.choice(len(images), most, replace=False))
    return replace(
        images,
        pixels=images.pixels[rows],
        path=None if images.path is None else images.path[rows],
        targets={name: values[rows] for name, values in images.targets.items()},
        digest=f"{data_digest(images)}-{most}-{seed}",
    )
