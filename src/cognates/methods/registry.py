"""The names of the methods: built in, from a plug-in, or from entry points `cognates.methods`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

from cognates.errors import ConfigError, nearest
from cognates.methods.base import MethodConfig

_BUILTIN = {
    "beta-vae": "cognates.methods.beta_vae",
    "cr-vae": "cognates.methods.cr_vae",
    "simsiam": "cognates.methods.simsiam",
    "simve": "cognates.methods.simve",
    "vae": "cognates.methods.vae",
    "vi-simsiam": "cognates.methods.vi_simsiam",
}
_REGISTERED: dict[str, type[MethodConfig]] = {}

C = TypeVar("C", bound=type[MethodConfig])


def register(config: C) -> C:
    """Class decorator that makes a method known under its configuration's `name`."""
    _REGISTERED[config.name] = config
    return config


def names() -> list[str]:
    """Return every known method name, sorted; nothing is imported to answer."""
    found = {entry.name for entry in entry_points(group="cognates.methods")}
    return sorted({*_BUILTIN, *_REGISTERED, *found})


def get(name: str) -> type[MethodConfig]:
    """Return the configuration class of the method called `name`.

    Raises:
        ConfigError: no method has this name; the nearest one is offered.
    """
    if name not in _REGISTERED:
        if name in _BUILTIN:
            importlib.import_module(_BUILTIN[name])
        else:
            for entry in entry_points(group="cognates.methods"):
                if entry.name == name:
                    register(entry.load())
    if name not in _REGISTERED:
        raise ConfigError(f"Expected the name of a method, got '{name}': {nearest(name, names())}.")
    return _REGISTERED[name]


def load_plugin(path: str | Path) -> list[str]:
    """Import a user's single-file method and return the names that it registered.

    Raises:
        ConfigError: the file is missing, fails to import or registers no method.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise ConfigError(f"Expected a Python file with a method, got '{path}': no such file.")
    module_name = (
        f"cognates_plugin_{path.stem}_{hashlib.blake2b(bytes(path), digest_size=4).hexdigest()}"
    )
    if module_name in sys.modules:
        return _registered_by(module_name)
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise ConfigError(
            f"The plug-in '{path}' does not import: {type(error).__name__}: {error}"
        ) from error
    added = _registered_by(module_name)
    if not added:
        raise ConfigError(
            f"The plug-in '{path}' registers no method: decorate its configuration with "
            "@cognates.methods.register."
        )
    return added


def _registered_by(module_name: str) -> list[str]:
    return sorted(n for n, config in _REGISTERED.items() if config.__module__ == module_name)
