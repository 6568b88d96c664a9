"""Curves of what is refused and of what is corrupted, from records with known values."""

import json
from dataclasses import asdict

import pytest

from cognates import report
from cognates.report import collect, run, trials
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
                    low=None, high=None, n=900, settings={"score": score},
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
    assert [column.label for column in first.columns] == ["concentration", "norm"]
    assert [cell.value for cell in first.rows[0].cells] == ["0.750", "0.250"]
    assert [row.label for row in second.rows] == ["Noise", "Jpeg"]
    assert [drawing.title for drawing in part.figures] == [
        "Uncertainty by severity",
        "Accuracy by severity",
    ]
    text = report.write([folder]).read_text(encoding="utf8")
    assert "When images are corrupted" in text
    assert "Risk against coverage" in text


def test_without_these_protocols_nothing_is_said(fake_run, tmp_path):
    found = collect.read(fake_run.write(tmp_path / "photos"))
    assert trials.refused(found) == []
    assert trials.part(found) is None
