"""Files of captions: which formats there are, and which images they and the lists beside name."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cognates.data.arrays import reading
from cognates.data.decode import EXTENSIONS
from cognates.data.splits import SPLIT_NAMES
from cognates.errors import DataError

_ENDINGS = (".json", ".csv", ".tsv", ".txt", ".token")
_SPLITS = {**SPLIT_NAMES, "dev": "val"}
"""Flickr8k calls its validation images dev."""
# `train.txt`, `Flickr_8k.trainImages.txt`: a list of the images of a split.
_LIST = re.compile(r"(?:^|[._-])(train|dev|val|valid|validation|test)(?:images)?$", re.IGNORECASE)
# Flickr8k.token.txt numbers an image's captions: `667626_18933d713e.jpg#0`.
_NUMBER = re.compile(r"#\d+$")
_IMAGE = frozenset(
    [
        "image",
        "images",
        "image_name",
        "image_id",
        "image_file",
        "image_path",
        "img",
        "file",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "path",
    ]
)
_CAPTION = frozenset(
    ["caption", "captions", "comment", "description", "sentence", "sentences", "text"]
)


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
    `image<TAB>caption`, one caption each, the image with or without `#number`. A heading says which
    columns are read, `image` and `caption`, and others may stand beside them. Lists: `train.txt`,
    `dev.txt`, `test.txt`, or `Flickr_8k.trainImages.txt` and so on, one image per line.

    Raises:
        DataError: the file cannot be read, or holds no caption, or a split list names none of its
            images or has no training images beside it.
    """
    text = _text(file, "captions")
    if file.suffix.lower() == ".json":
        pairs, splits = _from_json(file, text)
    else:
        pairs, splits = _from_lines(file, text), _lists(file)
    captions: dict[str, list[str]] = {}
    for image, caption in pairs:
        clean = " ".join(caption.split())
        if image and clean:
            captions.setdefault(image, []).append(clean)
    if not captions:
        raise DataError(
            f"Expected captions in '{file}', got none: write one line image,caption per caption."
        )
    for part, images in splits.items():
        if images and images.isdisjoint(captions):
            raise DataError(
                f"Expected images with captions in the list '{part}' of '{file}', got none of "
                f"{len(images)}, e.g. {min(images)}: name them as the captions do."
            )
    return Captioned(
        file=file, captions={k: tuple(found) for k, found in captions.items()}, splits=splits
    )


def _text(file: Path, what: str) -> str:
    with reading(file, what):
        try:
            return file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(
                f"Expected {what} in UTF-8 in '{file}', got byte {error.object[error.start]:#x} at "
                f"{error.start}: save it as UTF-8."
            ) from error


def _from_json(file: Path, text: str) -> tuple[list[tuple[str, str]], dict[str, frozenset[str]]]:
    wanted = 'an object {"captions": {image: [caption, ...]}, "splits": {split: [image, ...]}}'
    try:
        raw = json.loads(text)
        pairs = [
            (image, caption)
            for image, captions in raw["captions"].items()
            for caption in ([captions] if isinstance(captions, str) else captions)
        ]
        lists = {name: frozenset(images) for name, images in raw.get("splits", {}).items()}
        texts = [part for several in (*pairs, *lists.values()) for part in several]
        if not all(isinstance(part, str) for part in texts):
            raise TypeError("a caption or an image's name is not text")
        "".join(texts).encode()  # JSON can name half of a character, which no tokenizer reads
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"Expected {wanted} in '{file}', got another ({error}).") from error
    splits = {_SPLITS[name]: images for name, images in lists.items() if name in _SPLITS}
    return pairs, _with_training(file, splits, named=lists)


def _from_lines(file: Path, text: str) -> list[tuple[str, str]]:
    """Return the images and captions of a table, by its heading where it has one."""
    separator = "\t" if "\t" in text.lstrip("\n").partition("\n")[0] else ","
    rows = _table(file, text, separator)
    heading = [cell.strip().lower() for cell in rows[0]] if rows else []
    image = next((i for i, cell in enumerate(heading) if cell in _IMAGE), None)
    if image is None or any(map(_is_image, heading)):  # 0.png is seldom a column
        # A comma in a caption that is not quoted belongs to the caption.
        pairs = [(row[0], separator.join(row[1:])) for row in rows if len(row) > 1]
    else:
        caption = _caption_column(file, heading, image)
        last = caption == len(heading) - 1
        pairs = []
        for number, row in enumerate(rows[1:], 2):
            if len(row) > len(heading) and not last:
                raise DataError(
                    f"Expected {len(heading)} columns in '{file}', got {len(row)} in row {number}: "
                    "put captions with commas in quotation marks."
                )
            if len(row) > max(image, caption):
                pairs.append((row[image], separator.join(row[caption:][: None if last else 1])))
    return [(_NUMBER.sub("", name.strip()), said) for name, said in pairs]


def _caption_column(file: Path, heading: list[str], image: int) -> int:
    others = [i for i in range(len(heading)) if i != image]
    named = [i for i in others if heading[i] in _CAPTION]
    if len(named) == 1 or len(others) == 1:
        return (named or others)[0]
    raise DataError(
        f"Expected one column 'caption' beside '{heading[image]}' in '{file}', got the columns "
        f"{', '.join(heading)}: name it in the first line."
    )


def _table(file: Path, text: str, separator: str) -> list[list[str]]:
    """Return the rows of a file of lines; blank ones are left out."""
    if separator == "\t":
        return [line.split("\t") for line in text.split("\n") if line.strip()]
    rows, begun, number = [], [], 0
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                begun.append(number + 1)
            number = reader.line_num
    except csv.Error as error:
        raise DataError(
            f"Expected a line image,caption in '{file}', got another in line {number + 1} "
            f"({error}): look at its quotation marks."
        ) from error
    for start, row in zip(begun, rows, strict=True):
        # A quotation mark that is not closed makes one caption of what follows.
        later = [line for cell in row for line in cell.splitlines()[1:]]
        for line in later:
            if _is_image(line.split(",")[0]):
                raise DataError(
                    f"Expected one caption in line {start} of '{file}', got several lines of the "
                    "table: close its quotation marks."
                )
    return rows


def _is_image(name: str) -> bool:
    return Path(name.strip()).suffix.lower() in EXTENSIONS


def _lists(file: Path) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for path in sorted(file.parent.glob("*.txt")):
        match = _LIST.search(path.stem)
        if match is None or path == file:
            continue
        lines = _text(path, "a list of images").splitlines()
        names = frozenset(line.strip() for line in lines if line.strip())
        found[_SPLITS[match.group(1).lower()]] = names
    return _with_training(file, found, named=found)


def _with_training(
    file: Path, splits: dict[str, frozenset[str]], *, named: Iterable[str]
) -> dict[str, frozenset[str]]:
    """Refuse splits that would leave what is trained on to chance."""
    if (given := sorted(named)) and "train" not in splits:
        raise DataError(
            f"Expected a list 'train' among the splits of '{file}', got {', '.join(given)}: add "
            "it, or give no splits."
        )
    return splits
