"""`pairs:DIR`: a folder of images and a file that says what is to be seen in each of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from cognates.data.captions import Captioned, find_captions, read_captions
from cognates.data.folder import FileReader, walk
from cognates.data.splits import Source, Split, divide
from cognates.errors import DataError


def holds_pairs(folder: Path) -> bool:
    """Return whether a captions file lies in a folder."""
    return find_captions(folder) is not None


def open_pairs(where: str | Path, *, name: str | None = None) -> Source:
    """List images with their captions; `where` is a folder or its captions file.

    An image is looked for under the name that the captions file gives it, relative to the folder,
    else anywhere below by its file name. Images without a caption are no part of the source;
    captions without an image are listed as unreadable.

    Raises:
        DataError: there is no such folder, no captions file in it, or none of its images.
    """
    path = Path(where).expanduser()
    if not path.exists():
        raise DataError(
            f"Expected a folder of images with captions, got '{where}': no such folder; give "
            "pairs:DIR with an existing folder."
        )
    file = find_captions(path) if path.is_dir() else path
    if file is None:
        raise DataError(
            f"Expected a captions file in '{where}', got none: put captions.json, captions.csv or "
            "captions.tsv there, or give pairs:FILE."
        )
    captioned = read_captions(file)
    listing = walk(file.parent)
    rows, missing = _match(captioned, [entry[0] for entry in listing.files])
    if not rows:
        raise DataError(
            f"Expected the images that '{file}' names, got none of {len(captioned.captions)} below "
            f"'{file.parent}', e.g. {next(iter(captioned.captions))}: put them there, or "
            "name the columns image and caption in the first line."
        )
    kept = sorted(rows)
    paths = tuple(listing.files[row][0] for row in kept)
    names = [rows[row] for row in kept]
    captions = tuple(captioned.captions[image] for image in names)
    given = _given(names, captioned.splits)
    parts, note = divide(given, None)
    problems = _problems(missing, captioned.splits, parts)
    told = json.dumps([names, captions]).encode()
    return Source(
        name=name or file.parent.resolve().name,
        kind="files",
        splits={
            part: Split(name=part, rows=index, problems=problems.get(part, ()))
            for part, index in parts.items()
        },
        note=f"{note} {_counts(captions, len(listing.files))}",
        reader=FileReader(file.parent, paths),
        fingerprint=(
            "pairs",
            [listing.files[row] for row in kept],
            hashlib.sha256(told).hexdigest(),
        ),
        path=np.array(paths),
        captions=captions,
    )


def _match(captioned: Captioned, paths: list[str]) -> tuple[dict[int, str], list[str]]:
    """Return the image's name in the captions file by row of `paths`, and names without a file."""
    exact = {path: row for row, path in enumerate(paths)}
    by_name: dict[str, list[int]] = {}
    for row, path in enumerate(paths):
        by_name.setdefault(path.rsplit("/", 1)[-1], []).append(row)
    found: dict[int, str] = {}
    missing = []
    for image in captioned.captions:
        row = exact.get(image)
        if row is None:
            alike = by_name.get(image.rsplit("/", 1)[-1], [])
            row = alike[0] if len(alike) == 1 else None
        if row is None or row in found:
            missing.append(image)
        else:
            found[row] = image
    return found, missing


def _given(names: list[str], splits: dict[str, frozenset[str]]) -> dict[str, np.ndarray]:
    """Return rows by split; images in no list have none, unless there are no lists at all."""
    given = {
        part: np.array([row for row, image in enumerate(names) if image in splits[part]], np.int64)
        for part in ("train", "val", "test")
        if part in splits
    }
    return given or {"": np.arange(len(names))}


def _problems(
    missing: list[str], splits: dict[str, frozenset[str]], parts: dict[str, np.ndarray]
) -> dict[str, tuple[tuple[str, str], ...]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for image in missing:
        part = next((part for part, images in splits.items() if image in images), "train")
        if splits and not any(image in images for images in splits.values()):
            continue  # in no list: it would be of no split
        if part == "val" and "val" not in parts:
            part = "test"
        found.setdefault(part if part in parts else "train", []).append(
            (image, "no file of this name, or several")
        )
    return {part: tuple(items) for part, items in found.items()}


def _counts(captions: tuple[tuple[str, ...], ...], files: int) -> str:
    total = sum(map(len, captions))
    left = files - len(captions)
    without = (
        "1 image has no caption and is" if left == 1 else f"{left} images have no caption and are"
    )
    beside = f" {without} left out." if left else ""
    return f"{total} captions of {len(captions)} images.{beside}"
