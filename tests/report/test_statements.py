"""What the report's sentences are made of."""

import json

import pytest

from cognates.methods.registry import _BUILTIN
from cognates.report import statements
from cognates.report.collect import read
from cognates.report.readings import label_free
from cognates.report.statements import display_name, headline

FOUND = (
    "From 10,000 images with captions, CLIP learnt to find one of an image's captions among the "
    "ten nearest 27.2 % of the time (chance 1.0 %)."
)


@pytest.mark.parametrize("others", [False, True])
def test_the_first_sentence_about_captions_is_of_captions_and_states_chance(
    others, fake_run, tmp_path
):
    folder = fake_run.write(tmp_path / "run", labels=False, method__name="clip")
    before = json.loads((folder / "results.json").read_text())
    own = {
        **before[0],
        "protocol": "caption-retrieval",
        "metric": "image-to-text-r-at-10",
        "value": 0.272,
        "settings": {"chance": 0.01},
        "subject": "trained",
        "error": None,
    }
    (folder / "results.json").write_text(json.dumps([own, *(before if others else [])]))
    said = headline(read(folder)).replace("\N{NO-BREAK SPACE}", " ")
    assert said == FOUND


def test_without_retrieval_nothing_is_said_of_views(fake_run, tmp_path):
    folder = fake_run.write(tmp_path / "run", labels=False)
    assert "another view" in headline(read(folder))
    kept = [
        r
        for r in json.loads((folder / "results.json").read_text())
        if r["protocol"] != "view-retrieval"
    ]
    (folder / "results.json").write_text(json.dumps(kept))
    assert "evaluate the run" in headline(read(folder))


def test_every_method_of_the_library_has_a_name_for_text():
    assert len(_BUILTIN) == 16
    written = [display_name(name) for name in _BUILTIN]
    assert [name.lower() for name in written] == list(_BUILTIN)
    assert all(name != name.lower() for name in written)


KINDS = (
    "From 10,000 unlabelled images, CLIP learnt to find an image of one kind among the ten nearest "
    "of the other kind 41.0 % of the time (chance 2.0 %, raw pixels 97.0 %)."
)


def test_the_report_about_two_kinds_of_image_says_what_each_finds_and_states_chance(
    fake_run, tmp_path
):
    folder = fake_run.write(tmp_path / "run", labels=False, method__name="clip")
    before = json.loads((folder / "results.json").read_text())
    base = {**before[0], "protocol": "kind-retrieval", "subject": "trained", "error": None}
    base["settings"] = {"chance": 0.02}
    rows = [
        {**base, "metric": "first-to-second-r-at-10", "value": 0.41},
        {**base, "metric": "first-to-second-r-at-10", "value": 0.97, "subject": "pixels"},
        {**base, "metric": "second-to-first-r-at-10", "value": 0.43},
        {**base, "metric": "first-to-second-median-rank", "value": 14.0, "settings": {}},
        {**base, "metric": "second-to-first-median-rank", "value": 13.0, "settings": {}},
    ]
    (folder / "results.json").write_text(json.dumps([*rows, *before]))
    record = read(folder)
    assert headline(record).replace("\N{NO-BREAK SPACE}", " ") == KINDS
    assert statements.label_free(record).endswith("among all test images of the other kind.")
    shown = [row for row in label_free(record) if "kind" in row.label]
    assert [(row.label, row.trained.value, row.fraction) for row in shown] == [
        ("First kind to second, R@10, %", 0.41, True),
        ("Second kind to first, R@10, %", 0.43, True),
        ("First kind to second, median rank", 14.0, False),
        ("Second kind to first, median rank", 13.0, False),
    ]
    assert [("chance 2.0 %" in row.hint) for row in shown] == [True, True, False, False]
