"""What the uncertainty does where it is acted on: images refused, images corrupted."""

from __future__ import annotations

from cognates.report import figures
from cognates.report.blocks import Column, Drawing, Part, Row, Table, cell
from cognates.report.collect import RunRecord
from cognates.types import Result

_COVERAGES = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)
_SANITY = "random"
_ROWS = (
    ("mean-spearman", "Mean uncertainty", "rank correlation with the severity, six points"),
    ("per-image", "Per image", "mean rank correlation over the severities of one image"),
    ("overall", "Overall", "rank correlation over all images and severities"),
)
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
    series = {
        name: (x, [point.value for point in found[name]]) for name in dict.fromkeys([*own, *found])
    }
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
            "Error rate of the linear probe where the least certain images are refused. A useful "
            "uncertainty starts low and rises to the right; max-softmax uses labels.",
            wide=True,
        )
    ]


def part(record: RunRecord) -> Part | None:
    """Return how the uncertainty and the accuracy follow corruptions."""
    rows = [r for r in record.results if r.protocol == "corruption" and r.error is None]
    names = list(
        dict.fromkeys(r.metric.partition("/")[0] for r in rows if "/uncertainty-" in r.metric)
    )
    scores = list(dict.fromkeys(_scores(record, "corruption")))
    if not names:
        return None
    tables = [
        Table(
            "all corruptions",
            tuple(Column(score) for score in scores),
            [
                Row(label, [cell(record.find("corruption", f"all/{m}/{s}")) for s in scores], hint)
                for m, label, hint in _ROWS
            ],
        ),
        Table(
            "mean uncertainty, rank correlation with the severity",
            tuple(Column(score) for score in scores),
            [
                Row(
                    name.capitalize(),
                    [cell(record.find("corruption", f"{name}/mean-spearman/{s}")) for s in scores],
                )
                for name in names
            ],
        ),
    ]
    drawings = []
    for kind, title, percent in (
        ("uncertainty", "Uncertainty by severity", False),
        ("accuracy", "Accuracy by severity", True),
    ):
        lines = {name: _line(record, name, kind) for name in names}
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
                    "Mean over the same images, of nearest neighbours among clean training images."
                    if percent
                    else f"Mean of {scores[0]} over the same images.",
                    wide=True,
                )
            )
    text = (
        "The same images under six corruptions of five severities. An uncertainty that one can "
        "act on rises as accuracy falls."
    )
    return Part("When images are corrupted", text, tables, drawings)


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
