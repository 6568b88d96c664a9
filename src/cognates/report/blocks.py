"""What a page is made of: headers, tables, figures, galleries; and numbers as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from cognates.types import Result

_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """One value of a table with its interval."""

    value: str
    interval: str = ""
    tone: str = ""
    """up, down or nothing: whether a difference is above or below zero with its whole interval."""


@dataclass(frozen=True)
class Row:
    """One line of a table; a subhead has no cells."""

    label: str
    cells: Sequence[Cell] = ()
    hint: str = ""
    subhead: bool = False


@dataclass(frozen=True)
class Column:
    """The head of a column; `colour` is the one that its values have in the figures."""

    label: str
    colour: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns."""

    corner: str
    columns: Sequence[Column]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Drawing:
    """A figure with its title and what to see in it."""

    title: str
    drawing: Markup
    caption: str = ""
    wide: bool = False
    """Whether it takes a line of its own."""


@dataclass(frozen=True)
class Shown:
    """One image of a gallery, ready for the page."""

    uri: str
    small: bool
    name: str
    title: str
    percentile: str


@dataclass(frozen=True)
class Gallery:
    """Images under a heading."""

    title: str
    caption: str
    images: Sequence[Shown]


@dataclass(frozen=True)
class Tile:
    """One figure in large type."""

    what: str
    value: str
    unit: str = ""
    beside: str = ""


@dataclass(frozen=True)
class Header:
    """The top of a page or of a run: the finding first."""

    eyebrow: str
    headline: str
    sentences: Sequence[str] = ()
    warnings: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Part:
    """A section of the page."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[Drawing] = ()
    galleries: Sequence[Gallery] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """Everything about one run."""

    name: str
    summary: str
    """A few words beside the name, for a page about several runs."""
    header: Header
    parts: Sequence[Part]
    config: Sequence[tuple[str, str]]
    data: Sequence[tuple[str, str]]
    environment: Sequence[tuple[str, str]]
    data_note: str = ""
    unreadable: Sequence[str] = ()
    unreadable_note: str = ""
    repeat: str = ""
    everything: Sequence[Table] = field(default_factory=tuple)


def percent(value: float) -> str:
    """Return a fraction as percent with one decimal."""
    return f"{100 * value:.1f}"


def share(value: float) -> str:
    """Return a fraction as percent with its sign, which stays on the line of its number."""
    return f"{percent(value)}\N{NO-BREAK SPACE}%"


def number(value: float) -> str:
    """Return a value with three decimals, or three digits where it is large."""
    return (f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}").replace("-", _MINUS)


def signed(value: float, digits: int = 1) -> str:
    """Return a difference with its sign."""
    return f"{value:+.{digits}f}".replace("-", _MINUS)


def interval(low: float | None, high: float | None, show: object = number) -> str:
    """Return "low to high", or nothing without an interval."""
    if low is None or high is None:
        return ""
    assert callable(show)
    return f"{show(low)} to {show(high)}"


def cell(result: Result | None, *, fraction: bool = False) -> Cell:
    """Return a result as a cell; an accuracy as percent."""
    if result is None:
        return Cell("–")
    show = percent if fraction else number
    return Cell(show(result.value), interval(result.low, result.high, show))


def difference(
    value: float, low: float | None, high: float | None, *, fraction: bool = False
) -> Cell:
    """Return a paired difference; it has a tone if its interval is on one side of zero."""
    scale, digits = (100, 1) if fraction else (1, 3)

    def show(x: float) -> str:
        return signed(scale * x, digits)

    tone = ""
    if low is not None and high is not None:
        tone = "up" if low > 0 else "down" if high < 0 else ""
    return Cell(show(value), interval(low, high, show), tone)
