"""A cache of its own for every test, and pictures to put into folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache_root(tmp_path_factory, monkeypatch):
    """Point the cache to an empty folder and forget about data sets of this machine."""
    root = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("COGNATES_CACHE", str(root))
    monkeypatch.delenv("COGNATES_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return root


@pytest.fixture
def picture():
    """Return a function that saves a picture whose pixels are a function of `seed`."""

    def save(path: Path, *, seed: int = 0, size=(24, 20), mode="RGB", **options) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)
        image.save(path, **options)
        return path

    return save


@pytest.fixture
def flat():
    """Return a function that saves a picture of one grey value, to tell rows from each other."""

    def save(path: Path, value: int, size=(20, 20)) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, value).save(path)

    return save


@pytest.fixture
def photos(tmp_path, flat):
    """Make a folder of 40 training and 40 test pictures of two classes, in known grey values."""
    root = tmp_path / "photos"
    for i in range(40):
        flat(root / "train" / "ab"[i % 2] / f"{i:02}.png", i)
        flat(root / "test" / "ab"[i % 2] / f"{i:02}.png", 100 + i)
    return root


@pytest.fixture
def entries(cache_root):
    """Return a function that lists what lies in the cache."""
    return lambda: sorted(path.name for path in (cache_root / "images").iterdir())
