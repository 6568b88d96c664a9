"""`cognates select`."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from cognates.cli.options import OptionalFile, OptionalName, RunFolder, Source


@dataclass(frozen=True, kw_only=True)
class Command:
    """Choose the images of a source that are worth labelling first.

    Without --out their names are printed, one to a line, in the order to label them in. Strategies:
    typical and certain take one image of every cluster, spread draws images that are far from each
    other and uncertain, random is the one to beat. Only certain and spread read the uncertainty;
    where they were measured, they were not better than typical.
    """

    path: RunFolder
    """The folder of a finished run."""
    data: Source
    """The images: folder:DIR, idx:DIR, npz:FILE_OR_DIR, hub:ORG/NAME or a bare name."""
    budget: int
    """How many images."""
    strategy: OptionalName = None
    """typical (the default), certain, spread or random."""
    score: OptionalName = None
    """Another uncertainty than the run's own, for certain or spread: distance-ratio, relative,
    knn-distance and others."""
    seed: int = 0
    """The same seed chooses the same images."""
    out: OptionalFile = None
    """A .csv or .parquet file for the list."""
    plugin: OptionalFile = None
    """The file of a method that is not of the library; the run's own copy is RUN/plugin.py."""
    device: str = "auto"
    """auto, cpu or cuda."""
    max_unreadable: float = 0.1
    """Share of unreadable files above which the source is refused."""
    quiet: bool = False
    """Print nothing but the names, and with --out nothing but errors."""

    def run(self) -> None:
        """Embed, choose, and write or print the list."""
        from cognates.cli import listing
        from cognates.evaluation import selection
        from cognates.model import Model

        out = None if self.out is None else listing.require_list(self.out)
        strategy = self.strategy or selection.DEFAULT
        selection.require(strategy, self.budget, self.score)
        model = Model.read(self.path, device=self.device, plugin=self.plugin)
        model.require_score(self.score)
        images = listing.load(
            model, self.data, max_unreadable=self.max_unreadable, quiet=self.quiet
        )
        options = {"budget": self.budget, "strategy": strategy, "seed": self.seed}
        if out is None:
            rows = model.select(images.pixels, **options, score=self.score).tolist()
            for name in next(iter(listing.names(images, rows).values())):
                print(listing.shown(name))
            return
        found = model.embed(images.pixels, score=self.score)
        assert found.uncertainty is not None
        h, u = found.representation.numpy(), found.uncertainty.numpy()
        rows = selection.select(h, u, **options).tolist()
        listing.write(out, images, rows, u, model.percentile(u, score=self.score))
        missing = listing.write_unreadable(images, out.with_name(f"{out.stem}-unreadable.txt"))
        if not self.quiet:
            print(f"{len(rows):,} of {len(images):,} images: {out}")
            if missing:
                print(missing, file=sys.stderr)
