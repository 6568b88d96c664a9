"""Does the uncertainty rise as images are corrupted, in six ways of five severities each?

The corruptions are those of `cognates.data.corrupt`, made of the test view; the scores come from
the sweep of `sensitivity`, and the protocol reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
from torch import Tensor

from cognates.data.corrupt import CORRUPTIONS, SEVERITIES, corrupt
from cognates.errors import DataError
from cognates.evaluation import bootstrap
from cognates.evaluation.measures import Estimate
from cognates.evaluation.ranks import spearman
from cognates.evaluation.sensitivity import per_image_spearman
from cognates.evaluation.subjects import TARGET
from cognates.evaluation.sweeps import (
    PREDICTED,
    Change,
    drawn_like,
    part_of_sweep,
    sweep_name,
    swept_beside,
)
from cognates.evaluation.uncertainty import LABELLED, RANDOM, compared
from cognates.types import Features, Result

LEVELS = tuple(float(severity) for severity in range(SEVERITIES + 1))
CORRUPTED = "corruption-"
"""Before the name of a corruption: the change of a sweep."""
STRENGTHS = {name: kind.strengths for name, kind in CORRUPTIONS.items()}
"""What a sweep depends on."""
MEASURES = ("mean-spearman", "per-image", "overall")
OVER_ALL = "all"
"""In place of a corruption's name: the mean over corruptions."""


