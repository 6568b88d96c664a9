"""What the report knows: run directories read into records, grouped by everything but the seed."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cognates.errors import ConfigError, StorageError
from cognates.evaluation.records import read_results
from cognates.types import Result

SEED = "training.seed"

_DAMAGED = (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error)
"""What numpy raises at a file of arrays that is cut or changed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """One image of a gallery."""

    pixels: np.ndarray
    """(c, s, s) uint8"""
    kind: str
    """least or most: least or most certain."""
    uncertainty: float
    percentile: float
    """Among the training images, in [0, 100]."""
    path: str
    label: str


@dataclass(frozen=True, kw_only=True, eq=False)
class RunRecord:
    """One run directory; a file that is not there is an empty field."""

    path: Path
    name: str
    config: Mapping[str, Any]
    """config.json as it is: a report needs no plug-in that the run needed."""
    environment: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    results: tuple[Result, ...]
    pictures: tuple[Picture, ...]
    data: Mapping[str, Any]
    unreadable: tuple[str, ...]
    drawings: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What the method draws: the arrays of drawings.npz; empty for one that draws nothing."""

    @property
    def method(self) -> str:
        """The registered name of the method."""
        return str(self.config["method"]["name"])

    @property
    def seed(self) -> int:
        """The pre-training seed."""
        return int(self.config["training"]["seed"])

    def find(
        self, protocol: str, metric: str, subject: str = "trained", **settings: object
    ) -> Result | None:
        """Return the result with these names and settings, or None; one with an error is none."""
        for result in self.select(protocol, metric, subject):
            if all(result.settings.get(key) == value for key, value in settings.items()):
                return result
        return None

    def select(self, protocol: str, metric: str, subject: str = "trained") -> list[Result]:
        """Return every result with these names, in the order of the file."""
        wanted = (protocol, metric, subject)
        return [
            r
            for r in self.results
            if (r.protocol, r.metric, r.subject) == wanted and r.error is None
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Runs whose configurations differ in nothing but their seed."""

    name: str
    runs: tuple[RunRecord, ...]
    """One for each seed."""
    copies: tuple[RunRecord, ...] = ()
    """Further runs of these seeds, which count in no mean and no interval."""


def read(path: str | Path) -> RunRecord:
    """Read a run directory.

    Raises:
        ConfigError: `path` is no run directory.
        StorageError: one of its files is damaged.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise ConfigError(f"Expected the folder of a run, got '{path}': it has no config.json.")
    config = _read_json(path / "config.json")
    if not all(isinstance(config.get(part), dict) for part in ("method", "training")):
        raise ConfigError(f"Expected the configuration of a run in '{path / 'config.json'}'.")
    results = path / "results.json"
    return RunRecord(
        path=path,
        name=_name(path),
        config=config,
        environment=_read_json(path / "environment.json", {}),
        metrics=tuple(_read_lines(path / "metrics.jsonl")),
        results=tuple(read_results(results)) if results.is_file() else (),
        pictures=tuple(_read_gallery(path / "gallery.npz")),
        data=_read_json(path / "data.json", {}),
        unreadable=_read_text_lines(path / "unreadable.txt"),
        drawings=_read_drawings(path / "drawings.npz"),
    )


def group(records: Sequence[RunRecord]) -> list[Group]:
    """Put runs together whose configurations differ only in their seed, in the order of the first.

    Of several runs of one seed the first that was evaluated counts, the others are copies: the same
    seed again says nothing about how far another seed would move a value.
    """
    found: dict[str, list[RunRecord]] = {}
    for record in records:
        flat = {k: v for k, v in flatten(record.config).items() if k != SEED}
        found.setdefault(json.dumps(flat, sort_keys=True, default=str), []).append(record)
    groups = []
    for together in found.values():
        of_seed: dict[int, RunRecord] = {}
        for record in together:
            if record.seed not in of_seed or (record.results and not of_seed[record.seed].results):
                of_seed[record.seed] = record
        runs = tuple(of_seed.values())
        copies = tuple(record for record in together if record not in runs)
        groups.append(Group(name=_group_name(runs), runs=runs, copies=copies))
    return groups


def flatten(config: object, prefix: str = "") -> dict[str, Any]:
    """Return nested JSON data as {dotted name: value}; lists of plain values stay whole.

    Example:
        >>> flatten({"a": {"b": 1}, "c": [{"d": 2}], "e": [3, 4]})
        {'a.b': 1, 'c.0.d': 2, 'e': [3, 4]}
    """
    if isinstance(config, Mapping):
        items: Iterator[tuple[str, Any]] = ((str(k), v) for k, v in config.items())
    elif isinstance(config, list) and any(isinstance(item, Mapping) for item in config):
        items = ((str(i), item) for i, item in enumerate(config))
    else:
        return {prefix: config}
    flat: dict[str, Any] = {}
    for name, value in items:
        flat |= flatten(value, f"{prefix}.{name}" if prefix else name)
    return flat


def _name(path: Path) -> str:
    """Return a run's name: its folder, with the one above if the folder says only the seed."""
    whole = path.resolve()
    return f"{whole.parent.name}/{whole.name}" if whole.name.startswith("seed") else whole.name


