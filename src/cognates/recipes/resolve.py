"""From what a user asked for to a configuration: a recipe, a record or the default, changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cognates.config import RunConfig, encode, read_text
from cognates.data.sources import open_source
from cognates.errors import ConfigError, nearest
from cognates.methods.registry import get as get_method
from cognates.methods.registry import load_plugin
from cognates.recipes.defaults import default, method_config, without_absent_predictor
from cognates.recipes.generative import for_pixels
from cognates.recipes.named import get
from cognates.training import prepare

_PLACES = {
    "encoder": "encoder.name",
    "init": "encoder.init",
    "data": "data.source",
    "max_unreadable": "data.max_unreadable",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "seed": "training.seed",
    "device": "training.device",
    "devices": "training.devices",
    "precision": "training.precision",
    "accumulate": "training.accumulate",
    "stop_on_collapse": "training.stop_on_collapse",
    "learning_rate": "optimiser.learning_rate",
    "clip": "optimiser.clip",
}
"""Where each option of `train` stands in the record; `image_size` and `plugin` stand in several."""


def resolve(
    method: str | None,
    *,
    recipe: str | None = None,
    config: RunConfig | str | Path | None = None,
    settings: Sequence[str] = (),
    **options: Any,  # noqa: ANN401  (the options of `train`, by the names in _PLACES)
) -> RunConfig:
    """Return the configuration of a run.

    The start is `config`, else `recipe`, else the default for the source; then every option that
    was given replaces its field, and `settings` replace any other.

    Args:
        method: a registered name, or None where the start says it.
        recipe: the name of a recipe.
        config: a configuration, or the file of one.
        settings: "KEY=VALUE" with a dotted key of the record and a value in JSON (a bare word is
            text).
        options: the options of `train`; None means not given.

    Raises:
        ConfigError: the start is missing or ambiguous, or an option does not exist or fit.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if given.get("plugin") is not None:
        added = load_plugin(given["plugin"])
        method = method or (added[0] if len(added) == 1 else None)
    if recipe is not None and config is not None:
        raise ConfigError("Expected a recipe or a configuration, got both: choose one of them.")
    if method is not None:
        get_method(method)
    base = _start(method, recipe, config, given)
    record = encode(base)
    if "plugin" in given:
        record |= _plugin_fields(given.pop("plugin"), base)
    if method is not None and method != base.method.name:
        shared = {k: v for k, v in record["method"].items() if k != "name"}
        record["method"] = encode(method_config(method, **shared))
    if "image_size" in given:
        _resize(record, given.pop("image_size"))
    if given.get("data", base.data.source) != base.data.source:
        # Another source has other statistics: they are measured again.
        record["data"] |= {"mean": None, "std": None}
    for name, value in given.items():
        _put(record, _PLACES[name], value)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(
                f"Expected KEY=VALUE, got '{setting}': write optimiser.momentum=0.95."
            )
        _put(record, key, _value(text))
    found = RunConfig.from_json(json.dumps(record))
    # A record is repeated as it is, unless it was of another method.
    kept = config is not None and found.method.name == base.method.name
    said = any(setting.startswith("optimiser.constant_rate") for setting in settings)
    return found if kept or said else without_absent_predictor(found)


def _start(
    method: str | None,
    recipe: str | None,
    config: RunConfig | str | Path | None,
    given: Mapping[str, Any],
) -> RunConfig:
    if isinstance(config, RunConfig):
        return config
    if config is not None:
        return _read(Path(config), named="plugin" in given)
    if recipe is not None:
        found = get(recipe)
        built = found.build(method or found.methods[0])
        own = built.method.name in found.methods or not built.method.models_pixels
        return built if own else for_pixels(built)
    if method is None:
        raise ConfigError(
            "Expected a method, a recipe or a configuration, got none: "
            "for example 'vi-simsiam', or see `cognates methods`."
        )
    if "data" not in given:
        raise ConfigError(
            "Expected a source of images, got none: for example --data folder:photos."
        )
    usual = default(
        method,
        open_source(given["data"]),
        spec=given["data"],
        on_gpu=_has_gpu(str(given.get("device", "auto"))),
    )
    return for_pixels(usual) if usual.method.models_pixels else usual


def _plugin_fields(path: str | Path, base: RunConfig) -> dict[str, str | None]:
    """Return what the record says about a plug-in; its copy in a run keeps its first place."""
    checksum = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if checksum == base.plugin_sha256:
        return {"plugin": base.plugin, "plugin_sha256": checksum}
    return {"plugin": str(Path(path).resolve()), "plugin_sha256": checksum}


def _read(path: Path, *, named: bool) -> RunConfig:
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise ConfigError(f"Expected a configuration file, got '{path}': no such file.")
    if named:  # also with changed code: it is another run
        return RunConfig.from_json(read_text(path))
    return prepare.parse_config(read_text(path), run=path.parent)


def _has_gpu(device: str) -> bool:
    import torch

    return device != "cpu" and torch.cuda.is_available()


def _resize(record: dict[str, Any], size: int) -> None:
    """Set the size of the stored images, and of the views in proportion."""
    old = record["data"]["image_size"]
    record["data"] |= {"image_size": size, "mean": None, "std": None}
    for view in record["views"]:
        view["size"] = max(1, round(view["size"] * size / old))


def _put(record: dict[str, Any], key: str, value: object) -> None:
    """Replace the field of the record that a dotted key names."""
    *way, last = key.split(".")
    place: Any = record
    for depth, name in enumerate([*way, last]):
        names = [str(i) for i in range(len(place))] if isinstance(place, list) else list(place)
        if name not in names:
            where = ".".join(way[:depth]) or "the configuration"
            raise ConfigError(f"Unknown field '{name}' in {where}: {nearest(name, names)}.")
        index: Any = int(name) if isinstance(place, list) else name
        if depth == len(way):
            place[index] = value
        else:
            place = place[index]
            if not isinstance(place, (dict, list)):
                raise ConfigError(f"Expected a field with parts in '{key}', got {place!r}.")


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
