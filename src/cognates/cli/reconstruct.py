"""`cognates reconstruct`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cognates.cli.options import OptionalFile, OptionalPictures, OptionalSource, RunFolder
from cognates.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from cognates.model import Model


@dataclass(frozen=True, kw_only=True)
class Command:
    """Draw images again from what a generative method keeps of them.

    Each image stands above its reconstruction: the picture that the decoder expects at the mean of
    the image's posterior. Without --data they are test images of the run, spread over them evenly.
    For simve, vae, beta-vae and cr-vae.
    """

    path: RunFolder
    """The folder of a finished run."""
    data: OptionalSource = None
    """Another source of images."""
    count: int = 16
    """How many images."""
    out: OptionalPictures = None
    """A PNG file for all of them, or a folder for single files; RUN/reconstructions.png, numbered
    where there is one."""
    plugin: OptionalFile = None
    """The file of a method that is not of the library; the run's own copy is RUN/plugin.py."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def run(self) -> None:
        """Draw and write the pictures, and print where they are."""
        import numpy as np

        from cognates.cli import pictures
        from cognates.evaluation.drawings import WIDTH, as_drawing, to_bytes
        from cognates.evaluation.grids import in_rows
        from cognates.model import Model

        if self.count < 1:
            raise ConfigError(f"Expected at least one image (--count), got {self.count}.")
        out = pictures.target(self.out or pictures.free(Path(self.path) / "reconstructions.png"))
        model = Model.read(self.path, device=self.device, plugin=self.plugin)
        as_drawing(model.method)  # before images are decoded
        seen, drawn = map(to_bytes, model.reconstruct(self._images(model)))
        above, below = in_rows(seen, WIDTH), in_rows(drawn, WIDTH)
        rows = np.stack([above, below], axis=1).reshape(-1, *above.shape[1:])
        single = {f"{i:04}-image": image for i, image in enumerate(seen)}
        single |= {f"{i:04}-reconstruction": image for i, image in enumerate(drawn)}
        pictures.write(out, rows, single)
        print(f"{len(seen)} images, each above its reconstruction: {out}")

    def _images(self, model: Model) -> np.ndarray:
        """Return the chosen images, as the cache stores them."""
        import numpy as np

        from cognates.data import cache

        data = model.config.data
        images = cache.load(
            self.data or data.source,
            "all" if self.data else "test",
            image_size=data.image_size,
            channels=data.channels,
            max_unreadable=data.max_unreadable,
            progress=False,
        )
        count = min(self.count, len(images))
        return images.pixels[np.linspace(0, len(images) - 1, count).round().astype(int)]
