"""Where drawn pictures go: one PNG file of all, or a folder with a file for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from cognates.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np


def target(given: str | Path) -> Path:
    """Return the PNG file, or the folder, that is meant.

    Raises:
        ConfigError: it is a file of another kind.
    """
    path = Path(given)
    another = path.suffix.lower() not in ("", ".png") and not path.is_dir()
    if another or (path.suffix.lower() == ".png" and path.is_dir()) or _is_other_file(path):
        raise ConfigError(
            f"Expected a PNG file or a folder to write, got '{path}': for example pictures.png."
        )
    return path


def free(path: Path) -> Path:
    """Return a name for pictures that nothing has: the given one, else NAME-2, NAME-3, and so on.

    For names that were not asked for: what lies there may be of another seed or image.
    """
    names = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
    return next(name for name in chain([path], names) if not name.exists())


def write(path: Path, rows: np.ndarray, single: Mapping[str, np.ndarray]) -> None:
    """Write rows (r, k, c, h, w) into one PNG file, or single pictures by name into a folder.

    Every file is put there whole or not at all.

    Raises:
        ConfigError: the folder holds other pictures, which would pass for some of these.
        StorageError: one cannot be written.
    """
    from cognates.evaluation.grids import grid, png
    from cognates.evaluation.store import replace

    files = {path / f"{name}.png": image for name, image in single.items()}
    if path.suffix.lower() == ".png":
        files = {path: grid(rows, enlarge=True)}
    else:
        _require_no_others(path, files)
    for file, image in files.items():
        data = png(image)
        replace(file, lambda handle, data=data: handle.write(data))


def _require_no_others(folder: Path, files: Iterable[Path]) -> None:
    others = sorted({file for file in folder.glob("*") if file.suffix.lower() == ".png"} - {*files})
    if others:
        raise ConfigError(
            f"Expected a folder without other pictures, got '{folder}' with {len(others)} that "
            f"would stay among the new ones ('{others[0].name}'): take an empty folder."
        )


def _is_other_file(path: Path) -> bool:
    return path.suffix.lower() != ".png" and path.is_file()
