"""One image of any kind becomes one square uint8 array; everything that can go wrong has a reason.

No torch here: the decoding processes import this module and should start fast.

What a pixel means after decoding:

- 16-bit grey is divided by 257; 32-bit integers within [0, 65535] likewise, others are stretched
  from their minimum to their maximum; floats within [0, 1] are multiplied by 255, within [0, 255]
  kept, others stretched.
- Transparent images are laid over white: drawings and logos with an alpha channel are mostly dark.
- EXIF rotation is applied. Of an animation the first frame counts.
- The centred square of the short side is resampled with Pillow's antialiased bicubic filter.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

Item = str | bytes | np.ndarray
"""What can be decoded: a path, the bytes of an image file, or a uint8 array (h, w) or (h, w, c)."""

_DAMAGED_EXIF = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, OSError, struct.error),
    *(SyntaxError, TypeError, ValueError),
)
"""What Pillow raises on tags that are no tags; running out of memory is not among them."""

EXTENSIONS = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp", ".dib"),
        *(".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"),
        *(".jp2", ".j2k", ".jpx", ".avif", ".qoi", ".heic", ".heif"),
    ]
)
"""Names that count as images; anything else in a folder is not looked at."""

# Formats are found by content, and only among these: others run programs (EPS) or have no
# signature, so that a text file could pass for them (TGA, which is tried by its extension only).
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM"),
    *("JPEG2000", "AVIF", "ICO", "QOI", "HEIF"),
)

# Twice 1 GiB of RGB pixels, Pillow's own limit for an error rather than a warning.
MOST_PIXELS = 2 * (1 << 30) // 4 // 3

# Pillow's documentation of `reducing_gap`: from 3.0 on hardly distinguishable from fair resampling.
REDUCING_GAP = 3.0

_ORIENTATION_TAG = 0x0112


class UnreadableError(Exception):
    """An image that cannot be decoded; the message is a short reason for a person."""


def decode(item: Item, *, size: int, channels: int) -> np.ndarray:
    """Decode one image, crop its centred square and resize that to `size`.

    Args:
        item: a path, the bytes of an image file, or a uint8 array (h, w) or (h, w, c).
        size: height and width of the result in pixels.
        channels: 1 (luma) or 3 (RGB).

    Returns:
        (channels, size, size) uint8.

    Raises:
        UnreadableError: the image cannot be decoded whole; its message says why.
    """
    try:
        with _strict_pillow(), contextlib.ExitStack() as stack:
            image = stack.enter_context(_open(item, stack))
            return _square(image, size, channels)
    except UnreadableError:
        raise
    except Exception as error:
        # Decoders raise nearly anything on damaged data; each becomes a reason that is listed.
        raise UnreadableError(_reason(error)) from error


def read_header(item: Item) -> tuple[int, int, str]:
    """Return width, height and Pillow's mode without decoding the pixels.

    Raises:
        UnreadableError: not an image, or too large a one.
    """
    try:
        with _strict_pillow(), contextlib.ExitStack() as stack:
            image = stack.enter_context(_open(item, stack))
            return image.width, image.height, image.mode
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError(_reason(error)) from error


@contextlib.contextmanager
def _strict_pillow() -> Iterator[None]:
    """Hold Pillow's process-wide switches at what this module relies on, for one image."""
    from PIL import Image, ImageFile

    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    # The size is checked in `_open`; a file cut short must raise and not come out half grey.
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _open(item: Item, stack: contextlib.ExitStack) -> Image.Image:
    from PIL import Image

    if isinstance(item, np.ndarray):
        return Image.fromarray(item[..., 0] if item.ndim == 3 and item.shape[2] == 1 else item)
    stream, suffix = _stream(item, stack)
    try:
        image = Image.open(stream, formats=_formats(suffix))
    except Image.UnidentifiedImageError as error:
        if suffix in (".heic", ".heif") and "HEIF" not in Image.OPEN:
            raise UnreadableError("HEIC, which needs the package pillow-heif") from error
        raise UnreadableError("not an image") from error
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise UnreadableError(
            f"{image.width} x {image.height} pixels, a decompression bomb"
            f" (more than {MOST_PIXELS // 10**6} million)"
        )
    return image


