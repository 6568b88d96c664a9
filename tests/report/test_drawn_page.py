"""What a generative run draws, on its page."""

import dataclasses
import json
import re

import numpy as np
import pytest

from cognates import report
from cognates.errors import StorageError
from cognates.report import collect, drawn, readings
from cognates.types import Result


def write(folder, *, shared=True, samples=16):
    draw = np.random.default_rng(0).integers
    shapes = {
        "images": (4,), "reconstructions": (4,), "views": (4, 8), "samples": (samples,),
        "mixtures": (3, 8),
    }  # fmt: skip
    arrays = {
        name: draw(0, 256, (*shape, 1, 6, 6), dtype=np.uint8) for name, shape in shapes.items()
    }
    np.savez(folder / "drawings.npz", shared=np.array(shared), **arrays)


@pytest.fixture
def folder(fake_run, tmp_path):
    """Return a run that draws, with figures of every kind."""
    path = fake_run.write(tmp_path / "simve")
    write(path)
    records = json.loads((path / "results.json").read_text())
    for protocol, metric, flags in (
        ("reconstruction", "mean/mse", ()),
        ("elbo", "image/negative-elbo", ("no-likelihood",)),
        ("elbo", "image/importance-weighted-8", ()),
        ("elbo", "image/importance-weighted-32", ()),
        ("elbo", "image/importance-weighted-32/bits", ()),
        ("generation", "fid-random-convnet-2000", ()),
        ("generation", "fid-random-convnet-2000-of-train-images", ()),
        ("generated-views", "image/agreement-minus-unrelated", ()),
        ("generated-views", "prior/agreement", ()),
        ("generated-views", "prior/agreement-minus-unrelated", ()),
        ("generated-views", "prior/agreement/pixels", ()),
        ("generated-views", "prior/agreement-minus-unrelated/pixels", ()),
    ):
        result = Result(
            protocol=protocol, metric=metric, value=0.5, low=0.4, high=0.6, n=100,
            settings={"samples": 32, "encoder": "random-convnet"}, flags=flags,
        )  # fmt: skip
        records.append(dataclasses.asdict(result))
    (path / "results.json").write_text(json.dumps(records))
    return path


def test_each_grid_stands_on_the_page_with_a_sentence_that_says_what_it_is(folder):
    text = report.write([folder]).read_text(encoding="utf8")
    assert "What it draws" in text
    assert text.count('class="grid-of-pictures"') == 4
    found = drawn.grids(collect.read(folder))
    titles = ["Reconstructions", "Views of one image", "Samples", "Between two images"]
    assert [drawing.title for drawing in found] == titles
    for drawing in found:
        assert drawing.caption in text.replace("&#39;", "'")
        assert re.search(r'src="data:image/png;base64,[\w+/=]+"', drawing.drawing)
    # nine pictures of six pixels and their gaps, twice as large
    assert f'width="{2 * (9 * 8 + 2)}"' in found[1].drawing
    assert "one psi" in found[1].caption


def test_figures_carry_their_reservations(folder):
    rows = {row.label: row for row in readings.generative(collect.read(folder))}
    assert list(rows) == [
        "Reconstruction, MSE", "Negative ELBO", "Importance-weighted bound",
        "Frechet distance of samples", "Frechet distance of training images", "The difference",
        "Views of one psi of the prior share their class", "The same, less different psi",
        "The same, judged by pixels", "The same by pixels, less different psi",
    ]  # fmt: skip
    bounds = [
        (row.result.metric, row.hint)
        for row in readings.generative(collect.read(folder))
        if row.label == "Importance-weighted bound"
    ]
    assert bounds == [
        ("image/importance-weighted-32", "nats per image, 32 samples"),
        ("image/importance-weighted-32/bits", "bits per dimension, 32 samples"),
    ]
    assert rows["Negative ELBO"].hint.startswith("nats per image, 32 samples; no likelihood")
    assert "comparable with no other" in rows["Frechet distance of samples"].hint


def test_views_without_a_common_latent_and_a_flat_prior_are_said_to_be_so(folder):
    write(folder, shared=False, samples=0)
    found = drawn.grids(collect.read(folder))
    assert [d.title for d in found] == [
        "Reconstructions", "Views of one image", "Between two images",
    ]  # fmt: skip
    assert "share no latent" in found[1].caption


def test_a_run_that_draws_nothing_has_no_such_part_and_damaged_drawings_are_named(
    fake_run, folder, tmp_path
):
    assert drawn.part(collect.read(fake_run.write(tmp_path / "other"))) is None
    path = folder / "drawings.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StorageError, match=r"Expected drawings in"):
        collect.read(folder)
