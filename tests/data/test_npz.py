"""Numpy archives: what is accepted, converted and refused."""

import numpy as np
import pytest

from cognates.data.cache import load
from cognates.data.npz import open_npz
from cognates.errors import DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (10, 8, 8), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)


def pixels(path, split="all", **options):
    return load(f"npz:{path}", split, progress=False, **options).pixels


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (GREY, GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
        (np.asfortranarray(COLOUR), COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.astype(np.int64), COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.astype(np.float32) / 255, COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.astype(np.float64) / 255, COLOUR.transpose(0, 3, 1, 2)),
        (GREY > 127, np.where(GREY > 127, 255, 0)[:, None]),
    ],
    ids=["grey", "one-channel", "colour", "by-columns", "int64", "float32", "float64", "bool"],
)
def test_images_come_out_bit_exactly(tmp_path, save, images, expected):
    save(tmp_path / "a.npz", images=images)
    stored = pixels(tmp_path / "a.npz")
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, expected)


def test_alpha_is_laid_over_white(tmp_path):
    images = np.concatenate([COLOUR, np.zeros((10, 8, 8, 1), np.uint8)], axis=3)
    np.savez(tmp_path / "a.npz", images=images)
    stored = pixels(tmp_path / "a.npz")
    assert stored.shape == (10, 3, 8, 8)
    assert (stored == 255).all()


def test_asked_channels_and_sizes_are_converted(tmp_path):
    np.savez(tmp_path / "a.npz", images=COLOUR)
    np.savez(tmp_path / "b.npz", images=GREY)
    assert pixels(tmp_path / "a.npz", channels=1).shape == (10, 1, 8, 8)
    repeated = pixels(tmp_path / "b.npz", channels=3)
    np.testing.assert_array_equal(repeated, np.repeat(GREY[:, None], 3, axis=1))
    # ceil(8/7 * 5) = 6
    assert pixels(tmp_path / "a.npz", image_size=5).shape == (10, 3, 6, 6)
    assert pixels(tmp_path / "b.npz", image_size=16, channels=3).shape == (10, 3, 19, 19)


