"""The least and the most certain test images, kept beside the results for the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cognates.data.images import Images
from cognates.errors import DataError
from cognates.evaluation.ranks import order
from cognates.evaluation.store import replace
from cognates.evaluation.subjects import TARGET
from cognates.types import Features

COUNT = 24


def write_gallery(
    path: str | Path,
    images: Images,
    features: Features,
    *,
    quantiles: np.ndarray | None = None,
    count: int = COUNT,
    seed: int = 0,
) -> None:
    r"""Write the least and the most certain images to an npz file, atomically, without pickle.

    Arrays: `pixels` (k, c, s, s) uint8; `kind` "least" (the least certain image first) or "most"
    (the most certain first); `uncertainty`; `percentile` among the training images; `path` and
    `label` as text, empty if unknown.

    Args:
        path: the file.
        images: the images of `features`.
        features: with a default score.
        quantiles: (101,) percentiles of the score among the training images; None: among these
            images.
        count: images of each kind, at most half of all, at least one.
        seed: breaks ties.

    Raises:
        DataError: the features have no default score, or are not those of the images.
        StorageError: the file cannot be written.
    """
    name = features.default_score
    if name is None or name not in features.scores:
        raise DataError("Expected features with a default score for a gallery, got none.")
    if len(images) != len(features.representation):
        raise DataError(
            f"Expected the {len(features.representation)} images of the features, "
            f"got {len(images)}."
        )
    uncertainty = features.scores[name]
    count = max(1, min(count, len(images) // 2))
    sorting = order(uncertainty, seed=seed)
    rows = np.concatenate([sorting[::-1][:count], sorting[:count]])
    if quantiles is None:
        quantiles = np.quantile(uncertainty, np.linspace(0, 1, 101))
    targets = images.targets.get(TARGET)
    names = images.target_names.get(TARGET, ())
    arrays = {
        "pixels": np.stack([images.pixels[row] for row in rows]),
        "kind": np.repeat(["least", "most"], count),
        "uncertainty": uncertainty[rows],
        "percentile": percentiles(uncertainty[rows], quantiles),
        "path": _texts(rows, images.path),
        "label": _texts(
            rows, targets if targets is not None and targets.ndim == 1 else None, names
        ),
    }
    replace(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def percentiles(uncertainty: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Return where values lie among the 101 `quantiles` of a score, in percent; ties: the middle.

    Example:
        >>> percentiles(np.array([0.25, 9.0]), np.linspace(0, 1, 101)).tolist()
        [25.0, 100.0]
    """
    below = np.searchsorted(quantiles, uncertainty, side="left")
    above = np.searchsorted(quantiles, uncertainty, side="right") - 1
    inside = np.interp(uncertainty, quantiles, np.arange(len(quantiles)))
    middle = np.where(above >= below, (below + above) / 2, inside)
    return middle * (100 / (len(quantiles) - 1))


def _texts(rows: np.ndarray, values: np.ndarray | None, names: tuple[str, ...] = ()) -> np.ndarray:
    if values is None:
        return np.full(len(rows), "", dtype=np.str_)
    found = [names[int(values[row])] if names else str(values[row]) for row in rows]
    return np.array(found, dtype=np.str_)
