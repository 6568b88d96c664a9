"""`cognates embed`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from cognates.cli.options import File, OptionalFile, OptionalName, RunFolder, Source
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
    score: OptionalName = None
    """Another uncertainty than the run's own: distance-ratio, relative, knn-distance and others."""
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
        from cognates.cli import listing
        from cognates.evaluation.decisions import least_certain_first
        from cognates.evaluation.store import replace
        from cognates.model import Model

        out = Path(self.out)
        if out.is_dir() or out.suffix.lower() == ".csv":
            raise ConfigError(
                f"Expected a Parquet file to write, got '{out}': for example photos.parquet."
            )
        model = Model.read(self.path, device=self.device, plugin=self.plugin)
        model.require_score(self.score)
        images = listing.load(
            model, self.data, max_unreadable=self.max_unreadable, quiet=self.quiet
        )
        uncertainty = np.empty(len(images))
        replace(out, lambda file: _write_parquet(file, model, images, uncertainty, self.score))
        listed = out.with_name(f"{out.stem}-least-certain.csv")
        rows = least_certain_first(uncertainty)[:_LEAST].tolist()
        percentile = model.percentile(uncertainty, score=self.score)
        listing.write(listed, images, rows, uncertainty, percentile)
        missing = listing.write_unreadable(images, out.with_name(f"{out.stem}-unreadable.txt"))
        if not self.quiet:
            print(f"{len(images):,} images: {out}")
            if missing:
                print(missing)
            print(f"The {min(_LEAST, len(images))} least certain: {listed}")


def _write_parquet(
    file: IO[bytes], model: Model, images: Images, uncertainty: np.ndarray, score: str | None
) -> None:
    """Write batch by batch, so that memory does not grow with the number of images."""
    import pyarrow.parquet as pq

    writer = None
    try:
        for table in _tables(model, images, uncertainty, score):
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _tables(
    model: Model, images: Images, uncertainty: np.ndarray, score: str | None
) -> Iterator[pa.Table]:
    """Yield the rows of the file, filling `uncertainty` on the way."""
    import pyarrow as pa

    from cognates.cli.listing import named_columns, names

    for start in range(0, len(images), _BATCH):
        rows = range(start, min(start + _BATCH, len(images)))
        h, u = model.embed_stored(images.pixels[rows.start : rows.stop], score=score)
        uncertainty[rows.start : rows.stop] = u
        columns = named_columns(names(images, rows))
        percentile = model.percentile(u, score=score)
        columns["uncertainty"] = pa.array(u, pa.float64())
        columns["percentile"] = pa.array(percentile, pa.float64(), from_pandas=True)
        columns["representation"] = pa.FixedSizeListArray.from_arrays(
            pa.array(h.ravel(), pa.float32()), h.shape[1]
        )
        yield pa.table(columns)
