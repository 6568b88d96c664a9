"""SOURCE: one string says where images come from; `open_source` lists them and decodes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cognates.data import names
from cognates.data.splits import Source, Split
from cognates.errors import CognatesError, ConfigError, DataError, nearest

__all__ = ["SCHEMES", "Source", "Split", "absolute", "describe", "open_source"]


def open_source(spec: str) -> Source:
    """Open a data source: list its images, labels and splits without decoding anything.

    Args:
        spec: `folder:DIR`, `pairs:DIR` (images with captions), `idx:DIR`, `npz:FILE_OR_DIR`,
            `hub:ORG/NAME` (or `hub:ORG/NAME:CONFIG`, or a folder written by `save_to_disk`), or a
            bare name: an embedded data set, or one that is looked for under `$COGNATES_DATA/NAME`
            and then on the hub.

    Returns:
        The source with its splits: `train`, usually `test`, and `val` where there are three. With
        `train` and `val` alone, `val` is the test set; without splits, 80/20 with seed 0,
        stratified where there are labels. Its `note` says which.

    Raises:
        ConfigError: unknown scheme or bare name; the nearest one is offered.
        DataError: the source is missing, empty or malformed.
        MissingExtraError: `hub:` without the package `datasets`.

    Example:
        >>> try:
        ...     open_source("foldr:photos")
        ... except ConfigError as error:
        ...     print(str(error).split(": ")[1])
        did you mean 'folder'? Known
    """
    scheme, colon, rest = spec.partition(":")
    if not colon:
        return _open_name(spec)
    if scheme not in SCHEMES:
        raise ConfigError(
            f"Unknown kind of data source '{scheme}' in '{spec}': {nearest(scheme, SCHEMES)}."
        )
    if not rest:
        raise ConfigError(f"Expected something after '{spec}', got nothing: give {scheme}:WHERE.")
    return SCHEMES[scheme](rest)


def describe(spec: str) -> dict[str, Any]:
    """Describe a source from its names, labels and the headers of its files; no pixel is decoded.

    Args:
        spec: a SOURCE, see `open_source`.

    Returns:
        JSON data: `source`, `name`, `kind` (files or arrays), `note` (how splits and labels were
        made), `images` (count, unreadable ones included), `sizes` ({width, height}: each [min,
        median, max] in pixels, or None), `modes` (count by Pillow's mode), `splits` ({split:
        {images, labels: {class: count}}}), `targets` (names of all targets) and `unreadable`
        ([path, reason] pairs). A file that is cut short may have a good header: that is found when
        it is decoded.

    Raises:
        ConfigError, DataError, MissingExtraError: as `open_source` does.
    """
    from cognates.data.summary import summarise

    return summarise(open_source(spec), spec)


def absolute(spec: str) -> str:
    """Return `spec` with the whole path of its folder or file, the same from wherever it is called.

    Example:
        >>> absolute("folder:a/../photos") == absolute("folder:photos/"), absolute("cifar10")
        (True, 'cifar10')
    """
    scheme, colon, rest = spec.partition(":")
    if not colon:
        return spec
    path = Path(rest).expanduser()
    return f"{scheme}:{path.resolve()}" if scheme != "hub" or path.exists() else spec


def _open_folder(rest: str) -> Source:
    from cognates.data.folder import open_folder

    return open_folder(rest)


def _open_pairs(rest: str) -> Source:
    from cognates.data.pairs import open_pairs

    return open_pairs(rest)


def _open_idx(rest: str) -> Source:
    from cognates.data.idx import open_idx

    return open_idx(rest)


def _open_npz(rest: str) -> Source:
    from cognates.data.npz import open_npz

    return open_npz(rest)


def _open_hub(rest: str) -> Source:
    from cognates.data.hub import open_hub

    return open_hub(rest)


SCHEMES: dict[str, Callable[[str], Source]] = {
    "folder": _open_folder,
    "hub": _open_hub,
    "idx": _open_idx,
    "npz": _open_npz,
    "pairs": _open_pairs,
}


def _open_name(name: str) -> Source:
    if name in names.EMBEDDED:
        from cognates.data.embedded import open_embedded

        return open_embedded(name)
    folder = names.local_folder(name) if name else None
    if folder is not None and folder.is_dir():
        return _open_local(name, folder)
    if name not in names.KNOWN:
        raise _unknown(name)
    known = names.KNOWN[name]
    reason = "the hub does not have it"
    if known.hub is not None:
        from cognates.data.hub import open_hub

        try:
            return open_hub(known.hub, name=name, native=known.native)
        except CognatesError as error:
            reason = " ".join(str(error.__cause__ or error).split()).split(". ")[0].rstrip(".")
    where = folder if folder is not None else Path(f"${names.VARIABLE}") / name
    unset = "" if folder is not None else f" (the variable {names.VARIABLE} is not set)"
    raise DataError(
        f"Expected the data set '{name}' in '{where}', got no such folder{unset}, nor could it be"
        f" fetched ({reason}): put {known.files} into that folder."
    )


def _unknown(name: str) -> ConfigError:
    if name and Path(name).expanduser().exists():
        scheme = "npz" if name.endswith(".npz") else "folder"
        return ConfigError(
            f"Expected a data source, got the path '{name}': write {scheme}:{name} instead."
        )
    if "/" in name:
        return ConfigError(
            f"Unknown data source '{name}': write folder:{name} for a folder or hub:{name} for a"
            " data set of the hub."
        )
    return ConfigError(
        f"Unknown data set '{name}': {nearest(name, names.all_names())}; or write folder:DIR,"
        " pairs:DIR, idx:DIR, npz:FILE_OR_DIR or hub:ORG/NAME."
    )


def _open_local(name: str, folder: Path) -> Source:
    """Open `$COGNATES_DATA/NAME` by what lies in it."""
    from cognates.data.folder import open_folder
    from cognates.data.idx import holds_idx, open_idx
    from cognates.data.npz import open_npz
    from cognates.data.pairs import holds_pairs, open_pairs

    labels = names.KNOWN[name].labels if name in names.KNOWN else ()
    if any(folder.glob("*.npz")):
        return open_npz(folder, name=name, label_names=labels)
    if holds_idx(folder):
        return open_idx(folder, name=name, label_names=labels)
    if holds_pairs(folder):
        return open_pairs(folder, name=name)
    return open_folder(folder, name=name)
