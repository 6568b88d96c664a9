"""The one thing that training and evaluation read: decoded images in a uint8 array."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)
