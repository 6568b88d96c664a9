"""The data sets that come with the package, so that a first run needs no download.

| name                 | images                                  | licence                         |
| -------------------- | --------------------------------------- | ------------------------------- |
| `fashion-mnist-mini` | 10,000 train and 2,000 test of 28 x 28  | MIT, (c) 2017 Zalando SE        |
| `dsprites`           | all 737,280 of 64 x 64, one bit a pixel | Apache-2.0, (c) 2017 DeepMind   |

Each is one xz file of plain bytes beside this module, with its licence notice, made from the
original files by `tools/make_samples.py`. Fashion-MNIST keeps its order and is stored column by
column: 4.35 MB, against 4.52 MB row by row, 4.59 MB with bzip2, and 4.65 MB as a lossless WebP and
4.72 MB as a PNG, both sorted by class.

References:
    Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms (Xiao, Rasul
    and Vollgraf, 2017), https://arxiv.org/abs/1708.07747
    dSprites: Disentanglement testing Sprites dataset (Matthey, Higgins, Hassabis and Lerchner,
    2017), https://github.com/google-deepmind/dsprites-dataset
"""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path
from typing import Any

import numpy as np

from cognates.errors import DataError, nearest

__all__ = [
    "CLASSES",
    "DSPRITES_FACTORS",
    "DSPRITES_GRID",
    "FASHION_SPLITS",
    "NAMES",
    "licence",
    "open",
    "path",
]

NAMES = ("fashion-mnist-mini", "dsprites")

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_SPLITS = {"train": 10_000, "test": 2_000}
"""Images in each split of `fashion-mnist-mini`, one tenth in each class."""

DSPRITES_FACTORS = ("shape", "scale", "orientation", "pos_x", "pos_y")
DSPRITES_GRID = (3, 6, 40, 32, 32)
"""Values of each factor; the images are the whole grid in row-major order."""

_SHA256 = {
    "fashion-mnist-mini": "4047f5659a0954cfb0ccda689dfba02e47663b4748ceb501f1b3c88c44acf131",
    "dsprites": "bfec94e182cf5601c6871aafc6df5245b46c9b06cd0cf1935d6b8a4ee44eaf64",
}


def open(name: str) -> dict[str, dict[str, Any]]:
    r"""Read an embedded data set into memory, after a check of its SHA-256.

    Args:
        name: one of `NAMES`.

    Returns:
        The content of each split by name. `fashion-mnist-mini` has `train` and `test`, each with
        `images` (n, 28, 28) uint8, `labels` (n,) int64 and `label_names`, in the order of the
        original files. `dsprites` has `all`, with `images_packed` (737280, 512) uint8, eight pixels
        of a 64 x 64 image to the byte, most significant bit first, `factors` (737280, 5) uint8
        indices and their `names`; it takes 380 MB of memory and a second or two.

    Raises:
        DataError: no embedded data set has this name, or its file is missing or damaged.

    Example:
        >>> test = open("fashion-mnist-mini")["test"]
        >>> test["images"].shape, test["label_names"][test["labels"][0]]
        ((2000, 28, 28), 'Coat')
    """
    content = _read(name)
    return _fashion_mnist_mini(content) if name == "fashion-mnist-mini" else _dsprites(content)


def path(name: str) -> Path:
    """Return the file that holds an embedded data set, for its size and its key in a cache.

    Raises:
        DataError: no embedded data set has this name.
    """
    if name not in NAMES:
        raise DataError(
            f"Expected the name of an embedded data set, got '{name}': {nearest(name, NAMES)}."
        )
    return Path(__file__).with_name(f"{name}.xz")


def licence(name: str) -> str:
    """Return the licence notice of an embedded data set.

    Raises:
        DataError: no embedded data set has this name.

    Example:
        >>> licence("fashion-mnist-mini").splitlines()[0]
        'Fashion-MNIST'
    """
    return path(name).with_suffix(".LICENSE.txt").read_text(encoding="utf8")


def _read(name: str) -> bytearray:
    """Return the bytes inside the file of `name`."""
    file = path(name)
    if not file.is_file():
        raise DataError(
            f"Expected the embedded data '{file}', got no such file: reinstall cognates."
        )
    packed = file.read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != _SHA256[name]:
        raise DataError(
            f"Expected '{file}' with SHA-256 {_SHA256[name]}, got {found}: the file is damaged, "
            "reinstall cognates."
        )
    # A bytearray, because arrays over it can be written to and torch warns of those that cannot.
    return bytearray(lzma.decompress(packed, format=lzma.FORMAT_XZ))


def _fashion_mnist_mini(content: bytearray) -> dict[str, dict[str, Any]]:
    splits: dict[str, dict[str, Any]] = {}
    start = 0
    for split, n in FASHION_SPLITS.items():
        columns = np.frombuffer(content, np.uint8, n * 28 * 28, start).reshape(n, 28, 28)
        start += columns.size
        labels = np.frombuffer(content, np.uint8, n, start)
        start += labels.size
        splits[split] = {
            "images": np.ascontiguousarray(columns.transpose(0, 2, 1)),
            "labels": labels.astype(np.int64),
            "label_names": CLASSES,
        }
    return splits


def _dsprites(content: bytearray) -> dict[str, dict[str, Any]]:
    packed = np.frombuffer(content, np.uint8).reshape(-1, 64 * 64 // 8)
    factors = np.indices(DSPRITES_GRID, np.uint8).reshape(len(DSPRITES_GRID), -1).T
    return {
        "all": {
            "images_packed": packed,
            "factors": np.ascontiguousarray(factors),
            "names": DSPRITES_FACTORS,
        }
    }
