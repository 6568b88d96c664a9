"""One self-contained HTML page about one or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["write"]


def write(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write the report of `runs`; see `cognates.report.page.write`."""
    from cognates.report import page

    return page.write(runs, out)
