"""Caption retrieval: which caption belongs to an image, and which image to a caption?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from cognates.errors import DataError
from cognates.evaluation import bootstrap
from cognates.evaluation.knn import normalise
from cognates.evaluation.subjects import per_image
from cognates.types import Features, Result

NAME = "caption-retrieval"
CAPTIONS = "captions"
IMAGES, TEXTS = "paired-image-test", "caption-test"
"""Features of test images and of their captions in one space; a caption's `index` is its image's.
"""
DEPTHS = (1, 5, 10)
"""Candidates that are looked at: the three of Hodosh et al., https://doi.org/10.1613/jair.3994."""
_ELEMENTS = 1 << 22  # similarities at a time, with four masks of their size beside them


class Standing(NamedTuple):
    """Where the right candidates of each query stand, (n,) float64 each."""

    better: np.ndarray
    """Wrong candidates that are more similar than the best right one."""
    right: np.ndarray
    """Right candidates as similar as the best of them, at least 1."""
    wrong: np.ndarray
    """Wrong candidates as similar as that."""

    def found(self, depth: int) -> np.ndarray:
        """Return the probability that a right one is among the first `depth`, ties at random."""
        total = self.right + self.wrong
        room = np.clip(depth - self.better, 0, total)
        missed = np.ones(len(total))
        for drawn in range(depth):
            left = np.maximum(self.wrong - drawn, 0) / np.maximum(total - drawn, 1)
            missed *= np.where(drawn < room, left, 1.0)
        return 1 - missed

    def rank(self) -> np.ndarray:
        """Return the expected rank, from 1, of the first right one."""
        return self.better + (self.right + self.wrong + 1) / (self.right + 1)