def _stream(item: str | bytes, stack: contextlib.ExitStack) -> tuple[IO[bytes], str]:
    if isinstance(item, bytes):
        import io

        if not item:
            raise UnreadableError("empty file")
        return io.BytesIO(item), ""
    # Opened without blocking: a pipe named .jpg would wait for its writer for ever.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    stream = stack.enter_context(os.fdopen(os.open(item, flags), "rb"))
    status = os.fstat(stream.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError("not a regular file")
    if status.st_size == 0:
        raise UnreadableError("empty file")
    return stream, Path(item).suffix.lower()


def _formats(suffix: str) -> list[str]:
    from PIL import Image

    if suffix in (".heic", ".heif") and heif_is_installed():
        _register_heif()
    Image.init()
    wanted = ("TGA",) if suffix == ".tga" else FORMATS
    return [name for name in wanted if name in Image.OPEN]


def heif_is_installed() -> bool:
    """Tell whether HEIC can be read."""
    import importlib.util

    return importlib.util.find_spec("pillow_heif") is not None


def _register_heif() -> None:
    import importlib

    importlib.import_module("pillow_heif").register_heif_opener()


def _square(image: Image.Image, size: int, channels: int) -> np.ndarray:
    from PIL import Image

    mode = "L" if channels == 1 else "RGB"
    if getattr(image, "format", None) in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        # The decoder may halve the picture as long as it stays REDUCING_GAP times too large.
        enough = int(REDUCING_GAP * size)
        image.draft(mode, (enough, enough))
    image.load()
    orientation = _orientation(image)
    flat = _opaque(image, mode)
    side = min(flat.size)
    left, top = (flat.width - side) / 2, (flat.height - side) / 2
    if side == size:
        # Whole pixels, so that nothing is resampled.
        square = flat.crop((int(left), int(top), int(left) + side, int(top) + side))
    else:
        box = (left, top, left + side, top + side)
        square = flat.resize(
            (size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=REDUCING_GAP
        )
    if orientation is not None:
        square = square.transpose(orientation)
    pixels = np.asarray(square, dtype=np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """What EXIF asks for; read after loading, as Pillow has turned TIFF images by then."""
    from PIL import Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    try:
        return turns.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except _DAMAGED_EXIF:
        # It says nothing about the pixels: the picture stands as it is stored.
        return None


def _opaque(image: Image.Image, mode: str) -> Image.Image:
    """Return `image` in 8-bit `mode` (L or RGB), transparency laid over white."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        # La has no direct way to RGBA in Pillow, only through LA.
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    if image.mode == mode:
        return image
    if image.mode not in ("1", "L", "RGB") and mode == "L":
        # Palettes, CMYK and the like have a defined way to RGB, from where luma is taken.
        image = image.convert("RGB")
    return image.convert(mode)


def _eight_bit(image: Image.Image) -> Image.Image:
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadableError("values that are not finite")
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I") and low >= 0 and high <= 65535:
        values = values / 257
    elif image.mode == "F" and low >= 0 and high <= 1:
        values = values * 255
    elif image.mode != "F" or low < 0 or high > 255:
        values = (values - low) * (255 / max(high - low, np.finfo(np.float64).tiny))
    return Image.fromarray(np.rint(values).astype(np.uint8))


def may_pass(reason: str) -> bool:
    """Tell whether a reason lies with the system and not with the file, so that it may pass."""
    return reason.startswith(_OF_THE_SYSTEM)


_OF_THE_SYSTEM = ("no permission", "no such file", "cannot be read")


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "no permission"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "not a regular file"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    if isinstance(error, MemoryError):
        return "too large for the memory"
    text = " ".join(str(error).split())
    if "truncated" in text.lower():
        return "truncated"
    return f"damaged ({text or type(error).__name__})"[:200]
