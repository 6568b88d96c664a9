"""`folder:DIR`: image files at any depth; folders say the split and the label."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cognates.data.decode import EXTENSIONS, heif_is_installed
from cognates.data.splits import SPLIT_NAMES, Source, Split, divide, encode_labels
from cognates.errors import DataError

# Left behind by macOS archives and Synology; hold thumbnails and resource forks with image names.
_IGNORED_FOLDERS = frozenset({"__MACOSX", "@eaDir"})


@dataclass(frozen=True, eq=False)
class FileReader:
    """Image files below one folder."""

    root: Path
    paths: tuple[str, ...]
    """Relative, with forward slashes."""

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def batches(self, rows: np.ndarray, size: int) -> Iterator[list[str]]:
        """Yield lists of at most `size` full paths."""
        root = str(self.root)
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            yield [os.path.join(root, self.paths[row]) for row in chunk]  # noqa: PTH118 - 3x faster

    def name(self, row: int) -> str:
        """Return the file's relative path."""
        return self.paths[row]


@dataclass
class Listing:
    """What a walk through a folder found."""

    files: list[tuple[str, int, int]] = field(default_factory=list)
    """(relative path, size in bytes, mtime in nanoseconds), sorted by path."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(relative path, reason) of what could not be looked at."""


def open_folder(directory: str | Path, *, name: str | None = None) -> Source:
    """List a folder of images.

    Raises:
        DataError: there is no such folder, or no image file in it.
    """
    root = Path(directory).expanduser()
    if not root.is_dir():
        what = "a file" if root.exists() else "no such folder"
        raise DataError(
            f"Expected a folder of images, got '{directory}': {what}; give folder:DIR with an"
            " existing folder."
        )
    listing = walk(root)
    if not listing.files:
        found = f" (unreadable: {_few(listing.problems)})" if listing.problems else ""
        raise DataError(
            f"Expected image files in '{directory}', got none at any depth{found}: put images"
            f" there; names count that end in {', '.join(sorted(EXTENSIONS))}."
        )
    paths = tuple(path for path, _, _ in listing.files)
    given, stray = _given_splits(paths)
    label, names, label_note = _labels(root, paths, given, stray)
    rows, note = divide(given, label)
    problems = _problems_by_split(listing.problems, rows)
    return Source(
        name=name or root.resolve().name,
        kind="files",
        splits={
            part: Split(name=part, rows=index, problems=problems.get(part, ()))
            for part, index in rows.items()
        },
        note=" ".join(filter(None, (note, _stray_note(stray, paths, given), label_note))),
        reader=FileReader(root, paths),
        fingerprint=("folder", listing.files, listing.problems, _extras(paths)),
        path=np.array(paths),
        targets={} if label is None else {"label": label},
        target_names={} if label is None else {"label": names},
    )


def walk(root: Path) -> Listing:
    """List the image files below `root`, following links but never into a folder's own ancestor."""
    listing = Listing()
    status = root.stat()
    # A stack and not recursion: paths may be deeper than Python's stack.
    pending: list[tuple[str, str, tuple[tuple[int, int], ...]]]
    pending = [(str(root), "", ((status.st_dev, status.st_ino),))]
    while pending:
        folder, prefix, ancestors = pending.pop()
        try:
            with os.scandir(folder) as scan:
                entries = list(scan)
        except OSError as error:
            listing.problems.append((prefix.rstrip("/") or ".", _why(error)))
            continue
        for entry in entries:
            identity = _look(entry, prefix + entry.name, ancestors, listing)
            if identity is not None:
                pending.append((entry.path, f"{prefix}{entry.name}/", (*ancestors, identity)))
    listing.files.sort()
    listing.problems.sort()
    return listing


def _look(
    entry: os.DirEntry[str], path: str, ancestors: tuple[tuple[int, int], ...], listing: Listing
) -> tuple[int, int] | None:
    """Note a file or a problem; return the identity of a folder that is to be walked."""
    is_image = os.path.splitext(entry.name)[1].lower() in EXTENSIONS  # noqa: PTH122 - per file
    if entry.name.startswith(".") or entry.name in _IGNORED_FOLDERS:
        return None
    try:
        if not is_image and not entry.is_dir():
            return None
        status = entry.stat()
    except OSError as error:
        listing.problems.append((path, _why(error)))
        return None
    if stat.S_ISDIR(status.st_mode):
        identity = (status.st_dev, status.st_ino)
        if identity not in ancestors:
            return identity
        listing.problems.append((path, "directory loop"))
    elif not stat.S_ISREG(status.st_mode):
        listing.problems.append((path, "not a regular file"))
    elif not os.access(entry.path, os.R_OK):
        # Asked here and not found out when decoding: a right that is given later changes neither
        # size nor time, and the cache would go on without the file.
        listing.problems.append((path, "no permission"))
    else:
        listing.files.append((path, status.st_size, status.st_mtime_ns))
    return None


