"""Features on disk: one npz file without pickle, replaced atomically, named by its content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import nn

from cognates.data.images import Images
from cognates.errors import DataError, StorageError
from cognates.evaluation.ranks import require_finite
from cognates.types import Features

_FORMAT = 1  # raise when what `extract` computes or the layout of the file changes


def check(features: Features) -> Features:
    """Return `features`, or raise a `DataError` if lengths disagree or a number is not finite."""
    n = len(features.representation)
    where = f"the {features.split or 'given'} features"
    if features.representation.ndim != 2:
        raise DataError(
            f"Expected {where} of shape (n, d), got {features.representation.shape}: flatten them."
        )
    columns = {"index": features.index, **features.targets, **features.scores}
    for name, column in columns.items():
        if len(column) != n:
            raise DataError(f"Expected {n} values of '{name}' in {where}, got {len(column)}.")
    require_finite(f"the representation in {where}", features.representation)
    for name, score in features.scores.items():
        require_finite(f"the score '{name}' in {where}", score)
    return features


def save(path: str | Path, features: Features) -> None:
    """Write `features` to `path` as an npz file without pickle, atomically.

    Raises:
        DataError: the features are not consistent, or hold a NaN.
        StorageError: the file cannot be written; an existing one is left as it was.
    """
    check(features)
    arrays = {"representation": features.representation, "index": features.index}
    if features.path is not None:
        arrays["path"] = np.asarray(features.path, dtype=np.str_)
    arrays |= {f"target/{name}": value for name, value in features.targets.items()}
    arrays |= {f"score/{name}": value for name, value in features.scores.items()}
    about = {
        "format": _FORMAT,
        "target_names": {name: list(names) for name, names in features.target_names.items()},
        "default_score": features.default_score,
        "dataset": features.dataset,
        "split": features.split,
        "layer": features.layer,
    }
    arrays["about"] = np.array(json.dumps(about))
    replace(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def load(path: str | Path) -> Features:
    """Read what `save` wrote.

    Raises:
        StorageError: the file is missing, cut short or not one of ours.
    """
    path = Path(path)
    try:
        # opened here: np.load leaves its own handle open when the file is cut short
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays["about"]))
        if about["format"] != _FORMAT:
            raise StorageError(
                f"Expected features of format {_FORMAT} in '{path}', got {about['format']}: "
                "delete the file, it is made again."
            )
        return check(
            Features(
                representation=arrays["representation"],
                index=arrays["index"],
                path=arrays.get("path"),
                targets=_strip(arrays, "target/"),
                target_names={k: tuple(v) for k, v in about["target_names"].items()},
                scores=_strip(arrays, "score/"),
                default_score=about["default_score"],
                dataset=about["dataset"],
                split=about["split"],
                layer=about["layer"],
            )
        )
    except StorageError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StorageError(
            f"Expected intact features in '{path}', got a file that cannot be read ({error}): "
            "delete it, it is made again."
        ) from error


def replace(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it there in one step.

    Raises:
        StorageError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner reads; a result is as readable as any other file
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"Expected to write '{path}', got: {error}.") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def weights_digest(module: nn.Module) -> str:
    """Return a hash of every parameter and buffer: name, type, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        raw = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{raw.dtype}|{tuple(raw.shape)}|".encode())
        digest.update(raw.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def data_digest(images: Images) -> str:
    """Return the hash of the images: their source's, or that of pixels and targets of arrays."""
    if images.digest:
        return images.digest
    digest = hashlib.sha256()
    for start in range(0, len(images), 4096):  # a memory map is read piece by piece
        digest.update(np.ascontiguousarray(images.pixels[start : start + 4096]).tobytes())
    for name, target in sorted(images.targets.items()):
        digest.update(name.encode() + np.ascontiguousarray(target).tobytes())
    return digest.hexdigest()


def cache_key(images: Images, *, weights: str, layer: str, transform: Mapping[str, object]) -> str:
    r"""Return the name under which features are cached: 16 hexadecimal digits.

    Formula: SHA-256 over weights, data set, split, data digest, transform, layer and library
    version.

    Args:
        images: the split.
        weights: `weights_digest` of the method, or a constant for raw pixels.
        layer: which layer of the method.
        transform: everything else the features depend on, as JSON data.
    """
    try:
        library = version("cognates")
    except PackageNotFoundError:  # used from a source tree that is not installed
        library = "source"
    parts = {
        "weights": weights,
        "dataset": images.dataset,
        "split": images.split,
        "data": data_digest(images),
        "layer": layer,
        "transform": dict(transform),
        "library": library,
        "format": _FORMAT,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _strip(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
