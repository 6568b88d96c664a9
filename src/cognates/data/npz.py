"""`npz:FILE_OR_DIR`: numpy archives with `images` and, if there are any, labels or attributes."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from cognates.data.arrays import Part, assemble, file_mark, reading, stream_values, unpacked
from cognates.data.splits import SPLIT_NAMES, Source
from cognates.errors import DataError

_MATRICES = {"attributes": "names", "factors": "names"}
"""(n, k) targets and the arrays that name their columns."""

_PACKED_SIDE = 64
"""Height and width of dSprites, the one set that is kept as bits."""


def open_npz(
    location: str | Path, *, name: str | None = None, label_names: tuple[str, ...] = ()
) -> Source:
    """Open one archive, or a folder with `train.npz`, `test.npz` and perhaps `val.npz`.

    An archive holds `images` (n, h, w[, c]): uint8, or floats in [0, 1]; optional are `labels`
    (n,), integers or strings with `label_names` for their values, `labels` (n, k) with
    `label_names` for their columns, `attributes` (n, k) with `names`, and `identity` (n,). dSprites
    as bits (`images_packed`, `factors`, `names`) is understood too.

    Raises:
        DataError: no such file, no `images`, or labels of another length. The values of the images
            are checked when they are read.
    """
    root = Path(location).expanduser()
    files = _find(root, location)
    parts: dict[str, Part] = {}
    columns: list[dict[str, np.ndarray]] = []
    names: dict[str, tuple[str, ...]] = {"label": label_names}
    for split, path in files.items():
        parts[split] = _images(path)
        columns.append(_targets(path, names))
    return assemble(
        name or (root.resolve().name if root.is_dir() else root.stem),
        parts,
        columns,
        column_names=names,
        fingerprint=("npz", sorted(file_mark(path) for path in files.values())),
    )


def _find(root: Path, location: str | Path) -> dict[str, Path]:
    if root.is_file():
        return {"": root}
    if not root.is_dir():
        raise DataError(
            f"Expected a .npz file or a folder of them, got '{location}': no such file; give"
            " npz:FILE or npz:DIR."
        )
    found = sorted(root.glob("*.npz"))
    named = {SPLIT_NAMES[p.stem.lower()]: p for p in found if p.stem.lower() in SPLIT_NAMES}
    if "train" in named and len(named) > 1:
        return {split: named[split] for split in ("train", "val", "test") if split in named}
    if len(found) == 1:
        return {"": found[0]}
    what = ", ".join(path.name for path in found) or "no .npz file"
    raise DataError(
        f"Expected train.npz and test.npz, or one .npz file, in '{location}', got {what}: rename"
        " the files or give one of them."
    )


def _images(path: Path) -> Part:
    with reading(path, "a numpy archive"), zipfile.ZipFile(path) as archive:
        members = {member.removesuffix(".npy") for member in archive.namelist()}
        key = "images" if "images" in members else "images_packed"
        if key not in members:
            raise DataError(
                f"Expected an array 'images' in '{path}', got {', '.join(sorted(members))}: save"
                " the pixels under that name."
            )
        with archive.open(f"{key}.npy") as file:
            shape, by_columns, dtype = _array_header(file)
    if dtype.hasobject:
        raise DataError(f"Expected numbers in 'images' of '{path}', got objects: save an array.")
    if key == "images_packed":
        return _packed(path, shape, dtype)
    if by_columns:
        return Part(path.name, shape, _whole(path))
    return Part(path.name, shape, stream_values(_member(path, key), path, shape, dtype))


def _packed(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Part:
    side = _PACKED_SIDE
    if dtype != np.uint8 or len(shape) != 2 or shape[1] * 8 != side * side:
        raise DataError(
            f"Expected 'images_packed' (n, {side * side // 8}) uint8 in '{path}', got {shape}"
            f" {dtype}: save unpacked pixels as 'images'."
        )
    packed = stream_values(_member(path, "images_packed"), path, shape, dtype)
    return Part(path.name, (shape[0], side, side), unpacked(packed, side))


def _member(path: Path, key: str) -> Callable[[], IO[bytes]]:
    def open_file() -> IO[bytes]:
        archive = zipfile.ZipFile(path)
        file = archive.open(f"{key}.npy")
        # The member keeps the file open by itself; the archive object is not needed any more.
        archive.close()
        _array_header(file)
        return file

    return open_file


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _whole(path: Path) -> Callable[[int], Iterator[np.ndarray]]:
    def stream(size: int) -> Iterator[np.ndarray]:
        with reading(path, "whole images"), np.load(path, allow_pickle=False) as archive:
            images = archive["images"]
        for start in range(0, len(images), size):
            yield images[start : start + size]

    return stream


def _targets(path: Path, names: dict[str, tuple[str, ...]]) -> dict[str, np.ndarray]:
    """Read what is known about each image; names of columns and classes are put into `names`."""
    targets: dict[str, np.ndarray] = {}
    with reading(path, "a numpy archive"), np.load(path, allow_pickle=False) as archive:
        if "labels" in archive:
            labels = archive["labels"]
            key = "attributes" if labels.ndim == 2 and labels.shape[1] > 1 else "label"
            targets[key] = labels[:, 0] if labels.ndim == 2 and key == "label" else labels
            if "label_names" in archive:
                names[key] = tuple(str(item) for item in archive["label_names"])
        for key, column_names in _MATRICES.items():
            if key in archive:
                targets[key] = archive[key]
                if column_names in archive:
                    names[key] = tuple(str(item) for item in archive[column_names])
        if "identity" in archive:
            targets["identity"] = archive["identity"]
    return targets
