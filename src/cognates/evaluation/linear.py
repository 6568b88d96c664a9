"""The linear probe: logistic regression whose penalty is chosen on held-out training images.

Grid and choice follow Do Better ImageNet Models Transfer Better (Kornblith et al., 2019),
https://arxiv.org/abs/1805.08974, appendix; the probe never sees a test label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from cognates.errors import DataError
from cognates.evaluation import bootstrap
from cognates.evaluation.logistic import Problem, Scaling, matching_threads, side_by_side
from cognates.evaluation.memory import once_per_pair
from cognates.evaluation.splits import holdout
from cognates.evaluation.subjects import TARGET, labels, per_image, subjects
from cognates.types import Features, Result

GRID = 12  # evaluation.md, section 3; the demo uses 6
RANGE = (1e5, 1e-2)  # 1/C from strong to weak, evaluation.md, section 3
PATIENCE = (
    3  # values of the grid of 12 without improvement that end the path, evaluation.md, section 3
)
BINS = 15  # of the calibration error, evaluation.md, section 10


class Prediction(NamedTuple):
    """What a probe says about the test images."""

    log_probabilities: np.ndarray
    """(n, k) float64"""
    classes: np.ndarray
    """(k,) the label of each column"""
    selected: Mapping[str, object]
    flags: tuple[str, ...]
    held_out: tuple[np.ndarray, np.ndarray] | None = None
    """What the probe of the rest, at the chosen penalty, says about the held-out training images:
    log-probabilities (m, k), and the column (m,) of each image's class. None: not kept."""
    classifier: tuple[np.ndarray, np.ndarray] | None = None
    """Weights (d, k) and biases (k,) of the probe, for features as they are. None: not kept."""

    @property
    def labels(self) -> np.ndarray:
        """(n,) the most probable class."""
        return self.classes[self.log_probabilities.argmax(axis=1)]

    @property
    def confidence(self) -> np.ndarray:
        """(n,) the largest probability."""
        return np.exp(self.log_probabilities.max(axis=1))

    def confidence_of(self, representation: np.ndarray) -> np.ndarray:
        """Return the largest probability (m,) of other features (m, d) than those predicted."""
        assert self.classifier is not None  # the linear probe keeps it
        weight, bias = self.classifier
        logits = representation.astype(np.float64) @ weight + bias
        return np.exp(log_softmax(logits, axis=1).max(axis=1))


@once_per_pair
def predict(train: Features, test: Features, *, grid: int = GRID) -> Prediction:
    r"""Fit the probe on `train` and predict `test`, whose labels are not read.

    The penalty is chosen on 20 % of the training images (stratified, seed 0) by accuracy, ties
    going to the stronger penalty; then the probe is fitted again on all of them with the same C.

    Args:
        train: with labels of at least two classes.
        test: features of the same width.
        grid: number of values of 1/C, log-spaced in [1e-2, 1e5].

    Returns:
        Log-probabilities, the chosen C and flags: `edge` if C is at the border of the grid,
        `not-converged` if the iterations did not suffice for the final fit.

    Raises:
        DataError: there are fewer than two classes, or no image can be held out.
    """
    return fit(train.representation, labels(train), test.representation, grid=grid)


def linear(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    grid: int = GRID,
) -> list[Result]:
    """Protocol `linear`: accuracy, NLL (nats), Brier score and ECE of the probe, for every subject.

    NLL and Brier score are means over images; where a class of the test images does not occur in
    training, their probability is 0, the NLL is infinite and its record carries the error. The ECE
    is biased upwards, more so in resamples: its interval leans upwards too.
    """
    found = subjects(train, test, others or {})
    largest = max(a.representation.size for a, _ in found.values())
    fitted = side_by_side(lambda pair: predict(*pair, grid=grid), found.values(), entries=largest)
    predictions = dict(zip(found, fitted, strict=True))
    truth = labels(test)
    settings = {"grid": grid, "inverse_C": list(RANGE), "holdout": 0.2}
    common = {
        "seed": seed,
        "settings": settings,
        "selected": {name: p.selected for name, p in predictions.items()},
        "flags": {name: p.flags for name, p in predictions.items()},
    }
    measured = {name: columns(p, truth) for name, p in predictions.items()}
    results = []
    for metric in ("accuracy", "nll", "brier"):
        values = {name: column[metric] for name, column in measured.items()}
        if all(np.isfinite(v).all() for v in values.values()):
            results += per_image("linear", metric, values, **common)
        else:
            results.append(
                undefined("linear", metric, truth, predictions["trained"], seed, settings)
            )
    for name, prediction in predictions.items():
        results.append(_calibration(name, prediction, truth, seed, settings))
    return results


