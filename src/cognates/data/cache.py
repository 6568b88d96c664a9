"""Images are decoded once, into a uint8 memory map that every later run opens at once.

An entry is a folder that a person can look into: `pixels.npy` (n, c, s, s), `entry.json` and
`unreadable.txt`. Its name is a hash of the sorted (path, size, mtime) of the source's files, the
settings and VERSION. Entries are never changed: they are built aside and renamed into place, so a
process sees a whole entry or none. Any of them may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from cognates.data.build import Plan, build, console
from cognates.data.decode import may_pass
from cognates.data.images import Images
from cognates.data.lock import locked
from cognates.data.sources import open_source
from cognates.data.splits import Source, Split
from cognates.errors import ConfigError, DataError, StorageError, UnreadableWarning

VERSION = 1
"""Raised when the same files would be decoded to other pixels."""

VARIABLE = "COGNATES_CACHE"
"""The environment variable that names the cache's folder."""

DEFAULT_SIZE = 96
"""Pixels of a view where the source has no size of its own: what a CPU trains on in hours."""

_LISTED = 5
"""Unreadable files that an error names."""


def load(
    spec: str,
    split: str,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    max_unreadable: float = 0.1,
    workers: int | None = None,
    progress: bool = True,
) -> Images:
    r"""Return a split's images, decoded, square and of one size.

    Args:
        spec: a SOURCE, see `open_source`.
        split: `train`, `test`, `val` where there is one, or `all`.
        image_size: height and width of the views that will be made; None: the images' own where
            they share one, else 96. Images of that size are stored as they are; others are stored
            with the short side at ceil(8/7 image_size), centre-cropped to a square.
        channels: 1 or 3; None: what the source has, 3 for files.
        max_unreadable: share of unreadable files in [0, 1] above which the source is refused.
        workers: decoding processes; 0: none but this one; None: one per core.
        progress: whether to print the size of the cache and a progress bar on standard error.

    Returns:
        The readable images in the order of the source; `pixels` is a read-only memory map.

    Raises:
        ConfigError: an argument out of range, or an unknown source or split.
        DataError: the source is malformed, has no readable image, or too many unreadable ones.
        StorageError: the cache does not fit on the disk or cannot be written.
    """
    _check(image_size, channels, max_unreadable, workers)
    source = open_source(spec)
    part = _part(source, split, spec)
    size = image_size or source.native_size or DEFAULT_SIZE
    depth = channels or source.native_channels or 3
    plan = Plan(
        reader=source.reader,
        rows=part.rows,
        size=stored_size(size, source.native_size),
        channels=depth,
        workers=workers,
        progress=progress,
        what=f"{source.name} ({split})",
    )
    digest = _digest(source, part, plan)
    folder = cache_folder()
    pixels, dropped = _entry(folder, digest, plan)
    return _images(source, part, pixels, dropped, digest, max_unreadable, folder / digest)


def stored_size(image_size: int, native_size: int | None) -> int:
    """Return the height and width at which images are stored for views of `image_size` pixels.

    Example:
        >>> stored_size(224, None), stored_size(28, 28), stored_size(64, 28)
        (256, 28, 74)
    """
    # 8/7: the test view is the centre crop of 7/8, 224 of 256 as in the ImageNet papers.
    return image_size if image_size == native_size else -(-8 * image_size // 7)


def cache_folder() -> Path:
    """Return the folder of entries: below `$COGNATES_CACHE`, else in the user's cache folder."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser().resolve() / "images"
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "cognates" / "images"


def _check(
    image_size: int | None, channels: int | None, max_unreadable: float, workers: int | None
) -> None:
    if image_size is not None and image_size < 1:
        raise ConfigError(f"Expected an image size of at least 1 pixel, got {image_size}.")
    if channels not in (None, 1, 3):
        raise ConfigError(f"Expected 1 or 3 channels, got {channels}.")
    if not 0 <= max_unreadable <= 1:
        raise ConfigError(
            f"Expected max_unreadable to be a share in [0, 1], got {max_unreadable}: 0.1 is 10 %."
        )
    if workers is not None and workers < 0:
        raise ConfigError(f"Expected workers of at least 0, got {workers}.")


def _part(source: Source, split: str, spec: str) -> Split:
    if split == "all":
        return source.whole()
    if split not in source.splits:
        raise ConfigError(
            f"Unknown split '{split}' of '{spec}': it has {', '.join(source.splits)} and all."
        )
    return source.splits[split]


def _digest(source: Source, part: Split, plan: Plan) -> str:
    rows = hashlib.blake2b(np.ascontiguousarray(part.rows, "<i8").tobytes()).hexdigest()
    key = [VERSION, source.fingerprint, rows, plan.size, plan.channels]
    return hashlib.blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()


def _entry(folder: Path, digest: str, plan: Plan) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Open an entry, building it first if it is not there or damaged."""
    entry = folder / digest
    found = _read(entry, plan)
    if found is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{digest}.lock", waiting=lambda: _say_waiting(plan)) as alone:
            found = _read(entry, plan)
            if found is None:
                build(entry, plan, alone=alone)
                found = _read(entry, plan, fresh=True)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"Expected to write the image cache in '{folder}', got {error.strerror or error}: free"
            f" some space or set {VARIABLE} to a folder that can be written."
        ) from error
    if found is None:
        raise StorageError(
            f"Expected a whole cache entry in '{entry}', got a damaged one: delete it and try"
            " again."
        )
    return found