def _group_name(runs: Sequence[RunRecord]) -> str:
    if len(runs) == 1:
        return runs[0].name
    stems = {
        run.name.removesuffix(str(run.seed)).removesuffix("seed").rstrip("-_/") for run in runs
    }
    if len(stems) == 1 and (stem := stems.pop()):
        return stem
    return f"{runs[0].name} and {len(runs) - 1} more"


def _read_json(path: Path, missing: object = None) -> Any:  # noqa: ANN401  (JSON data)
    if not path.is_file() and missing is not None:
        return missing
    try:
        found = json.loads(path.read_text(encoding="utf8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"Expected JSON in '{path}', got a damaged file: {error}.") from error
    if not isinstance(found, dict):
        raise StorageError(f"Expected a JSON object in '{path}', got a {type(found).__name__}.")
    return found


def _read_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the records of a metrics file; a run that was killed may have cut the last line."""
    lines = _read_text_lines(path)
    for number, line in enumerate(lines):
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            if number + 1 < len(lines):
                raise StorageError(
                    f"Expected JSON in line {number + 1} of '{path}': {error}."
                ) from error
            continue
        if not isinstance(found, dict):
            raise StorageError(f"Expected a JSON object in line {number + 1} of '{path}'.")
        yield found


def _read_text_lines(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    return tuple(
        line
        for line in path.read_text(encoding="utf8", errors="replace").splitlines()
        if line.strip()
    )


def _read_drawings(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        n, k = arrays["views"].shape[:2]
        for name, rows in (("images", (n,)), ("reconstructions", (n,)), ("mixtures", (n - 1, k))):
            if arrays[name].shape != (*rows, *arrays["samples"].shape[1:]):
                raise ValueError(f"{name} of shape {arrays[name].shape}")
        bool(arrays["shared"])
    except _DAMAGED as error:
        raise StorageError(f"Expected drawings in '{path}': {error}.") from error
    return arrays


def _read_gallery(path: Path) -> Iterator[Picture]:
    if not path.is_file():
        return
    try:
        # Opened here: numpy leaves the file of a broken archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        rows = range(len(arrays["pixels"]))
        yield from (
            Picture(
                pixels=arrays["pixels"][i],
                kind=str(arrays["kind"][i]),
                uncertainty=float(arrays["uncertainty"][i]),
                percentile=float(arrays["percentile"][i]),
                path=str(arrays["path"][i]),
                label=str(arrays["label"][i]),
            )
            for i in rows
        )
    except _DAMAGED as error:
        raise StorageError(f"Expected a gallery in '{path}': {error}.") from error
