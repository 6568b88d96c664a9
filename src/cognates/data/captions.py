"""Files of captions: which formats there are, and which images they and the lists beside name."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cognates.data.arrays import reading
from cognates.data.splits import SPLIT_NAMES
from cognates.errors import DataError

_ENDINGS = (".json", ".csv", ".tsv", ".txt", ".token")
_SPLITS = {**SPLIT_NAMES, "dev": "val"}
"""Flickr8k calls its validation images dev."""
# `train.txt`, `Flickr_8k.trainImages.txt`: a list of the images of a split.
_LIST = re.compile(r"(?:^|[._-])(train|dev|val|valid|validation|test)(?:images)?$", re.IGNORECASE)
# Flickr8k.token.txt numbers an image's captions: `667626_18933d713e.jpg#0`.
_NUMBER = re.compile(r"#\d+$")
_HEADINGS = frozenset({"image", "image_name", "file", "filename", "file_name", "path"})


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """What the files say, before anybody has looked for the images."""

    file: Path
    captions: dict[str, tuple[str, ...]]
    """By the image's name, in the order of the file; only images with a caption."""
    splits: dict[str, frozenset[str]] = field(default_factory=dict)
    """Names of images by `train`, `val` and `test`; empty without lists."""


def find_captions(folder: Path) -> Path | None:
    """Return the captions file of a folder, `captions.*` or Flickr8k's own; None without one."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS)
    named = [path for path in files if path.stem.lower() == "captions"]
    tokens = [path for path in files if path.name.lower().endswith((".token", ".token.txt"))]
    return next(iter([*named, *tokens]), None)


def read_captions(file: Path) -> Captioned:
    r"""Read a captions file and the lists of splits beside it.

    Formats: JSON `{"captions": {image: [caption, ...]}, "splits": {split: [image, ...]}}`, whose
    splits may be missing; lines `image,caption` (quoted as in CSV where there are commas) or
    `image<TAB>caption`, one caption each, with or without a heading, the image with or without
    `#number`. Lists: `train.txt`, `dev.txt`, `test.txt`, or `Flickr_8k.trainImages.txt` and so on,
    one image per line.

    Raises:
        DataError: the file cannot be read, or holds no caption.
    """
    with reading(file, "captions"):
        text = file.read_text(encoding="utf-8-sig")
    if file.suffix.lower() == ".json":
        pairs, splits = _from_json(file, text)
    else:
        pairs, splits = _from_lines(text), _lists(file)
    captions: dict[str, list[str]] = {}
    for image, caption in pairs:
        clean = " ".join(caption.split())
        if image and clean:
            captions.setdefault(image, []).append(clean)
    if not captions:
        raise DataError(
            f"Expected captions in '{file}', got none: write one line image,caption per caption."
        )
    return Captioned(
        file=file, captions={k: tuple(found) for k, found in captions.items()}, splits=splits
    )


def _from_json(file: Path, text: str) -> tuple[list[tuple[str, str]], dict[str, frozenset[str]]]:
    wanted = 'an object {"captions": {image: [caption, ...]}, "splits": {split: [image, ...]}}'
    try:
        raw = json.loads(text)
        pairs = [
            (image, caption)
            for image, captions in raw["captions"].items()
            for caption in ([captions] if isinstance(captions, str) else captions)
        ]
        lists = raw.get("splits", {}).items()
        splits = {_SPLITS[name]: frozenset(images) for name, images in lists if name in _SPLITS}
        if not all(isinstance(part, str) for pair in pairs for part in pair):
            raise TypeError("a caption is not text")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"Expected {wanted} in '{file}', got another ({error}).") from error
    return pairs, splits


def _from_lines(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and "\t" in lines[0]:
        rows: Iterable[list[str]] = (line.split("\t", 1) for line in lines)
    else:
        rows = csv.reader(lines)
    # A comma in a caption that is not quoted belongs to the caption.
    pairs = [(_NUMBER.sub("", row[0].strip()), ",".join(row[1:])) for row in rows if len(row) > 1]
    return pairs[1:] if pairs and pairs[0][0].lower() in _HEADINGS else pairs


def _lists(file: Path) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for path in sorted(file.parent.glob("*.txt")):
        match = _LIST.search(path.stem)
        if match is None or path == file:
            continue
        with reading(path, "a list of images"):
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        names = frozenset(line.strip() for line in lines if line.strip())
        found[_SPLITS[match.group(1).lower()]] = names
    return found
