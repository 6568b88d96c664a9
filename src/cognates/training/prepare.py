"""From a configuration to what the loop needs: images, method, and a run directory that is ours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.optim import Optimizer

from cognates import optim
from cognates.config import RunConfig, encode, read_text
from cognates.errors import CognatesError, ConfigError, StorageError, nearest
from cognates.methods.base import Method
from cognates.random import fold_in
from cognates.training import captions, plugins, storage
from cognates.training.parts import shared_out
from cognates.types import Batch

if TYPE_CHECKING:
    from cognates.data.images import Images
    from cognates.data.tokens import Tokenizer

_MAY_CHANGE = {"training.device", "training.devices", "plugin"}
"""Fields that say where something is and not what; `--resume` may change them."""
_TRACES = ("config.json", "checkpoint", "checkpoint.old", "model")


def prepare(
    config: RunConfig, run: Path, *, resume: bool, progress: bool
) -> tuple[RunConfig, Images]:
    """Check all that can be checked before the first step, then make or reopen the run directory.

    Returns:
        The configuration with the normalisation filled in, and the training images.

    Raises:
        ConfigError: the folder holds another run, the run to resume has another configuration, or
            the configuration does not fit the data; nothing has been written.
        DataError: the source cannot be read, or has changed since the run started.
        StorageError: the folder cannot be made.
    """
    config = plugins.settled(config)
    if resume:
        config = _resumed(config, run)
    else:
        _require_free(run)
        plugins.require_free(config, run)
    _require_shared(config)
    config.method.require_images(config.training.batch_size // shared_out(config.training)[0])
    images = load_images(config, progress=progress)
    if len(images) < config.training.batch_size:
        way = "choose a smaller --batch-size" if len(images) > 1 else "give more images"
        raise ConfigError(
            f"Expected at least {config.training.batch_size} training images for one batch, got "
            f"{len(images)}: {way}."
        )
    if config.data.mean is None or config.data.std is None:
        config = _measured(config, images)
    torch_device(config)
    tokenizer = captions.tokenizer_of(config, images, run, resume=resume)
    _rehearse(config, images, tokenizer)
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot make the folder '{run}' ({error.strerror}): choose another one."
        ) from error
    # First, so that a run that was begun never lacks its code.
    plugins.keep(config, run)
    captions.keep(tokenizer, run)
    storage.write_atomic(run / "config.json", config.to_json().encode())
    return config, images


def read_config(run: Path, *, plugin: str | Path | None = None) -> RunConfig:
    """Read the configuration of a run directory.

    Raises:
        ConfigError: it is no run directory, the record is not valid, or its method comes from a
            plug-in that is neither loaded nor `plugin`.
    """
    path = run / "config.json"
    if not path.is_file():
        raise ConfigError(f"Expected a run directory, got '{run}': it has no config.json.")
    return parse_config(read_text(path), run=run, plugin=plugin)


def parse_config(
    text: str, *, run: Path | None = None, plugin: str | Path | None = None
) -> RunConfig:
    """Read a run's record, after loading the plug-in that the caller names; see `plugins`."""
    try:
        raw = json.loads(text)
    except json.JSONDecodeError:
        raw = None  # `from_json` says what is wrong
    if isinstance(raw, dict):
        plugins.require(raw, run=run, plugin=plugin)
    return RunConfig.from_json(text)


def own_config(text: str, run: Path) -> RunConfig:
    """Read the configuration that `prepare` has just returned, in any process of the run.

    Whoever started the run has named its plug-in: the copy in the run directory may be executed.
    """
    plugin = None if json.loads(text)["plugin"] is None else run / storage.PLUGIN
    return parse_config(text, run=run, plugin=plugin)


def load_images(config: RunConfig, *, progress: bool = False) -> Images:
    """Return the training images of a run from the cache, which is filled first if it is empty."""
    from cognates.data import cache

    return cache.load(
        config.data.source,
        "train",
        image_size=config.data.image_size,
        channels=config.data.channels,
        max_unreadable=config.data.max_unreadable,
        progress=progress,
    )


