r"""What is left wrong when the most uncertain images are refused: AURC, AUGRC, risk and coverage.

Images are sorted by rising uncertainty, a fixed permutation deciding among ties; e_i = 1 for a
wrong answer, and r_k = (1/k) sum_{i<=k} e_i is the risk at coverage k/n.

AURC = (1/n) sum_k r_k      AUGRC = (1/n) sum_k (k/n) r_k

The oracle puts every error last; its AURC* is exact here, not the limit for large n. Of a random
order the AURC is the error rate r, so (AURC - AURC*) / (r - AURC*) is 0 for the oracle and 1 for
chance.

Selective Classification for Deep Neural Networks (Geifman and El-Yaniv, 2017),
https://arxiv.org/abs/1705.08500; Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers
(Geifman et al., 2019), https://arxiv.org/abs/1805.08206, for E-AURC; Overcoming Common Flaws in the
Evaluation of Selective Classification Systems (Traub et al., 2024),
https://arxiv.org/abs/2407.01032, for AUGRC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from cognates.evaluation import bootstrap, linear
from cognates.evaluation.measures import Estimate
from cognates.evaluation.memory import once_per_pair
from cognates.evaluation.ranks import order
from cognates.evaluation.uncertainty import BASELINES, all_scores, compared, mistakes, undefined
from cognates.types import Features, Result

COVERAGES = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)
"""Percent of the images that are answered: the points of the curve."""
STATED = (80, 95)
"""Those at which scores are compared: evaluation.md, section 10."""
RISKS = (1, 5)
"""Percent of wrong answers that are tolerated: evaluation.md, section 10."""


def aurc(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    grid: int = linear.GRID,
) -> list[Result]:
    r"""Protocol `aurc`: area under the risk-coverage curve, smaller is better, of every score.

    Metrics, for the errors of `PROBE` (`linear`, `knn`): `PROBE/aurc/SCORE` with the default's
    paired differences `PROBE/aurc/default-minus-SCORE` (negative: the default is better);
    `PROBE/e-aurc/SCORE`, less the oracle's; `PROBE/normalised/SCORE`, 0 for the oracle and 1 for a
    random order; `PROBE/oracle` and `PROBE/error-rate`, which no score changes.

    Args:
        train: with labels.
        test: with labels and scores.
        seed: of the resamples, the ties and the random score.
        others: not used.
        grid: number of penalties of the linear probe.

    Returns:
        Records; for a probe that makes no error, or nothing but errors, one record `PROBE/failed`
        with `error`.
    """
    del others
    directions = {"aurc": min, "e-aurc": None, "normalised": None}
    return _records("aurc", train, test, seed, grid, directions, common=True)


def augrc(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    grid: int = linear.GRID,
) -> list[Result]:
    r"""Protocol `augrc`: area under the generalised risk-coverage curve, smaller is better.

    It is the mean share of all images that are answered and wrong, so that the few most certain
    images do not weigh most. For large n it is r^2/2 + (1 - AUROC) r (1 - r). Metrics
    `PROBE/augrc/SCORE` and `PROBE/augrc/default-minus-SCORE`; arguments as in `aurc`.
    """
    del others
    return _records("augrc", train, test, seed, grid, {"augrc": min})


def risk(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    grid: int = linear.GRID,
) -> list[Result]:
    r"""Protocol `risk`: the error rate of what is answered, and how much can be at a given risk.

    Metrics `PROBE/risk-at-C/SCORE`, the error rate of the ceil(C n / 100) most certain images, for
    C = 10, 20, ..., 90, 95, 100; `PROBE/coverage-at-R/SCORE`, the largest share of the images with
    an error rate of at most R %, for R = 1, 5, and 0 if there is none. At C = 80, 95 and for both R
    the default's paired differences `.../default-minus-SCORE` follow. Fractions; arguments as in
    `aurc`.
    """
    del others
    directions = {f"risk-at-{c}": min if c in STATED else None for c in COVERAGES}
    directions |= {f"coverage-at-{r}": max for r in RISKS}
    return _records("risk", train, test, seed, grid, directions)


def statistics(errors: np.ndarray) -> dict[str, np.ndarray]:
    r"""Return what a sequence of answers, the most certain first, says about its score.

    Args:
        errors: (m, n) of 0 and 1, one sequence per row.

    Returns:
        By name (m,): `aurc`, `augrc`, `oracle`, `error-rate`, `e-aurc`, `normalised` (0 where the
        error rate is 0 or 1 and nothing can be ranked), `risk-at-C`, `coverage-at-R`.

    Example:
        >>> found = statistics(np.array([[0.0, 1.0]]))
        >>> float(found["aurc"][0]), float(found["augrc"][0]), float(found["oracle"][0])
        (0.25, 0.25, 0.25)
    """
    n = errors.shape[1]
    answered = np.arange(1, n + 1)
    wrong = np.cumsum(errors, axis=1, dtype=np.float64)
    risks = wrong / answered
    rate, best = wrong[:, -1] / n, oracle(wrong[:, -1].astype(np.int64), n)
    excess, room = risks.mean(axis=1) - best, rate - best
    found = {
        "aurc": risks.mean(axis=1),
        "augrc": wrong.mean(axis=1) / n,
        "oracle": best,
        "error-rate": rate,
        "e-aurc": excess,
        "normalised": np.where(room > 0, excess / np.where(room > 0, room, 1), 0.0),
    }
    for coverage in COVERAGES:
        # whole numbers, as .95 n in floating point may lie on the wrong side of one
        found[f"risk-at-{coverage}"] = risks[:, -(-coverage * n // 100) - 1]
    for level in RISKS:
        within = 100 * wrong <= level * answered
        most = n - np.argmax(within[:, ::-1], axis=1)
        found[f"coverage-at-{level}"] = np.where(within.any(axis=1), most / n, 0.0)
    return found


def oracle(wrong: np.ndarray, n: int) -> np.ndarray:
    r"""Return the AURC of an order in which all errors come last, for `wrong` (m,) errors of n.

    Formula: (1/n) sum_{j=1..E} j / (n - E + j) = (E - (n - E) (H_n - H_{n-E})) / n, with the
    harmonic numbers H; for large n it is r + (1 - r) ln(1 - r).

    Example:
        >>> oracle(np.array([0, 1, 2]), 2).tolist()
        [0.0, 0.25, 1.0]
    """
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])
    return (wrong - (n - wrong) * (harmonic[n] - harmonic[n - wrong])) / n


def _records(
    protocol: str,
    train: Features,
    test: Features,
    seed: int,
    grid: int,
    directions: Mapping[str, Callable[..., str] | None],
    *,
    common: bool = False,
) -> list[Result]:
    """Return the records of some statistics: those that have a best one with differences."""
    results = []
    curves = _curves(train, test, seed=seed, grid=grid)
    for probe, errors in mistakes(train, test, grid=grid).items():
        if probe not in curves:
            results.append(undefined(protocol, f"{probe}/failed", errors, seed))
            continue
        settings = {"errors": probe, "error_rate": float(errors.mean()), "grid": grid}
        for measure, best in directions.items():
            estimates = {score: found[measure] for score, found in curves[probe].items()}
            results += compared(
                protocol,
                f"{probe}/{measure}/",
                estimates,
                test,
                seed=seed,
                settings=settings,
                best=best or max,
                baselines=() if best is None else BASELINES,
            )
        if common:  # of no score, so that of any
            found = next(iter(curves[probe].values()))
            for measure in ("oracle", "error-rate"):
                only = {measure: found[measure]}
                results += compared(protocol, f"{probe}/", only, test, seed=seed, settings=settings)
    return results


@once_per_pair
def _curves(
    train: Features, test: Features, *, seed: int, grid: int
) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Return the statistics by probe, score and name: three protocols read them."""
    scores = all_scores(train, test, seed=seed, grid=grid)
    return {
        probe: {name: _estimates(score, errors, seed) for name, score in scores.items()}
        for probe, errors in mistakes(train, test, grid=grid).items()
        if errors.any() and not errors.all()
    }


def _estimates(score: np.ndarray, errors: np.ndarray, seed: int) -> dict[str, Estimate]:
    sorting = order(score, seed=seed)
    values = statistics(errors[sorting][None].astype(np.float32))
    drawn = bootstrap.sequences(errors.astype(np.float32), sorting, seed=seed)
    parts = [statistics(rows) for rows in drawn]
    return {
        name: Estimate(float(value[0]), np.concatenate([part[name] for part in parts]))
        for name, value in values.items()
    }
