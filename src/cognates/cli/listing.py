"""Lists of images with their uncertainty: how commands name images and write them to files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from cognates.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from cognates.data.images import Images
    from cognates.model import Model


def load(model: Model, data: str, *, max_unreadable: float, quiet: bool) -> Images:
    """Return every image of a source as the model's encoder wants it.

    What cannot be read is left out, and a warning counts it and names the file that lists it.
    """
    from cognates.data import cache

    return cache.load(
        data,
        "all",
        image_size=model.config.data.image_size,
        channels=model.config.data.channels,
        max_unreadable=max_unreadable,
        progress=not quiet,
    )


def names(images: Images, rows: Sequence[int]) -> dict[str, list[Any]]:
    """Return what identifies images: path or index, and the label's name."""
    named: dict[str, list[Any]] = (
        {"index": [int(i) for i in rows]}
        if images.path is None
        else {"path": [printable(str(images.path[i])) for i in rows]}
    )
    label = images.targets.get("label")
    if label is not None and np.ndim(label) == 1:
        known = images.target_names.get("label")
        named["label"] = [_class(label[i], known) for i in rows]
    return named


def printable(path: str) -> str:
    """Return a path with what is no UTF-8 in it spelt out: no file format takes it as it is."""
    return path.encode("utf8", "backslashreplace").decode("utf8")


def shown(name: object) -> str:
    r"""Return a name for a line of the terminal: what moves the cursor is spelt out.

    Example:
        >>> print(shown("a\nb.png"), shown(7))
        a\nb.png 7
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in printable(str(name))
    )


def table(
    images: Images, rows: Sequence[int], uncertainty: np.ndarray, percentile: np.ndarray
) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the lines of a list of images; a percentile that is not known is empty.

    Args:
        images: the images.
        rows: which of them, in the order of the list.
        uncertainty: (n,) of all images.
        percentile: (n,) of all images.
    """
    named = names(images, rows)
    lines = [
        [
            *("" if column[place] is None else str(column[place]) for column in named.values()),
            f"{uncertainty[row]:.9g}",
            "" if np.isnan(percentile[row]) else f"{percentile[row]:.2f}",
        ]
        for place, row in enumerate(rows)
    ]
    return [*named, "uncertainty", "percentile"], lines


def csv_text(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a list as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(lines)
    return text.getvalue()


def require_list(out: str | Path) -> Path:
    """Return the path of a list to write.

    Raises:
        ConfigError: it is a folder, or neither a CSV nor a Parquet file.
    """
    path = Path(out)
    if path.is_dir() or path.suffix.lower() not in (".csv", ".parquet"):
        raise ConfigError(f"Expected a .csv or .parquet file to write, got '{path}'.")
    return path


def write(
    path: Path,
    images: Images,
    rows: Sequence[int],
    uncertainty: np.ndarray,
    percentile: np.ndarray,
) -> None:
    """Write a list of images as CSV or Parquet, whole or not at all; arguments as in `table`."""
    from cognates.evaluation.store import replace

    if path.suffix.lower() == ".csv":
        text = csv_text(*table(images, rows, uncertainty, percentile))
        replace(path, lambda file: file.write(text.encode("utf8")))
    else:
        replace(path, lambda file: _parquet(file, images, rows, uncertainty, percentile))


def _parquet(
    file: IO[bytes],
    images: Images,
    rows: Sequence[int],
    uncertainty: np.ndarray,
    percentile: np.ndarray,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    chosen = np.asarray(rows, dtype=np.int64)
    columns = named_columns(names(images, rows))
    columns["uncertainty"] = pa.array(uncertainty[chosen], pa.float64())
    columns["percentile"] = pa.array(percentile[chosen], pa.float64(), from_pandas=True)
    pq.write_table(pa.table(columns), file)


def named_columns(named: dict[str, list[Any]]) -> dict[str, pa.Array]:
    """Return names as columns of a table, of one type also where no image has a label."""
    import pyarrow as pa

    kinds = {"index": pa.int64(), "path": pa.string(), "label": pa.string()}
    return {name: pa.array(values, kinds[name]) for name, values in named.items()}


def write_unreadable(images: Images, path: Path) -> str:
    """List what could not be read in a file, and return a line about it; empty if there is none.

    A file of an earlier call is emptied.
    """
    from cognates.cli.text import left_out
    from cognates.evaluation.store import replace

    if images.unreadable or path.exists():
        lines = "".join(f"{name}\t{reason}\n" for name, reason in images.unreadable)
        replace(path, lambda file: file.write(lines.encode("utf8", "backslashreplace")))
    return left_out(len(images.unreadable), path) if images.unreadable else ""


def _class(label: Any, known: Sequence[str] | None) -> str | None:  # noqa: ANN401  (a numpy scalar)
    if not known:
        return str(label)
    return known[int(label)] if label >= 0 else None
