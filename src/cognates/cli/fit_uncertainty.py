"""`cognates fit-uncertainty`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from cognates.cli.options import Number, OptionalFile, OptionalFolder, OptionalSource, Whole


@dataclass(frozen=True, kw_only=True)
class Command:
    """Give a trained encoder an uncertainty, without changing it.

    Views of every training image are embedded once and kept; a head learns from them how far an
    image's views fall apart. The result is a run like any other.
    """

    encoder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|NAME")]
    """The folder of a finished run, or an encoder: resnet50, timm:NAME, ... (see --init)."""
    data: OptionalSource = None
    """The images: folder:DIR, idx:DIR, npz:FILE_OR_DIR, hub:ORG/NAME or a bare name; without it the
    run's own."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """The new run's folder; it must not hold another run."""
    views: int = 4
    """Views of every image."""
    image_size: Whole = None
    """Height and width of a view in pixels; not for a run."""
    init: OptionalFile = None
    """Weights of an encoder by name: a file of torchvision or timm; random without it."""
    epochs: Whole = None
    """Passes over the embedded views; 20 without it."""
    batch_size: Whole = None
    """Images per step."""
    learning_rate: Number = None
    """At batch 256; 0.003 without it."""
    seed: Whole = None
    """Of the views, the held-out images and the head."""
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """auto, cpu or cuda."""
    max_unreadable: Number = None
    """Share of unreadable files above which the source is refused."""
    features: OptionalFolder = None
    """Where embedded views are kept for further fits; without it in the new run's folder."""
    plugin: OptionalFile = None
    """The file of the run's method, if that is not of the library."""
    settings: Annotated[
        tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE ...", help_behavior_hint="")
    ] = ()
    """Any other field of the record, for example method.components=16."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Fit and say what comes next."""
        from pathlib import Path

        from cognates.cli.text import left_out_of_run
        from cognates.fitting import fit_uncertainty

        options = asdict(self)
        quiet = options.pop("quiet")
        fit_uncertainty(**options, progress=not quiet)
        if not quiet:
            print("\n".join(filter(None, (left_out_of_run(Path(self.out)), self.out))))
            print(f"Next: cognates evaluate {self.out}, then cognates report {self.out}")
