"""The report's figures: small SVG drawings whose colours and fonts are those of the page.

matplotlib draws with placeholder colours that become variables of the page's style sheet, so a
figure follows the reader's light or dark scheme; text stays text.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_VARIABLES = ("ink", "muted", "grid", "trained", "untrained", "pixels", "other", "fourth", "card")
_PLACEHOLDERS = {name: f"#0000{i:02x}" for i, name in enumerate(_VARIABLES, start=1)}
"""Nobody would draw with these near-blacks, so replacing them in the text of the SVG is safe."""

_GROUND = {"facecolor": _PLACEHOLDERS["card"], "edgecolor": "none", "pad": 0.5}
"""Behind a line's name: no line of the grid strikes it through."""

SUBJECTS = ("trained", "untrained", "pixels")
SERIES = ("trained", "untrained", "other", "fourth", "pixels")
"""Colours of compared runs, in order; more runs than colours start again."""


@dataclass(frozen=True)
class Interval:
    """A value with its interval, as one row of a dot plot."""

    label: str
    value: float
    low: float | None
    high: float | None
    colour: str = "trained"
    strong: bool = False


def dots(
    groups: Sequence[Sequence[Interval]],
    *,
    title: str,
    percent: bool = False,
    reference: float | None = None,
    wide: bool = False,
) -> Markup:
    """Draw dots with their intervals, the values of a group close together under one label.

    Args:
        groups: the first value of each group has its label.
        title: what a screen reader says.
        percent: whether values are fractions to be shown as percent.
        reference: where to draw a vertical line.
        wide: whether the figure has a line of the page to itself.
    """
    rows = len(groups)
    tall = max(len(group) for group in groups) > 1
    figure, axes = _canvas(
        7.6 if wide else 5.2, 0.45 + (0.62 if tall else 0.31) * rows, left=0.22 if wide else 0.34
    )
    for middle, group in enumerate(groups):
        for row, y in zip(group, middle + _offsets(len(group)), strict=True):
            colour = _PLACEHOLDERS[row.colour]
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2.4, alpha=0.45)
            axes.plot(row.value, y, "o", color=colour, markersize=6.5 if row.strong else 5)
    axes.set_yticks(range(rows), [group[0].label for group in groups])
    for label, group in zip(axes.get_yticklabels(), groups, strict=True):
        label.set_color(_PLACEHOLDERS["ink" if group[0].strong else "muted"])
    axes.set_ylim(rows - 0.45, -0.55)
    axes.locator_params(axis="x", nbins=8 if wide else 5)
    axes.grid(axis="x", color=_PLACEHOLDERS["grid"], linewidth=0.8)
    axes.tick_params(axis="y", length=0, labelsize=9.5)
    if reference is not None:
        axes.axvline(reference, color=_PLACEHOLDERS["muted"], linewidth=1, linestyle=(0, (3, 3)))
    if percent:
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    axes.spines["bottom"].set_visible(False)
    return _svg(figure, title)


def _offsets(count: int) -> np.ndarray:
    """Return where the values of a group stand around its row."""
    return 0.27 * (np.arange(count) - (count - 1) / 2)


def deciles(
    series: Mapping[str, Sequence[Interval]], *, title: str, overall: float | None
) -> Markup:
    """Draw accuracy in each tenth of the images from the most to the least certain.

    The first series is the model's own score, drawn with its intervals; others are thin lines. The
    accuracy on all images is a dashed line.
    """
    figure, axes = _canvas(7.6, 3.3, left=0.08)
    if overall is not None:
        axes.axhline(overall, color=_PLACEHOLDERS["muted"], linewidth=1, linestyle=(0, (3, 3)))
    heights = _apart([rows[-1].value for rows in series.values()], axes, series)
    for position, (name, rows) in enumerate(series.items()):
        _decile_line(axes, name, rows, position, heights[position])
    count = max(len(rows) for rows in series.values())
    axes.set_xticks(range(1, count + 1))
    axes.set_xlim(0.5, count + (0.5 if len(series) == 1 else 2.1))
    axes.set_xlabel("tenth of the images, most certain first", color=_PLACEHOLDERS["muted"])
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    axes.grid(axis="y", color=_PLACEHOLDERS["grid"], linewidth=0.8)
    return _svg(figure, title)


