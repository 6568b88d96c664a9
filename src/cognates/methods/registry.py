"""The names of the methods: built in, from a plug-in, or from entry points `cognates.methods`."""

from __future__ import annotations

import hashlib
import importlib
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import TypeVar

from cognates.errors import ConfigError, nearest
from cognates.methods.base import MethodConfig

_BUILTIN = {
    "beta-vae": "cognates.methods.beta_vae",
    "byol": "cognates.methods.byol",
    "clip": "cognates.methods.clip",
    "combined": "cognates.methods.combined",
    "cr-vae": "cognates.methods.cr_vae",
    "dino": "cognates.methods.dino",
    "loss-prediction": "cognates.methods.loss_prediction",
    "mc-info-nce": "cognates.methods.mc_info_nce",
    "post-hoc": "cognates.methods.post_hoc",
    "simclr": "cognates.methods.simclr",
    "simsiam": "cognates.methods.simsiam",
    "simve": "cognates.methods.simve",
    "ssl-hsic": "cognates.methods.ssl_hsic",
    "vae": "cognates.methods.vae",
    "vi-simsiam": "cognates.methods.vi_simsiam",
    "vicreg": "cognates.methods.vicreg",
}
_REGISTERED: dict[str, type[MethodConfig]] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Plugin:
    """A user's file that registered methods in this process."""

    path: Path
    """Where it was read."""
    source: bytes
    sha256: str
    """Of the source."""
    module: ModuleType
    configs: tuple[type[MethodConfig], ...]


_PLUGINS: dict[str, Plugin] = {}
"""By checksum."""

C = TypeVar("C", bound=type[MethodConfig])


def register(config: C) -> C:
    """Class decorator that makes a method known under its configuration's `name`.

    Raises:
        ConfigError: the class has no `name` or no `paper`, or the library has a method of its name:
            a record that says `simsiam` means the library's.
    """
    for field in ("name", "paper"):
        if not isinstance(getattr(config, field, None), str) or not getattr(config, field):
            raise ConfigError(
                f"Expected {config.__name__} to say its {field}, got none: add "
                f'`{field}: ClassVar[str] = "..."` to the class.'
            )
    if config.__module__ != _BUILTIN.get(config.name, config.__module__):
        raise ConfigError(
            f"Expected a name of its own for {config.__name__}, got '{config.name}', a method of "
            "the library: choose another name."
        )
    _REGISTERED[config.name] = config
    return config


def names() -> list[str]:
    """Return every known method name, sorted; nothing is imported to answer."""
    found = {entry.name for entry in entry_points(group="cognates.methods")}
    return sorted({*_BUILTIN, *_REGISTERED, *found})


def get(name: str) -> type[MethodConfig]:
    """Return the configuration class of the method called `name`.

    Raises:
        ConfigError: no method has this name; the nearest one is offered. Or another package
            promises it by an entry point and does not keep the promise.
    """
    if name not in _REGISTERED:
        if name in _BUILTIN:
            importlib.import_module(_BUILTIN[name])
        else:
            for entry in entry_points(group="cognates.methods"):
                if entry.name == name:
                    register(_loaded(entry))
    if name not in _REGISTERED:
        raise ConfigError(f"Expected the name of a method, got '{name}': {nearest(name, names())}.")
    return _REGISTERED[name]


def load_plugin(path: str | Path, *, sha256: str | None = None) -> list[str]:
    """Run a user's single-file method and return the names that it registered.

    A plug-in is known by its content: the same file elsewhere is the same plug-in and runs once; a
    changed file is another one, and the one loaded last gives a name its meaning.

    Args:
        path: the Python file.
        sha256: the checksum that it must have to be run; None: any.

    Raises:
        ConfigError: the file is missing, has another checksum, fails to import or registers no
            method.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise ConfigError(f"Expected a Python file with a method, got '{path}': no such file.")
    source = path.read_bytes()
    checksum = hashlib.sha256(source).hexdigest()
    if sha256 is not None and checksum != sha256:
        raise ConfigError(f"Expected a plug-in with the checksum {sha256}, got '{path}'.")
    if checksum not in _PLUGINS:
        _PLUGINS[checksum] = _execute(path, source, checksum)
    activate(checksum)
    return sorted(config.name for config in _PLUGINS[checksum].configs)


def activate(sha256: str | None) -> bool:
    """Give the names of a loaded plug-in its meaning again; False if it has not been loaded."""
    plugin = _PLUGINS.get(sha256 or "")
    if plugin is None:
        return False
    sys.modules.setdefault(plugin.module.__name__, plugin.module)
    for config in plugin.configs:
        register(config)
    return True


def plugin_of(config: MethodConfig) -> Plugin | None:
    """Return the plug-in that a method's configuration comes from; None for any other method."""
    return next((one for one in _PLUGINS.values() if type(config) in one.configs), None)


def _loaded(entry: EntryPoint) -> type[MethodConfig]:
    where = f"the entry point '{entry.name} = {entry.value}' of cognates.methods"
    try:
        config = entry.load()
    except Exception as error:
        raise ConfigError(
            f"Expected {where} to import, got {type(error).__name__} ({error}): repair or remove "
            "the package that declares it."
        ) from error
    if not (isinstance(config, type) and issubclass(config, MethodConfig)):
        raise ConfigError(f"Expected {where} to name a subclass of MethodConfig, got {config!r}.")
    if getattr(config, "name", None) != entry.name:
        raise ConfigError(
            f"Expected {where} to be called as its configuration is, got "
            f"'{getattr(config, 'name', None)}': give both one name."
        )
    return config


def _execute(path: Path, source: bytes, checksum: str) -> Plugin:
    name = f"cognates_plugin_{path.stem}_{checksum[:8]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    before = dict(_REGISTERED)
    try:
        # What was checked is what runs, and no byte code is written beside it.
        exec(compile(source, str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        # What it registered before it failed is no method.
        for config in [each for each in _REGISTERED.values() if each.__module__ == name]:
            del _REGISTERED[config.name]
            if config.name in before:
                _REGISTERED[config.name] = before[config.name]
        lines = [at.lineno for at in extract_tb(error.__traceback__) if at.filename == str(path)]
        where = f" in line {lines[-1]}" if lines else ""  # a syntax error says its line itself
        raise ConfigError(
            f"The plug-in '{path}' does not import{where}: {type(error).__name__}: {error}"
        ) from error
    added = tuple(config for config in _REGISTERED.values() if config.__module__ == name)
    if not added:
        del sys.modules[name]
        raise ConfigError(
            f"The plug-in '{path}' registers no method: decorate its configuration with "
            "@cognates.methods.register."
        )
    return Plugin(path=path, source=source, sha256=checksum, module=module, configs=added)
