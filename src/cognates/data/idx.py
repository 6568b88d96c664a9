"""`idx:DIR`: the four files of the MNIST family, packed with gzip or not.

Format: Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from cognates.data.arrays import (
    Part,
    assemble,
    file_mark,
    open_gzip_or_plain,
    reading,
    stream_values,
)
from cognates.data.splits import Source
from cognates.errors import DataError

PATTERN = re.compile(
    r"(?P<set>.*?)(?P<split>train|t10k|test)-(?P<what>images|labels)[-.]idx(?P<axes>\d)-ubyte(\.gz)?"
)
"""`train-images-idx3-ubyte.gz`; the prefix is EMNIST's, `t10k` is the test set."""

_UBYTE = 0x08


def open_idx(
    directory: str | Path, *, name: str | None = None, label_names: tuple[str, ...] = ()
) -> Source:
    """Open a folder of IDX files.

    Raises:
        DataError: no folder, no image file, files of several sets, or files that do not fit.
    """
    root = Path(directory).expanduser()
    files = _find(root, directory)
    parts: dict[str, Part] = {}
    columns: list[dict[str, np.ndarray]] = []
    for split in ("train", "test"):
        images = files.get((split, "images"))
        if images is None:
            continue
        parts[split] = _images(images)
        labels = files.get((split, "labels"))
        columns.append({} if labels is None else {"label": _labels(labels)})
    if not parts:
        raise DataError(
            f"Expected the IDX file train-images-idx3-ubyte[.gz] in '{directory}', got labels only:"
            " put the images beside them."
        )
    return assemble(
        name or root.resolve().name,
        parts,
        columns,
        column_names={"label": label_names},
        fingerprint=("idx", sorted(file_mark(path) for path in files.values())),
    )


def holds_idx(root: Path) -> bool:
    """Tell whether a folder holds IDX files."""
    return any(PATTERN.fullmatch(path.name) for path in root.iterdir())


def _find(root: Path, directory: str | Path) -> dict[tuple[str, str], Path]:
    if not root.is_dir():
        raise DataError(
            f"Expected a folder of IDX files, got '{directory}': no such folder; give idx:DIR with"
            " an existing folder."
        )
    files: dict[tuple[str, str], Path] = {}
    sets: set[str] = set()
    for path in sorted(root.iterdir()):
        match = PATTERN.fullmatch(path.name)
        if match:
            sets.add(match["set"])
            split = "train" if match["split"] == "train" else "test"
            # Sorted, the plain file comes before its gzip twin and is the faster one.
            files.setdefault((split, match["what"]), path)
    if not files:
        raise DataError(
            f"Expected IDX files in '{directory}', got none: put train-images-idx3-ubyte[.gz],"
            " train-labels-idx1-ubyte[.gz] and the two t10k files there."
        )
    if len(sets) > 1:
        raise DataError(
            f"Expected the files of one set in '{directory}', got {len(sets)}"
            f" ({', '.join(sorted(sets))}): give each a folder of its own."
        )
    return files


def _header(file: IO[bytes]) -> tuple[int, ...]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != _UBYTE or not magic[3]:
        raise ValueError("it does not start with an IDX header of unsigned bytes")
    data = file.read(4 * magic[3])
    if len(data) < 4 * magic[3]:
        raise EOFError("it ends within its header")
    return tuple(int(length) for length in np.frombuffer(data, ">u4"))


def _images(path: Path) -> Part:
    with reading(path, "an IDX file"), open_gzip_or_plain(path) as file:
        shape = _header(file)
        if len(shape) != 3:
            raise ValueError(f"it has {len(shape)} axes where images have 3")
    return Part(path.name, shape, stream_values(_after_header(path), path, shape, np.dtype("u1")))


def _after_header(path: Path) -> Callable[[], IO[bytes]]:
    def open_file() -> IO[bytes]:
        file = open_gzip_or_plain(path)
        _header(file)
        return file

    return open_file


def _labels(path: Path) -> np.ndarray:
    with reading(path, "an IDX file"), open_gzip_or_plain(path) as file:
        shape = _header(file)
        values = np.frombuffer(file.read(), np.uint8)
        if len(shape) != 1 or len(values) != shape[0]:
            raise ValueError(f"its header says {shape} and it holds {len(values)} values")
    return values