def build_method(config: RunConfig, *, initial: bool = True, synchronise: bool = False) -> Method:
    r"""Make the method of a run with its initial weights, a function of the configuration alone.

    Args:
        config: the run.
        initial: load `encoder.init` if the run names one; False where other weights follow.
        synchronise: let batch norm use the statistics of all processes.

    Returns:
        The method in training mode, float32, on the CPU; the global random state is untouched.

    Raises:
        ConfigError: an unknown encoder, or initial weights that do not fit it.
    """
    from cognates.networks import build_encoder, load_encoder_weights

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold_in(config.training.seed, "init"))
        encoder, width = build_encoder(
            config.encoder.name,
            channels=config.data.channels,
            image_size=config.data.image_size,
            stem=config.encoder.stem,
            width=config.encoder.width,
        )
        if initial and config.encoder.init is not None:
            load_encoder_weights(encoder, config.encoder.init)  # before a method copies it
        complete = config.method.completed(
            channels=config.data.channels,
            image_size=config.data.image_size,
            views=len(config.views),
        )
        method = complete.build(encoder, width=width)
    if synchronise:
        from cognates.networks import norm

        return cast(Method, norm.synchronise(method))
    return method


def build_optimiser(config: RunConfig, method: Method) -> Optimizer:
    """Make the run's optimiser over the method's parameters."""
    groups = optim.parameter_groups(
        method,
        weight_decay=config.optimiser.weight_decay,
        constant_rate=config.optimiser.constant_rate,
    )
    plan = config.optimiser
    return optim.build(
        plan.name, groups, learning_rate=peak_rate(config), momentum=plan.momentum, eps=plan.eps
    )


def peak_rate(config: RunConfig) -> float:
    """Return the largest learning rate, linear in the batch size (Goyal et al. 2017, 2.1)."""
    return config.optimiser.learning_rate * config.training.batch_size / 256


def torch_device(config: RunConfig) -> str:
    """Return "cpu" or "cuda" for the run.

    Raises:
        ConfigError: another name, or more GPUs than there are.
    """
    name = config.training.device
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"Expected the device auto, cpu or cuda, got '{name}': choose one of them."
        )
    present = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and present < config.training.devices):
        return "cpu"
    if present < config.training.devices:
        raise ConfigError(
            f"Expected {config.training.devices} CUDA device(s), got {present}: use --device cpu "
            "or fewer --devices."
        )
    return "cuda"


def _rehearse(config: RunConfig, images: Images, tokenizer: Tokenizer | None) -> None:
    """Embed and train on a few images: what does not fit is found before a folder exists."""
    from cognates.evaluation.features import DISAGREEMENT, extract
    from cognates.evaluation.relative import SCORES as RELATIVE_SCORES

    method = build_method(config).eval()
    build_optimiser(config, method)
    two = images.take(slice(2))
    size, mean, std = config.data.image_size, config.data.mean, config.data.std
    features = extract(method, two, views=config.views, size=size, mean=mean, std=std)
    if method.own not in features.scores:
        raise ConfigError(
            f"Expected the method '{config.method.name}' to have the uncertainty "
            f"'{method.own}', got none from its `embed`: return one, or name "
            f"'{DISAGREEMENT}' or 'norm' as its default score."
        )
    if method.default_score not in {*features.scores, *RELATIVE_SCORES}:
        raise ConfigError(
            f"Expected a default score that '{config.method.name}' has, got "
            f"'{method.default_score}': "
            f"{nearest(method.default_score, [*features.scores, *RELATIVE_SCORES])}."
        )
    _rehearse_training(method, config, images, tokenizer)


