"""`hub:ORG/NAME`: a data set of the Hugging Face hub, or a folder written by `save_to_disk`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from cognates.data.arrays import as_bytes
from cognates.data.decode import Item
from cognates.data.splits import SPLIT_NAMES, Source, Split, divide, encode_labels
from cognates.errors import DataError, MissingExtraError

_LABELS = ("label", "labels", "fine_label", "class", "target")
"""Columns that are looked at for the class, in this order."""


class _Table(Protocol):
    """What is used of `datasets.Dataset`."""

    features: dict[str, object]
    _fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, rows: list[int] | slice) -> dict[str, list[object]]: ...

    def select_columns(self, names: list[str]) -> _Table: ...

    def cast_column(self, name: str, feature: object) -> _Table: ...

    def with_format(self, kind: str | None, columns: list[str] | None = None) -> _Table: ...


@dataclass(frozen=True, eq=False)
class HubReader:
    """The image column of one or several splits, one after the other."""

    parts: tuple[_Table, ...]
    """Their image column is not decoded."""
    column: str

    def __len__(self) -> int:
        """Return the number of images."""
        return sum(len(part) for part in self.parts)

    def batches(self, rows: np.ndarray, size: int) -> Iterator[list[Item]]:
        """Yield lists of the bytes of image files, or of paths where the data set holds those."""
        start = 0
        for part in self.parts:
            low, high = np.searchsorted(rows, [start, start + len(part)])
            for first in range(low, high, size):
                chunk = rows[first : min(first + size, high)] - start
                yield [_item(cell) for cell in part[chunk.tolist()][self.column]]
            start += len(part)

    def name(self, row: int) -> str:
        """Return the image's position."""
        return f"{self.column}[{row}]"


def open_hub(
    location: str, *, name: str | None = None, native: tuple[int, int] | None = None
) -> Source:
    """Open ORG/NAME, ORG/NAME:CONFIG or a folder that `save_to_disk` wrote.

    Args:
        location: what stands after `hub:`.
        name: what a person calls it; by default the location.
        native: size and channels that all images are known to have.

    Raises:
        MissingExtraError: the package `datasets` is not installed.
        DataError: the hub cannot be reached, has no such data set, or it has no images.
    """
    loaded = _load(location)
    # A single Dataset has no splits; a DatasetDict is a mapping of them.
    tables = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
    tables = {split: table for split, table in tables.items() if len(table)}
    if not tables:
        raise DataError(f"Expected images in 'hub:{location}', got no rows: choose another set.")
    column = _image_column(location, next(iter(tables.values())))
    label, names, label_note = _labels(list(tables.values()))
    given: dict[str, np.ndarray] = {}
    start = 0
    for split, table in tables.items():
        given[SPLIT_NAMES.get(split, split)] = np.arange(start, start + len(table))
        start += len(table)
    rows, note = divide(given, label)
    return Source(
        name=name or location.rstrip("/").rsplit("/", 1)[-1],
        kind="files",
        splits={split: Split(name=split, rows=index) for split, index in rows.items()},
        note=f"{note} {label_note}".strip(),
        reader=HubReader(tuple(_undecoded(table, column) for table in tables.values()), column),
        fingerprint=("hub", [[split, t._fingerprint, len(t)] for split, t in tables.items()]),
        native_size=native[0] if native else None,
        native_channels=native[1] if native else None,
        targets={} if label is None else {"label": label},
        target_names={} if label is None else {"label": names},
    )


def _load(location: str) -> _Table | dict[str, _Table]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            f"Expected the package 'datasets' for 'hub:{location}', got none installed: run"
            " pip install 'cognates[hub]'."
        ) from error
    path = Path(location).expanduser()
    try:
        with _quiet():
            if path.is_dir():
                return cast("_Table | dict[str, _Table]", datasets.load_from_disk(str(path)))
            repository, _, configuration = location.partition(":")
            loaded = datasets.load_dataset(repository, configuration or None)
            return cast("_Table | dict[str, _Table]", loaded)
    except Exception as error:
        # The hub's client raises errors of half a dozen packages; all of them mean the same here.
        if path.is_dir():
            raise DataError(
                f"Expected a folder written by save_to_disk in '{location}', got"
                f" {_first_sentence(error)}: for plain image files give folder:{location}."
            ) from error
        raise DataError(
            f"Expected the data set 'hub:{location}', got no answer that helps"
            f" ({_first_sentence(error)}): check the name and the network, or save it to disk where"
            " there is one and give hub:DIR."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars off standard error where nobody looks, and retries off a dead network.

    Without a network the client would ask again and again for half a minute; offline, it looks at
    once for a copy from an earlier download.
    """
    import sys

    import datasets
    from huggingface_hub import constants

    was_on = not datasets.are_progress_bars_disabled()
    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_offline or not _resolves(constants.ENDPOINT)
    if was_on and not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        if was_on:
            datasets.enable_progress_bars()


def _resolves(address: str) -> bool:
    import socket
    from urllib.parse import urlsplit

    try:
        return bool(socket.getaddrinfo(urlsplit(address).hostname, 443))
    except OSError:
        return False


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0].rstrip(".")[:200]


def _image_column(location: str, table: _Table) -> str:
    kinds = {name: type(feature).__name__ for name, feature in table.features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    if not images:
        listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise DataError(
            f"Expected a column of images in 'hub:{location}', got {listed}: choose a data set"
            " with an Image feature."
        )
    return "image" if "image" in images else images[0]


def _undecoded(table: _Table, column: str) -> _Table:
    import datasets

    table = table.select_columns([column]).with_format(None)
    return table.cast_column(column, datasets.Image(decode=False))


def _item(cell: object) -> Item:
    if cell is None:
        return b""
    if isinstance(cell, dict):
        data = cell.get("bytes")
        return data if data is not None else str(cell.get("path") or "")
    return as_bytes(np.asarray(cell), "the image column")


def _labels(tables: list[_Table]) -> tuple[np.ndarray | None, tuple[str, ...], str]:
    features = tables[0].features
    column = next((name for name in _LABELS if name in features), None)
    if column is None or any(column not in table.features for table in tables):
        return None, (), "No labels."
    values = np.concatenate([np.asarray(_column(table, column)) for table in tables])
    if values.ndim != 1 or values.dtype.kind not in "iubUS":
        return None, (), f"No labels: the column '{column}' holds no classes."
    names = getattr(features[column], "names", None)
    if names and values.min() >= 0:
        return values.astype(np.int64), tuple(names), ""
    # The hub writes -1 where a test set's labels are kept secret.
    if values.dtype.kind == "i" and values.min() < 0:
        return None, (), f"No labels: the column '{column}' is hidden for some images."
    label, found = encode_labels(values)
    return label, found, ""


def _column(table: _Table, column: str) -> list[object]:
    return table.with_format("numpy", columns=[column])[:][column]
