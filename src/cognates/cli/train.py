"""`cognates train`."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cognates.cli.options import (
    Number,
    OptionalFile,
    OptionalFolder,
    OptionalName,
    OptionalSource,
    Whole,
)
from cognates.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Command:
    """Learn a representation of unlabelled images.

    Everything about the run goes into one folder. What is not given comes from --config, else from
    --recipe, else from a default for the source: for a folder resnet18, 96 pixels on a CPU and
    224 on a GPU, 100 epochs.
    """

    method: tyro.conf.Positional[OptionalName] = None
    """The name of a method, for example vi-simsiam; see cognates methods."""
    data: OptionalSource = None
    """The images: folder:DIR, pairs:DIR, idx:DIR, npz:FILE_OR_DIR, hub:ORG/NAME or a bare
    name."""
    out: OptionalFolder = None
    """The run's folder; it must not hold another run."""
    encoder: OptionalName = None
    """convnet, mlp, resnet18, resnet34, resnet50 or timm:NAME; for a method that draws images
    vae-convnet, vae-mlp or vae-resnet."""
    image_size: Whole = None
    """Height and width of a view in pixels."""
    epochs: Whole = None
    """Passes over the training images."""
    batch_size: Whole = None
    """Images per step, over all devices."""
    learning_rate: Number = None
    """At batch 256; multiplied by batch size / 256."""
    seed: Whole = None
    """Of the initial weights, the order of the images and the views."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(help_behavior_hint="")] = ()
    """Repeat the run with each of these seeds, into OUT/seed0 and so on."""
    device: OptionalName = None
    """auto, cpu or cuda."""
    devices: Whole = None
    """Processes that share a batch."""
    recipe: OptionalName = None
    """demo, fashion-mnist, cifar10, cifar10-small, imagenette, imagenette-64 or imagenet; for clip
    with captions flickr8k or clip; for a method that draws images fashion-mnist-generative,
    cifar10-generative, simve-fashion-mnist or simve-cifar10."""
    config: OptionalFile = None
    """The config.json of another run, to repeat it."""
    init: OptionalFile = None
    """Weights to start from: a file of torchvision or timm, or an earlier run."""
    resume: OptionalFolder = None
    """An interrupted run to go on with, from its last checkpoint."""
    plugin: OptionalFile = None
    """A Python file that registers a method of yours; also to resume or repeat such a run."""
    precision: OptionalName = None
    """32-true, bf16-mixed or 64-true."""
    accumulate: Whole = None
    """Parts of a batch, to save memory; see training.accumulation for what they are."""
    clip: Number = None
    """Largest norm of the gradient."""
    max_unreadable: Number = None
    """Share of unreadable files above which the source is refused."""
    stop_on_collapse: bool = False
    """End the run with exit code 3 when the representation collapses."""
    settings: Annotated[
        tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE ...", help_behavior_hint="")
    ] = ()
    """Any other field of the record, for example optimiser.momentum=0.95 views.0.blur=0.5."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> None:
        """Train, once or once per seed."""
        from cognates import api
        from cognates.cli.text import left_out_of_run

        if self.resume is not None and not (Path(self.resume) / "config.json").is_file():
            raise ConfigError(
                f"Expected the directory of a run to resume, got '{self.resume}': it has no "
                "config.json."
            )
        options = asdict(self)
        seeds, quiet = options.pop("seeds"), options.pop("quiet")
        options["stop_on_collapse"] = self.stop_on_collapse or None
        for seed, out in self._repetitions(seeds):
            run = api.train(**{**options, "seed": seed, "out": out}, progress=not quiet)
            if not quiet:
                print("\n".join(filter(None, (left_out_of_run(run.path), f"{run.path}"))))
        if not quiet:
            # A run's code is executed only where it is named, as here.
            named = f" --plugin {shlex.quote(self.plugin)}" if self.plugin else ""
            shown = self.out or self.resume
            each = f"{shown}{named}"
            if seeds:
                folder = shlex.quote(self.out or "")
                each = f"{folder}/seed{seeds[0]}{named} (and each other seed)"
                shown = f"{folder}/seed* --out {folder}/report.html"
            print(f"Next: cognates evaluate {each}, then cognates report {shown}")

    def _repetitions(self, seeds: tuple[int, ...]) -> list[tuple[int | None, str | None]]:
        if not seeds:
            return [(self.seed, self.out)]
        if self.seed is not None or self.resume is not None or self.out is None:
            raise ConfigError("Expected --seeds with --out and without --seed and --resume.")
        if len(set(seeds)) < len(seeds):
            raise ConfigError(f"Expected different seeds, got {' '.join(map(str, seeds))}.")
        folders = [str(Path(self.out) / f"seed{seed}") for seed in seeds]
        # Found now rather than after the first of several long runs.
        taken = [folder for folder in folders if (Path(folder) / "config.json").exists()]
        if taken:
            raise ConfigError(
                f"Expected a folder without a run, got '{taken[0]}': choose another --out."
            )
        return list(zip(seeds, folders, strict=True))