def choosable(target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the classes of a target, it as their numbers, and which images are held out to choose.

    Raises:
        DataError: there are fewer than two classes, or no image can be held out.
    """
    classes, numbers = np.unique(target, return_inverse=True)
    held = holdout(numbers)
    if len(classes) < 2 or not held.any():
        raise DataError(
            f"Expected at least two classes and images to hold out, got {len(numbers)} images of "
            f"{len(classes)} classes: a probe cannot be chosen."
        )
    return classes, numbers, held


def learnable(train: Features) -> bool:
    """Return whether a probe can be chosen and fitted: two classes, and images to hold out."""
    if TARGET not in train.targets:
        return False
    try:
        choosable(labels(train))
    except DataError:
        return False
    return True


def penalties(grid: int) -> np.ndarray:
    """Return the values of 1/C, from strong to weak."""
    return np.logspace(np.log10(RANGE[0]), np.log10(RANGE[1]), grid)


def patience(grid: int) -> int:
    """Return how many values without improvement end a path: as far in log C as 3 of 12.

    Example:
        >>> patience(12), patience(6)
        (3, 2)
    """
    return math.ceil(PATIENCE * (grid - 1) / (GRID - 1))


def exhausted(
    accuracies: Sequence[float], strengths: Sequence[float], *, values: int = PATIENCE
) -> bool:
    """Return whether a path of penalties may stop: the last `values` brought no improvement.

    A value counts only where lambda is at most 1. Above it every weight is close to 0 and the
    probe's directions do not change, so that on a few hundred images several values tie before the
    first one that fits anything.

    Args:
        accuracies: held-out accuracies so far.
        strengths: their lambdas, falling.
        values: the patience.

    Example:
        >>> exhausted([0.5, 0.4, 0.5, 0.4], [1.0, 0.1, 0.01, 0.001])
        True
        >>> exhausted([0.3, 0.3, 0.3, 0.3], [400.0, 90.0, 20.0, 5.0])
        False
    """
    best = int(np.argmax(accuracies))
    return sum(strength <= 1 for strength in strengths[best + 1 :]) >= values


def expected_calibration_error(
    confidence: np.ndarray,
    correct: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    equal_mass: bool = False,
) -> np.ndarray:
    r"""ECE in 15 bins of the confidence, of equal width or with equally many images.

    Formula: sum over bins of (n_b / n) |accuracy_b - confidence_b|.

    Args:
        confidence: (n,) in [0, 1].
        correct: (n,) bool.
        weights: (r, n) counts of resamples; None: every image once.
        equal_mass: whether bins hold equally many of the n images, rather than a 15th of [0, 1].

    Returns:
        (r,) fractions in [0, 1].
    """
    n = len(confidence)
    # ceil - 1: a bin holds its upper border, as in Guo et al. 2017, https://arxiv.org/abs/1706.04599
    position = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    if equal_mass:
        position[np.argsort(confidence, kind="stable")] = np.arange(n) * BINS // n
    gaps = np.zeros((n, BINS))
    gaps[np.arange(n), position] = correct - confidence
    if weights is None:
        return np.abs(gaps.sum(axis=0, keepdims=True)).sum(axis=1) / n
    step = 256  # resamples at a time: 20 MB for 10,000 images
    parts = [weights[i : i + step].astype(float) @ gaps for i in range(0, len(weights), step)]
    return np.abs(np.concatenate(parts)).sum(axis=1) / n


def fit(
    x: np.ndarray,
    target: np.ndarray,
    unseen: np.ndarray,
    *,
    grid: int = GRID,
    balanced: bool = False,
) -> Prediction:
    """Fit the probe on any target: what `predict` does for the labels.

    Args:
        x: (n, d) features of the training images.
        target: (n,) whole numbers, at least two different ones.
        unseen: (m, d) features to predict.
        grid: number of penalties.
        balanced: choose the penalty by the mean recall of the classes instead of the accuracy,
            where that is the target's metric.

    Raises:
        DataError: there are fewer than two classes, or no image can be held out.
    """
    classes, target, held = choosable(target)
    with matching_threads(x.size):
        path = _path(x, target, held, classes=len(classes), grid=grid, balanced=balanced)
        best = int(np.argmax(path.accuracies))  # the first of equals: the strongest penalty
        inverse = penalties(grid)
        scaling = Scaling.of(x)
        problem = Problem(scaling(x)[None], target[None], classes=len(classes))
        # what was found on the fitted part, rewritten for the scaling of the whole, is a good start
        weight, bias = path.weights[best], path.biases[best] + scaling.mean @ path.weights[best]
        start = problem.restrict(weight[None] / scaling.factor, bias[None])
        found = problem.solve(inverse[best] / len(target), start=start)
        log_probabilities = found.log_probabilities(problem.reduce(scaling(unseen)[None]))[0]
        weight = scaling.factor * problem.expand(found)[0]
    chosen_by = "balanced_accuracy" if balanced else "accuracy"
    selected = {
        "C": float(1 / inverse[best]),
        f"heldout_{chosen_by}": path.accuracies[best],
        "converged": found.converged,
        "path_converged": all(path.converged),
        "iterations": found.iterations,
    }
    edge = best in (0, grid - 1)
    flags = (("edge",) if edge else ()) + (() if found.converged else ("not-converged",))
    held_out = (path.held_out[best], target[held])
    classifier = (weight, found.bias[0] - scaling.mean @ weight)
    return Prediction(log_probabilities, classes, selected, flags, held_out, classifier)


def share_right(target: np.ndarray, predicted: np.ndarray, *, balanced: bool) -> float:
    """Return the accuracy, or the mean recall of the classes that occur.

    Example:
        >>> target, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
        >>> share_right(target, predicted, balanced=False), share_right(
        ...     target, predicted, balanced=True)
        (0.75, 0.5)
    """
    right = predicted == target
    if not balanced:
        return float(right.mean())
    return float(np.mean([right[target == value].mean() for value in np.unique(target)]))


class _Path(NamedTuple):
    """Solutions from strong to weak penalties, in the coordinates of the features as they are."""

    accuracies: list[float]
    converged: list[bool]
    weights: list[np.ndarray]
    biases: list[np.ndarray]
    held_out: list[np.ndarray]
    """Log-probabilities of the held-out images."""


def _path(
    representation: np.ndarray,
    target: np.ndarray,
    held: np.ndarray,
    *,
    classes: int,
    grid: int,
    balanced: bool,
) -> _Path:
    """Fit the part that is not held out, penalties falling, until the path may stop."""
    scaling = Scaling.of(representation[~held])
    problem = Problem(scaling(representation[~held])[None], target[None, ~held], classes=classes)
    rest = problem.reduce(scaling(representation[held])[None])
    strengths = (penalties(grid) / np.count_nonzero(~held)).tolist()
    path, fit = _Path([], [], [], [], []), None
    for strength in strengths:
        fit = problem.solve(strength, start=fit)
        path.held_out.append(fit.log_probabilities(rest)[0])
        predicted = path.held_out[-1].argmax(axis=1)
        path.accuracies.append(share_right(target[held], predicted, balanced=balanced))
        path.converged.append(fit.converged)
        path.weights.append(scaling.factor * problem.expand(fit)[0])
        path.biases.append(fit.bias[0] - scaling.mean @ path.weights[-1])
        if exhausted(path.accuracies, strengths[: len(path.weights)], values=patience(grid)):
            break
    return path


def columns(prediction: Prediction, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Return accuracy, NLL and Brier score of every image; an unknown class has probability 0."""
    position = np.searchsorted(prediction.classes, truth).clip(max=len(prediction.classes) - 1)
    known = prediction.classes[position] == truth
    of_truth = prediction.log_probabilities[np.arange(len(truth)), position]
    probabilities = np.exp(prediction.log_probabilities)
    # sum_k (p_k - [y = k])^2 = sum_k p_k^2 - 2 p_y + 1
    p_true = np.where(known, np.exp(of_truth), 0.0)
    return {
        "accuracy": prediction.labels == truth,
        "nll": np.where(known, -of_truth, np.inf),
        "brier": (probabilities**2).sum(axis=1) - 2 * p_true + 1,
    }


def _calibration(
    subject: str,
    prediction: Prediction,
    truth: np.ndarray,
    seed: int,
    settings: Mapping[str, object],
) -> Result:
    correct = (prediction.labels == truth).astype(float)
    weights = bootstrap.counts(len(truth), seed=seed)
    value = expected_calibration_error(prediction.confidence, correct)[0]
    resampled = expected_calibration_error(prediction.confidence, correct, weights=weights)
    low, high = bootstrap.interval(resampled)
    return Result(
        protocol="linear",
        metric="ece",
        value=float(value),
        low=low,
        high=high,
        n=len(truth),
        protocol_seed=seed,
        settings={**settings, "bins": BINS},
        selected=prediction.selected,
        subject=subject,
        flags=prediction.flags,
    )


def undefined(
    protocol: str,
    metric: str,
    truth: np.ndarray,
    prediction: Prediction,
    seed: int,
    settings: Mapping[str, object] | None = None,
) -> Result:
    """Return the record of a value that is infinite, as a class of `truth` (n,) is not known."""
    missing = np.setdiff1d(truth, prediction.classes)
    return Result(
        protocol=protocol,
        metric=metric,
        value=float("nan"),
        low=None,
        high=None,
        n=len(truth),
        protocol_seed=seed,
        settings=dict(settings or {}),
        error=f"Expected every class of the test images in training, got {len(missing)} others.",
    )