def caption_retrieval(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    r"""Protocol `caption-retrieval`: recall among all test captions, and among all test images.

    Formula: an image finds a caption at K if one of its own is among the K most similar of all
    captions, by cosine; a caption finds its image at K if that is among the K most similar images.
    Recalls are means over images, and over captions; ties are broken at random, in expectation.

    Args:
        train: not used.
        test: not used.
        seed: of the resamples.
        others: `paired-image-test` and `caption-test`, and the same with the prefix `untrained-`,
            as `pairs.pair_features` makes them.

    Returns:
        `image-to-text-r-at-K` and `text-to-image-r-at-K`, fractions, for K = 1, 5, 10, with what
        chance gives in `settings`, paired differences to the untrained encoders, and the medians of
        the first right rank, `image-to-text-median-rank` and so on, at best 1. Intervals resample
        images together with their captions, among the same candidates.

    Raises:
        DataError: the features are missing, or an image has no caption.

    References:
        Framing Image Description as a Ranking Task (Hodosh, Young and Hockenmaier, 2013),
        https://doi.org/10.1613/jair.3994.
    """
    del train, test
    halves = halves_of(others or {}, (IMAGES, TEXTS), ("trained", "untrained"))
    if "trained" not in halves:
        raise DataError(
            f"Expected features of the test images and their captions ('{IMAGES}', '{TEXTS}'), got "
            "none: make them with cognates.evaluation.pairs.pair_features."
        )
    return between(NAME, ("image-to-text", "text-to-image"), halves, seed=seed)


def halves_of(
    others: Mapping[str, Features], names: tuple[str, str], subjects: Sequence[str]
) -> dict[str, tuple[Features, Features]]:
    """Return both halves of the test pairs by subject; one without both is left out."""
    found = {}
    for subject in subjects:
        prefix = "" if subject == "trained" else f"{subject}-"
        first, second = (others.get(prefix + name) for name in names)
        if first is not None and second is not None:
            found[subject] = (first, second)
    return found


def between(
    protocol: str,
    directions: tuple[str, str],
    halves: Mapping[str, tuple[Features, Features]],
    *,
    seed: int,
) -> list[Result]:
    """Return recalls and median ranks of finding the second half of a pair, and of the way back.

    Args:
        protocol: its name.
        directions: what metrics begin with, there and back.
        halves: by subject, `trained` among them: the first halves, one for each image in order,
            and the second ones, one or several for each image, whose `index` says which.
        seed: of the resamples, which are of images together with all their second halves.
    """
    owner = halves["trained"][1].index
    counts = np.bincount(owner)
    there = {subject: standing(first, second) for subject, (first, second) in halves.items()}
    back = {subject: standing(second, first) for subject, (first, second) in halves.items()}
    results = []
    for direction, found, queries in (
        (directions[0], there, np.arange(len(counts))),
        (directions[1], back, owner),
    ):
        forward = found is there
        kind = {"protocol": protocol, "forward": forward, "counts": counts, "seed": seed}
        results += _recalls(direction, found, queries, **kind)
        results += _medians(direction, found, queries, **kind)
    return results


def standing(queries: Features, candidates: Features) -> Standing:
    """Return where the candidates of a query's own `index` stand among all, by cosine.

    Raises:
        DataError: a query has no candidate of its own, or widths differ.
    """
    wide = queries.representation.shape[1], candidates.representation.shape[1]
    if wide[0] != wide[1] or not np.isin(queries.index, candidates.index).all():
        raise DataError(
            f"Expected queries and candidates of one width with a right candidate each, got widths "
            f"{wide[0]} and {wide[1]} and {len(queries.index)} queries."
        )
    a, b = normalise(queries.representation), normalise(candidates.representation)
    owner, of = torch.from_numpy(queries.index), torch.from_numpy(candidates.index)
    parts = []
    step = max(1, _ELEMENTS // len(b))
    for start in range(0, len(a), step):
        similarity = a[start : start + step] @ b.T
        own = owner[start : start + step, None] == of[None]
        best = similarity.masked_fill(~own, -torch.inf).max(dim=1, keepdim=True).values
        level = similarity == best
        above = ((similarity > best) & ~own).sum(dim=1)
        parts.append(torch.stack([above, (level & own).sum(1), (level & ~own).sum(1)]))
    return Standing(*torch.cat(parts, dim=1).double().numpy())


def _recalls(
    direction: str,
    by_subject: Mapping[str, Standing],
    queries: np.ndarray,
    *,
    protocol: str,
    forward: bool,
    counts: np.ndarray,
    seed: int,
) -> list[Result]:
    n = len(counts)
    results = []
    for depth in DEPTHS:
        values = {}
        for subject, where in by_subject.items():
            # Of the mean over captions, what each image adds: its captions' sum over their mean
            # number. With as many captions everywhere that is the mean over its captions.
            summed = np.bincount(queries, weights=where.found(depth), minlength=n)
            values[subject] = summed * (n / len(queries))
        chance = _chance(counts, depth) if forward else min(1.0, depth / n)
        settings = {"chance": chance, **_sizes(forward, counts)}
        results += per_image(
            protocol, f"{direction}-r-at-{depth}", values, seed=seed, settings=settings
        )
    return results


def _medians(
    direction: str,
    by_subject: Mapping[str, Standing],
    queries: np.ndarray,
    *,
    protocol: str,
    forward: bool,
    counts: np.ndarray,
    seed: int,
) -> list[Result]:
    results = []
    resamples = bootstrap.counts(len(counts), seed=seed)
    for subject, where in by_subject.items():
        ranks = where.rank()
        drawn = np.array([np.median(np.repeat(ranks, row[queries])) for row in resamples])
        low, high = bootstrap.interval(drawn)
        results.append(
            Result(
                protocol=protocol,
                metric=f"{direction}-median-rank",
                value=float(np.median(ranks)),
                low=low,
                high=high,
                n=len(counts),
                protocol_seed=seed,
                settings=_sizes(forward, counts),
                subject=subject,
            )
        )
    return results


def _sizes(forward: bool, counts: np.ndarray) -> dict[str, object]:
    images, captions = len(counts), int(counts.sum())
    return {
        "queries": images if forward else captions,
        "candidates": captions if forward else images,
    }


def _chance(counts: np.ndarray, depth: int) -> float:
    """Return the mean probability that `depth` random captions hold one of an image's own."""
    total = counts.sum()
    random = Standing(np.zeros(len(counts)), counts.astype(float), (total - counts).astype(float))
    return float(random.found(depth).mean())
