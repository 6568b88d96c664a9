"""Kind retrieval: which image of the second kind belongs to one of the first, and back?"""

from __future__ import annotations

from collections.abc import Mapping

from cognates.errors import DataError
from cognates.evaluation.caption_retrieval import between, halves_of
from cognates.types import Features, Result

NAME = "kind-retrieval"
KINDS = "kinds"
FIRST, SECOND = "first-kind-test", "second-kind-test"
"""Features of the test images as each of two kinds, in one space and in one order."""


def kind_retrieval(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    r"""Protocol `kind-retrieval`: recall of each image among all test images of the other kind.

    Formula: an image of the first kind finds itself at K if it is among the K most similar of all
    images of the second kind, by cosine, and the other way round. Recalls are means over images;
    ties are broken at random, in expectation.

    Args:
        train: not used.
        test: not used.
        seed: of the resamples.
        others: `first-kind-test` and `second-kind-test`, and the same with the prefixes
            `untrained-` and `pixels-`, as `kinds.kind_features` makes them.

    Returns:
        `first-to-second-r-at-K` and `second-to-first-r-at-K`, fractions, for K = 1, 5, 10, with
        what chance gives in `settings`, paired differences to the untrained encoders and to pixels,
        and the medians of the rank, `first-to-second-median-rank` and so on, at best 1. Intervals
        resample images, among the same candidates.

    Raises:
        DataError: the features are missing.

    Notes:
        Where nothing is certain that tells the kinds apart (`data.draws.certain`), both are the
        same picture, and pixels find it always: the value then says whether two encoders agree.
    """
    del train, test
    halves = halves_of(others or {}, (FIRST, SECOND), ("trained", "untrained", "pixels"))
    if "trained" not in halves:
        raise DataError(
            f"Expected features of two kinds of test images ('{FIRST}', '{SECOND}'), got none: "
            "make them with cognates.evaluation.kinds.kind_features."
        )
    return between(NAME, ("first-to-second", "second-to-first"), halves, seed=seed)
