"""Files of the MNIST family, packed or not, whole or damaged."""

import gzip
import struct

import numpy as np
import pytest

from cognates.data.cache import load
from cognates.data.idx import open_idx
from cognates.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 5


def idx(values):
    return (
        struct.pack(">HBB", 0, 8, values.ndim)
        + struct.pack(f">{values.ndim}I", *values.shape)
        + values.tobytes()
    )


def write(root, name, values, packed=False):
    root.mkdir(exist_ok=True)
    data = idx(values)
    (root / name).write_bytes(gzip.compress(data) if packed else data)


def family(root, prefix="", packed=False, dot="-"):
    end = ".gz" if packed else ""
    for split, rows in (("train", slice(0, 8)), ("t10k", slice(8, 12))):
        write(root, f"{prefix}{split}-images{dot}idx3-ubyte{end}", PIXELS[rows], packed)
        write(root, f"{prefix}{split}-labels{dot}idx1-ubyte{end}", LABELS[rows], packed)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("prefix", ["", "emnist-letters-"])
def test_the_four_files_give_train_and_test_bit_exactly(tmp_path, packed, dot, prefix):
    family(tmp_path / "set", prefix, packed, dot)
    source = open_idx(tmp_path / "set")
    assert (source.native_size, source.native_channels) == (28, 1)
    for split, rows in (("train", slice(0, 8)), ("test", slice(8, 12))):
        images = load(f"idx:{tmp_path / 'set'}", split, progress=False)
        np.testing.assert_array_equal(images.pixels[:, 0], PIXELS[rows])
        np.testing.assert_array_equal(images.targets["label"], LABELS[rows])
        assert images.target_names["label"] == ("0", "1", "2", "3", "4")
        assert images.path is None
        assert images.dataset == "set"


def test_labels_are_optional_and_one_file_is_divided(tmp_path):
    write(tmp_path / "set", "train-images-idx3-ubyte", PIXELS)
    source = open_idx(tmp_path / "set")
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 10, "test": 2}
    assert source.targets == {}
    assert "No labels" in source.note


def test_missing_foreign_and_mixed_files_are_errors(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_idx(tmp_path / "set")
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError, match="got none: put train-images"):
        open_idx(tmp_path / "set")
    write(tmp_path / "set", "train-labels-idx1-ubyte", LABELS)
    with pytest.raises(DataError, match="got labels only"):
        open_idx(tmp_path / "set")
    family(tmp_path / "many", "emnist-letters-")
    family(tmp_path / "many", "emnist-digits-")
    with pytest.raises(DataError, match=r"got 2 .*emnist-digits-, emnist-letters-"):
        open_idx(tmp_path / "many")


def test_damaged_files_are_errors_that_name_the_file(tmp_path):
    root = tmp_path / "set"
    family(root)
    images = root / "train-images-idx3-ubyte"
    good = images.read_bytes()
    for bad, reason in (
        (b"not an idx file", "IDX header"),
        (b"", "IDX header"),
        (good[:6], "ends within its header"),
        (idx(LABELS), "has 1 axes"),
    ):
        images.write_bytes(bad)
        with pytest.raises(DataError, match=f"{reason}") as error:
            open_idx(root)
        assert "train-images-idx3-ubyte" in str(error.value)
    images.write_bytes(good[:-5])
    with pytest.raises(DataError, match="ends too early"):
        load(f"idx:{root}", "train", progress=False)
    images.write_bytes(good)
    write(root, "train-labels-idx1-ubyte", LABELS[:7])
    with pytest.raises(
        DataError, match=r"one entry of 'label' per image .* got shape \(7,\) for 8"
    ):
        open_idx(root)


def test_a_gzip_file_that_is_cut_short_is_an_error(tmp_path):
    root = tmp_path / "set"
    family(root, packed=True)
    images = root / "train-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
        load(f"idx:{root}", "train", progress=False)
