"""`cognates report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cognates.cli.options import OptionalFile, RunFolders


@dataclass(frozen=True, kw_only=True)
class Command:
    """Write one self-contained HTML page about one or several runs.

    Runs that differ only in their seed become one group with a mean and an interval; every other
    difference between the runs is named.
    """

    paths: RunFolders
    """Folders of runs."""
    out: OptionalFile = None
    """The page to write; for one run report.html in its folder."""

    def run(self) -> None:
        """Write the page and print its path."""
        from cognates import report

        # A pattern such as runs/* also names an earlier report.html: files are no runs.
        folders = [path for path in self.paths if not Path(path).is_file()]
        print(report.write(folders or self.paths, self.out))