def _say_waiting(plan: Plan) -> None:
    if plan.progress:
        console().print(f"Another process is decoding {plan.what}; waiting for it.")


def _read(
    entry: Path, plan: Plan, *, fresh: bool = False
) -> tuple[np.ndarray, list[tuple[int, str]]] | None:
    """Return pixels and (position in the split, reason) of what is missing.

    None if the entry is not whole, or if something is missing from it that another try may find: a
    network drive that was away, say. A `fresh` entry is taken as it is.
    """
    try:
        record: dict[str, Any] = json.loads((entry / "entry.json").read_text(encoding="utf8"))
        pixels = np.load(entry / "pixels.npy", mmap_mode="r", allow_pickle=False)
        dropped = [(int(row), str(reason)) for row, reason in record["unreadable"]]
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    if not fresh and any(may_pass(reason) for _, reason in dropped):
        return None
    expected = (len(plan.rows) - len(dropped), plan.channels, plan.size, plan.size)
    return (pixels, dropped) if pixels.shape == expected else None


def _images(
    source: Source,
    part: Split,
    pixels: np.ndarray,
    dropped: list[tuple[int, str]],
    digest: str,
    max_unreadable: float,
    entry: Path,
) -> Images:
    """Put rows, labels and paths together, leaving out what could not be read."""
    missing = [(source.reader.name(int(part.rows[at])), reason) for at, reason in dropped]
    unreadable = (*part.problems, *missing)
    _judge(source, part, unreadable, max_unreadable, entry)
    kept = np.ones(len(part.rows), bool)
    kept[[at for at, _ in dropped]] = False
    rows = part.rows[kept]
    return Images(
        pixels=pixels,
        dataset=source.name,
        split=part.name,
        path=None if source.path is None else source.path[rows],
        targets={name: values[rows] for name, values in source.targets.items()},
        target_names=dict(source.target_names),
        digest=digest,
        unreadable=unreadable,
        captions=None if source.captions is None else tuple(source.captions[row] for row in rows),
    )


def _judge(
    source: Source,
    part: Split,
    unreadable: tuple[tuple[str, str], ...],
    max_unreadable: float,
    entry: Path,
) -> None:
    """Warn of unreadable files; raise when there are too many of them."""
    if not unreadable:
        return
    total = len(part) + len(part.problems)
    share = len(unreadable) / total
    some = ", ".join(f"{path} ({reason})" for path, reason in unreadable[:_LISTED])
    more = f" and {len(unreadable) - _LISTED} more" if len(unreadable) > _LISTED else ""
    if share > max_unreadable:
        raise DataError(
            f"Expected at most {max_unreadable:.0%} unreadable files in '{source.name}'"
            f" ({part.name}), got {len(unreadable)} of {total} ({share:.0%}): {some}{more}; repair"
            " or remove them, or raise --max-unreadable."
        )
    warnings.warn(
        f"Left out {len(unreadable)} of {total} files of '{source.name}' ({part.name}): {some}"
        f"{more}; all are listed in '{entry / 'unreadable.txt'}'.",
        UnreadableWarning,
        stacklevel=4,
    )
