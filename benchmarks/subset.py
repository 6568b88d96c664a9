"""Write a part of a labelled data set as npz files, stratified by label.

    python benchmarks/subset.py cifar10 runs/data/cifar10-20000 --images 20000

Some benchmarks train on fewer images than a set has, and settings are chosen on training images
held out from it. Which images are taken follows from the seed alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from cognates.data import cache
from cognates.data.images import Images
from cognates.data.lock import locked


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="SOURCE of fixed-size images with labels")
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--heldout", type=int, help="training images to take as the test images")
    options = parser.parse_args()
    print(write_subset(options.source, options.out, images=options.images, heldout=options.heldout))


def write_subset(
    source: str, out: Path, *, images: int, heldout: int | None = None, seed: int = 0
) -> Path:
    """Write train.npz and test.npz into `out`, unless the same are there; return `out`.

    Args:
        source: of images that all have one size, with labels.
        out: the folder.
        images: training images to take, the same share of every class to one image.
        heldout: take so many other training images for test.npz; None: the source's test images.
        seed: of the choice.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    # Several benchmarks begin at one time: the second would write over what the first one reads.
    with locked(out.with_name(f"{out.name}.lock"), waiting=lambda: None):
        _write(source, out, images, heldout, seed)
    return out


def _write(source: str, out: Path, images: int, heldout: int | None, seed: int) -> None:
    made = f"{source} {images} {heldout} {seed}"
    note = out / "made-from.txt"
    if note.is_file() and note.read_text(encoding="utf8") != made:
        raise SystemExit(f"Expected '{out}' to be made from '{made}', got another: move it.")
    if not note.is_file():
        train = cache.load(source, "train", progress=False)
        order = _stratified(train.targets["label"], seed)
        if images + (heldout or 0) > len(order):
            raise SystemExit(f"Expected at most {len(order)} images, got {images} + {heldout}.")
        out.mkdir(parents=True, exist_ok=True)
        _save(out / "train.npz", train, np.sort(order[:images]))
        if heldout is None:
            test = cache.load(source, "test", progress=False)
            _save(out / "test.npz", test, np.arange(len(test)))
        else:
            _save(out / "test.npz", train, np.sort(order[images : images + heldout]))
        note.write_text(made, encoding="utf8")  # last: without it the files are made again


def _stratified(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return an order of all images of which every beginning has the same share of each class."""
    draws = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        place[draws.permutation(rows)] = (np.arange(len(rows)) + draws.random()) / len(rows)
    return np.argsort(place, kind="stable")


def _save(path: Path, images: Images, rows: np.ndarray) -> None:
    pixels = np.asarray(images.pixels[rows]).transpose(0, 2, 3, 1)
    np.savez(path, images=pixels, labels=images.targets["label"][rows])


if __name__ == "__main__":
    main()
