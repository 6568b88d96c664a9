"""What each augmentation, alone, does to the uncertainty: small drawings side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cognates.report import figures, scores
from cognates.report.blocks import Cell, Column, Drawing, Part, Row, Table, cell
from cognates.report.collect import RunRecord
from cognates.types import Result

_PROTOCOL = "augmentation-uncertainty"
_SHARE = "less-certain"
_STAR = {"needs-labels", "eight-passes"}
_SWITCH = "no or yes"
_RISE = (
    "Mean over the same images of {score} with the augmentation less {score} without it; bars are "
    "95\N{NO-BREAK SPACE}% intervals, the ring is the image as it is. Above the dashed line: less "
    "certain."
)
_KAPPA = (
    "Mean of \N{GREEK SMALL LETTER KAPPA} / (d \N{MINUS SIGN} 1): \N{GREEK SMALL LETTER KAPPA} is "
    "how narrow a distribution over the representations of other views the model predicts, d their "
    "dimension. Larger is more certain; the ring and the dashed line are the images as they are."
)
_SHARES = (
    "Share of the images whose {score} is larger with the augmentation than without it; the dashed "
    "line is half of them."
)


@dataclass(frozen=True)
class _Kind:
    """A drawing of one metric for every augmentation."""

    metric: str
    title: str
    caption: str
    reference: float | None = None
    """Where the dashed line is, unless the images as they are have a value."""
    ending: str = ""
    """Of the metrics' names: that of a score, for a share."""


def part(record: RunRecord) -> Part | None:
    """Return drawings of every augmentation and a table of the strongest; None: not measured."""
    found = [r for r in record.results if r.protocol == _PROTOCOL and r.error is None]
    names = list(
        dict.fromkeys(r.metric.partition("/")[0] for r in found if "/uncertainty-" in r.metric)
    )
    unchanged = record.find(_PROTOCOL, "unchanged/uncertainty")
    if not names or unchanged is None:
        return None
    score = str(unchanged.settings["score"])
    wanted = (
        _Kind("rise", "Change of the uncertainty", _RISE.format(score=score), 0.0),
        _Kind("kappa", "Concentration \N{GREEK SMALL LETTER KAPPA}", _KAPPA),
        _Kind(
            _SHARE, "Images that become less certain", _SHARES.format(score=score), 0.5, f"/{score}"
        ),
    )
    drawings = []
    for kind in wanted:
        start = record.find(_PROTOCOL, f"unchanged/{kind.metric}")
        shown = [_panel(found, name, kind, start) for name in names]
        present = [panel for panel in shown if panel.values]
        if present:
            drawing = figures.panels(
                present,
                title=f"{record.name}: {kind.title}",
                reference=kind.reference if start is None else start.value,
                percent=bool(kind.ending),
            )
            drawings.append(Drawing(kind.title, drawing, kind.caption, wide=True))
    text = (
        f"The same {unchanged.n:,} test images under one augmentation at a time: what raises the "
        "uncertainty is what the model has not learnt to see past. First the strongest changes, "
        "for the model's own score and those that any encoder has."
    )
    if any(_STAR & set(r.flags) for r in found):
        text += " * uses labels or several passes."
    return Part(
        "What each augmentation does to the uncertainty", text, [_table(found, names)], drawings
    )


def _panel(found: Sequence[Result], name: str, kind: _Kind, start: Result | None) -> figures.Panel:
    """Return the values of one augmentation in the order of its strengths."""
    of_kind = [r for r in found if r.metric.startswith(f"{name}/{kind.metric}-")]
    rows = [r for r in of_kind if _ends(r, kind.ending)]
    if not rows:
        return figures.Panel(name, [], [])
    neutral, unit = _number(rows[0], "neutral"), str(rows[0].settings["unit"])
    points = {_number(r, "strength"): figures.Interval("", r.value, r.low, r.high) for r in rows}
    if kind.ending:  # a share of the images as they are means nothing: a gap in the line
        if unit != _SWITCH:
            points[neutral] = figures.Interval("", float("nan"), None, None)
    elif start is None:  # no change at all
        points[neutral] = figures.Interval("", 0.0, None, None)
    else:
        points[neutral] = figures.Interval("", start.value, start.low, start.high)
    # from the image as it is to the right where there is one direction only
    strengths = sorted(points, reverse=neutral == max(points))
    return figures.Panel(
        name.capitalize(),
        [_tick(strength, unit) for strength in strengths],
        [points[strength] for strength in strengths],
        None if kind.ending else strengths.index(neutral),
        "" if unit == _SWITCH else unit,
    )


def _ends(result: Result, ending: str) -> bool:
    return result.metric.endswith(ending) if ending else result.metric.count("/") == 1


def _number(result: Result, name: str) -> float:
    value = result.settings[name]
    assert isinstance(value, int | float)  # the protocol writes it
    return float(value)


def _tick(strength: float, unit: str) -> str:
    if unit == _SWITCH:
        return "yes" if strength else "no"
    return f"{strength:g}".replace("-", "\N{MINUS SIGN}")


def _unit(found: Sequence[Result], name: str) -> str:
    return next(str(r.settings["unit"]) for r in found if r.metric.startswith(f"{name}/"))


def _table(found: Sequence[Result], names: Sequence[str]) -> Table:
    """Return the shares of every score at the ends of the strengths."""
    shares = {
        (r.metric.partition("/")[0], _number(r, "strength"), str(r.settings["score"])): r
        for r in found
        if r.metric.endswith(f"/{r.settings['score']}") and f"/{_SHARE}-" in r.metric
    }
    marked = {key[2]: bool(_STAR & set(r.flags)) for key, r in shares.items()}
    own = next((key[2] for key, r in shares.items() if "default" in r.flags), None)
    columns = scores.few(marked, own)
    rows = []
    for name in names:
        strengths = [strength for augmentation, strength, _ in shares if augmentation == name]
        neutral = next(_number(r, "neutral") for r in found if _is_of(r, name))
        below = [s for s in strengths if s < neutral]
        above = [s for s in strengths if s > neutral]
        for strength in (*([min(below)] if below else []), *([max(above)] if above else [])):
            unit = _unit(found, name)
            label = name.capitalize()
            label += "" if unit == _SWITCH else f" {_tick(strength, unit)}"
            cells = [cell(shares.get((name, strength, s)), fraction=True) for s in columns]
            rows.append(Row(label, cells or [Cell("–")], "" if unit == _SWITCH else unit))
    heads = [Column(score + (" *" if marked[score] else "")) for score in columns]
    return Table("images that become less certain, %", heads, rows)


def _is_of(result: Result, name: str) -> bool:
    return result.metric.startswith(f"{name}/")
