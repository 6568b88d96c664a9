"""Few labels: the linear probe on a handful of labelled images per class, over many draws."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cognates.errors import ConfigError
from cognates.evaluation.linear import GRID, penalties
from cognates.evaluation.logistic import Problem, Scaling, side_by_side
from cognates.evaluation.splits import folds, per_class
from cognates.evaluation.subjects import BASELINES, labels, subjects
from cognates.random import fold_in
from cognates.types import Features, Result

PER_CLASS = 10
DRAWS = 20
FOLDS = 5  # evaluation.md, section 6
TOLERANCE = 1e-6
"""Of the final fit's gradient. A hundred images are separable, and under a weak penalty the loss is
flat: at 1e-3 accuracies were up to 6 points off those of the optimum, and a matter of the algorithm
(measured on 10 x 10 images of Fashion-MNIST)."""
CHOICE_TOLERANCE = 1e-4  # while choosing C: at 1e-6 the mean over draws moved by 0.05 points
ITERATIONS = 1000


def few_labels(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    grid: int = GRID,
    per_class_count: int = PER_CLASS,
    draws: int = DRAWS,
) -> list[Result]:
    r"""Protocol `few-labels`: mean accuracy over draws of k labelled images per class.

    The penalty is chosen by stratified 5-fold cross-validation inside each draw.

    Every subject gets the same draws, so the differences are paired. The interval is Student's t
    interval over draws: it is about the choice of the labelled images, not about the test images.

    Args:
        train: with labels.
        test: with labels.
        seed: decides which images are drawn.
        others: features of the baselines.
        grid: number of penalties, as in `linear`.
        per_class_count: k; a class with fewer images gives all it has, and the flag `small-classes`
            says so.
        draws: number of subsets, at least 2.

    Returns:
        `accuracy` by subject, `accuracy-minus-untrained` and `accuracy-minus-pixels`.
    """
    if draws < 2 or per_class_count < 2:
        raise ConfigError(
            f"Expected at least 2 draws of 2 images per class, got {draws} of {per_class_count}."
        )
    target = labels(train)
    chosen = [
        per_class(target, count=per_class_count, seed=fold_in(seed, "few-labels", draw))
        for draw in range(draws)
    ]
    found = subjects(train, test, others or {})
    tasks = [(a, b, rows) for a, b in found.values() for rows in chosen]
    every = side_by_side(lambda task: _accuracy(*task, grid=grid), tasks, entries=0)
    accuracies = dict(zip(found, np.array(every).reshape(-1, draws), strict=True))
    columns = {("accuracy", subject): values for subject, values in accuracies.items()}
    for baseline in BASELINES:
        if baseline in accuracies:
            difference = accuracies["trained"] - accuracies[baseline]
            columns[f"accuracy-minus-{baseline}", "trained"] = difference
    smallest = np.unique(target, return_counts=True)[1].min()
    results = []
    for (metric, subject), values in columns.items():
        low, high = student_interval(values)
        results.append(
            Result(
                protocol="few-labels",
                metric=metric,
                value=float(values.mean()),
                low=low,
                high=high,
                n=len(test.representation),
                protocol_seed=seed,
                settings={"per_class": per_class_count, "draws": draws, "grid": grid},
                subject=subject,
                interval="student-t-draws",
                flags=("small-classes",) if smallest < per_class_count else (),
            )
        )
    return results


def student_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    r"""Return Student's t interval of the mean of independent `values`.

    Formula: mean -+ t_{(1 + level)/2, m - 1} s / sqrt(m), s with m - 1 in the denominator.

    Example:
        >>> low, high = student_interval(np.array([1.0, 2.0, 3.0]))
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    from scipy.special import stdtrit

    m = len(values)
    half = float(stdtrit(m - 1, (1 + level) / 2)) * float(values.std(ddof=1)) / np.sqrt(m)
    middle = float(values.mean())
    return middle - float(half), middle + float(half)


def _accuracy(train: Features, test: Features, rows: np.ndarray, *, grid: int) -> float:
    """Choose C inside the subset, fit on all of it, and return the accuracy on the test images."""
    x = train.representation[rows]
    classes, target = np.unique(labels(train)[rows], return_inverse=True)
    inverse = penalties(grid)
    # the whole path: on a hundred images three values without improvement mean nothing; the first
    # of equals has the strongest penalty
    best = int(np.argmax(_cross_validate(x, target, inverse, classes=len(classes))))
    scaling = Scaling.of(x)
    problem = Problem(scaling(x)[None], target[None], classes=len(classes))
    fit = problem.solve(inverse[best] / len(rows), tolerance=TOLERANCE, iterations=ITERATIONS)
    # the scaling goes into the weights: the float32 test features are multiplied as they are
    slope = scaling.factor * problem.expand(fit)[0]
    scores = test.representation @ slope.astype(np.float32)
    scores = scores + (fit.bias[0] - scaling.mean @ slope)
    return float((classes[scores.argmax(axis=1)] == labels(test)).mean())


def _cross_validate(
    x: np.ndarray, target: np.ndarray, inverse: np.ndarray, *, classes: int
) -> list[float]:
    """Accuracy over the pooled folds for each 1/C."""
    fold = folds(target, count=FOLDS)
    numbers = np.unique(fold)
    held = fold == numbers[:, None]
    sizes = (~held).sum(axis=1)
    # the folds' problems share one shape: every image has a row in each, held-out ones are padding
    scaled = np.stack([Scaling.of(x[~out])(x) for out in held])
    fitted = np.where(held[:, :, None], 0.0, scaled)
    targets = np.broadcast_to(target, held.shape)
    problem = Problem(fitted, targets, classes=classes, rows=~held)
    rest = problem.reduce(scaled)
    fit = None
    accuracies = []
    for value in inverse:
        fit = problem.solve(
            value / sizes, start=fit, tolerance=CHOICE_TOLERANCE, iterations=ITERATIONS
        )
        right = fit.log_probabilities(rest).argmax(axis=-1) == targets
        accuracies.append(float(right[held].sum() / len(x)))
    return accuracies
