"""`cognates reject`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cognates.cli.options import OptionalFile, OptionalName, RunFolder, Source
from cognates.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Command:
    """Split the images of a source into those to trust and those to look at.

    Two lists go into the folder --out: kept.csv and rejected.csv, the least certain image first.
    The threshold keeps the share --coverage of these images, or with --against training of the
    training images: then more of the source is rejected, the stranger it is.
    """

    path: RunFolder
    """The folder of a finished run."""
    data: Source
    """The images: folder:DIR, idx:DIR, npz:FILE_OR_DIR, hub:ORG/NAME or a bare name."""
    out: str
    """The folder for the lists."""
    coverage: float = 0.9
    """The share to keep, above 0 and at most 1."""
    against: Literal["data", "training"] = "data"
    """Whose share that is."""
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
        """Embed, split and write both lists."""
        from cognates.cli import listing
        from cognates.evaluation.decisions import least_certain_first, require_coverage
        from cognates.model import Model

        out = Path(self.out)
        if out.exists() and not out.is_dir():
            raise ConfigError(f"Expected a folder for the lists, got the file '{out}'.")
        require_coverage(self.coverage)
        model = Model.read(self.path, device=self.device, plugin=self.plugin)
        model.require_score(self.score)
        images = listing.load(
            model, self.data, max_unreadable=self.max_unreadable, quiet=self.quiet
        )
        found = model.reject(images.pixels, self.coverage, against=self.against, score=self.score)
        order = least_certain_first(found.uncertainty)
        for name, mask in (("kept", found.kept), ("rejected", ~found.kept)):
            rows = order[mask[order]].tolist()
            listing.write(out / f"{name}.csv", images, rows, found.uncertainty, found.percentile)
        missing = listing.write_unreadable(images, out / "unreadable.txt")
        if self.quiet:
            return
        kept = int(np.count_nonzero(found.kept))
        whose = "these images" if self.against == "data" else "the training images"
        print(f"Kept {kept:,} of {len(images):,} images: {out / 'kept.csv'}")
        print(f"Rejected {len(images) - kept:,}: {out / 'rejected.csv'}")
        print(
            f"The threshold {found.threshold:.6g} of {self.score or model.default_score} keeps "
            f"{self.coverage:.0%} of {whose}."
        )
        if missing:
            print(missing, file=sys.stderr)
