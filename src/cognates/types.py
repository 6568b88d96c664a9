"""The small types that cross the borders between rooms: Batch, Loss, Embedding, Features, Result.

Axes, everywhere: `n` batch, `v` views, `d` feature, `c h w` image, `k` classes, `s` samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

Terms = dict[str, Tensor]
"""Named scalar terms of an objective, already weighted: what is minimised is their sum."""


PADDING, START, END = 0, 1, 2
"""Token ids of every vocabulary: what fills a row, what begins a caption and what ends it."""


class Batch(NamedTuple):
    """What a method sees of the data at one step; there is no field for a label.

    A NamedTuple, because Lightning Fabric refuses frozen dataclasses.
    """

    views: tuple[Tensor, ...]
    """v tensors (n, c, h, w): normalised float views of this process's images."""
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]  (tuple.index is not used)
    """(n,) int64: positions of the images in the training set."""
    step: int
    """Zero-based optimiser step."""
    seed: int
    """The run's seed; a method that draws folds (seed, step, its own name)."""
    text: Tensor | None = None
    """(n, l) int64: token ids of one caption per image, drawn by (seed, step, index), or (n, c, l)
    where a step reads c of them; None for a method that reads no text."""


class Loss(NamedTuple):
    """What a method returns: named weighted terms and what the monitors may look at."""

    terms: Terms
    """Scalars whose sum is minimised; equal on every process."""
    monitored: Tensor
    """(n, d) detached projections, for spread and effective rank."""

    @property
    def total(self) -> Tensor:
        """The scalar that is minimised: the sum of the terms."""
        return sum(list(self.terms.values())[1:], start=next(iter(self.terms.values())))


class Embedding(NamedTuple):
    """A frozen representation and how unsure the model is of it."""

    representation: Tensor
    """(n, d)"""
    uncertainty: Tensor | None
    """(n,) larger is less certain. None only from `Method.embed` of a method without its own score:
    whoever calls it then falls back on the method's `default_score`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Frozen representations of one split with all a protocol needs, in data-set order."""

    representation: np.ndarray
    """(n, d) float32"""
    index: np.ndarray
    """(n,) int64"""
    path: np.ndarray | None = None
    """(n,) str: relative paths, or None for array data."""
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Named labels, attributes, factors or augmentation parameters, (n,) or (n, k);
    the class is `label`."""
    target_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of a categorical target's values; of the columns of an (n, k) target."""
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Named uncertainties (n,) float64, larger is less certain."""
    default_score: str | None = None
    """The key of `scores` that the method stands for."""
    dataset: str = ""
    split: str = ""
    layer: str = "backbone"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One value of one protocol with its 95 % interval."""

    protocol: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    """Images behind the value."""
    seed: int | None = None
    """Pre-training seed; None in a row over seeds."""
    version: int = 1
    protocol_seed: int = 0
    settings: Mapping[str, object] = field(default_factory=dict)
    selected: Mapping[str, object] = field(default_factory=dict)
    dataset: str = ""
    split: str = ""
    layer: str = "backbone"
    features: str = ""
    """Hash of the features' cache key."""
    subject: str = "trained"
    """Whose features: trained, untrained or pixels."""
    interval: str = "bootstrap-images"
    flags: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str | None = None
