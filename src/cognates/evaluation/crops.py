"""The crop test: is a part of an image less certain than the whole?

URL: A Representation Learning Benchmark for Transferable Uncertainty Estimates (Kirchhof et al.,
2023), https://arxiv.org/abs/2307.03810, section 3.3. The scores come from the sweep of
`sensitivity`, which changes images gradually; here every image has one crop of a random size.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cognates.errors import DataError
from cognates.evaluation import bootstrap
from cognates.evaluation.measures import Estimate
from cognates.evaluation.ranks import spearman
from cognates.evaluation.sweeps import (
    FRACTION,
    FRACTIONS,
    RANDOM_CROP,
    drawn_like,
    same_images,
    sweep_name,
    swept_beside,
)
from cognates.evaluation.uncertainty import LABELLED, RANDOM, compared
from cognates.types import Features, Result


def crop(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    r"""Protocol `crop`: share of the images whose centre crop has the larger uncertainty.

    The crop has the side f min(H, W), f ~ U(.1, .75) fixed for each image, and is resized back.
    Metrics: `bigger/SCORE`, the share with u(x) < u(crop), in which a tie is a failure, so that a
    constant score has 0; `spearman/SCORE`, Spearman's correlation of u(crop) and -f. With each go
    the default's paired differences `bigger/default-minus-SCORE` and so on to the scores that need
    no labels, over the images that both scores have seen (`view-disagreement`: few). `max-softmax`
    reads the training images' labels and is there where they are; `random` is a sanity row. Only
    for images of single objects.

    Args:
        train: not used.
        test: not used.
        seed: of the resamples and the random score.
        others: `random-crop-test` and `random-crop-SCORE-test`, as `sensitivity.sweep` makes them.

    Raises:
        DataError: there is no sweep.
    """
    del train, test
    others = others or {}
    own = others.get(sweep_name(RANDOM_CROP, "", ""))
    if own is None:
        raise DataError(
            f"Expected the scores of random crops ('{RANDOM_CROP}-test'), got none: make them with "
            "cognates.evaluation.sweeps.sweep."
        )
    default = str(own.default_score)
    beside = {
        score: others[sweep_name(RANDOM_CROP, score, default)]
        for score in swept_beside(RANDOM_CROP, default, others)
    }
    beside[RANDOM] = drawn_like(own, RANDOM_CROP, seed)
    results = []
    for measure, estimate in (("bigger", _bigger), ("spearman", _follows)):
        for part, same, few in same_images(own, beside):
            found = compared(
                "crop",
                f"{measure}/",
                {name: estimate(swept, seed) for name, swept in same.items()},
                part,
                seed=seed,
                settings={"fractions": list(FRACTIONS)},
                baselines=[score for score in same if score not in LABELLED],
            )
            # the default of few images is there for the differences alone
            left_out = f"{measure}/{default}" if few else ""
            results += [r for r in found if r.metric != left_out and not r.metric.endswith("-best")]
    return results


def _bigger(swept: Features, seed: int) -> Estimate:
    whole, part = _scores(swept)
    larger = whole < part
    return Estimate(float(larger.mean()), bootstrap.means(larger, seed=seed))


def _follows(swept: Features, seed: int) -> Estimate:
    part, less = _scores(swept)[1], -np.asarray(swept.targets[FRACTION])
    rows = np.arange(len(part))
    samples = bootstrap.spearmans(part, less, images=rows, seed=seed)
    return Estimate(spearman(part, less), samples)


def _scores(swept: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the whole images and of the crops."""
    whole, part = sorted(swept.scores, key=float)
    return swept.scores[whole], swept.scores[part]
