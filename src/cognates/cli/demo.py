"""`cognates demo`."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cognates.cli.options import Whole
from cognates.errors import ConfigError

_GRID = 6
"""Penalties of the linear probes: half of the protocol's, enough for a first look."""
_OURS = (
    *("checkpoint", "checkpoint.old", "checkpoint.new", "model", "features"),
    *("config.json", "environment.json", "metrics.jsonl", "log.txt", "results.json"),
    *("gallery.npz", "data.json", "unreadable.txt", "report.html"),
)
"""What a run leaves in its folder; nothing else is ever removed."""
_SHOWN = ("linear", "knn", "few-labels")


@dataclass(frozen=True, kw_only=True)
class Command:
    """The two-minute tour on the embedded data: train, evaluate, report.

    Trains VI-SimSiam on 10,000 images of clothes that come with the package, measures what it has
    learnt beside raw pixels and the untrained encoder, and writes a page about it.
    """

    out: str = "runs/demo"
    """The run's folder; an earlier demo in it is replaced."""
    epochs: Whole = None
    """Passes over the images, for a shorter or longer tour."""
    quiet: bool = False
    """Print nothing but the result."""

    def run(self) -> None:
        """Train, evaluate, write the page, and print a small table."""
        from cognates import api, report
        from cognates.cli.evaluate import say

        started = time.perf_counter()
        out = Path(self.out)
        clear(out)
        show = (lambda line: None) if self.quiet else say
        run = api.train(recipe="demo", out=out, epochs=self.epochs, progress=not self.quiet)
        trained = time.perf_counter()
        api.evaluate(run, grid=_GRID, progress=show)
        page = report.write([out])
        print(summary(out))
        print(
            f"\nTrained in {trained - started:.0f} s, {time.perf_counter() - started:.0f} s in all."
        )
        print(f"The report: {page}", flush=True)
        sys.stdout.flush()


def clear(out: Path) -> None:
    """Remove an earlier demo from `out`, and only that.

    Raises:
        ConfigError: the folder holds something else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(
            f"Expected a folder for the demo, got the file '{out}': choose another --out."
        )
    if not any((out / name).exists() for name in _OURS):
        return
    from cognates.recipes import get
    from cognates.training.prepare import read_config

    source = get("demo").build("vi-simsiam").data.source
    if read_config(out).data.source != source:
        raise ConfigError(
            f"Expected '{out}' empty or with an earlier demo, got another run: use another --out."
        )
    for place in [*(out / name for name in _OURS), *out.glob("results-*.json")]:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def summary(out: Path) -> str:
    """Return the accuracies of a run and how its uncertainty does, as a small table."""
    from cognates.cli.text import columns
    from cognates.report import collect, readings
    from cognates.report.blocks import cell, difference

    record = collect.read(out)
    rows = []
    for row in readings.accuracies(record):
        values = [cell(r, fraction=True).value for r in (row.trained, row.untrained, row.pixels)]
        gains = [
            "" if r is None else _gain(difference(r.value, r.low, r.high, fraction=True))
            for r in (row.over_untrained, row.over_pixels)
        ]
        rows.append([row.label, *values, *gains])
    heads = ["accuracy, %", "trained", "untrained", "pixels", "over untrained", "over pixels"]
    text = columns(rows, heads=heads) if rows else "Nothing was measured."
    own = readings.own_score(record)
    if own is None:
        return text
    best = readings.rival(record)
    beside = "" if best is None else f" (best label-free baseline: {best.score} {best.value:.3f})"
    return f"{text}\nUncertainty ({own.score}) finds errors: AUROC {own.result.value:.3f}{beside}"


def _gain(shown: object) -> str:
    value, interval = getattr(shown, "value", ""), getattr(shown, "interval", "")
    return f"{value} [{interval}]"