def _why(error: OSError) -> str:
    import errno

    if error.errno == errno.ELOOP:
        return "directory loop"
    if isinstance(error, PermissionError):
        return "no permission"
    if isinstance(error, FileNotFoundError):
        return "link to a file that does not exist"
    return error.strerror or str(error)


def _extras(paths: tuple[str, ...]) -> list[str]:
    """Return what is installed that decides which of the files can be read."""
    has_heic = any(path.lower().endswith((".heic", ".heif")) for path in paths)
    return ["heif"] if has_heic and heif_is_installed() else []


def _split_of(path: str) -> str | None:
    first, slash, _ = path.partition("/")
    return SPLIT_NAMES.get(first.lower()) if slash else None


def _given_splits(paths: tuple[str, ...]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return rows by split folder, and the rows outside of split folders.

    Split folders count only if they give both parts; a lone `train` beside class folders is one of
    the classes.
    """
    by_split: dict[str, list[int]] = {}
    outside: list[int] = []
    for row, path in enumerate(paths):
        part = _split_of(path)
        (outside if part is None else by_split.setdefault(part, [])).append(row)
    given = {
        part: np.array(by_split[part]) for part in ("train", "val", "test") if part in by_split
    }
    complete = "train" in given and len(given) > 1
    if not complete and outside:
        return {"": np.arange(len(paths))}, np.array([], np.int64)
    return given, np.array(outside, np.int64)


def _labels(
    root: Path, paths: tuple[str, ...], given: dict[str, np.ndarray], stray: np.ndarray
) -> tuple[np.ndarray | None, tuple[str, ...], str]:
    """Return labels from the folder level below the split (or the first one), if there are any."""
    level = 0 if "" in given else 1
    used = np.ones(len(paths), bool)
    used[stray] = False
    folders = [
        path.split("/")[level : level + 1] if path.count("/") > level else [] for path in paths
    ]
    bare = [row for row, folder in enumerate(folders) if used[row] and not folder]
    if len(bare) == used.sum():
        return None, (), "No labels: the images lie in no class folders."
    if bare:
        note = (
            f"No labels: {len(bare)} of {used.sum()} images lie in no class folder,"
            f" e.g. {paths[bare[0]]}."
        )
        return None, (), note
    # Images outside of the splits are of no class: `extra` beside `train` is a folder, no label.
    label = np.full(len(paths), -1)
    label[used], names = encode_labels(np.array([folders[row][0] for row in np.flatnonzero(used)]))
    if len(names) == 1:
        return None, (), f"No labels: all images lie in one folder, '{names[0]}'."
    return label, _readable_names(root, names), "Labels are the names of folders."


def _readable_names(root: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """Replace folder names by those of `classes.json`, a JSON object beside the splits, if any."""
    try:
        table = json.loads((root / "classes.json").read_text(encoding="utf8"))
    except (OSError, ValueError):
        return names
    if not isinstance(table, dict):
        return names
    return tuple(str(table.get(name, name)) for name in names)


def _stray_note(stray: np.ndarray, paths: tuple[str, ...], given: dict[str, np.ndarray]) -> str:
    if not len(stray):
        return ""
    return (
        f"{len(stray)} images outside of {', '.join(given)} are left out of training and"
        f" evaluation, e.g. {paths[stray[0]]}."
    )


def _problems_by_split(
    problems: list[tuple[str, str]], rows: dict[str, np.ndarray]
) -> dict[str, tuple[tuple[str, str], ...]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for path, reason in problems:
        part = _split_of(path)
        if part == "val" and "val" not in rows:
            part = "test"
        found.setdefault(part if part in rows else "train", []).append((path, reason))
    return {part: tuple(items) for part, items in found.items()}


def _few(problems: list[tuple[str, str]]) -> str:
    return ", ".join(f"{path} ({reason})" for path, reason in problems[:3])
