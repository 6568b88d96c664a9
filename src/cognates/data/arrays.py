"""Array data (`idx:`, `npz:`, the embedded sets): read as a stream, checked, handed on as uint8."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from cognates.data.splits import Source, Split, divide, encode_labels
from cognates.errors import DataError

_CHANNELS = {1: 1, 2: 1, 3: 3, 4: 3}
"""Native channels by the length of the last axis; 2 and 4 have an alpha channel."""


@dataclass(frozen=True, eq=False)
class Part:
    """The images of one file: their shape, and how to stream them."""

    name: str
    """What errors call it."""
    shape: tuple[int, ...]
    """(n, h, w) or (n, h, w, c)"""
    stream: Callable[[int], Iterator[np.ndarray]]
    """Given b, yields (b, h, w[, c]) arrays in order; the last one may be shorter."""

    def __post_init__(self) -> None:
        """Refuse shapes that are not images."""
        if len(self.shape) not in (3, 4) or (
            len(self.shape) == 4 and self.shape[3] not in _CHANNELS
        ):
            hint = ""
            if len(self.shape) == 4 and self.shape[1] in (1, 3):
                hint = "; move the channels to the last axis"
            raise DataError(
                f"Expected images of shape (n, h, w) or (n, h, w, c) with c of 1 to 4 in"
                f" {self.name}, got {self.shape}: save them in that shape{hint}."
            )
        if not all(self.shape):
            raise DataError(
                f"Expected at least one image of at least 1x1 in {self.name}, got {self.shape}:"
                " give a file with images."
            )


@dataclass(frozen=True, eq=False)
class ArrayReader:
    """The images of several parts, one after the other."""

    parts: tuple[Part, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return sum(part.shape[0] for part in self.parts)

    def batches(self, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """Yield uint8 arrays of at most `size` images; parts without any of `rows` are not read."""
        start = 0
        for part in self.parts:
            stop = start + part.shape[0]
            low, high = np.searchsorted(rows, [start, stop])
            if high > low:
                yield from _select(part, rows[low:high] - start, size)
            start = stop

    def name(self, row: int) -> str:
        """Return the image's position in its part."""
        for part in self.parts:
            if row < part.shape[0]:
                return f"{part.name}[{row}]"
            row -= part.shape[0]
        raise IndexError(row)


