"""Pictures in rows on a white ground, and PNG files of them."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from jaxtyping import UInt8

GAP = 2
"""White pixels between pictures, before they are enlarged."""
LEAST = 64
"""Pixels: smaller pictures are enlarged by a whole number in a grid, so that they can be seen."""


def grid(
    rows: UInt8[np.ndarray, "r k c h w"], *, enlarge: bool = False
) -> UInt8[np.ndarray, "c height width"]:
    """Return rows of pictures as one picture.

    Args:
        rows: (r, k, c, h, w) uint8, at least one.
        enlarge: whether each pixel becomes a square, so that a picture has about 64 of them.

    Returns:
        (c, r (h + 2) + 2, k (w + 2) + 2) uint8, times the enlargement.

    Example:
        >>> grid(np.zeros((2, 3, 1, 4, 4), dtype=np.uint8)).shape
        (1, 14, 20)
    """
    r, k, c, h, w = rows.shape
    page = np.full((c, r * (h + GAP) + GAP, k * (w + GAP) + GAP), 255, dtype=np.uint8)
    for i in range(r):
        for j in range(k):
            top, left = GAP + i * (h + GAP), GAP + j * (w + GAP)
            page[:, top : top + h, left : left + w] = rows[i, j]
    factor = max(1, LEAST // max(h, w)) if enlarge else 1
    return page.repeat(factor, axis=1).repeat(factor, axis=2)


def in_rows(images: UInt8[np.ndarray, "n c h w"], width: int) -> UInt8[np.ndarray, "r k c h w"]:
    """Return pictures in rows of at most `width`, the last one filled up with white.

    Example:
        >>> in_rows(np.zeros((5, 1, 2, 2), dtype=np.uint8), 3).shape
        (2, 3, 1, 2, 2)
    """
    k = min(width, len(images))
    missing = -len(images) % k
    white = np.full((missing, *images.shape[1:]), 255, dtype=np.uint8)
    return np.concatenate([images, white]).reshape(-1, k, *images.shape[1:])


def png(image: UInt8[np.ndarray, "c h w"]) -> bytes:
    """Return a picture (c, h, w) uint8, c 1 or 3, as the bytes of a PNG file."""
    from PIL import Image

    array = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
