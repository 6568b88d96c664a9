"""Images that a caller hands over come out as the cache stores them, in chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cognates.data.incoming import Incoming
from cognates.errors import DataError

READER = Incoming(image_size=8, channels=3)


def test_arrays_of_the_right_size_are_taken_as_they_are_in_chunks():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    for given in (pixels, torch.from_numpy(pixels)):
        parts = list(READER.chunks(given, 2))
        assert [len(part) for part in parts] == [2, 2, 1]
        np.testing.assert_array_equal(np.concatenate(parts), pixels)


def test_paths_and_pictures_of_one_image_give_the_same_pixels(tmp_path):
    values = np.random.default_rng(1).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    picture = Image.fromarray(values)
    picture.save(tmp_path / "one.png")
    path, text, opened = (
        next(READER.chunks([image], 4))
        for image in (tmp_path / "one.png", str(tmp_path / "one.png"), picture)
    )
    assert path.shape[:2] == (1, 3)
    assert path.dtype == np.uint8
    np.testing.assert_array_equal(path, text)
    np.testing.assert_array_equal(path, opened)
    lossless = next(READER.chunks([picture.convert("RGBA")], 4))
    np.testing.assert_array_equal(lossless, path)


def test_what_is_no_image_is_refused_and_named(tmp_path):
    with pytest.raises(DataError, match="uint8 array"):
        list(READER.chunks(np.zeros((2, 3, 8, 8)), 2))
    with pytest.raises(DataError, match=r"missing\.png"):
        list(READER.chunks([tmp_path / "missing.png"], 2))
    with pytest.raises(DataError, match="paths or PIL images, got a int"):
        list(READER.chunks([3], 2))
