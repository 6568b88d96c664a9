"""What a source is once it is opened, and how its images come apart into train and test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from cognates.data.decode import Item

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Names of folders, files and hub splits that are splits, and what they are called here."""

TEST_ONE_IN = 5
"""One image in five is a test image."""

SPLIT_SEED = 0


class Reader(Protocol):
    """Gives the images of a source, not yet decoded, in its order."""

    def __len__(self) -> int:
        """Return the number of images, in a split or in none."""
        ...

    def batches(self, rows: np.ndarray, size: int) -> Iterator[Sequence[Item] | np.ndarray]:
        """Yield the items at the sorted positions `rows`, at most `size` at a time.

        Array data come as (b, h, w) or (b, h, w, c) uint8.
        """
        ...

    def name(self, row: int) -> str:
        """Return what a person would call the image at `row`."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """One part of a source: which of its images, and what could not even be listed."""

    name: str
    rows: np.ndarray
    """(n,) int64: sorted positions in the source."""
    problems: tuple[tuple[str, str], ...] = ()
    """(path, reason) of what was found unreadable while listing."""

    def __len__(self) -> int:
        """Return the number of images, readable or not."""
        return len(self.rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """An opened data source: its images are listed, not decoded."""

    name: str
    """For a person: the folder's or the data set's name."""
    kind: Literal["files", "arrays"]
    splits: Mapping[str, Split]
    """`train`, usually `test`, and `val` where there are three."""
    note: str
    """How the splits and labels were made: a sentence for the report."""
    reader: Reader
    fingerprint: tuple[object, ...]
    """JSON data that change when the files change: the source's part of the cache key."""
    native_size: int | None = None
    """Height and width that all images share, or None."""
    native_channels: int | None = None
    """1 or 3, or None where it differs from file to file."""
    path: np.ndarray | None = None
    """(N,) str: relative paths of all images, or None."""
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)
    """(N,) or (N, k) for all images, by name; the class is `label`, -1 where there is none."""
    target_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    captions: tuple[tuple[str, ...], ...] | None = None
    """(N,) what is said of each image, at least one caption each; None: a source without."""

    def whole(self) -> Split:
        """Return every image, also those in no split, as one split `all` in the source's order."""
        problems = tuple(p for split in self.splits.values() for p in split.problems)
        return Split(name="all", rows=np.arange(len(self.reader)), problems=problems)


def divide(
    given: Mapping[str, np.ndarray], label: np.ndarray | None
) -> tuple[dict[str, np.ndarray], str]:
    """Return the rows of each split and a sentence that says where the splits come from.

    Args:
        given: rows by the split's name (`train`, `val`, `test`); anything else has no split.
        label: (N,) classes of all rows, or None.

    Returns:
        Rows by split; with `train` and `val` alone, `val` is the test set. Without `train`, or with
        `train` alone, all rows are divided 80/20, stratified by `label`.
    """
    parts = {name: rows for name, rows in given.items() if name in SPLIT_NAMES and len(rows)}
    if "train" in parts and "test" in parts:
        return parts, f"Splits as given: {', '.join(parts)}."
    if "train" in parts and "val" in parts:
        return (
            {"train": parts["train"], "test": parts["val"]},
            "Splits as given; there is no test split, so val is the test set.",
        )
    rows = np.sort(np.concatenate(list(given.values())))
    train, test = stratified(rows, None if label is None else label[rows])
    how = "stratified by label" if label is not None else "without labels"
    note = (
        f"No train and test splits are given: {len(rows)} images are divided 80/20 at random,"
        f" {how}, seed {SPLIT_SEED}."
    )
    return ({"train": train, "test": test} if len(test) else {"train": train}), note


def stratified(rows: np.ndarray, label: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Divide `rows` 80/20 at random with seed 0, in each class alike.

    The test part has round(n / 5) images: each class gives a fifth of its images, rounded down, and
    the rest comes from the classes with the largest remainders, from classes of a single image only
    when the others do not suffice.

    Returns:
        Train and test rows, both sorted.
    """
    generator = np.random.default_rng(SPLIT_SEED)
    classes = np.zeros(len(rows), np.int64) if label is None else label
    _, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
    quota, remainder = np.divmod(counts, TEST_ONE_IN)
    # Never negative, as fifths rounded down add up to less; nor more than classes with a remainder.
    missing = round(len(rows) / TEST_ONE_IN) - int(quota.sum())
    # Ties between remainders are broken at random, else the first classes would lose more.
    order = np.lexsort((generator.random(len(counts)), -remainder, counts == 1))
    order = order[remainder[order] > 0]
    quota[order[:missing]] += 1
    shuffled = generator.permutation(len(rows))
    by_class = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(rows)) - np.repeat(starts, counts)
    test = np.zeros(len(rows), bool)
    test[by_class[rank < np.repeat(quota, counts)]] = True
    return rows[~test], rows[test]


def encode_labels(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return (N,) labels of any integers or strings as 0..k-1 and the names of the classes."""
    names, label = np.unique(values, return_inverse=True)
    return label.astype(np.int64), tuple(str(name) for name in names)
