"""The one thing that training and evaluation read: decoded images in a uint8 array."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Decoded images of one split, all of one size, with what is known about each."""

    pixels: np.ndarray
    """(n, c, s, s) uint8, often a memory map; c is 1 or 3."""
    dataset: str
    split: str
    path: np.ndarray | None = None
    """(n,) str, relative to the source, or None for array data."""
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Labels by name, (n,) or (n, k) int64 or float32; the class is `label`; empty without any."""
    target_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the classes of `label`, or of the columns of an (n, k) target."""
    digest: str = ""
    """Hash of the source's files and the cache settings: the data half of a feature cache key."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """(path, reason) of every file that was left out."""
    captions: tuple[tuple[str, ...], ...] | None = None
    """(n,) what is said of each image, at least one caption each; None: a source without."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def take(self, rows: np.ndarray | slice, *, digest: str | None = None) -> Images:
        """Return some of the images with all that is known about them.

        Args:
            rows: positions; a slice of a memory map stays one.
            digest: of the part; None: it is not used as a key, and keeps that of the whole.
        """
        at = np.arange(len(self))[rows]
        return replace(
            self,
            pixels=self.pixels[rows],
            path=None if self.path is None else self.path[rows],
            targets={name: values[rows] for name, values in self.targets.items()},
            captions=None if self.captions is None else tuple(self.captions[i] for i in at),
            digest=self.digest if digest is None else digest,
        )
