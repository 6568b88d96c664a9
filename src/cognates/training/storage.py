"""Files that are whole or absent: atomic replacement, checksums, tensors without pickle."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from cognates.errors import StorageError

PLUGIN = "plugin.py"
"""The copy of a plug-in's source that a run directory and its `model/` keep."""
TOKENIZER = "tokenizer.json"
"""The encoding of captions, there too."""


def resume_command(run: Path) -> str:
    """Return the command that goes on with a run, for the end of a sentence."""
    named = f" --plugin {run / PLUGIN}" if (run / PLUGIN).is_file() else ""
    return f"`cognates train --resume {run}{named}`"


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`: a reader sees the old or the new one, never half.

    Raises:
        StorageError: the operating system refuses; the file that was there is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        write_synced(temporary, data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"Cannot write '{path}' ({error.strerror}): what was there is kept; free some space or "
            "choose another folder."
        ) from error


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name != "posix":  # other systems cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(data: bytes) -> str:
    """Return the checksum as it stands in the records."""
    return hashlib.sha256(data).hexdigest()


def encode_tensors(tensors: dict[str, Tensor]) -> bytes:
    """Return tensors in the safetensors format; tied ones are written once per name."""
    # Copied, because the format refuses two names for one memory.
    return safetensors.torch.save(
        {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    )


def read_tensors(path: Path, checksum: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file after its checksum has been verified.

    Raises:
        StorageError: the file is missing or is not the one that was written.
    """
    try:
        data = path.read_bytes()
        if sha256(data) == checksum:
            return safetensors.torch.load(data)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"Expected '{path}' as it was written, got an error ({error}): restore it from a copy "
            "or train again."
        ) from error
    raise StorageError(
        f"Expected '{path}' with its recorded checksum, got {len(data)} bytes with another one: "
        "the file was cut off or changed; restore it from a copy or train again."
    )
