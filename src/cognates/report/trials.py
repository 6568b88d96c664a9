"""What the uncertainty does where it is acted on: images refused, images corrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cognates.report import figures, scores
from cognates.report.blocks import Column, Drawing, Part, Row, Table, cell
from cognates.report.collect import RunRecord
from cognates.types import Result

_COVERAGES = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)
_SANITY = "random"
_MEASURES = (
    ("mean-spearman", "of the mean, six points"),
    ("per-image", "per image, mean"),
    ("overall", "all images and severities"),
)
OVER_ALL = "all"
_LEVELS = range(6)


def refused(record: RunRecord) -> list[Drawing]:
    """Return the risk-coverage curve of every score, the method's own first."""
    found: dict[str, list[Result]] = {}
    for score in dict.fromkeys(_scores(record, "risk")):
        points = [record.find("risk", f"linear/risk-at-{c}/{score}") for c in _COVERAGES]
        present = [point for point in points if point is not None and point.error is None]
        if len(present) == len(_COVERAGES) and score != _SANITY:
            found[score] = present
    own = [name for name, points in found.items() if "default" in points[0].flags]
    if not found:
        return []
    x = [float(coverage) for coverage in _COVERAGES]
    shown = scores.few(found, next(iter(own), None))
    series = {name: (x, [point.value for point in found[name]]) for name in shown}
    if not series:
        return []
    return [
        Drawing(
            "Risk against coverage",
            figures.curves(
                series,
                title=f"{record.name}: error rate of the answered images by coverage",
                over="percent of the images that are answered, most certain first",
                percent=True,
                wide=True,
                named=True,
            ),
            "Error rate of the linear probe where the least certain images are refused: at 100 all "
            "are answered. A useful uncertainty starts low and rises to the right."
            + scores.explained(shown),
            wide=True,
        )
    ]


def part(record: RunRecord) -> Part | None:
    """Return how the uncertainty and the accuracy follow corruptions."""
    rows = [r for r in record.results if r.protocol == "corruption" and r.error is None]
    names = list(
        dict.fromkeys(r.metric.partition("/")[0] for r in rows if "/uncertainty-" in r.metric)
    )
    if not names:
        return None
    found = list(dict.fromkeys(_scores(record, "corruption")))
    tables = [
        _table(
            "all corruptions",
            found,
            [label for _, label in _MEASURES],
            lambda s: [f"{OVER_ALL}/{m}/{s}" for m, _ in _MEASURES],
            record,
        ),
        _table(
            "mean uncertainty",
            found,
            [_title(name) for name in names],
            lambda s: [f"{name}/mean-spearman/{s}" for name in names],
            record,
        ),
    ]
    drawings = []
    for kind, title, percent in (
        ("uncertainty", "Uncertainty by severity", False),
        ("accuracy", "Accuracy by severity", True),
    ):
        lines = {_title(name): _line(record, name, kind) for name in names}
        series = {name: values for name, values in lines.items() if len(values[1]) == len(_LEVELS)}
        if series:
            drawings.append(
                Drawing(
                    title,
                    figures.curves(
                        series,
                        title=f"{record.name}: {title}",
                        over="severity",
                        percent=percent,
                        wide=True,
                        named=True,
                    ),
                    "Share of the same images whose class a vote of their 20 nearest neighbours "
                    "among clean training images finds."
                    if percent
                    else f"Mean of {found[0]} over the same images; larger is less certain. "
                    "Severity 0: the image as it is.",
                    wide=True,
                )
            )
    text = (
        "The same images under six corruptions of five severities. An uncertainty that one can "
        "act on rises as accuracy falls. The tables have rank correlations (Spearman's) of an "
        "uncertainty with the severity: 1 where it rises at every step, 0 where it does not "
        "follow, \N{MINUS SIGN}1 where it falls."
    )
    return Part("When images are corrupted", text, tables, drawings)


def _table(
    corner: str,
    found: Sequence[str],
    columns: Sequence[str],
    metrics: Callable[[str], list[str]],
    record: RunRecord,
) -> Table:
    """Return a table with a row for every score: there are more of them than fit beside."""
    values = {
        score: [record.find("corruption", metric) for metric in metrics(score)] for score in found
    }
    counts = {score: next((r.n for r in row if r), 0) for score, row in values.items()}
    rows = []
    for score, row in values.items():
        hint = scores.meaning(score)
        if 0 < counts[score] < max(counts.values()):
            hint = "; ".join(filter(None, [hint, f"{counts[score]:,} images"]))
        rows.append(Row(score, [cell(r) for r in row], hint))
    return Table(f"{corner}: rank correlation", [Column(label) for label in columns], rows)


def _title(name: str) -> str:
    return "JPEG" if name == "jpeg" else name.capitalize()


def _line(record: RunRecord, name: str, kind: str) -> tuple[list[float], list[float]]:
    found = [record.find("corruption", f"{name}/{kind}-{level}") for level in _LEVELS]
    values = [r.value for r in found if r is not None]
    return [float(level) for level in _LEVELS][: len(values)], values


def _scores(record: RunRecord, protocol: str) -> list[str]:
    """Return the scores of a protocol, in the order of the file."""
    return [
        str(r.settings["score"])
        for r in record.results
        if r.protocol == protocol and r.error is None and "score" in r.settings
    ]