def _apart(
    ends: Sequence[float], axes: Axes, series: Mapping[str, Sequence[Interval]]
) -> list[float]:
    """Set the limits of the axis and return heights near `ends` at which labels do not overlap."""
    bounds = [v for rows in series.values() for r in rows for v in (r.value, r.low, r.high)]
    present = [v for v in bounds if v is not None]
    low, high = min(present), max(present)
    margin = 0.04 * max(high - low, 0.02)
    axes.set_ylim(low - margin, high + margin)
    inches = axes.bbox.height / axes.figure.dpi
    bottom, top = axes.get_ylim()
    step = (top - bottom) * 0.155 / inches  # a line of text of 8.5 points is .155 inches high
    heights = list(ends)
    # of lines that end together the name of the higher one stands higher
    means = [float(np.mean([r.value for r in rows])) for rows in series.values()]
    order = sorted(range(len(ends)), key=lambda i: (ends[i], means[i]))
    for below, above in pairwise(order):
        heights[above] = max(heights[above], heights[below] + step)
    highest = top - step / 2
    for number in reversed(order):  # what was pushed out of the axes pushes the others down
        heights[number] = min(heights[number], highest)
        highest = heights[number] - step
    return heights


def _decile_line(
    axes: Axes, name: str, rows: Sequence[Interval], position: int, label_height: float
) -> None:
    x = np.arange(1, len(rows) + 1)
    y = np.array([row.value for row in rows])
    own = position == 0
    colour = _PLACEHOLDERS["trained" if own else SERIES[1 + (position - 1) % (len(SERIES) - 1)]]
    if own:
        low = np.array([row.value if row.low is None else row.low for row in rows])
        high = np.array([row.value if row.high is None else row.high for row in rows])
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(
        x,
        y,
        color=colour,
        linewidth=2.2 if own else 1.2,
        alpha=1.0 if own else 0.75,
        marker="o" if own else None,
        markersize=5,
        zorder=3 if own else 2,
    )
    axes.annotate(
        name,
        (x[-1], label_height),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=colour,
        bbox=_GROUND,
    )


@dataclass(frozen=True)
class Panel:
    """One of several small drawings side by side: a value with its interval at each tick."""

    title: str
    ticks: Sequence[str]
    values: Sequence[Interval]
    hollow: int | None = None
    """The position of a value that is the others' reference, drawn as a ring."""
    over: str = ""
    """What the ticks are, in a few words."""


def panels(
    shown: Sequence[Panel],
    *,
    title: str,
    reference: float | None = None,
    percent: bool = False,
    beside: int = 3,
) -> Markup:
    """Draw small drawings in rows, all with the same limits of y.

    Args:
        shown: at least one; ticks are evenly spaced, whatever they say, and a value that is NaN is
            left out.
        title: what a screen reader says.
        reference: where to draw a horizontal line in each.
        percent: whether values are fractions to be shown as percent.
        beside: drawings in a row.
    """
    rows = -(-len(shown) // beside)
    each = 1.56  # inches, of which .34 are for the numbers below and .26 for the name above
    foot = 0.16 if any(panel.over for panel in shown) else 0.0
    height = (each + foot) * rows
    figure, first = _canvas(7.6, height, left=0.08)
    bounds = [v for p in shown for r in p.values for v in (r.value, r.low, r.high)]
    present = [v for v in (*bounds, reference) if v is not None and not np.isnan(v)]
    low, high = min(present), max(present)
    margin = 0.08 * ((high - low) or 1.0)
    across, down = 0.905 / beside, (each + foot) / height
    for number, panel in enumerate(shown):
        row, column = divmod(number, beside)
        bottom = 1 - (row + 1) * down + (0.34 + foot) / height
        place = (0.08 + column * across, bottom, across - 0.03, (each - 0.6) / height)
        axes = first if number == 0 else figure.add_axes(place)
        axes.set_position(place)
        _quiet(axes)
        _draw_panel(axes, panel, reference)
        axes.set_ylim(low - margin, high + margin)
        axes.locator_params(axis="y", nbins=4)
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        if column:
            axes.tick_params(axis="y", labelleft=False)
    return _svg(figure, title)


def _draw_panel(axes: Axes, panel: Panel, reference: float | None) -> None:
    colour = _PLACEHOLDERS["trained"]
    x = range(len(panel.values))
    if reference is not None:
        axes.axhline(reference, color=_PLACEHOLDERS["muted"], linewidth=1, linestyle=(0, (3, 3)))
    axes.plot(x, [r.value for r in panel.values], color=colour, linewidth=1.2, alpha=0.6)
    for position, r in enumerate(panel.values):
        if np.isnan(r.value):
            continue
        if r.low is not None and r.high is not None:
            ends = [r.low, r.high]
            axes.plot([position] * 2, ends, color=colour, linewidth=2.4, alpha=0.45)
        inside = _PLACEHOLDERS["card"] if position == panel.hollow else colour
        axes.plot(position, r.value, "o", color=colour, markersize=4.5, markerfacecolor=inside)
    axes.set_xticks(x, panel.ticks)
    axes.set_xlabel(panel.over, color=_PLACEHOLDERS["muted"], labelpad=2)
    # one or two values do not stand at the ends of the axis
    side = 0.35 if len(panel.values) > 2 else 0.8
    axes.set_xlim(-side, len(panel.values) - 1 + side)
    axes.grid(axis="y", color=_PLACEHOLDERS["grid"], linewidth=0.8)
    axes.set_title(panel.title, loc="left", fontsize=9, color=_PLACEHOLDERS["ink"], pad=4)


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    reference: float | None = None,
    over: str = "epoch",
    percent: bool = False,
    wide: bool = False,
    named: bool = False,
) -> Markup:
    """Draw values over epochs or something else, one line per name; the first is the strongest.

    Args:
        series: the values of x and y by name.
        title: what a screen reader says.
        reference: where to draw a horizontal line.
        over: what x is.
        percent: whether values are fractions to be shown as percent.
        wide: whether the figure has a line of the page to itself.
        named: whether each line's name stands beside it.
    """
    figure, axes = _canvas(*((7.6, 2.6) if wide else (3.6, 1.9)), left=0.08 if wide else 0.15)
    for position, (name, (x, y)) in enumerate(series.items()):
        colour = _PLACEHOLDERS[SERIES[position % len(SERIES)]]
        # beyond the colours that there are lines are dashed
        style = "-" if position < len(SERIES) else (0, (4, 2))
        width = 1.9 if position == 0 else 1.3
        axes.plot(x, y, color=colour, linewidth=width, linestyle=style, label=name)
    if reference is not None:
        axes.axhline(reference, color=_PLACEHOLDERS["muted"], linewidth=1, linestyle=(0, (3, 3)))
    axes.grid(axis="y", color=_PLACEHOLDERS["grid"], linewidth=0.8)
    axes.set_xlabel(over, color=_PLACEHOLDERS["muted"], labelpad=2)
    axes.margins(x=0.02)
    if percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    if named:
        _name_lines(axes, series)
    return _svg(figure, title)


