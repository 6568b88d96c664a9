"""Data sets of the Hugging Face hub, tried with one that is saved to disk."""

import io
import sys

import numpy as np
import pytest

from cognates.data.cache import load
from cognates.data.hub import open_hub
from cognates.data.sources import describe, open_source
from cognates.errors import DataError, MissingExtraError, UnreadableWarning

datasets = pytest.importorskip("datasets")
from PIL import Image  # noqa: E402

# Pictures of 16 x 16 whose red channel is the row, so that order and labels can be checked.
COUNT = 30


def pictures(count=COUNT):
    return [Image.new("RGB", (16, 16), (i, 0, 255)) for i in range(count)]


def table(count=COUNT, **columns):
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog", "emu"])
    )
    data = {"image": pictures(count), "label": [i % 3 for i in range(count)]}
    return datasets.Dataset.from_dict(data, features=features)


def save(data, path):
    data.save_to_disk(str(path))
    return str(path)


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def red(images):
    return images.pixels[:, 0, 0, 0]


def test_a_saved_set_without_splits_is_divided_and_decodes_in_order(tmp_path):
    where = save(table(), tmp_path / "animals")
    source = open_source(f"hub:{where}")
    assert source.name == "animals"
    assert source.target_names["label"] == ("cat", "dog", "emu")
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 24, "test": 6}
    assert "stratified" in source.note
    seen = []
    for split in ("train", "test"):
        images = load(f"hub:{where}", split, image_size=14, progress=False)
        assert images.pixels.shape[1:] == (3, 16, 16)
        np.testing.assert_array_equal(images.targets["label"], red(images) % 3)
        seen += red(images).tolist()
    assert sorted(seen) == list(range(COUNT))


@pytest.mark.parametrize(("test_name", "expected"), [("validation", "test"), ("test", "test")])
def test_the_splits_of_a_saved_set_are_kept(tmp_path, test_name, expected):
    parts = datasets.DatasetDict({"train": table(20), test_name: table(7)})
    where = save(parts, tmp_path / "animals")
    images = load(f"hub:{where}", expected, image_size=14, progress=False)
    np.testing.assert_array_equal(red(images), np.arange(7))
    assert len(load(f"hub:{where}", "train", image_size=14, progress=False)) == 20
    assert ("val is the test set" in open_hub(where).note) == (test_name == "validation")


def test_worker_processes_decode_bytes_to_the_same_pixels(tmp_path, monkeypatch):
    where = save(table(), tmp_path / "animals")
    here = load(f"hub:{where}", "all", image_size=14, workers=0, progress=False)
    monkeypatch.setenv("COGNATES_CACHE", str(tmp_path / "other"))
    there = load(f"hub:{where}", "all", image_size=14, workers=2, progress=False)
    np.testing.assert_array_equal(here.pixels, there.pixels)


def test_the_cache_is_found_again(tmp_path, monkeypatch):
    from cognates.data import cache

    where = save(table(), tmp_path / "animals")
    first = load(f"hub:{where}", "train", image_size=14, progress=False)

    def fail(*arguments, **options):
        raise AssertionError("built twice")

    monkeypatch.setattr(cache, "build", fail)
    second = load(f"hub:{where}", "train", image_size=14, progress=False)
    assert first.digest == second.digest


def test_labels_of_other_types_and_hidden_labels(tmp_path):
    for name, values, names in (
        ("integers", [5, 3] * 5, ("3", "5")),
        ("strings", ["b", "a"] * 5, ("a", "b")),
    ):
        data = datasets.Dataset.from_dict({"image": pictures(10), "label": values})
        data = data.cast_column("image", datasets.Image())
        source = open_hub(save(data, tmp_path / name))
        assert source.target_names["label"] == names
        assert source.targets["label"].tolist() == [1, 0] * 5
    hidden = datasets.Dataset.from_dict({"image": pictures(10), "label": [-1] * 10})
    source = open_hub(save(hidden.cast_column("image", datasets.Image()), tmp_path / "hidden"))
    assert source.targets == {}
    assert "hidden" in source.note


def test_damaged_and_absent_pictures_are_left_out_and_labels_stay_aligned(tmp_path):
    def encoded(i):
        stream = io.BytesIO()
        Image.new("RGB", (16, 16), (i, 0, 0)).save(stream, "PNG")
        return stream.getvalue()

    cells = [{"bytes": encoded(i), "path": None} for i in range(20)]
    cells[3]["bytes"] = b"text"
    cells[8] = None
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    data = datasets.Dataset.from_dict({"image": cells, "label": list(range(20))}, features=features)
    where = save(data, tmp_path / "damaged")
    with pytest.warns(UnreadableWarning, match="Left out 2 of 20"):
        images = load(f"hub:{where}", "all", image_size=14, progress=False)
    assert len(images) == 18
    np.testing.assert_array_equal(red(images), images.targets["label"])
    assert images.unreadable == (("image[3]", "not an image"), ("image[8]", "empty file"))
    assert describe(f"hub:{where}")["modes"] == {"RGB": 18}


def test_a_set_without_pictures_names_its_columns(tmp_path):
    data = datasets.Dataset.from_dict({"text": ["a"], "n": [1]})
    with pytest.raises(DataError, match=r"got text \(Value\), n \(Value\)"):
        open_hub(save(data, tmp_path / "texts"))


def test_a_folder_that_save_to_disk_did_not_write_is_an_error(tmp_path):
    with pytest.raises(DataError, match="folder written by save_to_disk"):
        open_hub(str(tmp_path))


def test_offline_is_one_clear_sentence(monkeypatch):
    def fail(*arguments, **options):
        raise ConnectionError("Couldn't reach 'org/name' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError) as error:
        open_source("hub:org/name")
    message = str(error.value)
    assert "hub:org/name" in message
    assert "Couldn't reach" in message
    assert "check the name and the network" in message
    assert "\n" not in message


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"cognates\[hub\]"):
        open_source("hub:org/name")
