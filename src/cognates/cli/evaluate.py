"""`cognates evaluate`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cognates.cli.options import (
    OptionalFile,
    OptionalName,
    OptionalRun,
    OptionalSource,
    RunFolder,
    Sources,
    Whole,
    Words,
)

if TYPE_CHECKING:
    from cognates.types import Result


@dataclass(frozen=True, kw_only=True)
class Command:
    """Measure a run beside raw pixels and its own untrained encoder.

    Without labels the protocols that need them are left out, and that is said. The values go into
    results.json in the run's folder, those of another source into results-NAME-HASH.json.
    """

    path: RunFolder
    """The folder of a finished run."""
    data: OptionalSource = None
    """Another source than the run's own."""
    only: Words = ()
    """Protocols or groups: knn, linear, few-labels, uncertainty (deciles, auroc-error, r-auroc,
    aurc, augrc, risk, calibration), retrieval, spread, sensitivity, crop; generative
    (reconstruction, elbo, generation, generated-views), run where a method draws images; and, run
    only where they are named, corruption, augmentation-uncertainty, ood (with --ood), mlp,
    knn-vote, knn-200, gmm, kmeans, clustering, augmentation, celeba (several label columns),
    dsprites (its factors), dependence, theory."""
    ood: Sources = ()
    """Other sources, whose images the uncertainty should tell from the run's: protocol ood, and
    without --only nothing else."""
    score: OptionalName = None
    """The uncertainty that stands for the run, for example distance-ratio; without it its own."""
    reference: OptionalRun = None
    """Another run whose encoder compares drawn images with real ones; without: random weights."""
    plugin: OptionalFile = None
    """The file of a method that is not of the library; the run's own copy is RUN/plugin.py."""
    device: str = "auto"
    """auto, cpu or cuda."""
    grid: Whole = None
    """Penalties that the linear probes try; 6 is enough for a first look."""
    images: Whole = None
    """At most so many images of each split, drawn at random; of dSprites 20,000 and 5,000."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> int:
        """Evaluate and print the table; return an error's code if every protocol failed."""
        from cognates import api
        from cognates.cli.text import left_out_of_run

        results = api.evaluate(
            self.path,
            self.data,
            self.only or None,
            device=self.device,
            grid=self.grid,
            reference=self.reference,
            images=self.images,
            plugin=self.plugin,
            ood=self.ood,
            score=self.score,
            progress=None if self.quiet else say,
        )
        if not self.quiet:
            print(table(results))
            missing = left_out_of_run(Path(self.path)) if self.data is None else ""
            if missing:  # of another source the loader warns
                say(missing)
        if results and all(result.error for result in results):
            why = (results[0].error or "").rstrip(".")
            say(f"error: Every protocol failed, the first with: {why}.")
            return _code(results)
        if not self.quiet:
            print(f"\nNext: cognates report {self.path}")
        return 0


def _code(results: Sequence[Result]) -> int:
    """Return the exit code of the errors, which are recorded as TYPE: SENTENCE; of several, 1."""
    from cognates import errors

    names = {(result.error or "").partition(":")[0] for result in results}
    codes = {getattr(getattr(errors, name, None), "exit_code", 1) for name in names}
    return codes.pop() if len(codes) == 1 else 1


def say(line: str) -> None:
    """Print a line about the progress where it does not mix with the result."""
    print(line, file=sys.stderr, flush=True)


def table(results: Sequence[Result], *, most: int | None = None) -> str:
    """Return results as a table with a column per subject.

    Single tenths, single attributes where there is a mean of many, and points of a curve are left
    to the report, and of the protocols with a value for every score those of the baselines.
    """
    from cognates.cli.text import columns
    from cognates.evaluation.records import SUBJECTS
    from cognates.evaluation.records import table as rows_of

    own = {str(r.settings.get("score")) for r in results if "default" in r.flags}
    summed = ("macro/", "hair/", "gender/", "binary/")
    rows = [
        [f"{row.protocol}, {row.metric}", *(["failed", "", ""] if row.error else row.cells())]
        for row in rows_of(list(results))
        if "/decile-" not in row.metric
        and (row.protocol != "celeba" or row.error or row.metric.startswith(summed))
        and (row.protocol not in _LONG or row.error or _short(row.metric, own))
    ]
    return columns(rows[:most], heads=["", *SUBJECTS]) if rows else "Nothing was measured."


_LONG = ("aurc", "augrc", "risk", "corruption", "augmentation-uncertainty", "ood")
_POINTS = re.compile(r"/(risk-at-(?!80|95)|uncertainty-|accuracy-)\d+|^(linear|knn)/error-rate$")


def _short(metric: str, own: set[str]) -> bool:
    """Return whether a metric of a long protocol is about a method's own score."""
    if _POINTS.search(metric):
        return False
    score = metric.rpartition("/")[2]
    return score in own or score in ("default-minus-best", "oracle")