def _rehearse_training(
    method: Method, config: RunConfig, images: Images, tokenizer: Tokenizer | None
) -> None:
    """Do one forward pass in training mode; the method is spent afterwards."""
    import numpy as np

    from cognates.data.augment import make_views

    n = min(config.training.batch_size // shared_out(config.training)[0], 4)
    # np.array copies: torch cannot wrap a read-only memory map
    pixels = torch.from_numpy(np.array(images.pixels[:n]))
    views = make_views(
        pixels,
        config.views,
        seed=config.training.seed,
        step=0,
        n_global=n,
        start=0,
        mean=config.data.mean,
        std=config.data.std,
    )
    said = None
    if tokenizer is not None and images.captions is not None:
        said = captions.rehearsed(config, images.captions[:n], tokenizer)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            loss = method.train()(Batch(views, torch.arange(n), 0, config.training.seed, said))
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, CognatesError):
            if len(views) == 1:  # by far the likeliest cause, which an objective does not know
                raise ConfigError(
                    f"Expected more views of an image for '{config.method.name}' than one: give "
                    f"the record's 'views' another entry. The method says: {error}"
                ) from error
            raise
        sizes = ", ".join(str(view.size) for view in config.views)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"Expected '{config.method.name}' with the encoder '{config.encoder.name}' to take "
            f"{len(views)} views of {sizes} pixels, got {type(error).__name__} ({reason}): choose "
            "another encoder, other views or another size."
        ) from error
    if not loss.terms:
        raise ConfigError(
            f"Expected the loss of '{config.method.name}' to have terms, got none: there is "
            "nothing to minimise."
        )


def _measured(config: RunConfig, images: Images) -> RunConfig:
    from cognates.data.augment import channel_statistics

    if config.method.models_pixels:
        mean, std = (0.0,) * config.data.channels, (1.0,) * config.data.channels
    else:
        mean, std = channel_statistics(images)
    return _filled(config, tuple(map(float, mean)), tuple(map(float, std)))


def _filled(
    config: RunConfig, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> RunConfig:
    """Return the configuration with the one of mean and std, or both, that it does not name."""
    data = config.data
    given = dataclasses.replace(
        data,
        mean=mean if data.mean is None else data.mean,
        std=std if data.std is None else data.std,
    )
    return dataclasses.replace(config, data=given)


def _require_free(run: Path) -> None:
    if run.exists() and not run.is_dir():
        raise ConfigError(f"Expected a folder for the run, got the file '{run}': choose another.")
    for name in _TRACES:
        if (run / name).exists():
            raise ConfigError(
                f"Expected a folder without a run, got '{run}' with {name}: choose another --out, "
                f"or go on with {storage.resume_command(run)}."
            )


def _require_shared(config: RunConfig) -> None:
    if config.encoder.name.startswith("custom:") and config.training.devices > 1:
        raise ConfigError(
            f"Expected an encoder by name for {config.training.devices} processes, got the module "
            f"'{config.encoder.name}', which only this process knows: train with devices=1, or "
            "make it in the `build` of a method of your own (see the examples)."
        )


def _resumed(config: RunConfig, run: Path) -> RunConfig:
    recorded = read_config(run)
    config = _filled(config, recorded.data.mean, recorded.data.std)
    config = dataclasses.replace(config, plugin=recorded.plugin)
    old, new = _flatten(encode(recorded)), _flatten(encode(config))
    for field in sorted({*old, *new} - _MAY_CHANGE):
        if old.get(field) != new.get(field):
            raise ConfigError(
                f"Expected the configuration that '{run}' started with, got {field} = "
                f"{new.get(field)!r} instead of {old.get(field)!r}: resume without changing it, or "
                "start another run."
            )
    return config


def _flatten(value: Any, name: str = "") -> dict[str, Any]:  # noqa: ANN401  (JSON data)
    if not isinstance(value, (dict, list)):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        place: leaf
        for key, item in items
        for place, leaf in _flatten(item, f"{name}.{key}" if name else str(key)).items()
    }
