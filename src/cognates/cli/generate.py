"""`cognates generate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cognates.cli.options import OptionalFile, OptionalImage, OptionalPictures, RunFolder


@dataclass(frozen=True, kw_only=True)
class Command:
    """Draw new images with a generative method.

    Samples from the prior; with --like IMAGE views of that image, which share the latent that it
    tells of; with --like views rows of eight, each row with one shared latent from the prior. The
    pictures are what the decoder expects, without the likelihood's noise. For simve, and but for
    --like views also for vae, beta-vae and cr-vae, which draw views from an image's posterior.
    """

    path: RunFolder
    """The folder of a finished run."""
    count: int = 64
    """How many images."""
    seed: int = 0
    """The same seed draws the same images."""
    like: OptionalImage = None
    """An image file whose views are drawn, or the word views."""
    out: OptionalPictures = None
    """A PNG file for all of them, or a folder for single files; RUN/generated.png, numbered
    where there is one."""
    plugin: OptionalFile = None
    """The file of a method that is not of the library; the run's own copy is RUN/plugin.py."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def run(self) -> None:
        """Draw and write the pictures, and print where they are."""
        from cognates.cli import pictures
        from cognates.evaluation.drawings import WIDTH, to_bytes
        from cognates.evaluation.grids import in_rows
        from cognates.model import Model

        out = pictures.target(self.out or pictures.free(Path(self.path) / "generated.png"))
        model = Model.read(self.path, device=self.device, plugin=self.plugin)
        drawn = to_bytes(model.generate(self.count, seed=self.seed, like=self.like))
        pictures.write(out, in_rows(drawn, WIDTH), {f"{i:04}": d for i, d in enumerate(drawn)})
        what = {None: "samples from the prior", "views": "views, a row of one latent each"}
        print(f"{len(drawn)} {what.get(self.like, f'views of {self.like}')}: {out}")
