"""The part of a page that is about one run: the finding, then what supports it, then the record."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from cognates.report import content, drawn, effects, figures, readings, scores, statements, trials
from cognates.report.blocks import (
    Cell,
    Column,
    Drawing,
    Gallery,
    Header,
    Part,
    Row,
    Section,
    Shown,
    Table,
    Tile,
    cell,
    difference,
    interval,
    number,
    percent,
)
from cognates.report.collect import Picture, RunRecord, flatten
from cognates.training.record import duration
from cognates.types import Result

_SMALL = 65
"""Images below this many pixels are enlarged without smoothing, so that each pixel can be seen."""
_FILES_LISTED = 40
"""Unreadable files named on the page; all of them are in unreadable.txt."""
SUBJECTS = (
    Column("trained", "trained"),
    Column("untrained encoder", "untrained"),
    Column("raw pixels", "pixels"),
)
_AGAINST = (Column("trained − untrained"), Column("trained − pixels"))


def section(record: RunRecord) -> Section:
    """Return everything that the page says about one run."""
    parts = [
        learnt(record),
        trust(record),
        trials.part(record),
        effects.part(record),
        pictures(record),
        drawn.part(record),
        without_labels(record),
        content.part(record),
        training(record),
    ]
    listed = record.unreadable[:_FILES_LISTED]
    more = len(record.unreadable) - len(listed)
    return Section(
        name=record.name,
        summary=", ".join(
            f"{label} {percent(value) if fraction else number(value)}"
            for label, (value, fraction) in list(readings.comparable(record).items())[:3]
        ),
        header=header(record),
        parts=[part for part in parts if part is not None],
        config=[(name, _plain(value)) for name, value in flatten(record.config).items()],
        data=[(name, _plain(value)) for name, value in flatten(record.data).items()],
        environment=[(name, _plain(value)) for name, value in flatten(record.environment).items()],
        data_note=statements.data_note(record),
        unreadable=listed,
        unreadable_note=f"The first {len(listed)}; {more} more are listed in unreadable.txt."
        if more
        else "Files that could not be read and were left out:",
        repeat=_repeat(record),
        everything=[everything(record)] if record.results else [],
    )


def _repeat(record: RunRecord) -> str:
    """Return the command that trains the same run again."""
    command = f"cognates train --config {shlex.quote(str(record.path / 'config.json'))}"
    if record.config.get("plugin"):
        command += f" --plugin {shlex.quote(str(record.path / 'plugin.py'))}"
    return f"{command} --out OUT"


def header(record: RunRecord) -> Header:
    """Return the finding in one sentence, and the figures behind it in large type."""
    config, environment = record.config, record.environment
    facts = [
        ("method", record.method),
        ("encoder", str(config["encoder"]["name"])),
        ("images", statements.training_images(record)),
        ("view", f"{config['data']['image_size']} px"),
        ("epochs", str(config["training"]["epochs"])),
        ("seed", str(record.seed)),
    ]
    if seconds := environment.get("seconds"):
        facts.append(("trained in", duration(float(seconds))))
    if device := environment.get("device"):
        facts.append(("on", str(device)))
    return Header(
        eyebrow=f"{record.name} · {config['data']['source']}",
        headline=statements.headline(record),
        sentences=statements.sentences(record),
        warnings=statements.warnings(record),
        tiles=tiles(record),
        facts=facts,
    )


def tiles(record: RunRecord) -> list[Tile]:
    """Return the few values a reader looks for first."""
    found = [
        Tile(
            row.label,
            percent(row.trained.value),
            "%",
            _beside(row),
        )
        for row in readings.accuracies(record)
    ][:3]
    own = readings.own_score(record)
    if own is not None:
        found.append(
            Tile("Uncertainty", number(own.result.value), "AUROC", "for finding errors; chance 0.5")
        )
    if found:
        return found
    for row in readings.label_free(record):
        shown = percent(row.trained.value) if row.fraction else number(row.trained.value)
        label = row.label.removesuffix(", %")
        found.append(Tile(label, shown, "%" if row.fraction else "", _beside(row) or row.hint))
    return found[:4]


def _beside(row: readings.Accuracy | readings.LabelFree) -> str:
    show = number if isinstance(row, readings.LabelFree) and not row.fraction else percent
    parts = [
        f"{name} {show(result.value)}"
        for name, result in (("untrained", row.untrained), ("pixels", row.pixels))
        if result is not None
    ]
    return " · ".join(parts)


def learnt(record: RunRecord) -> Part | None:
    """Return the accuracies beside their baselines."""
    rows = readings.accuracies(record)
    if not rows:
        return None
    table = Table(
        "accuracy on the test images, %",
        (*SUBJECTS, *_AGAINST),
        [
            Row(
                row.label,
                [
                    *(cell(r, fraction=True) for r in (row.trained, row.untrained, row.pixels)),
                    *(_paired(r) for r in (row.over_untrained, row.over_pixels)),
                ],
                row.hint,
            )
            for row in rows
        ],
    )
    subjects = [(row, (row.trained, row.untrained, row.pixels)) for row in rows]
    dots = [
        [
            figures.Interval(
                row.label, r.value, r.low, r.high, subject, strong=subject == "trained"
            )
            for subject, r in zip(figures.SUBJECTS, results, strict=True)
            if r is not None
        ]
        for row, results in subjects
    ]
    drawing = Drawing(
        "Trained, untrained, pixels",
        figures.dots(
            dots, title=f"{record.name}: accuracies with intervals", percent=True, wide=True
        ),
        "Blue: the trained encoder; orange: the same encoder before training; grey: raw pixels. "
        "Bars are 95\N{NO-BREAK SPACE}% intervals.",
        wide=True,
    )
    text = (
        "Each accuracy is measured on the frozen representation and stands beside the same "
        "protocol on the same encoder before training and on the raw pixels. A difference is "
        "paired: both answers are about the same images."
    )
    return Part("What it learnt", text, [table], [drawing])


def _paired(found: Result | None) -> Cell:
    if found is None:
        return Cell("–")
    return difference(found.value, found.low, found.high, fraction=True)


def trust(record: RunRecord) -> Part | None:
    """Return how well the uncertainty tells right from wrong, beside what costs nothing."""
    drawings: list[Drawing] = []
    tenths = readings.deciles(record)
    if tenths:
        own, overall = next(iter(tenths)), readings.overall_accuracy(record)
        shown = scores.few(tenths, own)
        drawings.append(
            Drawing(
                "Accuracy against uncertainty",
                figures.deciles(
                    {
                        name: [figures.Interval("", r.value, r.low, r.high) for r in tenths[name]]
                        for name in shown
                    },
                    title=f"{record.name}: accuracy in tenths by uncertainty",
                    overall=overall,
                ),
                f"The test images sorted by {own}, in ten equal groups. A useful uncertainty falls "
                f"from left to right.{scores.explained(shown)}{statements.dashed(overall)}",
                wide=True,
            )
        )
    drawings += trials.refused(record)
    for errors, found in readings.scores(record).items():
        rows = [
            [
                figures.Interval(
                    s.score + (" *" if s.marked else ""),
                    s.result.value,
                    s.result.low,
                    s.result.high,
                    "trained" if s.own else "pixels",
                    strong=s.own,
                )
            ]
            for s in found
        ]
        marked = " * uses labels or several passes." if any(s.marked for s in found) else ""
        drawings.append(
            Drawing(
                f"Finding the errors of {errors}",
                figures.dots(
                    rows, title=f"{record.name}: AUROC for errors of {errors}", reference=0.5
                ),
                "AUROC: the probability that a wrongly answered image is ranked as less certain "
                f"than a rightly answered one; the dashed line is chance.{marked}",
            )
        )
    if not drawings:
        return None
    return Part("When to trust it", statements.uncertainty(record), figures=drawings)


def pictures(record: RunRecord) -> Part | None:
    """Return the galleries of the least and the most certain images."""
    galleries = []
    for kind, title, caption in (
        (
            "least",
            "Least certain",
            "Look here first: odd, ambiguous, badly cut or mislabelled images.",
        ),
        ("most", "Most certain", "What the model finds easy; often near-duplicates of each other."),
    ):
        shown = [_shown(p) for p in record.pictures if p.kind == kind]
        if shown:
            galleries.append(Gallery(title, caption, shown))
    if not galleries:
        return None
    text = (
        "Under each image: its percentile of uncertainty among the training images. "
        "At 99, only one training image in a hundred is less certain."
    )
    return Part("What it is sure of, and what not", text, galleries=galleries)


def _shown(image: Picture) -> Shown:
    name = image.label or image.path.rsplit("/", 1)[-1]
    title = f"{image.path or 'image'}: uncertainty {image.uncertainty:.4g}"
    return Shown(
        figures.picture(image.pixels),
        image.pixels.shape[-1] < _SMALL,
        name,
        title,
        f"{image.percentile:.1f}",
    )


def without_labels(record: RunRecord) -> Part | None:
    """Return what can be measured without labels."""
    rows = readings.label_free(record)
    if not rows:
        return None
    table = Table(
        "needs no label",
        SUBJECTS,
        [
            Row(
                row.label,
                [cell(r, fraction=row.fraction) for r in (row.trained, row.untrained, row.pixels)],
                row.hint,
            )
            for row in rows
        ],
    )
    return Part("Without labels", statements.label_free(record), [table, *_beside_scores(record)])


def _beside_scores(record: RunRecord) -> list[Table]:
    """Return how the own uncertainty follows crop and blur, beside the scores of any method."""
    found = readings.sensitivities(record)
    if not found:
        return []
    names = list(dict.fromkeys(name for change in found for name in change.scores))
    rows = []
    for change in found:
        rows.append(Row(change.label, [cell(change.scores.get(n)) for n in names], change.hint))
        gaps = [change.differences.get(n) for n in names]
        cells = [Cell("") if r is None else difference(r.value, r.low, r.high) for r in gaps]
        images = ", ".join(f"{name} {r.n:,}" for name, r in change.differences.items())
        rows.append(Row(f"{names[0]} − each", cells, f"paired; images: {images}"))
    return [Table("which uncertainty follows it", [Column(name) for name in names], rows)]


def training(record: RunRecord) -> Part | None:
    """Return the curves of the training."""
    if not record.metrics:
        return None
    epochs = [float(m["epoch"]) for m in record.metrics]

    def over(name: str) -> tuple[Sequence[float], Sequence[float]]:
        return epochs, [float(m[name]) for m in record.metrics]

    terms = {
        name: (epochs, [float(m["terms"].get(name, float("nan"))) for m in record.metrics])
        for name in record.metrics[-1].get("terms", {})
    }
    loss = {"loss": over("loss")} if len(terms) < 2 else {"loss": over("loss"), **terms}
    wanted = (
        ("Loss", loss, None, statements.loss_caption(record, list(terms))),
        ("Spread", {"spread": over("spread")}, 0.1, statements.SPREAD),
        ("Effective rank", {"rank": over("effective_rank")}, 2.0, statements.RANK),
        ("Learning rate", {"rate": over("learning_rate")}, None, statements.speed(record)),
    )
    drawings = [
        Drawing(
            title,
            figures.curves(series, title=f"{record.name}: {title}", reference=reference),
            caption,
        )
        for title, series, reference, caption in wanted
    ]
    return Part("How training went", figures=drawings)


def everything(record: RunRecord) -> Table:
    """Return every result as it is in the file."""
    return Table(
        "protocol, metric",
        (Column("of"), Column("value"), Column("95\N{NO-BREAK SPACE}% interval"), Column("images")),
        [
            Row(
                f"{r.protocol}, {r.metric}",
                [
                    Cell(r.subject),
                    Cell("failed" if r.error else f"{r.value:.6g}"),
                    Cell(interval(r.low, r.high, lambda x: f"{x:.5g}")),
                    Cell(f"{r.n:,}"),
                ],
                r.error
                or ", ".join(f"{k} {_plain(v)}" for k, v in {**r.settings, **r.selected}.items()),
            )
            for r in record.results
        ],
    )


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
