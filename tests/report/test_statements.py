"""What the report's sentences are made of."""

import json

import pytest

from cognates.methods.registry import _BUILTIN
from cognates.report.collect import read
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
