"""The captions of a run: the encoding that is learnt from them, kept as JSON in the run directory.

It is learnt once, before the first step; every process, every resumption and the finished model
read the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cognates.config import RunConfig
from cognates.data.tokens import Tokenizer, TokenTable
from cognates.errors import ConfigError, StorageError
from cognates.training import storage

if TYPE_CHECKING:
    from cognates.data.images import Images
    from cognates.methods.base import TextConfig


def tokenizer_of(config: RunConfig, images: Images, run: Path, *, resume: bool) -> Tokenizer | None:
    """Return the run's tokenizer, learnt from the training captions; None if none are read.

    Raises:
        ConfigError: the source has no captions.
        MissingExtraError: the package `tokenizers` is not installed.
        StorageError: the run to resume has lost its tokenizer.
    """
    wanted = config.method.text
    if wanted is None:
        return None
    captions = _captions(config, images)
    if resume and (run / storage.TOKENIZER).exists():
        return read(run)
    every = [caption for several in captions for caption in several]
    return Tokenizer.learn(every, vocabulary=wanted.vocabulary, length=wanted.length)


def keep(tokenizer: Tokenizer | None, run: Path) -> None:
    """Write a run's tokenizer into its folder."""
    if tokenizer is not None:
        storage.write_atomic(run / storage.TOKENIZER, tokenizer.to_json().encode())


def read_json(folder: Path) -> str:
    """Return the text of the tokenizer in a run directory.

    Raises:
        StorageError: it cannot be read.
    """
    path = folder / storage.TOKENIZER
    try:
        return path.read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(
            f"Expected the run's tokenizer in '{path}', got none that can be read ({error}): "
            "restore it from a copy or train again."
        ) from error


def verified_json(folder: Path, checksum: str | None) -> str | None:
    """Return that text if it has the recorded checksum; None: no tokenizer was recorded.

    Raises:
        StorageError: it cannot be read, or is another.
    """
    if checksum is None:
        return None
    found = read_json(folder)
    if storage.sha256(found.encode()) != checksum:
        raise StorageError(
            f"Expected '{folder / storage.TOKENIZER}' with its recorded checksum, got another "
            "file: restore it from a copy or train again."
        )
    return found


def read(folder: Path) -> Tokenizer:
    """Read the tokenizer in a run directory."""
    return Tokenizer.from_json(read_json(folder))


def table_of(config: RunConfig, images: Images, run: Path) -> TokenTable | None:
    """Return the token ids of the training captions; None if the method reads none."""
    wanted = config.method.text
    if wanted is None:
        return None
    return _table(wanted, _captions(config, images), read(run))


def rehearsed(config: RunConfig, some: Sequence[Sequence[str]], tokenizer: Tokenizer) -> Tensor:
    """Return the token ids that a step would read for the first images, to try a method on."""
    wanted = config.method.text
    assert wanted is not None  # there is a tokenizer
    table = _table(wanted, some, tokenizer)
    return table.draw(torch.arange(len(some)), seed=config.training.seed, step=0)


def _table(
    wanted: TextConfig, captions: Sequence[Sequence[str]], tokenizer: Tokenizer
) -> TokenTable:
    return TokenTable.of(captions, tokenizer, together=wanted.captions, omitted=wanted.omitted)


def _captions(config: RunConfig, images: Images) -> tuple[tuple[str, ...], ...]:
    if images.captions is None:
        raise ConfigError(
            f"Expected a source with captions for '{config.method.name}', got "
            f"'{config.data.source}' without: give pairs:DIR, or set method.second=image."
        )
    return images.captions
