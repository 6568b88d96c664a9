"""Whose features a value is about: the trained encoder, an untrained copy of it, or raw pixels.

A protocol that gives accuracies runs on every subject that it is given, and states the trained
encoder's paired differences to the others in metrics named `METRIC-minus-untrained` and
`METRIC-minus-pixels`.

The untrained copy has freshly drawn weights and batch norm as it starts (mean 0, variance 1). With
statistics of training images instead it is the weaker baseline, by 3 points in the linear probe and
6 with few labels (`benchmarks/untrained.py`), so it is left as it starts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cognates.data.images import Images
from cognates.errors import DataError
from cognates.evaluation import bootstrap
from cognates.evaluation.ranks import require_finite
from cognates.types import Features, Result

BASELINES = ("untrained", "pixels")
TARGET = "label"


def subjects(
    train: Features, test: Features, others: Mapping[str, Features]
) -> dict[str, tuple[Features, Features]]:
    """Return (train, test) features by subject; a baseline without both splits is left out."""
    found = {"trained": (train, test)}
    for name in BASELINES:
        if f"{name}-train" in others and f"{name}-test" in others:
            found[name] = (others[f"{name}-train"], others[f"{name}-test"])
    return found


def has_labels(train: Features | Images, test: Features | Images) -> bool:
    """Return whether both splits have one class per image."""
    return all(TARGET in f.targets and np.ndim(f.targets[TARGET]) == 1 for f in (train, test))


def labels(features: Features) -> np.ndarray:
    """Return the classes (n,) int64.

    Raises:
        DataError: the features have no classes, or they are not whole numbers.
    """
    if TARGET not in features.targets:
        raise DataError(
            f"Expected a target '{TARGET}' in the {features.split or 'given'} features, got "
            f"{sorted(features.targets) or 'none'}: this protocol needs labels."
        )
    target = np.asarray(features.targets[TARGET])
    if target.ndim == 2:
        raise DataError(
            f"Expected one class per image in '{TARGET}', got {target.shape[1]} columns: the "
            "protocols 'celeba' (attributes) and 'dsprites' (factors) take several."
        )
    if target.ndim != 1 or not np.array_equal(target, target.astype(np.int64)):
        raise DataError(f"Expected one whole number per image in '{TARGET}', got {target.dtype}.")
    return target.astype(np.int64)


def per_image(
    protocol: str,
    metric: str,
    values: Mapping[str, np.ndarray],
    *,
    seed: int,
    settings: Mapping[str, object] | None = None,
    selected: Mapping[str, Mapping[str, object]] | None = None,
    flags: Mapping[str, tuple[str, ...]] | None = None,
) -> list[Result]:
    """Return records of means over images, and of the paired differences between subjects.

    Args:
        protocol: its name.
        metric: what the values are.
        values: one number per test image (n,), by subject.
        seed: the protocol's seed, which fixes the resamples.
        settings: recorded in every record.
        selected: what was chosen, by subject.
        flags: by subject.
    """
    results = []
    for subject, numbers in values.items():
        require_finite(f"{protocol} {metric}", numbers)
        low, high = bootstrap.interval(bootstrap.means(numbers, seed=seed))
        results.append(
            Result(
                protocol=protocol,
                metric=metric,
                value=float(np.mean(numbers)),
                low=low,
                high=high,
                n=len(numbers),
                protocol_seed=seed,
                settings=dict(settings or {}),
                selected=dict((selected or {}).get(subject, {})),
                subject=subject,
                flags=(flags or {}).get(subject, ()),
            )
        )
    for baseline in BASELINES:
        if baseline in values and "trained" in values:
            results.append(
                minus(
                    protocol,
                    f"{metric}-minus-{baseline}",
                    values["trained"],
                    values[baseline],
                    seed=seed,
                    settings=settings,
                )
            )
    return results


def minus(
    protocol: str,
    metric: str,
    first: np.ndarray,
    second: np.ndarray,
    *,
    seed: int,
    settings: Mapping[str, object] | None = None,
    subject: str = "trained",
) -> Result:
    """Return the record of a paired difference of two means over the same images.

    Args:
        protocol: its name.
        metric: what the difference is called.
        first: (n,) one number per test image.
        second: (n,) what is taken from it.
        seed: the protocol's seed, which fixes the resamples.
        settings: recorded.
        subject: whose record it is.
    """
    gaps = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    low, high = bootstrap.interval(bootstrap.means(gaps, seed=seed))
    return Result(
        protocol=protocol,
        metric=metric,
        value=float(np.mean(first) - np.mean(second)),
        low=low,
        high=high,
        n=len(first),
        protocol_seed=seed,
        settings=dict(settings or {}),
        subject=subject,
    )
