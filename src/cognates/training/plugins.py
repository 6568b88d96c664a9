"""A run whose method is a user's file: the copy that the run keeps, and who may run it.

Loading a run executes nothing: weights are no pickles, and a plug-in runs only if the caller names
a file, be it the run's own copy. A run that was received from somebody else, or whose record was
changed, can therefore do no harm unasked. What is named must have the checksum of the record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cognates.config import RunConfig
from cognates.errors import ConfigError
from cognates.methods import registry
from cognates.training import storage


def settled(config: RunConfig) -> RunConfig:
    """Return the configuration with the plug-in that its method comes from, or with none."""
    plugin = registry.plugin_of(config.method)
    if plugin is None:
        return dataclasses.replace(config, plugin=None, plugin_sha256=None)
    path = str(Path(config.plugin or plugin.path).resolve())
    return dataclasses.replace(config, plugin=path, plugin_sha256=plugin.sha256)


def require_free(config: RunConfig, run: Path) -> None:
    """Refuse a folder where the copy would replace a file of the user's."""
    plugin, place = registry.plugin_of(config.method), run / storage.PLUGIN
    if plugin is not None and place.exists() and place.read_bytes() != plugin.source:
        raise ConfigError(
            f"Expected no other {storage.PLUGIN} in the run's folder, got '{place}': choose "
            "another --out or rename that file."
        )


def keep(config: RunConfig, run: Path) -> None:
    """Copy the source of a settled configuration's plug-in into the run directory.

    Raises:
        StorageError: it cannot be written.
    """
    plugin = registry.plugin_of(config.method)
    if plugin is not None:
        storage.write_atomic(run / storage.PLUGIN, plugin.source)


def require(raw: Mapping[str, Any], *, run: Path | None, plugin: str | Path | None) -> None:
    """Make the method of a record known, executing no file but the one that the caller names.

    Args:
        raw: the record.
        run: the directory that it is from, for the sentence that says what to name.
        plugin: a file, which must have the record's checksum; None: the plug-in must have been
            loaded in this process.

    Raises:
        ConfigError: a plug-in is needed and not named, or is another one.
    """
    checksum = raw.get("plugin_sha256")
    if plugin is not None:
        if checksum is not None and Path(plugin).is_file():
            _require_same(Path(plugin), checksum, run)
        registry.load_plugin(plugin, sha256=checksum)
    elif raw.get("plugin") is not None and not registry.activate(checksum):
        copy = _copy(run)
        raise ConfigError(
            f"Expected the plug-in that '{run}' was trained with, got none: a run's code is "
            f"executed only when you name it, so look at {copy or 'it'} and pass --plugin "
            f"{copy or raw['plugin']} (in Python, plugin=...)."
        )


def _require_same(path: Path, checksum: str, run: Path | None) -> None:
    if storage.sha256(path.read_bytes()) != checksum:
        raise ConfigError(
            f"Expected the plug-in that '{run}' was trained with, got '{path}' with other code: "
            f"pass {_copy(run, checksum) or 'the file as it was'}, or train the new code with "
            f"--init {run} and another --out."
        )


def _copy(run: Path | None, checksum: str | None = None) -> Path | None:
    """Return the run's copy of its plug-in, if it has one (with this checksum)."""
    for folder in () if run is None else (run, run / "model"):
        path = folder / storage.PLUGIN
        if path.is_file() and checksum in (None, storage.sha256(path.read_bytes())):
            return path
    return None
