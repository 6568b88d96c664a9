"""The embedded data sets are what they claim to be, whole, licensed and reproducible."""

import gzip
import hashlib
import importlib.util
import lzma
from pathlib import Path

import numpy as np
import pytest

from cognates.data import samples
from cognates.errors import DataError

ROOT = Path(__file__).parents[2]
ORIGINALS = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist


@pytest.fixture(scope="module")
def make_samples():
    spec = importlib.util.spec_from_file_location("make_samples", ROOT / "tools/make_samples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def dsprites():
    return samples.open("dsprites")["all"]


def pixels(dsprites, rows):
    return np.unpackbits(dsprites["images_packed"][rows], axis=1).reshape(-1, 64, 64)


def test_there_are_two_embedded_data_sets_of_the_stated_size_on_disk():
    sizes = {name: samples.path(name).stat().st_size for name in samples.NAMES}
    assert set(sizes) == {"fashion-mnist-mini", "dsprites"}
    assert sizes["fashion-mnist-mini"] <= 5_000_000
    assert sizes["dsprites"] <= 2_100_000


@pytest.mark.parametrize(("split", "n"), [("train", 10_000), ("test", 2_000)])
def test_fashion_mnist_mini_has_one_tenth_of_every_split_in_each_class(split, n):
    content = samples.open("fashion-mnist-mini")[split]
    assert content["images"].shape == (n, 28, 28)
    assert content["images"].dtype == np.uint8
    assert content["labels"].dtype == np.int64
    assert np.bincount(content["labels"]).tolist() == [n // 10] * 10
    assert len(content["label_names"]) == 10


def test_fashion_mnist_mini_keeps_a_shuffled_order_and_no_image_twice():
    splits = samples.open("fashion-mnist-mini")
    assert set(splits) == {"train", "test"}
    images = np.concatenate([splits[name]["images"] for name in ("train", "test")])
    # Fashion-MNIST itself has no exact duplicates among these, within or between splits.
    assert len({image.tobytes() for image in images}) == 12_000
    # A sorted file has 9 changes of class; a shuffled one changes at 9 in 10 neighbours.
    assert np.count_nonzero(np.diff(splits["train"]["labels"])) > 8_500


def test_fashion_mnist_mini_stands_upright():
    content = samples.open("fashion-mnist-mini")["train"]
    trousers = content["images"][content["labels"] == 1].mean(0)
    # A pair of trousers reaches from top to bottom and leaves the sides black.
    assert trousers[:3].mean() > 10 * trousers[:, :3].mean()
    assert trousers[-3:].mean() > 10 * trousers[:, -3:].mean()


def test_dsprites_is_the_whole_grid_of_factors(dsprites):
    factors = dsprites["factors"]
    assert dsprites["images_packed"].shape == (737_280, 512)
    assert factors.shape == (737_280, 5)
    assert factors.dtype == np.uint8
    assert dsprites["names"] == ("shape", "scale", "orientation", "pos_x", "pos_y")
    assert np.array_equal(
        np.ravel_multi_index(factors.T.astype(int), samples.DSPRITES_GRID), np.arange(737_280)
    )


def test_dsprites_images_show_what_their_factors_say(dsprites):
    factors = dsprites["factors"].astype(int)
    rows = np.random.default_rng(0).choice(len(factors), 2_000, replace=False)
    images, chosen = pixels(dsprites, rows).astype(float), factors[rows]
    area = images.sum((1, 2))
    assert area.min() > 0
    grid = np.arange(64)
    centre_x = (images.sum(1) * grid).sum(1) / area
    centre_y = (images.sum(2) * grid).sum(1) / area
    assert np.corrcoef(centre_x, chosen[:, 3])[0, 1] > 0.99
    assert np.corrcoef(centre_y, chosen[:, 4])[0, 1] > 0.99
    square = chosen[:, 0] == 0
    assert np.corrcoef(area[square], (0.5 + 0.1 * chosen[square, 1]) ** 2)[0, 1] > 0.98


def test_every_data_set_carries_its_licence():
    texts = {name: samples.licence(name) for name in samples.NAMES}
    assert len(texts) == 2
    assert "Copyright (c) 2017 Zalando SE" in texts["fashion-mnist-mini"]
    assert "Permission is hereby granted, free of charge" in texts["fashion-mnist-mini"]
    assert "DeepMind" in texts["dsprites"]
    assert "Apache License" in texts["dsprites"]


def test_a_damaged_file_is_an_error_that_names_it(tmp_path, monkeypatch):
    damaged = bytearray(samples.path("fashion-mnist-mini").read_bytes())
    damaged[1_000_000] ^= 1
    copy = tmp_path / "fashion-mnist-mini.xz"
    copy.write_bytes(damaged)
    monkeypatch.setattr(samples, "path", lambda name: copy)
    with pytest.raises(DataError, match=r"fashion-mnist-mini\.xz.*SHA-256.*reinstall"):
        samples.open("fashion-mnist-mini")


def test_a_missing_file_is_an_error_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "path", lambda name: tmp_path / f"{name}.xz")
    with pytest.raises(DataError, match=r"dsprites\.xz.*no such file"):
        samples.open("dsprites")


def test_an_unknown_name_is_an_error_that_offers_the_nearest():
    with pytest.raises(DataError, match="did you mean 'dsprites'"):
        samples.open("dsprite")


needs_originals = pytest.mark.skipif(
    not ORIGINALS.is_dir(), reason="the original IDX files are not installed"
)


@needs_originals
def test_the_script_makes_the_content_of_fashion_mnist_mini(make_samples):
    content = lzma.decompress(samples.path("fashion-mnist-mini").read_bytes())
    assert make_samples.fashion_mnist_mini(ORIGINALS) == content


@pytest.mark.slow
@needs_originals
def test_the_script_makes_the_file_of_fashion_mnist_mini_byte_for_byte(make_samples):
    packed = make_samples.compress("fashion-mnist-mini", make_samples.fashion_mnist_mini(ORIGINALS))
    assert packed == samples.path("fashion-mnist-mini").read_bytes()


def test_the_script_reads_idx_files(make_samples, tmp_path):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    header = bytes([0, 0, 8, 3]) + np.array(values.shape, ">u4").tobytes()
    (tmp_path / "x.gz").write_bytes(gzip.compress(header + values.tobytes()))
    assert np.array_equal(make_samples.read_idx(tmp_path / "x.gz"), values)


def test_the_choice_of_images_is_stratified_ordered_and_depends_on_the_seed(make_samples):
    labels = np.repeat(np.arange(10), 50)[np.random.default_rng(0).permutation(500)]
    rows = make_samples.chosen(labels, 5, 0)
    assert np.bincount(labels[rows]).tolist() == [5] * 10
    assert np.all(np.diff(rows) > 0)
    assert np.array_equal(rows, make_samples.chosen(labels, 5, 0))
    assert not np.array_equal(rows, make_samples.chosen(labels, 5, 1))


def test_the_script_takes_dsprites_from_the_original_archive_or_packed(
    make_samples, monkeypatch, tmp_path
):
    grid = (3, 2, 2, 2, 2)
    monkeypatch.setattr(samples, "DSPRITES_GRID", grid)
    images = np.random.default_rng(0).integers(0, 2, (48, 64, 64), dtype=np.uint8)
    factors = np.stack(np.unravel_index(np.arange(48), grid), axis=1)
    # The archive's first latent is the colour, which has one value.
    classes = np.concatenate([np.zeros((48, 1), int), factors], axis=1)
    np.savez(tmp_path / "dsprites.npz", imgs=images, latents_classes=classes)
    packed = make_samples.dsprites(tmp_path / "dsprites.npz")
    assert np.array_equal(
        np.unpackbits(np.frombuffer(packed, np.uint8)).reshape(48, 64, 64), images
    )
    (tmp_path / "packed.xz").write_bytes(lzma.compress(packed))
    assert make_samples.dsprites(tmp_path / "packed.xz") == packed
    np.savez(tmp_path / "other.npz", imgs=images, latents_classes=classes[::-1])
    with pytest.raises(SystemExit, match="order of its factors"):
        make_samples.dsprites(tmp_path / "other.npz")


def test_the_stated_checksums_are_those_of_the_files():
    digests = {n: hashlib.sha256(samples.path(n).read_bytes()).hexdigest() for n in samples.NAMES}
    assert digests == samples._SHA256