def _name_lines(axes: Axes, series: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    rows = {name: [Interval("", v, None, None) for v in y] for name, (_, y) in series.items()}
    heights = _apart([row[-1].value for row in rows.values()], axes, rows)
    ends = [max(x) for x, _ in series.values()]
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= high])
    axes.set_xlim(low, high + 0.2 * (high - low))  # room for the names
    for position, (name, end, height) in enumerate(zip(series, ends, heights, strict=True)):
        colour = _PLACEHOLDERS[SERIES[position % len(SERIES)]]
        place = {"xytext": (7, 0), "textcoords": "offset points", "va": "center", "fontsize": 8.5}
        # lines that end together push a name above the axes, where it would not be drawn
        axes.annotate(
            name, (end, height), color=colour, annotation_clip=False, bbox=_GROUND, **place
        )


def picture(pixels: np.ndarray) -> str:
    """Return an image (c, s, s) uint8 as a PNG data URI."""
    from PIL import Image

    array = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _canvas(width: float, height: float, *, left: float) -> tuple[Figure, Axes]:
    """Return a figure in inches with quiet axes; `left`: share of the width kept for labels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.patch.set_alpha(0)
    bottom = 0.42 / height
    axes = figure.add_axes((left, bottom, 0.985 - left, 1 - bottom - 0.09 / height))
    _quiet(axes)
    return figure, axes


def _quiet(axes: Axes) -> None:
    """Leave of the axes' frame and marks what is needed."""
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_PLACEHOLDERS["grid"])
    axes.tick_params(
        colors=_PLACEHOLDERS["muted"], color=_PLACEHOLDERS["grid"], labelsize=8.5, length=3
    )
    axes.tick_params(axis="y", length=0)
    axes.xaxis.label.set_fontsize(8.5)
    axes.set_axisbelow(True)


def _svg(figure: Figure, title: str) -> Markup:
    """Return `figure` as an SVG element: no prologue, no address, colours by variable."""
    import matplotlib

    buffer = StringIO()
    # Text as text; identifiers depend on the title alone: the same run gives the same page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", text, count=5)
    text = text.replace("xlink:href", "href")
    text = re.sub(r"font: ((?:\w+ )?[\d.]+px) [^;\"]*", r"font: \1 var(--sans)", text)
    for name, placeholder in _PLACEHOLDERS.items():
        text = text.replace(placeholder, f"var(--{name})")
    label = escape(title)
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return Markup(re.sub(r">\s+<", "><", text))  # built here; the title is escaped
