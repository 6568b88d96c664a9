"""Records on disk and in tables: results.json, one row per metric, one column per subject."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from cognates.data.sources import absolute
from cognates.errors import ConfigError, StorageError
from cognates.evaluation.store import replace
from cognates.types import Result

SUBJECTS = ("trained", "untrained", "pixels")


def results_file(dataset: str, source: str) -> str:
    """Return the file, in a run's folder, of the records about another SOURCE than the run's own.

    The data set's name is for people; the hash of the whole SOURCE keeps two folders of one name
    apart.

    Example:
        >>> results_file("photos", "folder:/a/photos"), results_file("photos", "folder:/b/photos")
        ('results-photos-776b660a.json', 'results-photos-fa3a990a.json')
    """
    name = re.sub(r"[^\w-]+", "-", dataset).strip("-") or "other"
    # 32 bits: two of a hundred sources fall together with probability 1e-6.
    digest = hashlib.sha256(absolute(source).encode("utf8", "surrogateescape")).hexdigest()[:8]
    return f"results-{name}-{digest}.json"


def write_results(path: str | Path, results: Sequence[Result]) -> None:
    """Write records as a JSON array, atomically; the value of a failed protocol (NaN) becomes null.

    Raises:
        StorageError: the file cannot be written.
    """
    records = []
    for result in results:
        record = asdict(result)
        for name in ("value", "low", "high"):
            number = record[name]
            record[name] = number if number is not None and math.isfinite(number) else None
        records.append(record)
    text = json.dumps(records, indent=1, default=_plain, allow_nan=False) + "\n"
    replace(path, lambda file: file.write(text.encode()))


def read_results(path: str | Path) -> list[Result]:
    """Read what `write_results` wrote; a null value comes back as NaN.

    Raises:
        StorageError: the file is missing or not a list of records.
    """
    known = {f.name for f in fields(Result)}
    try:
        records = json.loads(Path(path).read_text(encoding="utf8"))
        results = []
        for record in records:
            if not set(record) <= known:
                raise ValueError(f"unknown fields {sorted(set(record) - known)}")
            value = math.nan if record["value"] is None else record["value"]
            results.append(Result(**{**record, "value": value, "flags": tuple(record["flags"])}))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StorageError(f"Expected records in '{path}', got: {error}.") from error
    return results


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one protocol over the subjects that have it."""

    protocol: str
    metric: str
    results: Mapping[str, Result] = field(default_factory=dict)
    """By subject; a paired difference stands under `trained`."""
    error: str | None = None
    """Why the protocol failed, if it did."""

    def cells(self) -> list[str]:
        """Return the text of the columns trained, untrained and pixels; empty without a value."""
        return [
            format_result(self.results[subject]) if subject in self.results else ""
            for subject in SUBJECTS
        ]


def table(results: Sequence[Result]) -> list[Row]:
    """Return the rows of a table, in the order in which the records come.

    Raises:
        ConfigError: one protocol occurs with two versions, whose values must not stand in one
        column.
    """
    versions: dict[str, int] = {}
    rows: dict[tuple[str, str], dict[str, Result]] = {}
    for result in results:
        version = versions.setdefault(result.protocol, result.version)
        if version != result.version:
            raise ConfigError(
                f"Expected one version of the protocol '{result.protocol}', got {version} and "
                f"{result.version}: evaluate the older run again."
            )
        columns = rows.setdefault((result.protocol, result.metric), {})
        if result.subject in columns:
            raise ConfigError(
                "Expected one run in a table, got two values of "
                f"{result.protocol} {result.metric}: make one table per run."
            )
        columns[result.subject] = result
    return [
        Row(
            protocol=protocol,
            metric=metric,
            results=columns,
            error=next((r.error for r in columns.values() if r.error), None),
        )
        for (protocol, metric), columns in rows.items()
    ]


_IN_PERCENT = (
    *("accuracy", "balanced-accuracy"),
    *("risk-at-", "coverage-at-", "fpr95", "bigger", "less-certain"),
)


def in_percent(result: Result) -> bool:
    """Return whether tables show the value in percent: shares and their differences do."""
    parts = result.metric.split("/")
    if "r-at-" in result.metric:  # also behind "image-to-text-"
        return True
    return any(part.startswith(_IN_PERCENT) for part in parts) or (
        result.protocol == "deciles"
        and ("/decile-" in result.metric or result.metric.endswith("first-minus-last"))
    )  # fmt: skip


def format_result(result: Result) -> str:
    """Return the value and its interval as text.

    Example:
        >>> kind = {"protocol": "knn", "metric": "accuracy", "n": 2000}
        >>> format_result(Result(value=0.843, low=0.83, high=0.856, **kind))
        '84.3 % [83.0, 85.6]'
    """
    if result.error is not None:
        return "failed"
    scale, digits, unit = (100.0, 1, " %") if in_percent(result) else (1.0, 3, "")
    # a difference carries its sign
    sign = "+" if "-minus-" in result.metric else ""
    text = f"{scale * result.value:{sign}.{digits}f}{unit}"
    if result.low is None or result.high is None:
        return text
    return f"{text} [{scale * result.low:{sign}.{digits}f}, {scale * result.high:{sign}.{digits}f}]"


def _plain(value: object) -> object:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"Expected JSON data, got {type(value).__name__}.")