def corruption(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    r"""Protocol `corruption`: Spearman's correlation of the uncertainty with the severity, 0 to 5.

    Metrics, for the corruption C: `C/mean-spearman/SCORE`, that of the mean uncertainty at each
    severity (six points: coarse); `C/per-image/SCORE`, the mean over images of that of one image,
    which removes what differs between images; `C/overall/SCORE`, over all images and severities;
    with each the default's paired differences to the scores that need no labels. `all/...` are the
    means over corruptions. `max-softmax` reads the training images' labels and is there where they
    are; `random` is a sanity row. `C/uncertainty-S` is the default's mean at severity S, and, where
    there are labels, `C/accuracy-S` that of the 20 nearest neighbours.

    Args:
        train: not used.
        test: not used.
        seed: of the resamples and the random score.
        others: `corruption-C-test` and `corruption-C-SCORE-test`, as the sweep makes them.

    Returns:
        Records; `view-disagreement` is of few images, and compared on these alone.

    Raises:
        DataError: there is no sweep.
    """
    del train, test
    tables = _tables(others or {}, seed)
    results = []
    for name, (default, _) in tables.items():
        results += _levels(name, default, seed)
    for index, group in _groups(tables):
        own = next(iter(tables.values()))[0]
        part = part_of_sweep(own, index)
        found = {
            name: {
                score: _estimates(part_of_sweep(swept, index), seed)
                for score, swept in scores.items()
            }
            for name, scores in group.items()
        }
        found[OVER_ALL] = _mean(found)
        few = own.default_score if len(index) < len(own.index) else None
        for name, scores in found.items():
            for measure in MEASURES:
                estimates = {score: values[measure] for score, values in scores.items()}
                records = compared(
                    "corruption",
                    f"{name}/{measure}/",
                    estimates,
                    part,
                    seed=seed,
                    settings={"severities": list(LEVELS)},
                    baselines=[score for score in estimates if score not in LABELLED],
                )
                # of few images the default is there for the differences alone
                left_out = f"{name}/{measure}/{few}"
                results += [
                    r for r in records if r.metric != left_out and not r.metric.endswith("-best")
                ]
    return results


def changes() -> dict[str, Change]:
    """Return the corruptions as changes that a sweep makes."""

    def apply(name: str, images: Tensor, level: float, index: Tensor, seed: int) -> Tensor:
        return corrupt(images, name, int(level), index=index, seed=seed)

    return {
        f"{CORRUPTED}{name}": Change(
            apply=partial(apply, name), levels=LEVELS, depends=repr(STRENGTHS)
        )
        for name in CORRUPTIONS
    }


Tables = Mapping[str, tuple[Features, Mapping[str, Features]]]
"""By corruption: the default score's sweep, and those of the other scores."""


def _tables(others: Mapping[str, Features], seed: int) -> Tables:
    found = {}
    for name in CORRUPTIONS:
        change = f"{CORRUPTED}{name}"
        own = others.get(sweep_name(change, "", ""))
        if own is None:
            continue
        beside = {
            score: others[sweep_name(change, score, own.default_score)]
            for score in swept_beside(change, own.default_score, others)
        }
        beside[RANDOM] = drawn_like(own, change, seed)
        found[name] = (own, beside)
    if not found:
        raise DataError(
            f"Expected the scores of a sweep over corruptions ('{CORRUPTED}noise-test'), got none: "
            "make them with cognates.evaluation.sweeps.sweep."
        )
    return found


def _groups(
    tables: Tables,
) -> Iterator[tuple[np.ndarray, dict[str, dict[str, Features]]]]:
    """Yield scores that saw the same images, with the default among them, by corruption."""
    own, beside = next(iter(tables.values()))
    sizes = {score: len(swept.index) for score, swept in beside.items()}
    for size in dict.fromkeys([len(own.index), *sizes.values()]):
        chosen = [score for score, count in sizes.items() if count == size]
        index = beside[chosen[0]].index if chosen else own.index
        yield (
            index,
            {
                name: {str(swept.default_score): swept, **{score: rest[score] for score in chosen}}
                for name, (swept, rest) in tables.items()
            },
        )


def _estimates(swept: Features, seed: int) -> dict[str, Estimate]:
    severity = np.array(sorted(map(float, swept.scores)))
    table = np.stack([swept.scores[level] for level in sorted(swept.scores, key=float)], axis=1)
    n, width = table.shape
    each = per_image_spearman(table, severity)
    flat, repeated = table.ravel(), np.tile(severity, n)
    owner = np.repeat(np.arange(n), width)
    return {
        "mean-spearman": Estimate(
            spearman(table.mean(axis=0), severity),
            bootstrap.group_spearmans(bootstrap.means(table, seed=seed)),
        ),
        "per-image": Estimate(float(each.mean()), bootstrap.means(each, seed=seed)),
        "overall": Estimate(
            spearman(flat, repeated),
            bootstrap.spearmans(flat, repeated, images=owner, seed=seed),
        ),
    }


def _mean(
    found: Mapping[str, Mapping[str, Mapping[str, Estimate]]],
) -> dict[str, dict[str, Estimate]]:
    """Return the mean over corruptions of each score and measure, over the same resamples."""
    first = next(iter(found.values()))
    return {
        score: {
            measure: Estimate(
                float(np.mean([of[score][measure].value for of in found.values()])),
                np.mean([of[score][measure].samples for of in found.values()], axis=0),
            )
            for measure in MEASURES
        }
        for score in first
    }


def _levels(name: str, swept: Features, seed: int) -> list[Result]:
    """Return the means at each severity: of the default score, and of right predictions."""
    results = []
    for level in sorted(swept.scores, key=float):
        values = {f"uncertainty-{float(level):.0f}": swept.scores[level]}
        if f"{PREDICTED}/{level}" in swept.targets:
            right = swept.targets[f"{PREDICTED}/{level}"] == swept.targets[TARGET]
            values[f"accuracy-{float(level):.0f}"] = right
        for metric, numbers in values.items():
            mean = Estimate(float(numbers.mean()), bootstrap.means(numbers, seed=seed))
            low, high = bootstrap.interval(mean.samples)
            results.append(
                Result(
                    protocol="corruption",
                    metric=f"{name}/{metric}",
                    value=mean.value,
                    low=low,
                    high=high,
                    n=len(numbers),
                    protocol_seed=seed,
                    settings={"score": swept.default_score, "severity": float(level)},
                )
            )
    return results
