"""Does the uncertainty know which predictions are wrong? Deciles and AUROC, beside baselines.

The default score is what the method stands for. Baselines that cost no label are `norm`,
`knn-distance` and `view-disagreement`, for methods that draw images also the error of
`reconstruction`; `max-softmax` reads the labels of the training images and is
marked; `random` is a sanity row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from cognates.errors import ConfigError, DataError, nearest
from cognates.evaluation import bootstrap, knn, linear
from cognates.evaluation.measures import Estimate
from cognates.evaluation.ranks import auroc, order, require_finite, spearman
from cognates.evaluation.subjects import labels
from cognates.random import fold_in
from cognates.types import Features, Result

LABEL_FREE = ("norm", "knn-distance", "view-disagreement")
RECONSTRUCTION = "reconstruction"
DRAWN = (RECONSTRUCTION, "negative-elbo")
"""Scores beside the default one of a method that draws images; the first is a baseline too."""
BASELINES = (*LABEL_FREE, RECONSTRUCTION)
"""What the default score has to beat: the scores that cost no label."""
MAX_SOFTMAX = "max-softmax"
RANDOM = "random"
LABELLED = (MAX_SOFTMAX, RANDOM)
"""Scores that stand beside the others and that the default one is not compared with: one reads
labels, one is a sanity row."""
GROUPS = 10


def require_offered(score: str, offered: Collection[str]) -> str:
    """Return a score that a model gives, or raise a sentence about it.

    Args:
        score: its name.
        offered: the scores that the model gives.

    Raises:
        ConfigError: the model does not give it, or it is one that only the evaluation has.
    """
    if score in offered:
        return score
    if score in (*LABEL_FREE, *LABELLED):
        raise ConfigError(
            f"Expected a score that this model gives, got '{score}', which only the evaluation "
            f"measures beside them: choose one of {', '.join(sorted(offered))}."
        )
    raise ConfigError(f"Unknown score '{score}' of this model: {nearest(score, offered)}.")


def auroc_error(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    grid: int = linear.GRID,
) -> list[Result]:
    r"""Protocol `auroc-error`: AUROC of every score for the errors of the linear probe and of kNN.

    Metrics are named `linear/SCORE` and `knn/SCORE`. For the default score the paired differences
    `linear/default-minus-SCORE` to every label-free baseline follow, and
    `linear/default-minus-best`: to the baseline with the highest AUROC *on these test images*, a
    choice that favours the baseline. `selected` names it.

    Args:
        train: with labels.
        test: with labels and scores.
        seed: of the resamples and the random score.
        others: not used; an uncertainty is compared with scores of the same features.
        grid: number of penalties of the linear probe.

    Returns:
        Records; for a probe that makes no error, or nothing but errors, one record `PROBE/failed`
        with `error`: there the AUROC is not defined.
    """
    del others
    scores = all_scores(train, test, seed=seed, grid=grid)
    results = []
    for probe, errors in mistakes(train, test, grid=grid).items():
        if errors.all() or not errors.any():
            results.append(undefined("auroc-error", f"{probe}/failed", errors, seed))
            continue
        estimates = {name: ranking(score, errors, seed=seed) for name, score in scores.items()}
        settings = {"errors": probe, "error_rate": float(errors.mean()), "grid": grid}
        results += compared(
            "auroc-error", f"{probe}/", estimates, test, seed=seed, settings=settings
        )
    return results


def deciles(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    grid: int = linear.GRID,
) -> list[Result]:
    r"""Protocol `deciles`: accuracy of the linear probe in ten equal groups, certain to uncertain.

    Metrics: `SCORE/decile-1` (the least uncertain) to `SCORE/decile-10`; `SCORE/first-minus-last`;
    `SCORE/spearman-groups`, Spearman's correlation of group number and accuracy (ten points:
    coarse; -1 is best); `SCORE/spearman-images`, that of the uncertainty and the error of single
    images (larger is better).

    Raises:
        DataError: there are fewer than ten test images.
    """
    del others
    truth = labels(test)
    if len(truth) < GROUPS:
        raise DataError(f"Expected at least {GROUPS} test images for deciles, got {len(truth)}.")
    correct = linear.predict(train, test, grid=grid).labels == truth
    results = []
    for name, score in all_scores(train, test, seed=seed, grid=grid).items():
        sorting = order(score, seed=seed)
        values = decile_accuracies(correct, sorting)
        samples = bootstrap.group_accuracies(correct, sorting, groups=GROUPS, seed=seed)
        columns = {
            f"decile-{i + 1}": (float(values[i]), samples[:, i]) for i in range(GROUPS)
        } | {
            "first-minus-last": (float(values[0] - values[-1]), samples[:, 0] - samples[:, -1]),
            "spearman-groups": (
                spearman(np.arange(GROUPS), values),
                bootstrap.group_spearmans(samples),
            ),
            "spearman-images": (
                spearman(score, (~correct).astype(float)),
                bootstrap.rank_statistics(score, ~correct, seed=seed)[1],
            ),
        }  # fmt: skip
        for metric, (value, resampled) in columns.items():
            results.append(
                _record(
                    "deciles", f"{name}/{metric}", value, resampled, len(truth), seed,
                    settings={"score": name, "errors": "linear", "groups": GROUPS, "grid": grid},
                    flags=_flags(name, test),
                )
            )  # fmt: skip
    return results


def all_scores(
    train: Features,
    test: Features,
    *,
    seed: int,
    grid: int = linear.GRID,
    labelled: bool = True,
) -> dict[str, np.ndarray]:
    """Return the scores of the test images by name, the default one first, then the baselines.

    `knn-distance` is computed if it is missing; `max-softmax` needs the training images' labels and
    is there where they are `labelled`; `random` is drawn.
    """
    names = [test.default_score] if test.default_score is not None else []
    names += [name for name in (*LABEL_FREE, *sorted(test.scores)) if name in test.scores]
    scores = {name: test.scores[name] for name in dict.fromkeys(names)}
    scores.setdefault(knn.DISTANCE, knn.knn_distance(train, test))
    if labelled:
        scores[MAX_SOFTMAX] = 1 - linear.predict(train, test, grid=grid).confidence
    generator = np.random.default_rng(fold_in(seed, "random-score"))
    scores[RANDOM] = generator.random(len(test.representation))
    for name, score in scores.items():
        require_finite(f"the score '{name}'", score)
    return scores


def with_default(train: Features, test: Features, score: str) -> Features:
    """Return the test images' features with another default score; as they are if they lack it.

    `knn-distance`, which no method gives, is computed.
    """
    scores = dict(test.scores)
    if score == knn.DISTANCE:
        scores.setdefault(score, knn.knn_distance(train, test))
    return replace(test, scores=scores, default_score=score) if score in scores else test


def decile_accuracies(correct: np.ndarray, sorting: np.ndarray, groups: int = GROUPS) -> np.ndarray:
    """Return the accuracies (groups,) of equal groups along `sorting`; borders split images."""
    n = len(correct)
    hits = np.concatenate([[0.0], np.cumsum(np.asarray(correct, dtype=float)[sorting])])
    borders = np.arange(groups + 1) * (n / groups)
    return np.diff(np.interp(borders, np.arange(n + 1), hits)) * (groups / n)


def mistakes(train: Features, test: Features, *, grid: int = linear.GRID) -> dict[str, np.ndarray]:
    """Return which test images (n,) the linear probe and kNN answer wrongly, by probe."""
    truth = labels(test)
    return {
        "linear": linear.predict(train, test, grid=grid).labels != truth,
        "knn": knn.predict(train, test) != truth,
    }


def ranking(score: np.ndarray, errors: np.ndarray, *, seed: int) -> Estimate:
    """Return the AUROC of a score (n,) for errors (n,), of which there are some and not all."""
    return Estimate(auroc(score, errors), bootstrap.rank_statistics(score, errors, seed=seed)[0])


def compared(
    protocol: str,
    prefix: str,
    estimates: Mapping[str, Estimate],
    test: Features,
    *,
    seed: int,
    settings: Mapping[str, object],
    best: Callable[..., str] = max,
    baselines: Sequence[str] = BASELINES,
    n: int | None = None,
) -> list[Result]:
    """Return a value for every score, and the default's paired differences to the baselines.

    Metrics are `PREFIX SCORE` without the space, `default-minus-SCORE` for the baselines that cost
    no label, and `default-minus-best`: to the best of them on these images.

    Args:
        protocol: its name.
        prefix: of its metrics.
        estimates: by score, all of them over the same resamples.
        test: whose default score is compared.
        seed: the protocol's seed.
        settings: recorded, with the score.
        best: `max` where larger values are better, `min` where smaller ones are.
        baselines: scores to compare with, as far as they are among the estimates.
        n: images behind a value; None: those of `test`.
    """
    default = test.default_score
    size = len(test.representation) if n is None else n
    results = [
        _record(
            protocol, f"{prefix}{name}", value.value, value.samples, size, seed,
            settings={**settings, "score": name}, flags=_flags(name, test),
        )
        for name, value in estimates.items()
    ]  # fmt: skip
    rivals = [name for name in baselines if name in estimates and name != default]
    if default is None or default not in estimates or not rivals:
        return results
    top = best(rivals, key=lambda name: estimates[name].value)
    for ending, rival in [*((name, name) for name in rivals), ("best", top)]:
        gap = estimates[default].minus(estimates[rival])
        results.append(
            _record(
                protocol, f"{prefix}default-minus-{ending}", gap.value, gap.samples, size, seed,
                settings={**settings, "score": default},
                selected={"baseline": rival},
                flags=("baseline-chosen-on-test",) if ending == "best" else (),
            )
        )  # fmt: skip
    return results


def undefined(protocol: str, metric: str, errors: np.ndarray, seed: int) -> Result:
    """Return the record of a value that is not defined, as all answers (n,) are right or wrong."""
    return Result(
        protocol=protocol,
        metric=metric,
        value=float("nan"),
        low=None,
        high=None,
        n=len(errors),
        protocol_seed=seed,
        settings={"errors": metric.partition("/")[0], "error_rate": float(errors.mean())},
        interval="none",
        error=f"Expected right and wrong predictions, got an error rate of {errors.mean():.0f}.",
    )


def _flags(name: str, test: Features) -> tuple[str, ...]:
    marks = {
        MAX_SOFTMAX: "needs-labels",
        "view-disagreement": "eight-passes",
        "kernel-disagreement": "eight-passes",
        RANDOM: "sanity",
    }
    found = ("default",) if name == test.default_score else ()
    return (*found, marks[name]) if name in marks else found


def _record(
    protocol: str,
    metric: str,
    value: float,
    samples: np.ndarray,
    n: int,
    seed: int,
    *,
    settings: Mapping[str, object],
    selected: Mapping[str, object] | None = None,
    flags: tuple[str, ...] = (),
) -> Result:
    low, high = bootstrap.interval(samples)
    return Result(
        protocol=protocol,
        metric=metric,
        value=value,
        low=low,
        high=high,
        n=n,
        protocol_seed=seed,
        settings=settings,
        selected=dict(selected or {}),
        flags=flags,
    )
