"""Images as a caller hands them over, paths, pictures, arrays or a SOURCE, as stored ones are."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cognates.data.cache import load, stored_size
from cognates.data.decode import Item, UnreadableError, decode
from cognates.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """Decodes and resizes what it is given to what a run reads."""

    image_size: int
    """Height and width of a view in pixels."""
    channels: int
    """1 or 3."""
    max_unreadable: float = 0.0
    """Share of unreadable files above which a SOURCE is refused."""

    def chunks(self, images: Any, batch_size: int) -> Iterator[np.ndarray]:  # noqa: ANN401
        """Yield images as the cache stores them, (n, c, s, s) uint8, at most `batch_size` each.

        Args:
            images: a uint8 array or tensor (n, c, h, w), a sequence of paths or PIL images, or a
                SOURCE.
            batch_size: at least 1.

        Raises:
            DataError: an image cannot be read, or the array is not uint8 (n, c, h, w).
        """
        if isinstance(images, str):
            images = load(
                images,
                "all",
                image_size=self.image_size,
                channels=self.channels,
                max_unreadable=self.max_unreadable,
                progress=False,
            ).pixels
        elif isinstance(images, np.ndarray | Tensor):
            images = self._array(images)
        for start in range(0, len(images), batch_size):
            chunk = images[start : start + batch_size]
            yield chunk if isinstance(chunk, np.ndarray) else self._decoded(chunk)

    def _array(self, images: np.ndarray | Tensor) -> Any:  # noqa: ANN401
        """Return pixels as they are where none need resizing, else a list of images to resize."""
        array = images.detach().cpu().numpy() if isinstance(images, Tensor) else images
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1] not in (1, 3):
            raise DataError(
                f"Expected a uint8 array (n, c, h, w) with 1 or 3 channels, got {array.dtype} "
                f"{array.shape}: multiply values in [0, 1] by 255, and put the channels first."
            )
        if array.shape[1:] == (self.channels, self.image_size, self.image_size):
            return array
        return list(np.moveaxis(array, 1, -1))

    def _decoded(self, items: Sequence[Any]) -> np.ndarray:
        arrays = []
        for number, item in enumerate(items):
            shape = item.shape[:2] if isinstance(item, np.ndarray) else ()
            # As for array data in the cache: their own size is their shorter side.
            native = min(shape) if shape else None
            size = stored_size(self.image_size, native)
            try:
                arrays.append(decode(_item(item), size=size, channels=self.channels))
            except UnreadableError as error:
                name = item if isinstance(item, str | Path) else f"number {number}"
                raise DataError(f"Cannot read the image '{name}': {error}.") from error
        return np.stack(arrays)


def _item(image: object) -> Item:
    """Return what the decoder takes; a PIL image of any mode goes through a lossless file."""
    if isinstance(image, np.ndarray | bytes):
        return image
    if isinstance(image, str | Path):
        return str(image)
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        raise DataError(
            f"Expected paths or PIL images, got a {type(image).__name__}: see Model.embed."
        )
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("L", "RGB"):
        return np.asarray(upright)
    buffer = io.BytesIO()
    upright.save(buffer, "TIFF")
    return buffer.getvalue()
