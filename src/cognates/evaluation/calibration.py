"""Does the probe's confidence mean what it says? ECE, NLL, Brier, before and after scaling.

On Calibration of Modern Neural Networks (Guo et al., 2017), https://arxiv.org/abs/1706.04599: one
temperature T, fitted on images that the probe was not, makes a softmax of z / T of its logits z.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from cognates.evaluation import bootstrap, linear
from cognates.evaluation.measures import Estimate
from cognates.evaluation.subjects import labels
from cognates.types import Features, Result

RANGE = (1 / 20, 20.0)
"""Of the temperature: probes that were chosen on held-out images lie well within."""


class Temperature(NamedTuple):
    """What was fitted on held-out images."""

    value: float
    nll: float
    """Mean over these images, in nats."""
    edge: bool
    """Whether it lies on the border of its range: the held-out images are all right, or none."""


def calibration(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    grid: int = linear.GRID,
) -> list[Result]:
    r"""Protocol `calibration`: how the linear probe's confidence relates to its accuracy.

    Metrics `before/M` and `after/M`, after temperature scaling, and their paired difference
    `after-minus-before/M`, negative where scaling helps, for M: `ece` in 15 bins of equal width,
    `ece-mass` in 15 of equally many images, `nll` (nats) and `brier`. `selected` has the
    temperature, fitted on the 20 % of the training images that also chose the penalty, with the
    probe of the rest; it is applied to the probe of all of them.

    Args:
        train: with labels of at least two classes.
        test: with labels.
        seed: of the resamples.
        others: not used: the probes of pixels and of the untrained encoder, which take longest,
            have their calibration error in `linear`.
        grid: number of penalties of the probe.

    Returns:
        Records. An ECE is biased upwards, more so in resamples: its interval leans upwards too.
        Where a class of the test images does not occur in training the NLL is infinite, and the
        record `before/nll` carries the error.
    """
    del others
    prediction = linear.predict(train, test, grid=grid)
    return _records(prediction, labels(test), seed, grid)


def fit_temperature(log_probabilities: np.ndarray, target: np.ndarray) -> Temperature:
    r"""Return the temperature of the smallest mean NLL, which is convex in 1/T.

    Args:
        log_probabilities: (m, k) of held-out images.
        target: (m,) the column of each image's class.

    Example:
        >>> z = np.log(np.array([[0.9, 0.1]] * 10))
        >>> fitted = fit_temperature(z, np.repeat([0, 1], [7, 3]))
        >>> float(np.exp(log_softmax(z / fitted.value, axis=1))[0, 0].round(3))
        0.7
    """
    rows = np.arange(len(target))

    def nll(log_temperature: float) -> float:
        scaled = log_softmax(log_probabilities / np.exp(log_temperature), axis=1)
        return float(-scaled[rows, target].mean())

    low, high = np.log(RANGE)
    # In log T the function is not convex, but it falls and rises once, as in 1/T.
    found: Any = minimize_scalar(nll, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    best = min(low, high, key=nll)
    # Where all images are right the NLL is 0 to the last digit long before the border.
    if nll(best) <= found.fun + 1e-9:
        return Temperature(float(np.exp(best)), nll(best), edge=True)
    return Temperature(float(np.exp(found.x)), float(found.fun), edge=False)


def _records(
    prediction: linear.Prediction, truth: np.ndarray, seed: int, grid: int
) -> list[Result]:
    assert prediction.held_out is not None  # the linear probe keeps it
    fitted = fit_temperature(*prediction.held_out)
    scaled = prediction._replace(
        log_probabilities=log_softmax(prediction.log_probabilities / fitted.value, axis=1)
    )
    before, after = (_estimates(p, truth, seed) for p in (prediction, scaled))
    gaps = {name: after[name].minus(value) for name, value in before.items()}
    results = []
    for kind, estimates in (("before", before), ("after", after), ("after-minus-before", gaps)):
        for name, estimate in estimates.items():
            low, high = bootstrap.interval(estimate.samples)
            results.append(
                Result(
                    protocol="calibration",
                    metric=f"{kind}/{name}",
                    value=estimate.value,
                    low=low,
                    high=high,
                    n=len(truth),
                    protocol_seed=seed,
                    settings={"grid": grid, "bins": linear.BINS},
                    selected={**prediction.selected, "temperature": fitted.value},
                    flags=(*prediction.flags, *(("temperature-edge",) if fitted.edge else ())),
                )
            )
    if "nll" not in before:
        results.append(linear.undefined("calibration", "before/nll", truth, prediction, seed))
    return results


def _estimates(prediction: linear.Prediction, truth: np.ndarray, seed: int) -> dict[str, Estimate]:
    right = prediction.labels == truth
    weights = bootstrap.counts(len(truth), seed=seed)
    found = {}
    for name, equal_mass in (("ece", False), ("ece-mass", True)):
        value, samples = (
            linear.expected_calibration_error(
                prediction.confidence, right, weights=counts, equal_mass=equal_mass
            )
            for counts in (None, weights)
        )
        found[name] = Estimate(float(value[0]), samples)
    for name in ("nll", "brier"):
        values = linear.columns(prediction, truth)[name]
        if np.isfinite(values).all():
            found[name] = Estimate(float(values.mean()), bootstrap.means(values, seed=seed))
    return found
