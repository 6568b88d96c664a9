"""Curves of what is refused and of what is corrupted, from records with known values."""

import json
import re
from dataclasses import asdict, replace
from itertools import pairwise

import pytest

from cognates import report
from cognates.report import collect, figures, run, trials
from cognates.types import Result


def records():
    for score, start in (("concentration", 0.05), ("norm", 0.15), ("random", 0.2)):
        for coverage in (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100):
            yield Result(
                protocol="risk", metric=f"linear/risk-at-{coverage}/{score}",
                value=start + (0.2 - start) * coverage / 100, low=0.0, high=0.3, n=900,
                settings={"score": score}, flags=("default",) if score == "concentration" else (),
            )  # fmt: skip
    for name in ("noise", "jpeg"):
        for level in range(6):
            for kind, value in (("uncertainty", 0.1 * level), ("accuracy", 0.9 - 0.1 * level)):
                yield Result(
                    protocol="corruption", metric=f"{name}/{kind}-{level}", value=value,
                    low=None, high=None, n=900, settings={"score": "concentration"},
                )  # fmt: skip
    for name in ("noise", "jpeg", "all"):
        for measure in ("mean-spearman", "per-image", "overall"):
            for score, value in (("concentration", 0.75), ("norm", 0.25)):
                yield Result(
                    protocol="corruption", metric=f"{name}/{measure}/{score}", value=value,
                    low=None, high=None, n=200 if score == "norm" else 900,
                    settings={"score": score},
                )  # fmt: skip


@pytest.fixture
def folder(fake_run, tmp_path):
    made = fake_run.write(tmp_path / "photos")
    path = made / "results.json"
    rows = json.loads(path.read_text()) + [asdict(r) for r in records()]
    path.write_text(json.dumps(rows))
    return made


def test_the_risk_coverage_curve_has_every_score_but_the_sanity_row(folder):
    found = collect.read(folder)
    (drawing,) = trials.refused(found)
    assert "concentration" in drawing.drawing
    assert "norm" in drawing.drawing
    assert "random" not in drawing.drawing
    titles = [shown.title for shown in run.trust(found).figures]
    assert titles[:2] == ["Accuracy against uncertainty", "Risk against coverage"]


def test_corruptions_have_a_table_of_scores_and_two_figures(folder):
    part = trials.part(collect.read(folder))
    first, second = part.tables
    assert [row.label for row in first.rows] == [row.label for row in second.rows]
    assert [row.label for row in first.rows] == ["concentration", "norm"]
    assert [[cell.value for cell in row.cells] for row in first.rows] == [
        ["0.750"] * 3, ["0.250"] * 3
    ]  # fmt: skip
    assert first.rows[1].hint == "minus the length of the representation; 200 images"
    assert [column.label for column in second.columns] == ["Noise", "JPEG"]
    assert [drawing.title for drawing in part.figures] == [
        "Uncertainty by severity",
        "Accuracy by severity",
    ]
    text = report.write([folder]).read_text(encoding="utf8")
    assert "When images are corrupted" in text
    assert "Risk against coverage" in text


def test_the_curve_has_the_own_score_and_those_that_any_method_has(monkeypatch, fake_run, tmp_path):
    made = fake_run.write(tmp_path / "photos")
    rows = [
        replace(r, metric=r.metric.replace("norm", name), settings={"score": name})
        for name in ("relative", "max-softmax")
        for r in records()
        if r.protocol == "risk" and r.settings["score"] == "norm"
    ]
    rows += [r for r in records() if r.protocol == "risk"]
    (made / "results.json").write_text(json.dumps([asdict(r) for r in rows]))
    seen = []
    monkeypatch.setattr(trials.figures, "curves", lambda series, **kind: seen.extend(series))
    (drawing,) = trials.refused(collect.read(made))
    assert seen == ["concentration", "norm", "max-softmax"]
    assert "uses labels" in drawing.caption


def test_names_of_lines_that_end_together_stand_apart_within_the_drawing():
    x = [10.0, 50.0, 100.0]
    series = {f"line{i}": (x, [0.1 * i, 0.5 + 0.01 * i, 0.9]) for i in range(6)}
    options = {"title": "t", "over": "percent", "wide": True, "named": True}
    text = str(figures.curves(series, **options))
    height = float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', text).group(1))
    at = re.findall(r' y="([\d.]+)"[^>]*>(line\d)</text>', text)
    found = {name: float(y) for y, name in at}
    assert [name for name, _ in sorted(found.items(), key=lambda item: item[1])] == [
        "line5", "line4", "line3", "line2", "line1", "line0"
    ]  # fmt: skip
    places = sorted(found.values())
    assert places[0] > 0
    assert places[-1] < height
    assert min(b - a for a, b in pairwise(places)) > 8.5  # the height of a line of text
    assert "120" not in re.findall(r">(\d+)</text>", text)


def test_without_these_protocols_nothing_is_said(fake_run, tmp_path):
    found = collect.read(fake_run.write(tmp_path / "photos"))
    assert trials.refused(found) == []
    assert trials.part(found) is None
