"""Does the uncertainty rise when an image loses content, by centre crops and by blur?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cognates.errors import DataError
from cognates.evaluation import bootstrap
from cognates.evaluation.features import DISAGREEMENT
from cognates.evaluation.ranks import mid_ranks, row_ranks, spearman
from cognates.evaluation.sweeps import GRADUAL, swept_beside
from cognates.evaluation.uncertainty import LABELLED
from cognates.types import Features, Result


def sensitivity(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    r"""Protocol `sensitivity`: Spearman's correlation of the uncertainty with crop and blur.

    `crop-per-image` and `blur-per-image`: the mean over images of the correlation over the
    severities of one image, which removes what differs between images. `crop-overall` and
    `blur-overall`: over all images and severities. Positive: less content, more uncertain. Meant
    for images of single objects.

    These are about the default score; `crop-per-image/SCORE` and so on are about the baselines
    `norm`, `knn-distance` and `view-disagreement`, for a method that draws images also about
    `reconstruction` and `negative-elbo`, and about the scores against the bank.
    `crop-per-image/default-minus-SCORE` is the paired difference on the images that both scores
    have seen.

    Args:
        train: not used.
        test: not used.
        seed: of the resamples.
        others: `crop-test` and `blur-test`, and the baselines', as `sweep` makes them.

    Raises:
        DataError: there is no sweep.
    """
    del train, test
    others = others or {}
    results = []
    for change in GRADUAL:
        swept = others.get(f"{change}-test")
        if swept is None:
            raise DataError(
                f"Expected the scores of a {change} sweep ('{change}-test'), got none: "
                "make them with cognates.evaluation.sweeps.sweep."
            )
        own, records = _correlations(change, swept, seed, of_default=True)
        results += records
        for score in swept_beside(change, swept.default_score, others):
            if score in LABELLED:  # `crop` states it for the same images
                continue
            rival = others[f"{change}-{score}-test"]
            each, records = _correlations(change, rival, seed, of_default=False)
            shared = own[np.isin(swept.index, rival.index)]
            if len(shared) != len(each):
                raise DataError(f"Expected '{score}' of images that were swept, got others.")
            gap = shared - each
            name = f"{change}-per-image/default-minus-{score}"
            samples = bootstrap.means(gap, seed=seed)
            settings = {"score": swept.default_score, "severities": _severities(swept).tolist()}
            records.append(_record(name, float(gap.mean()), samples, len(gap), seed, settings))
            results += records
    return results


def _correlations(
    change: str, swept: Features, seed: int, *, of_default: bool
) -> tuple[np.ndarray, list[Result]]:
    """Return the correlation of every image (n,), and the records about one score."""
    severity = _severities(swept)
    table = np.stack([swept.scores[level] for level in sorted(swept.scores, key=float)], axis=1)
    n, width = table.shape
    each = per_image_spearman(table, severity)
    flat, repeated = table.ravel(), np.tile(severity, n)
    owner = np.repeat(np.arange(n), width)
    columns = {
        "per-image": (float(each.mean()), bootstrap.means(each, seed=seed)),
        "overall": (
            spearman(flat, repeated),
            bootstrap.spearmans(flat, repeated, images=owner, seed=seed),
        ),
    }
    score = swept.default_score
    suffix = "" if of_default else f"/{score}"
    flags = ("default",) if of_default else ()
    flags += ("eight-passes",) if score == DISAGREEMENT else ()
    settings = {"score": score, "severities": severity.tolist()}
    return each, [
        _record(f"{change}-{name}{suffix}", value, samples, n, seed, settings, flags)
        for name, (value, samples) in columns.items()
    ]


def _severities(swept: Features) -> np.ndarray:
    return np.array(sorted(map(float, swept.scores)))


def _record(
    metric: str,
    value: float,
    samples: np.ndarray,
    n: int,
    seed: int,
    settings: Mapping[str, object],
    flags: tuple[str, ...] = (),
) -> Result:
    low, high = bootstrap.interval(samples)
    return Result(
        protocol="sensitivity",
        metric=metric,
        value=value,
        low=low,
        high=high,
        n=n,
        protocol_seed=seed,
        settings=settings,
        flags=flags,
    )


def per_image_spearman(table: np.ndarray, severity: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of every row (n, s) with `severity` (s,); 0 if constant."""
    centre = (table.shape[1] + 1) / 2
    ranks = row_ranks(table) - centre
    target = mid_ranks(severity) - centre
    scale = np.sqrt((ranks * ranks).sum(axis=1) * (target @ target))
    return np.where(scale > 0, ranks @ target / np.where(scale > 0, scale, 1), 0.0)
