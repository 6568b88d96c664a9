"""Drawings of what each augmentation does to the uncertainty, from records with known values."""

import json
from dataclasses import asdict

import pytest

from cognates import report
from cognates.report import collect, effects, figures
from cognates.types import Result

CROP = {"neutral": 1.0, "unit": "share of the <area>"}
FLIP = {"strength": 1.0, "neutral": 0.0, "unit": "no or yes"}
PROTOCOL = "augmentation-uncertainty"


def record(metric, value, settings, flags=()):
    return Result(
        protocol=PROTOCOL, metric=metric, value=value, low=value - 0.01, high=value + 0.01, n=700,
        settings=settings, flags=flags,
    )  # fmt: skip


def records(*, kappa):
    own = {"score": "concentration"}
    yield record("unchanged/uncertainty", 0.2, own)
    changed = [("crop", 1, {**CROP, "strength": 0.4}), ("crop", 2, {**CROP, "strength": 0.08})]
    for name, level, settings in [*changed, ("flip", 1, FLIP)]:
        yield record(f"{name}/uncertainty-{level}", 0.2 + 0.1 * level, {**settings, **own})
        yield record(f"{name}/rise-{level}", 0.1 * level, {**settings, **own})
        if kappa:
            yield record(f"{name}/kappa-{level}", 4.0 - level, {**settings, **own})
        for score, share, flags in (
            *[("concentration", 0.7, ("default",)), ("norm", 0.4, ())],
            ("view-disagreement", 0.6, ("eight-passes",)),
        ):
            metric = f"{name}/less-certain-{level}"
            yield record(f"{metric}/{score}", share, {**settings, "score": score}, flags)
        gap = {**settings, **own}
        yield record(f"{metric}/default-minus-norm", 0.3, gap)
    if kappa:
        yield record("unchanged/kappa", 4.0, own)


@pytest.fixture
def written(fake_run, tmp_path):
    def write(**kind):
        made = fake_run.write(tmp_path / "photos")
        path = made / "results.json"
        rows = json.loads(path.read_text()) + [asdict(r) for r in records(**kind)]
        path.write_text(json.dumps(rows))
        return made

    return write


def test_every_augmentation_is_drawn_with_the_image_as_it_is(written, monkeypatch):
    seen = {}

    def panels(shown, *, title, **options):
        seen[title.partition(": ")[2]] = (shown, options)
        return ""

    monkeypatch.setattr(figures, "panels", panels)
    part = effects.part(collect.read(written(kappa=True)))
    titles = ["Change of the uncertainty", "Concentration κ", "Images that become less certain"]
    assert [drawing.title for drawing in part.figures] == [*seen] == titles
    (crop, flip), options = seen["Change of the uncertainty"]
    assert (crop.title, crop.ticks, crop.hollow) == ("Crop", ["1", "0.4", "0.08"], 0)
    assert [r.value for r in crop.values] == pytest.approx([0, 0.1, 0.2])
    assert (flip.ticks, flip.hollow, flip.over) == (["no", "yes"], 0, "")
    assert options["reference"] == 0
    (crop, _), options = seen["Concentration κ"]
    assert [r.value for r in crop.values] == [4, 3, 2]
    assert options["reference"] == 4
    (crop, flip), options = seen["Images that become less certain"]
    assert [r.value for r in crop.values[1:]] == [0.7, 0.7]
    assert crop.values[0].value != crop.values[0].value  # the image as it is has no share
    assert (flip.ticks, flip.hollow) == (["yes"], None)
    assert options["reference"] == 0.5


def test_the_table_has_the_strongest_changes_of_every_score(written):
    part = effects.part(collect.read(written(kappa=True)))
    (table,) = part.tables
    assert [column.label for column in table.columns] == [
        "concentration", "norm", "view-disagreement *"
    ]  # fmt: skip
    assert [row.label for row in table.rows] == ["Crop 0.08", "Flip"]
    assert [cell.value for cell in table.rows[0].cells] == ["70.0", "40.0", "60.0"]
    assert "* uses labels or several passes" in part.text


def test_the_page_shows_it_escaped(written):
    folder = written(kappa=False)
    text = report.write([folder]).read_text(encoding="utf8")
    assert "What each augmentation does to the uncertainty" in text
    assert "Concentration κ" not in text
    assert "share of the &lt;area&gt;" in text
    assert "<area>" not in text


def test_without_the_protocol_nothing_is_said(fake_run, tmp_path):
    assert effects.part(collect.read(fake_run.write(tmp_path / "photos"))) is None


def test_panels_have_one_scale_and_leave_out_what_is_not_a_number():
    row = [figures.Interval("", value, None, None) for value in (1.0, float("nan"), 3.0)]
    shown = [figures.Panel(f"A{i} & B", ["x", "y", "z"], row, 0, "over") for i in range(4)]
    text = str(figures.panels(shown, title="four <drawings>", reference=2.0))
    assert text.count("over</text>") == 4
    assert "A3 &amp; B" in text
    assert 'aria-label="four &lt;drawings&gt;"' in text
    assert "nan" not in text.lower()
    assert "#0000" not in text
