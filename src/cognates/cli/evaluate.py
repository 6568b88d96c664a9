"""`cognates evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cognates.cli.options import OptionalSource, RunFolder, Whole, Words
from cognates.errors import ConfigError

if TYPE_CHECKING:
    from cognates.types import Result


@dataclass(frozen=True, kw_only=True)
class Command:
    """Measure a run beside raw pixels and its own untrained encoder.

    Without labels the protocols that need them are left out, and that is said. The values go into
    results.json in the run's folder.
    """

    path: RunFolder
    """The folder of a finished run."""
    data: OptionalSource = None
    """Another source than the run's own."""
    only: Words = ()
    """Protocols or groups: knn, linear, few-labels, uncertainty, retrieval, spread, sensitivity,
    dependence (named only)."""
    device: str = "auto"
    """auto, cpu or cuda."""
    grid: Whole = None
    """Penalties that the linear probes try; 6 is enough for a first look."""
    quiet: bool = False
    """Print nothing but errors."""

    def run(self) -> int:
        """Evaluate and print the table; return 1 if nothing could be measured."""
        from cognates import api

        if self.grid is not None and self.grid < 1:
            raise ConfigError(f"Expected a grid of at least 1 penalty, got {self.grid}.")
        results = api.evaluate(
            self.path,
            self.data,
            self.only or None,
            device=self.device,
            grid=self.grid,
            progress=None if self.quiet else say,
        )
        if not self.quiet:
            print(table(results))
        if results and all(result.error for result in results):
            why = (results[0].error or "").rstrip(".")
            say(f"error: Every protocol failed, the first with: {why}.")
            return 1
        if not self.quiet:
            print(f"\nNext: cognates report {self.path}")
        return 0


def say(line: str) -> None:
    """Print a line about the progress where it does not mix with the result."""
    print(line, file=sys.stderr, flush=True)


def table(results: Sequence[Result], *, most: int | None = None) -> str:
    """Return results as a table with a column per subject; single tenths are left to the report."""
    from cognates.cli.text import columns
    from cognates.evaluation.records import SUBJECTS
    from cognates.evaluation.records import table as rows_of

    rows = [
        [f"{row.protocol}, {row.metric}", *(["failed", "", ""] if row.error else row.cells())]
        for row in rows_of(list(results))
        if "/decile-" not in row.metric
    ]
    return columns(rows[:most], heads=["", *SUBJECTS]) if rows else "Nothing was measured."
