"""The data sets inside the package, as sources; dSprites stays packed until it is decoded."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from cognates.data import samples
from cognates.data.arrays import Part, assemble, unpacked
from cognates.data.splits import Source

_DSPRITES_SIDE = 64


def open_embedded(name: str) -> Source:
    """Open `fashion-mnist-mini` or `dsprites`."""
    if name == "dsprites":
        return _dsprites(name)
    contents = _contents(name)
    return assemble(
        name,
        {
            split: Part(f"{name}-{split}", content["images"].shape, _slices(content["images"]))
            for split, content in contents.items()
        },
        [{"label": content["labels"]} for content in contents.values()],
        column_names={"label": tuple(contents["train"]["label_names"])},
        fingerprint=_fingerprint(name),
    )


# Kept: both splits are opened in every run, and unpacking 9 MB takes half a second.
_contents = functools.cache(samples.open)


def _dsprites(name: str) -> Source:
    """Open dSprites; its factors are the grid, so that nothing is unpacked for them."""
    count = int(np.prod(samples.DSPRITES_GRID))
    factors = np.stack(np.unravel_index(np.arange(count), samples.DSPRITES_GRID), axis=1)
    shape = (count, _DSPRITES_SIDE, _DSPRITES_SIDE)
    packed = functools.cache(lambda: samples.open(name)["all"]["images_packed"])

    def stream(size: int) -> Iterator[np.ndarray]:
        return unpacked(_slices(packed()), _DSPRITES_SIDE)(size)

    return assemble(
        name,
        {"": Part(name, shape, stream)},
        [{"factors": factors}],
        column_names={"factors": samples.DSPRITES_FACTORS},
        fingerprint=_fingerprint(name),
    )


def _fingerprint(name: str) -> tuple[object, ...]:
    # By content: the time of change would differ in every installation.
    content = samples.path(name).read_bytes()
    return ("embedded", name, hashlib.sha256(content).hexdigest())


def _slices(images: np.ndarray) -> Callable[[int], Iterator[np.ndarray]]:
    def stream(size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(images), size):
            yield images[start : start + size]

    return stream
