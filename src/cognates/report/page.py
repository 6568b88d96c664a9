"""The page: run directories in, one self-contained HTML file out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cognates import __version__
from cognates.errors import ConfigError, StorageError
from cognates.report import collect, comparison, run
from cognates.training.storage import write_atomic

_HERE = Path(__file__).parent


def write(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write the report of one or several runs.

    Args:
        runs: run directories, at least one.
        out: the file to write; None: `report.html` in the run, for one run.

    Returns:
        The path of the page.

    Raises:
        ConfigError: no run was given, one is no run directory, or several have no `out`.
        StorageError: a run's file is damaged, or the page cannot be written.
    """
    if not runs:
        raise ConfigError("Expected at least one run to report on, got none.")
    if out is None and len(runs) > 1:
        raise ConfigError(
            f"Expected a file for the report of {len(runs)} runs: add --out FILE.html."
        )
    path = Path(runs[0]) / "report.html" if out is None else Path(out)
    if path.is_dir():
        raise ConfigError(f"Expected a file for the report, got the folder '{path}'.")
    text = render([collect.read(folder) for folder in runs])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"Cannot make the folder '{path.parent}': {error.strerror}.") from error
    write_atomic(path, text.encode("utf8"))
    return path


def render(records: Sequence[collect.RunRecord]) -> str:
    """Return the page about `records` as HTML; every text of theirs is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined
    )
    groups = collect.group(records)
    several = len(records) > 1
    names = ", ".join(g.name for g in groups)
    return environment.get_template("page.html.j2").render(
        title=f"{names}: cognates report",
        style=Markup((_HERE / "page.css").read_text(encoding="utf8")),  # our own file
        comparison={"header": comparison.header(groups), "parts": comparison.parts(groups)}
        if several
        else None,
        runs=[run.section(record) for record in records],
        version=__version__,
    )
