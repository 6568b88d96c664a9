"""What is in a source: counts, sizes, modes, labels, splits and what cannot be read."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from cognates.data.arrays import ArrayReader
from cognates.data.decode import UnreadableError, read_header
from cognates.data.splits import Source, Split

_BATCH = 256


def summarise(source: Source, spec: str) -> dict[str, Any]:
    """Return what `sources.describe` does, of an opened source."""
    whole = source.whole()
    shapes, modes, unreadable = _look(source, whole)
    widths, heights = (np.array([shape[axis] for shape in shapes]) for axis in (0, 1))
    return {
        "source": spec,
        "name": source.name,
        "kind": source.kind,
        "note": source.note,
        "images": len(whole) + len(whole.problems),
        "sizes": {"width": _spread(widths), "height": _spread(heights)},
        "modes": dict(modes.most_common()),
        "splits": {
            name: {"images": len(split), "labels": _label_counts(source, split)}
            for name, split in source.splits.items()
        },
        "targets": list(source.targets),
        "unreadable": [*map(list, whole.problems), *unreadable],
    }


def _look(
    source: Source, whole: Split
) -> tuple[list[tuple[int, int]], Counter[str], list[list[str]]]:
    if isinstance(source.reader, ArrayReader):
        return _look_at_arrays(source.reader)
    shapes: list[tuple[int, int]] = []
    modes: Counter[str] = Counter()
    unreadable: list[list[str]] = []
    rows = iter(whole.rows.tolist())
    for items in source.reader.batches(whole.rows, _BATCH):
        for item in items:
            row = next(rows)
            try:
                width, height, mode = read_header(item)
            except UnreadableError as error:
                unreadable.append([source.reader.name(row), str(error)])
                continue
            shapes.append((width, height))
            modes[mode] += 1
    return shapes, modes, unreadable


def _look_at_arrays(
    reader: ArrayReader,
) -> tuple[list[tuple[int, int]], Counter[str], list[list[str]]]:
    names = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
    shapes: list[tuple[int, int]] = []
    modes: Counter[str] = Counter()
    for part in reader.parts:
        count, height, width = part.shape[:3]
        shapes += [(width, height)] * count
        modes[names[part.shape[3] if len(part.shape) == 4 else 1]] += count
    return shapes, modes, []


def _spread(values: np.ndarray) -> list[float] | None:
    if not len(values):
        return None
    return [float(values.min()), float(np.median(values)), float(values.max())]


def _label_counts(source: Source, split: Split) -> dict[str, int]:
    label = source.targets.get("label")
    if label is None:
        return {}
    names = source.target_names["label"]
    counts = np.bincount(label[split.rows], minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}
