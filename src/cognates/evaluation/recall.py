"""R-AUROC: does the uncertainty know whose nearest neighbour is of another class?

URL: A Representation Learning Benchmark for Transferable Uncertainty Estimates (Kirchhof et al.,
2023), https://arxiv.org/abs/2307.03810, section 3. No probe is fitted to the errors, so a score
cannot profit from one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cognates.evaluation import knn, linear
from cognates.evaluation.subjects import labels, per_image, subjects
from cognates.evaluation.uncertainty import all_scores, compared, ranking, undefined
from cognates.types import Features, Result


def r_auroc(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    grid: int = linear.GRID,
) -> list[Result]:
    r"""Protocol `r-auroc`: AUROC of every score for a wrong nearest neighbour among test images.

    An image is right if the image nearest to it by cosine, itself excluded, among the same test
    images has its class. `r-at-1` is the share of right ones for every subject, with its paired
    differences; `SCORE` the AUROC of a score for the wrong ones; `default-minus-SCORE` and
    `default-minus-best` as in `auroc-error`.

    Args:
        train: with labels, for the baselines alone.
        test: with labels and scores; at least two images.
        seed: of the resamples and the random score.
        others: a baseline's features, for `r-at-1`.
        grid: number of penalties of the linear probe behind `max-softmax`.

    Returns:
        Records; if all images are right, or none, `failed` with `error` in place of the AUROCs.
    """
    right = {name: _right(own) for name, (_, own) in subjects(train, test, others or {}).items()}
    results = per_image("r-auroc", "r-at-1", right, seed=seed)
    errors = ~right["trained"]
    if errors.all() or not errors.any():
        return [*results, undefined("r-auroc", "failed", errors, seed)]
    scores = all_scores(train, test, seed=seed, grid=grid)
    estimates = {name: ranking(score, errors, seed=seed) for name, score in scores.items()}
    settings = {"errors": "nearest", "error_rate": float(errors.mean()), "grid": grid}
    return results + compared("r-auroc", "", estimates, test, seed=seed, settings=settings)


def _right(features: Features) -> np.ndarray:
    truth = labels(features)
    return truth[knn.nearest_other(features)] == truth
