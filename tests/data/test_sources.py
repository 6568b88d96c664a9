"""One string says where images come from: schemes, bare names, descriptions."""

import json

import numpy as np
import pytest

from cognates.data import names, samples, sources
from cognates.data.cache import load
from cognates.data.sources import describe, open_source
from cognates.errors import ConfigError, DataError, MissingExtraError


@pytest.fixture
def no_hub(monkeypatch):
    from cognates.data import hub

    def fail(*arguments, **options):
        raise DataError(
            "Expected the data set 'hub:x', got no answer (offline): check the network."
        )

    monkeypatch.setattr(hub, "open_hub", fail)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("foldr:photos", "Unknown kind of data source 'foldr'.*did you mean 'folder'"),
        ("folder:", "got nothing: give folder:WHERE"),
        ("cifra10", "Unknown data set 'cifra10': did you mean 'cifar10'"),
        ("dsprite", "did you mean 'dsprites'"),
        ("", "Unknown data set ''"),
        ("org/name", "write folder:org/name for a folder or hub:org/name"),
    ],
)
def test_unknown_sources_are_configuration_errors_that_offer_the_nearest(spec, message):
    with pytest.raises(ConfigError, match=message):
        open_source(spec)


def test_a_path_without_a_scheme_is_told_which_to_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(ConfigError, match="write folder:photos instead"):
        open_source("photos")
    with pytest.raises(ConfigError, match=r"write npz:a\.npz instead"):
        open_source("a.npz")


def test_bare_names_are_found_by_what_lies_in_their_folder(tmp_path, monkeypatch, picture):
    monkeypatch.setenv("COGNATES_DATA", str(tmp_path))
    for name in ("cifar10", "mine"):
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            images = np.zeros((10, 4, 4, 3), np.uint8)
            np.savez(tmp_path / name / f"{split}.npz", images=images, labels=np.arange(10))
    for split in ("train", "val"):
        for label in ("n01440764", "n02102040"):
            picture(tmp_path / "imagenette" / split / label / "a.jpg")
    idx = b"\0\0\x08\x03" + np.array([2, 4, 4], ">u4").tobytes() + bytes(32)
    (tmp_path / "fashion-mnist").mkdir()
    (tmp_path / "fashion-mnist" / "train-images-idx3-ubyte").write_bytes(idx)
    assert open_source("cifar10").target_names["label"][0] == "airplane"
    assert open_source("mine").target_names["label"][0] == "0"
    assert open_source("imagenette").kind == "files"
    assert "val is the test set" in open_source("imagenette").note
    assert open_source("fashion-mnist").native_size == 28 // 7
    assert [open_source(name).name for name in ("cifar10", "mine")] == ["cifar10", "mine"]


def test_a_known_name_that_is_nowhere_says_what_to_put_where(tmp_path, monkeypatch, no_hub):
    with pytest.raises(DataError) as error:
        open_source("fashion-mnist")
    message = str(error.value)
    assert "$COGNATES_DATA/fashion-mnist" in message
    assert "COGNATES_DATA is not set" in message
    assert "t10k-images-idx3-ubyte.gz" in message
    assert "offline" in message
    assert "\n" not in message
    monkeypatch.setenv("COGNATES_DATA", str(tmp_path))
    with pytest.raises(DataError) as error:
        open_source("celeba10k")
    assert str(tmp_path / "celeba10k") in str(error.value)
    assert "not set" not in str(error.value)
    assert "the hub does not have it" in str(error.value)


def test_a_known_name_without_the_hub_extra_says_what_to_put_where(monkeypatch):
    from cognates.data import hub

    def fail(*arguments, **options):
        raise MissingExtraError("Expected the package 'datasets', got none installed: run pip.")

    monkeypatch.setattr(hub, "open_hub", fail)
    with pytest.raises(DataError, match=r"got none installed.*put train\.npz and test\.npz"):
        open_source("cifar10")


def test_a_known_name_is_fetched_from_the_hub_with_its_native_size(monkeypatch):
    from cognates.data import hub

    asked = {}
    monkeypatch.setattr(hub, "open_hub", lambda place, **options: asked.update(options, at=place))
    open_source("cifar10")
    assert asked == {"at": "uoft-cs/cifar10", "name": "cifar10", "native": (32, 3)}


