"""`cognates rank`."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from cognates.cli.options import OptionalFile, OptionalName, RunFolder, Source


@dataclass(frozen=True, kw_only=True)
class Command:
    """Order the images of a source by how certain the model is of them.

    The least certain image comes first. With each goes its percentile among the training images:
    at 99 only one training image in a hundred is less certain. Both ends of the list are printed.
    """

    path: RunFolder
    """The folder of a finished run."""
    data: Source
    """The images: folder:DIR, idx:DIR, npz:FILE_OR_DIR, hub:ORG/NAME or a bare name."""
    score: OptionalName = None
    """Another uncertainty than the run's own: distance-ratio, relative, knn-distance and others."""
    out: OptionalFile = None
    """A .csv or .parquet file for the whole list."""
    show: int = 10
    """Images that are printed of either end."""
    plugin: OptionalFile = None
    """The file of a method that is not of the library; the run's own copy is RUN/plugin.py."""
    device: str = "auto"
    """auto, cpu or cuda."""
    max_unreadable: float = 0.1
    """Share of unreadable files above which the source is refused."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Embed, write the list and print its ends."""
        from cognates.cli import listing
        from cognates.cli.text import columns
        from cognates.errors import ConfigError
        from cognates.model import Model

        out = None if self.out is None else listing.require_list(self.out)
        if self.show < 0:
            raise ConfigError(
                f"Expected --show of at least 0 images, got {self.show}: leave it out for 10."
            )
        model = Model.read(self.path, device=self.device, plugin=self.plugin)
        model.require_score(self.score)
        images = listing.load(
            model, self.data, max_unreadable=self.max_unreadable, quiet=self.quiet
        )
        found = model.rank(images.pixels, score=self.score)
        rows = found.order.tolist()
        missing = ""
        if out is not None:
            listing.write(out, images, rows, found.uncertainty, found.percentile)
            missing = listing.write_unreadable(images, out.with_name(f"{out.stem}-unreadable.txt"))
        if self.quiet:
            return
        ends = rows
        if len(rows) > 2 * self.show:
            ends = rows[: self.show] + rows[len(rows) - self.show :]
        heads, lines = listing.table(images, ends, found.uncertainty, found.percentile)
        cells = [[listing.shown(cell) for cell in line] for line in lines]
        if len(ends) < len(rows):
            cells.insert(self.show, ["...", *[""] * (len(heads) - 1)])
        print(columns(cells, heads=heads))
        print(f"\n{len(rows):,} images by {self.score or model.default_score}", end="")
        print(f": {out}" if out else "")
        if missing:
            print(missing, file=sys.stderr)
