"""Bare names: what the library knows about data sets that are not part of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "COGNATES_DATA"
"""The environment variable that names the folder of data sets."""

_NPZ = "train.npz and test.npz, each with 'images' (n, h, w, c) uint8 and 'labels' (n,)"
_IDX = (
    "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and"
    " t10k-labels-idx1-ubyte.gz"
)


@dataclass(frozen=True, kw_only=True)
class Known:
    """A data set that has a bare name."""

    files: str
    """What belongs into its folder."""
    hub: str | None = None
    """Where the Hugging Face hub has it."""
    native: tuple[int, int] | None = None
    """Size and channels that all its images have."""
    labels: tuple[str, ...] = ()
    """Names of its classes where the files have only numbers."""


KNOWN: dict[str, Known] = {
    "cifar10": Known(
        files=_NPZ,
        hub="uoft-cs/cifar10",
        native=(32, 3),
        labels=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
    ),
    "cifar100": Known(files=_NPZ, hub="uoft-cs/cifar100", native=(32, 3)),
    "mnist": Known(files=_IDX, hub="ylecun/mnist", native=(28, 1)),
    "fashion-mnist": Known(
        files=_IDX,
        hub="zalando-datasets/fashion_mnist",
        native=(28, 1),
        labels=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
    ),
    "kmnist": Known(files=_IDX, native=(28, 1)),
    "imagenet": Known(files="the folders train and val with a folder of JPEG files per class"),
    "imagenette": Known(files="the folders train and val with a folder of JPEG files per class"),
    "celeba10k": Known(
        files="train.npz and test.npz, each with 'images' (n, h, w, 3) uint8, 'attributes' (n, 40)"
        " and 'names' (40,)",
        native=(64, 3),
    ),
    "flickr8k": Known(
        files="a folder 'images' of JPEG files and captions.json, or Flickr8k.token.txt",
        hub="jxie/flickr8k",
    ),
}

EMBEDDED = {"fashion-mnist-mini": (28, 1), "dsprites": (64, 1)}
"""Data sets inside the package, and the size and channels of their images."""


def all_names() -> list[str]:
    """Return every bare name, sorted."""
    return sorted([*KNOWN, *EMBEDDED])


def local_folder(name: str) -> Path | None:
    """Return `$COGNATES_DATA/NAME`, or None where the variable is not set."""
    base = os.environ.get(VARIABLE)
    return Path(base).expanduser() / name if base else None