def test_the_embedded_sets_are_in_the_registry():
    assert set(names.EMBEDDED) == set(samples.NAMES)
    assert set(names.EMBEDDED) <= set(names.all_names())


def test_fashion_mnist_mini_opens_with_its_labels():
    contents = samples.open("fashion-mnist-mini")
    source = open_source("fashion-mnist-mini")
    assert (source.native_size, source.native_channels) == names.EMBEDDED["fashion-mnist-mini"]
    assert len(source.target_names["label"]) == 10
    for split, content in contents.items():
        images = load("fashion-mnist-mini", split, progress=False)
        np.testing.assert_array_equal(images.pixels[:, 0], content["images"])
        np.testing.assert_array_equal(images.targets["label"], content["labels"])


def test_dsprites_opens_without_unpacking_and_streams_its_pixels(monkeypatch):
    monkeypatch.setattr(samples, "open", None)
    source = open_source("dsprites")
    assert (source.native_size, source.native_channels) == names.EMBEDDED["dsprites"]
    assert len(source.whole()) == 737_280
    assert source.target_names["factors"] == samples.DSPRITES_FACTORS
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 589_824,
        "test": 147_456,
    }
    factors = source.targets["factors"]
    assert factors[-1].tolist() == [n - 1 for n in samples.DSPRITES_GRID]
    bits = np.random.default_rng(0).integers(0, 2, (1024, 64, 64), dtype=np.uint8)
    packed = np.packbits(bits.reshape(1024, -1), axis=1)
    monkeypatch.setattr(samples, "open", lambda name: {"all": {"images_packed": packed}})
    rows = np.array([0, 5, 1023])
    blocks = list(source.reader.batches(rows, 100))
    np.testing.assert_array_equal(np.concatenate(blocks), bits[rows] * 255)


def test_a_source_is_described_by_its_headers(tmp_path, picture):
    for i in range(6):
        picture(tmp_path / "photos" / "train" / "ab"[i % 2] / f"{i}.png", size=(10 + i, 20))
    for i in range(2):
        picture(tmp_path / "photos" / "test" / "ab"[i] / f"{i}.png", mode="L")
    (tmp_path / "photos" / "train" / "a" / "text.jpg").write_text("text")
    (tmp_path / "photos" / "train" / "loop").symlink_to("..")
    summary = describe(f"folder:{tmp_path / 'photos'}")
    assert summary["name"] == "photos"
    assert summary["images"] == 10
    assert summary["sizes"] == {"width": [10, 13.5, 24], "height": [20, 20, 20]}
    assert summary["modes"] == {"RGB": 6, "L": 2}
    assert summary["splits"] == {
        "train": {"images": 7, "labels": {"a": 4, "b": 3}},
        "test": {"images": 2, "labels": {"a": 1, "b": 1}},
    }
    assert summary["unreadable"] == [
        ["train/loop", "directory loop"],
        ["train/a/text.jpg", "not an image"],
    ]
    assert summary["note"] == open_source(f"folder:{tmp_path / 'photos'}").note
    assert json.loads(json.dumps(summary)) == summary


def test_arrays_and_folders_without_an_image_are_described_too(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((10, 5, 7, 3), np.uint8))
    summary = describe(f"npz:{tmp_path / 'a.npz'}")
    assert summary["sizes"] == {"width": [7, 7, 7], "height": [5, 5, 5]}
    assert summary["modes"] == {"RGB": 10}
    (tmp_path / "b.jpg").write_text("text")
    summary = describe(f"folder:{tmp_path}")
    assert summary["sizes"] == {"width": None, "height": None}
    assert len(summary["unreadable"]) == 1


def test_every_scheme_has_an_opener():
    assert sorted(sources.SCHEMES) == ["folder", "hub", "idx", "npz", "pairs"]


def test_names_of_the_package_do_not_hide_each_other():
    import cognates.data

    assert len(cognates.data.__all__) == 10
    for name in cognates.data.__all__:
        assert callable(getattr(cognates.data, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cognates.data.nothing  # noqa: B018