def test_of_oblong_images_the_centre_is_kept(tmp_path):
    images = RNG.integers(0, 256, (4, 6, 11, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    expected = images[:, :, 2:8].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(pixels(tmp_path / "a.npz"), expected)


def test_a_folder_has_a_file_per_split(tmp_path):
    np.savez(tmp_path / "train.npz", images=COLOUR[:6], labels=np.arange(6))
    np.savez(tmp_path / "valid.npz", images=COLOUR[6:], labels=np.arange(4))
    source = open_npz(tmp_path)
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 6, "test": 4}
    assert "val is the test set" in source.note
    test = load(f"npz:{tmp_path}", "test", progress=False)
    np.testing.assert_array_equal(test.pixels, COLOUR[6:].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(test.targets["label"], np.arange(4))
    whole = load(f"npz:{tmp_path}", "all", progress=False)
    np.testing.assert_array_equal(whole.pixels, COLOUR.transpose(0, 3, 1, 2))
    np.savez(tmp_path / "test.npz", images=COLOUR[:2])
    assert list(open_npz(tmp_path).splits) == ["train", "val", "test"]


def test_one_file_is_divided_and_rows_stay_with_their_labels(tmp_path):
    images = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None], (100, 4, 4))
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(100) // 10)
    seen = []
    for split, count in (("train", 80), ("test", 20)):
        part = load(f"npz:{tmp_path}", split, progress=False)
        values = part.pixels[:, 0, 0, 0]
        assert len(part) == count
        np.testing.assert_array_equal(part.targets["label"], values // 10)
        assert set(np.bincount(part.targets["label"])) == {count // 10}
        seen += values.tolist()
    assert sorted(seen) == list(range(100))


@pytest.mark.parametrize(
    ("arrays", "label", "names"),
    [
        ({"labels": np.arange(10) % 3}, np.arange(10) % 3, ("0", "1", "2")),
        ({"labels": np.arange(10) % 3 + 5}, np.arange(10) % 3, ("5", "6", "7")),
        ({"labels": np.array(list("bacbacbacb"))}, [1, 0, 2] * 3 + [1], ("a", "b", "c")),
        ({"labels": np.arange(10) % 2 == 1}, np.arange(10) % 2, ("False", "True")),
        ({"labels": (np.arange(10) % 3)[:, None]}, np.arange(10) % 3, ("0", "1", "2")),
        (
            {"labels": np.arange(10) % 2, "label_names": np.array(["x", "y", "z"])},
            np.arange(10) % 2,
            ("x", "y", "z"),
        ),
    ],
)
def test_classes_become_consecutive_integers_with_names(tmp_path, arrays, label, names):
    np.savez(tmp_path / "a.npz", images=GREY, **arrays)
    source = open_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(source.targets["label"], label)
    assert source.targets["label"].dtype == np.int64
    assert source.target_names["label"] == names


def test_attributes_have_named_columns(tmp_path):
    many = RNG.integers(0, 2, (10, 3))
    np.savez(tmp_path / "a.npz", images=GREY, attributes=many, names=np.array(["p", "q", "r"]))
    np.savez(tmp_path / "b.npz", images=GREY, labels=many, label_names=np.array(["p", "q", "r"]))
    np.savez(tmp_path / "c.npz", images=GREY, attributes=many / 3, identity=np.arange(10))
    for name in "ab":
        source = open_npz(tmp_path / f"{name}.npz")
        np.testing.assert_array_equal(source.targets["attributes"], many)
        assert source.targets["attributes"].dtype == np.int64
        assert source.target_names == {"attributes": ("p", "q", "r")}
    source = open_npz(tmp_path / "c.npz")
    assert source.targets["attributes"].dtype == np.float32
    assert source.target_names["attributes"] == ("attributes-0", "attributes-1", "attributes-2")
    np.testing.assert_array_equal(source.targets["identity"], np.arange(10))
    np.savez(tmp_path / "a.npz", images=GREY, attributes=many, names=np.array(["p", "q"]))
    with pytest.raises(DataError, match=r"3 names for the 3 columns .* got 2"):
        open_npz(tmp_path / "a.npz")


def test_packed_dsprites_are_unpacked(tmp_path):
    bits = RNG.integers(0, 2, (10, 64, 64), dtype=np.uint8)
    packed = np.packbits(bits.reshape(10, -1), axis=1)
    factors = RNG.integers(0, 4, (10, 2), dtype=np.uint8)
    np.savez_compressed(
        tmp_path / "dsprites.npz",
        images_packed=packed,
        factors=factors,
        names=np.array(["shape", "scale"]),
    )
    images = load(f"npz:{tmp_path}", "all", progress=False)
    np.testing.assert_array_equal(images.pixels[:, 0], bits * 255)
    np.testing.assert_array_equal(images.targets["factors"], factors)
    assert images.target_names["factors"] == ("shape", "scale")
    np.savez(tmp_path / "dsprites.npz", images_packed=packed[:, :100])
    with pytest.raises(DataError, match=r"Expected 'images_packed' \(n, 512\) uint8"):
        open_npz(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": GREY}, "Expected an array 'images' in .*, got pictures"),
        ({"images": GREY, "labels": np.arange(9)}, r"got shape \(9,\) for 10 images"),
        ({"images": GREY, "labels": np.zeros((10, 2, 2))}, "one entry of 'label"),
        ({"images": GREY, "labels": np.linspace(0, 1, 10)}, "Expected labels that are integers"),
        ({"images": GREY[0, 0]}, r"Expected images of shape .*, got \(8,\)"),
        ({"images": COLOUR.transpose(0, 3, 1, 2)}, "move the channels to the last axis"),
        ({"images": GREY[:0]}, "Expected at least one image"),
        ({"images": np.array([{}], dtype=object)}, "got objects"),
    ],
)
def test_what_the_header_shows_is_refused_when_opened(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_npz(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            GREY.astype(np.float32),
            r"Expected float images in \[0, 1\] .* got values from .* to 255",
        ),
        (GREY / 255 - 0.5, r"Expected float images in \[0, 1\]"),
        (np.where(GREY > 250, np.nan, 0.5), "got NaN or infinite"),
        (np.where(GREY > 250, np.inf, 0.5), "got NaN or infinite"),
        (GREY.astype(np.int32) * 2, "convert them to uint8"),
        (GREY.astype(np.uint16) * 257, "convert them to uint8"),
        (GREY.astype(np.complex64), "convert them to uint8"),
    ],
)
def test_what_the_values_show_is_refused_when_read_and_nothing_is_left(
    tmp_path, cache_root, images, message
):
    np.savez(tmp_path / "a.npz", images=images)
    with pytest.raises(DataError, match=message):
        pixels(tmp_path / "a.npz")
    assert list((cache_root / "images").iterdir()) == []


def test_missing_ambiguous_and_damaged_files_are_errors(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        open_npz(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"got no \.npz file"):
        open_npz(tmp_path)
    np.savez(tmp_path / "a.npz", images=GREY)
    np.savez(tmp_path / "b.npz", images=GREY)
    with pytest.raises(DataError, match=r"got a\.npz, b\.npz"):
        open_npz(tmp_path)
    good = (tmp_path / "a.npz").read_bytes()
    for bad in (b"text", good[: len(good) // 2], b""):
        (tmp_path / "a.npz").write_bytes(bad)
        with pytest.raises(DataError, match="damaged or foreign"):
            open_npz(tmp_path / "a.npz")
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 255
    (tmp_path / "a.npz").write_bytes(flipped)
    with pytest.raises(DataError, match="CRC"):
        pixels(tmp_path / "a.npz")
