"""Several views of every image through a frozen encoder, on disk: what heads are fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import nn

from cognates.data import augment
from cognates.data.images import Images
from cognates.data.views import ViewSpec
from cognates.errors import ConfigError, NonFiniteError
from cognates.evaluation.features import Progress, Transform, chunks, require_eval
from cognates.evaluation.store import cache_key, replace, weights_digest
from cognates.random import generator


def view_features(
    encoder: nn.Module,
    images: Images,
    *,
    views: Sequence[ViewSpec],
    transform: Transform,
    folder: Path,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    progress: Progress | None = None,
) -> np.ndarray:
    r"""Embed views of every image once, and keep them in a file that the next call finds.

    Args:
        encoder: (n, c, h, w) -> (n, d), in eval mode, on `device`.
        images: one split.
        views: one entry per view; each image gets its own draw of each.
        transform: the views' size and normalisation; every view has this size.
        folder: where the file is, or will be.
        seed: of the views, together with their number: they do not depend on `batch_size`.
        device: where the encoder is.
        batch_size: images per pass.
        progress: called after every chunk; not where the file is found.

    Returns:
        (n, v, d) float32, a read-only memory map: no more of it is in memory than is used.

    Raises:
        ConfigError: there is no view, or a submodule is in training mode.
        DataError: there is no image.
        NonFiniteError: the encoder gives a NaN or an infinity.
        StorageError: the file cannot be written.
    """
    if not views:
        raise ConfigError("Expected at least one view, got none.")
    require_eval(encoder)
    about = {
        "views": [repr(view) for view in views],
        "seed": seed,
        "size": transform.size,
        "mean": transform.mean,
        "std": transform.std,
    }
    key = cache_key(images, weights=weights_digest(encoder), layer="views", transform=about)
    path = Path(folder) / f"views-{images.split or 'all'}-{key}.npy"
    known = _opened(path, len(images), len(views))
    if known is not None:
        return known

    @torch.no_grad()
    def write(file: IO[bytes]) -> None:
        start = 0
        parts = _embedded(encoder, images, views, transform, seed, device, batch_size, progress)
        for part in parts:
            if start == 0:
                shape = (len(images), *part.shape[1:])
                header = {"descr": part.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(file, header)
            file.write(part.tobytes())
            start += len(part)

    replace(path, write)
    found = _opened(path, len(images), len(views))
    assert found is not None
    return found


def _embedded(
    encoder: nn.Module,
    images: Images,
    views: Sequence[ViewSpec],
    transform: Transform,
    seed: int,
    device: torch.device | str,
    batch_size: int,
    progress: Progress | None,
) -> Iterator[np.ndarray]:
    """Yield the representations (b, v, d) of chunk after chunk."""
    n, _, height, width = images.pixels.shape
    # Parameters of all images are drawn at once, so that no chunk size can change them.
    drawn = [
        augment.draw(
            spec, n, height=height, width=width, generator=generator(seed, "many views", number)
        )
        for number, spec in enumerate(views)
    ]
    start = 0
    for chunk in chunks(images, batch_size, device, progress):
        stop = start + len(chunk)
        made = [
            encoder(
                augment.apply(
                    chunk,
                    one.rows(start, stop),
                    size=spec.size,
                    mean=transform.mean,
                    std=transform.std,
                )
            )
            for spec, one in zip(views, drawn, strict=True)
        ]
        part = torch.stack(made, dim=1).float().cpu().numpy()
        if not np.isfinite(part).all():
            raise NonFiniteError(
                "Expected finite features, got a NaN or an infinity from the encoder: check its "
                "weights and the normalisation of the images."
            )
        yield part
        start = stop


def _opened(path: Path, n: int, views: int) -> np.ndarray | None:
    """Return the features in a file; None if there is none or it was cut."""
    if not path.is_file():
        return None
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return found if found.ndim == 3 and found.shape[:2] == (n, views) else None
