"""`cognates embed`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from cognates.cli.options import File, OptionalFile, RunFolder, Source
from cognates.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from cognates.data.images import Images
    from cognates.model import Model

_BATCH = 512
_LEAST = 100
"""Rows of the list of the least certain images: as many as a person looks through."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Write the representation and the uncertainty of every image to a Parquet file.

    All images of the source, also those outside of its splits. Columns: path (or index for arrays),
    label if there are any, uncertainty (larger is less certain), percentile among the training
    images, representation. Beside it a CSV file lists the least certain images, and a text file
    what could not be read.
    """

    path: RunFolder
    """The folder of a finished run."""
    data: Source
    """The images: folder:DIR, idx:DIR, npz:FILE_OR_DIR, hub:ORG/NAME or a bare name."""
    out: File
    """The Parquet file to write."""
    plugin: OptionalFile = None
    """The file of a method that is not of the library; the run's own copy is RUN/plugin.py."""
    device: str = "auto"
    """auto, cpu or cuda."""
    max_unreadable: float = 0.1
    """Share of unreadable files above which the source is refused."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Embed and write both files, each of them whole or not at all."""
        from cognates.cli.text import left_out
        from cognates.data import cache
        from cognates.evaluation.store import replace
        from cognates.model import Model

        out = Path(self.out)
        if out.is_dir() or out.suffix.lower() == ".csv":
            raise ConfigError(
                f"Expected a Parquet file to write, got '{out}': for example photos.parquet."
            )
        model = Model.read(self.path, device=self.device, plugin=self.plugin)
        images = cache.load(
            self.data,
            "all",
            image_size=model.config.data.image_size,
            channels=model.config.data.channels,
            max_unreadable=self.max_unreadable,
            progress=not self.quiet,
        )
        uncertainty = np.empty(len(images))
        replace(out, lambda file: _write_parquet(file, model, images, uncertainty))
        listed = out.with_name(f"{out.stem}-least-certain.csv")
        text = _least_certain(model, images, uncertainty)
        replace(listed, lambda file: file.write(text.encode("utf8")))
        missing = out.with_name(f"{out.stem}-unreadable.txt")
        if images.unreadable or missing.exists():
            lines = "".join(f"{path}\t{reason}\n" for path, reason in images.unreadable)
            replace(missing, lambda file: file.write(lines.encode("utf8", "backslashreplace")))
        if not self.quiet:
            print(f"{len(images):,} images: {out}")
            if images.unreadable:
                print(left_out(len(images.unreadable), missing))
            print(f"The {min(_LEAST, len(images))} least certain: {listed}")


def _write_parquet(file: IO[bytes], model: Model, images: Images, uncertainty: np.ndarray) -> None:
    """Write batch by batch, so that memory does not grow with the number of images."""
    import pyarrow.parquet as pq

    writer = None
    try:
        for table in _tables(model, images, uncertainty):
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _tables(model: Model, images: Images, uncertainty: np.ndarray) -> Iterator[pa.Table]:
    """Yield the rows of the file, filling `uncertainty` on the way."""
    import pyarrow as pa

    for start in range(0, len(images), _BATCH):
        rows = range(start, min(start + _BATCH, len(images)))
        h, u = model.embed_stored(images.pixels[rows.start : rows.stop])
        uncertainty[rows.start : rows.stop] = u
        named: dict[str, Any] = _names(images, rows)
        if "label" in named:
            # Else a batch without any label would have another type than the one before it.
            named["label"] = pa.array(named["label"], pa.string())
        named["uncertainty"] = pa.array(u, pa.float64())
        named["percentile"] = pa.array(model.percentile(u), pa.float64())
        named["representation"] = pa.FixedSizeListArray.from_arrays(
            pa.array(h.ravel(), pa.float32()), h.shape[1]
        )
        yield pa.table(named)


def _names(images: Images, rows: range) -> dict[str, list[Any]]:
    """Return what identifies images: path or index, and the label's name."""
    named: dict[str, list[Any]] = (
        {"index": list(rows)}
        if images.path is None
        else {"path": [_printable(str(images.path[i])) for i in rows]}
    )
    label = images.targets.get("label")
    if label is not None and np.ndim(label) == 1:
        known = images.target_names.get("label")
        named["label"] = [_class(label[i], known) for i in rows]
    return named


def _class(label: Any, names: Sequence[str] | None) -> str | None:  # noqa: ANN401  (a numpy scalar)
    if not names:
        return str(label)
    return names[int(label)] if label >= 0 else None


def _least_certain(model: Model, images: Images, uncertainty: np.ndarray) -> str:
    order = np.argsort(-uncertainty, kind="stable")[:_LEAST]
    percentile = model.percentile(uncertainty[order])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = list(_names(images, range(1)))
    writer.writerow([*heads, "uncertainty", "percentile"])
    for i, share in zip(order.tolist(), percentile, strict=True):
        names = _names(images, range(i, i + 1))
        writer.writerow([*(v[0] for v in names.values()), f"{uncertainty[i]:.9g}", f"{share:.2f}"])
    return text.getvalue()


def _printable(path: str) -> str:
    """Return a path with what is no UTF-8 in it spelt out: no file format takes it as it is."""
    return path.encode("utf8", "backslashreplace").decode("utf8")