def _select(part: Part, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    start = 0
    for block in part.stream(size):
        low, high = np.searchsorted(rows, [start, start + len(block)])
        if high > low:
            wanted = rows[low:high] - start
            # Only what is used is checked, so that one split does not fail on another's images.
            chosen = block if len(wanted) == len(block) else block[wanted]
            yield as_bytes(np.asarray(chosen), part.name)
        start += len(block)
        if high == len(rows):
            return


def as_bytes(images: np.ndarray, name: str) -> np.ndarray:
    """Return images as uint8: booleans and floats in [0, 1] times 255, integers in [0, 255] kept.

    Raises:
        DataError: other values, NaN included.
    """
    if images.dtype == np.uint8:
        return images
    if images.dtype == np.bool_:
        return images.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(images.dtype, np.floating) and not np.isfinite(images).all():
        raise DataError(
            f"Expected finite images in {name}, got NaN or infinite values: repair the array."
        )
    low, high = images.min(), images.max()
    if np.issubdtype(images.dtype, np.floating):
        if low < 0 or high > 1:
            raise DataError(
                f"Expected float images in [0, 1] in {name}, got values from {low:g} to {high:g}:"
                " save them as uint8, or as floats in that range."
            )
        return np.rint(images.astype(np.float32) * 255).astype(np.uint8)
    if not np.issubdtype(images.dtype, np.integer) or low < 0 or high > 255:
        raise DataError(
            f"Expected images of uint8, or of floats in [0, 1], in {name}, got {images.dtype}"
            f" with values from {low} to {high}: convert them to uint8."
        )
    return images.astype(np.uint8)


def assemble(
    name: str,
    parts: Mapping[str, Part],
    columns: Sequence[Mapping[str, np.ndarray]],
    *,
    column_names: Mapping[str, tuple[str, ...]],
    fingerprint: tuple[object, ...],
) -> Source:
    """Make a source of array data.

    Args:
        name: what a person calls it.
        parts: images by split; a single part under any other name is divided 80/20.
        columns: for each part, its targets by name; a target counts if every part has it.
        column_names: names of the columns of (n, k) targets and of the classes of `label`.
        fingerprint: JSON data that change when the files do.

    Raises:
        DataError: a target is not one value or row of values per image.
    """
    for part, targets in zip(parts.values(), columns, strict=True):
        for key, values in targets.items():
            if values.ndim not in (1, 2) or len(values) != part.shape[0]:
                raise DataError(
                    f"Expected one entry of '{key}' per image in {part.name}, got shape"
                    f" {values.shape} for {part.shape[0]} images: save as many as images."
                )
    shared = [key for key in columns[0] if all(key in targets for targets in columns)]
    targets = {key: np.concatenate([c[key] for c in columns]) for key in shared}
    targets, names = _clean(name, targets, column_names)
    given, start = {}, 0
    for split, part in parts.items():
        given[split] = np.arange(start, start + part.shape[0])
        start += part.shape[0]
    rows, note = divide(given, targets.get("label"))
    sizes = {part.shape[1:3] for part in parts.values()}
    depths = {_CHANNELS[part.shape[3]] if len(part.shape) == 4 else 1 for part in parts.values()}
    return Source(
        name=name,
        kind="arrays",
        splits={split: Split(name=split, rows=index) for split, index in rows.items()},
        note=note if targets else f"{note} No labels.",
        reader=ArrayReader(tuple(parts.values())),
        fingerprint=fingerprint,
        # Of images that are not square, the centred square is what is used.
        native_size=min(sizes.pop()) if len(sizes) == 1 else None,
        native_channels=max(depths),
        targets=targets,
        target_names=names,
    )


def _clean(
    name: str, targets: Mapping[str, np.ndarray], names: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """Give every target its final type: classes 0..k-1, other integers int64, floats float32."""
    clean: dict[str, np.ndarray] = {}
    clean_names: dict[str, tuple[str, ...]] = {}
    for key, values in targets.items():
        whole = np.issubdtype(values.dtype, np.integer) or values.dtype == np.bool_
        if key == "label":
            if not whole and values.dtype.kind not in "US":
                raise DataError(
                    f"Expected labels that are integers or strings in {name}, got"
                    f" {values.dtype}: convert them."
                )
            clean[key], clean_names[key] = _classes(values, names.get(key, ()))
            continue
        if values.ndim == 1 and values.dtype.kind in "US":
            clean[key], clean_names[key] = encode_labels(values)
            continue
        clean[key] = values.astype(np.int64 if whole else np.float32)
        if values.ndim == 2:
            width = values.shape[1]
            given = names.get(key, ())
            if given and len(given) != width:
                raise DataError(
                    f"Expected {width} names for the {width} columns of '{key}' in {name}, got"
                    f" {len(given)}: save one name per column."
                )
            clean_names[key] = given or tuple(f"{key}-{i}" for i in range(width))
    return clean, clean_names


def _classes(values: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    numeric = values.dtype.kind in "iub"
    if names and numeric and values.min() >= 0 and int(values.max()) < len(names):
        return values.astype(np.int64), names
    return encode_labels(values)


def file_mark(path: Path) -> tuple[str, int, int]:
    """Return a file's name, size and time of change, for a fingerprint."""
    status = path.stat()
    return (path.name, status.st_size, status.st_mtime_ns)


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn what a damaged or forbidden file raises into one `DataError`."""
    try:
        yield
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(
            f"Expected to read '{path}', got no permission: change its access rights."
        ) from error
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,  # zipfile's, of a compression that it does not know
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"Expected {what} in '{path}', got a damaged or foreign file ({reason}): fetch or save"
            " it again."
        ) from error


def stream_values(
    open_file: Callable[[], IO[bytes]], path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Callable[[int], Iterator[np.ndarray]]:
    """Return a `Part.stream` of row-major values; `open_file` gives a file at the first of them."""
    each = math.prod(shape[1:])

    def stream(size: int) -> Iterator[np.ndarray]:
        with reading(path, "whole images"), open_file() as file:
            for start in range(0, shape[0], size):
                count = min(size, shape[0] - start)
                data = _read_exactly(file, count * each * dtype.itemsize)
                yield np.frombuffer(data, dtype).reshape(count, *shape[1:])

    return stream


def unpacked(
    packed: Callable[[int], Iterator[np.ndarray]], side: int
) -> Callable[[int], Iterator[np.ndarray]]:
    """Return a `Part.stream` of square images from one of bits, (b, side * side / 8) uint8."""

    def stream(size: int) -> Iterator[np.ndarray]:
        for block in packed(size):
            bits = np.unpackbits(block, axis=1).reshape(-1, side, side)
            yield bits.view(np.bool_)

    return stream


def _read_exactly(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    while len(data) < count:
        more = file.read(count - len(data))
        if not more:
            raise EOFError("it ends too early")
        data += more
    return data


def open_gzip_or_plain(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacking it if it is a gzip file by content."""
    raw = path.open("rb")
    packed = raw.read(2) == b"\x1f\x8b"
    raw.close()
    return io.BufferedReader(gzip.open(path, "rb")) if packed else path.open("rb")
