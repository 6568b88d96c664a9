"""View retrieval: without a label, does the encoder know two views of one image as such?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cognates.errors import DataError
from cognates.evaluation.knn import normalise
from cognates.evaluation.subjects import BASELINES, per_image
from cognates.types import Features, Result

_ELEMENTS = 1 << 23  # similarities at a time: 32 MB


def view_retrieval(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    """Protocol `view-retrieval`: R@1 among the second views of all test images, by subject.

    Args:
        train: not used.
        test: not used.
        seed: of the resamples.
        others: `view1-test` and `view2-test`, and the same with the prefix of a baseline, as
            `features.view_pair` and `features.view_pixels` make them.

    Returns:
        `r-at-1`, a fraction of the test images, and its paired differences.

    Raises:
        DataError: the features of the views are missing or of different images.
    """
    del train, test
    others = others or {}
    hits = {}
    for subject in ("trained", *BASELINES):
        prefix = "" if subject == "trained" else f"{subject}-"
        first, second = (others.get(f"{prefix}view{side}-test") for side in (1, 2))
        if first is not None and second is not None:
            hits[subject] = retrieved(first, second)
    if "trained" not in hits:
        raise DataError(
            "Expected features of two views of the test images ('view1-test', 'view2-test'), "
            "got none: make them with cognates.evaluation.features.view_pair."
        )
    n = len(hits["trained"])
    return per_image("view-retrieval", "r-at-1", hits, seed=seed, settings={"candidates": n})


def retrieved(first: Features, second: Features) -> np.ndarray:
    r"""Return for each image whether its view 2 is the nearest, by cosine, to its view 1.

    Args:
        first: features of view 1 of n images.
        second: features of view 2 of the same images in the same order.

    Returns:
        (n,) float64: 1 or 0, and 1/m where m candidates tie for the nearest and the right one is
        among them, so that constant features give chance, 1/n.
    """
    if not np.array_equal(first.index, second.index):
        raise DataError("Expected two views of the same images in the same order, got others.")
    a, b = normalise(first.representation), normalise(second.representation)
    hits = np.empty(len(a))
    step = max(1, _ELEMENTS // len(b))
    for start in range(0, len(a), step):
        similarity = a[start : start + step] @ b.T
        top = similarity.max(dim=1, keepdim=True).values
        tied = similarity == top
        own = tied.diagonal(offset=start)
        hits[start : start + step] = (own / tied.sum(dim=1)).double().numpy()
    return hits
