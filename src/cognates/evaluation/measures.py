r"""What probes are measured by, on all test images and on each of their resamples.

R^2               = 1 - SSE/SST     all columns of a target together, against the TRAIN mean
balanced accuracy = mean over classes of the share of their images that are recognised
average precision = sum over thresholds of (recall gained) x precision
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cognates.errors import DataError
from cognates.evaluation import bootstrap

RARE = 0.05
"""Share of undefined resamples above which an interval is flagged. A class of one test image is
missing in 37 % of them (1/e), of two in 14 %, of three in 5 %, of four in 2 %."""
_ELEMENTS = 1 << 22  # weights at a time: 32 MB in float64


class Answer(NamedTuple):
    """What a probe says about the test images that have a target, beside what is true."""

    truth: np.ndarray
    """(n,) classes, or (n, k) numbers."""
    given: np.ndarray
    """(n,) classes, or (n, k) numbers."""
    score: np.ndarray | None = None
    """(n,) of the larger of two classes, for average precision."""
    reference: np.ndarray | None = None
    """(k,) mean of the training images, for R^2."""


class Estimate(NamedTuple):
    """A value and what the resamples make of it."""

    value: float
    samples: np.ndarray
    """(r,)"""
    undefined: float = 0.0
    """Share of resamples in which the measure is not defined and took the value of all images."""

    @property
    def flags(self) -> tuple[str, ...]:
        """`rare-class` where so many resamples are undefined that the interval is too narrow."""
        return ("rare-class",) if self.undefined > RARE else ()

    def minus(self, other: Estimate) -> Estimate:
        """Return the paired difference to an estimate from the same images."""
        undefined = max(self.undefined, other.undefined)
        return Estimate(self.value - other.value, self.samples - other.samples, undefined)


def measure(name: str, answer: Answer, *, seed: int) -> Estimate:
    r"""Return a measure of one answer.

    Args:
        name: `accuracy`, `balanced-accuracy`, `average-precision` or `r2`.
        answer: of at least one image.
        seed: the protocol's seed, which fixes the resamples.

    Returns:
        A fraction; R^2 is at most 1 and may be negative. A resample in which it is not defined,
        lacking a class or having one value alone, takes the value of all images; `undefined` is
        the share of these.

    Raises:
        DataError: it is not defined on the test images.
    """
    value, samples = _MEASURES[name](answer, seed)
    if not np.isfinite(value):
        raise DataError(
            f"Expected test images in which the target varies for '{name}', got {len(answer.truth)}"
            " that are all the same: give more test images."
        )
    defined = np.isfinite(samples)
    return Estimate(value, np.where(defined, samples, value), float(1 - defined.mean()))


def mean(estimates: list[Estimate]) -> Estimate:
    """Return the mean of estimates from the same images."""
    return Estimate(
        float(np.mean([estimate.value for estimate in estimates])),
        np.mean([estimate.samples for estimate in estimates], axis=0),
        float(np.mean([estimate.undefined for estimate in estimates])),
    )


def _accuracy(answer: Answer, seed: int) -> tuple[float, np.ndarray]:
    right = (answer.truth == answer.given).astype(np.float64)
    return float(right.mean()), bootstrap.means(right, seed=seed)


def _balanced(answer: Answer, seed: int) -> tuple[float, np.ndarray]:
    member = (answer.truth[:, None] == np.unique(answer.truth)).astype(np.float64)
    classes = member.shape[1]
    if classes < 2:
        return float("nan"), np.empty(0)
    right = member * (answer.truth == answer.given)[:, None]
    both = np.concatenate([right, member], axis=1)

    def recall(sums: np.ndarray) -> np.ndarray:
        hits, sizes = sums[..., :classes], sums[..., classes:]
        with np.errstate(invalid="ignore"):
            return np.asarray((hits / sizes).mean(axis=-1))

    return float(recall(both.mean(axis=0))), recall(bootstrap.means(both, seed=seed))


def _average_precision(answer: Answer, seed: int) -> tuple[float, np.ndarray]:
    assert answer.score is not None
    order = np.argsort(-answer.score, kind="stable")
    positive = (answer.truth == answer.truth.max())[order].astype(np.float64)
    if not 0 < positive.sum() < len(positive):
        return float("nan"), np.empty(0)
    ordered = answer.score[order]
    # images of one score are one threshold
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))

    def area(weights: np.ndarray) -> np.ndarray:
        seen = np.cumsum(weights, axis=1)[:, ends]
        hits = np.cumsum(weights * positive, axis=1)[:, ends]
        gained = np.diff(hits, axis=1, prepend=0.0)
        with np.errstate(invalid="ignore"):
            return (gained * hits / np.maximum(seen, 1.0)).sum(axis=1) / hits[:, -1]

    counts = bootstrap.counts(len(positive), seed=seed)
    step = max(1, _ELEMENTS // len(positive))
    parts = [
        area(counts[start : start + step][:, order].astype(np.float64))
        for start in range(0, len(counts), step)
    ]
    return float(area(np.ones((1, len(positive))))[0]), np.concatenate(parts)


def _r2(answer: Answer, seed: int) -> tuple[float, np.ndarray]:
    errors = ((answer.truth - answer.given) ** 2).sum(axis=1)
    spread = ((answer.truth - answer.reference) ** 2).sum(axis=1)
    sums = bootstrap.means(np.stack([errors, spread], axis=1), seed=seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = 1 - errors.mean() / spread.mean()
        return float(value), 1 - sums[:, 0] / sums[:, 1]


_MEASURES: dict[str, Callable[[Answer, int], tuple[float, np.ndarray]]] = {
    "accuracy": _accuracy,
    "balanced-accuracy": _balanced,
    "average-precision": _average_precision,
    "r2": _r2,
}
