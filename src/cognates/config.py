"""The whole record of a run: nested frozen dataclasses with a strict JSON round trip."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cognates.data.views import ViewSpec
from cognates.errors import ConfigError, nearest
from cognates.methods.base import MethodConfig
from cognates.methods.registry import get

VERSION = 1


def _require(name: str, value: float, holds: bool, expected: str) -> None:
    if not (holds and math.isfinite(value)):
        raise ConfigError(f"Expected '{name}' {expected}, got {value}.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and how they are stored and normalised."""

    source: str
    """A SOURCE: folder:DIR, pairs:DIR, idx:DIR, npz:FILE_OR_DIR, hub:ORG/NAME or a bare name."""
    image_size: int
    """Height and width of a view in pixels; stored with a short side of ceil(8/7 size)."""
    channels: Literal[1, 3] = 3
    max_unreadable: float = 0.1
    """Share of unreadable files above which the source is refused."""
    mean: tuple[float, ...] | None = None
    """Per-channel mean of the training images in [0, 1]; None: measured and recorded, but 0 and 1
    for a method that models pixels."""
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        share = self.max_unreadable
        _require("max_unreadable", share, 0 <= share <= 1, "in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Which network makes the representation."""

    name: str = "convnet"
    """convnet, mlp, resnet18, resnet34, resnet50, vae-convnet, vae-mlp, vae-resnet or timm:NAME."""
    stem: Literal["auto", "standard", "small"] = "auto"
    """ResNets: 7x7 stride-2 convolution and max-pool, or 3x3; auto: small below 65 pixels."""
    width: int | None = None
    """convnet: channels of the first stage (32); mlp: hidden and output width (512); else None."""
    init: str | None = None
    """Weights to start from: a file of torchvision or timm, or an earlier run."""


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """How the parameters move."""

    name: Literal["sgd", "adamw", "lars"] = "sgd"
    learning_rate: float = 0.06
    """At batch 256; multiplied by batch_size / 256."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    """Not applied to norms and biases."""
    warmup_epochs: float = 0.0
    """Linear from 0; then cosine to 0."""
    constant_rate: tuple[str, ...] = ()
    """Submodules of the method whose rate stays at its peak (SimSiam on ImageNet: predictor)."""
    eps: float = 1e-8
    """AdamW's, added to the root of the mean squared gradient."""
    clip: float | None = None
    """Largest norm of the gradient; None: no clipping."""

    def __post_init__(self) -> None:
        """Refuse numbers that no optimiser can use."""
        _require("learning_rate", self.learning_rate, self.learning_rate > 0, "above 0")
        _require("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        _require("weight_decay", self.weight_decay, self.weight_decay >= 0, "of at least 0")
        _require("warmup_epochs", self.warmup_epochs, self.warmup_epochs >= 0, "of at least 0")
        _require("eps", self.eps, self.eps > 0, "above 0")
        if self.clip is not None:
            _require("clip", self.clip, self.clip > 0, "above 0, or none")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, how much at once, with which numbers."""

    epochs: int
    batch_size: int = 256
    """Images per optimiser step over all processes and accumulation steps."""
    accumulate: int = 1
    """Parts of a batch that go through the encoder one after the other, to save memory."""
    accumulation: Literal["averaged", "exact"] = "averaged"
    """What the parts are. averaged: batches of their own, whose losses are averaged; where a loss
    couples images (ssl-hsic, vicreg, any with negatives or batch norm) that is another objective
    than the whole batch's. exact: only the encoder sees parts, heads and loss see the whole batch;
    its gradient, but for batch norm in the encoder, for one more pass of the encoder."""
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true"
    seed: int = 0
    device: str = "auto"
    """auto, cpu or cuda."""
    devices: int = 1
    """Processes that share a batch."""
    sync_batchnorm: bool = True
    """Batch statistics over all processes when there is more than one."""
    checkpoint_minutes: float = 5.0
    stop_on_collapse: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        for name in ("epochs", "batch_size", "accumulate", "devices"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Expected '{name}' of at least 1, got {getattr(self, name)}.")
        parts = self.accumulate * self.devices
        if self.batch_size % parts:
            raise ConfigError(
                f"Expected a batch size divisible by accumulate x devices = {parts}, got "
                f"{self.batch_size}."
            )
        if self.batch_size // parts < 2:
            raise ConfigError(
                "Expected a batch size of at least 2 images for each of accumulate x devices = "
                f"{parts} parts, for batch norm needs two, got {self.batch_size}."
            )
        minutes = self.checkpoint_minutes
        _require("checkpoint_minutes", minutes, minutes >= 0, "of at least 0")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a run is a function of, besides the step."""

    method: MethodConfig
    encoder: EncoderConfig
    data: DataConfig
    views: tuple[ViewSpec, ...]
    """One entry per view."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    training: TrainingConfig
    plugin: str | None = None
    """Where the file lay that registers the method, if it is not part of the library."""
    plugin_sha256: str | None = None
    """Checksum of that file; the run directory has a copy, plugin.py."""
    version: int = VERSION

    def __post_init__(self) -> None:
        """Check what the parts expect of each other."""
        # Smaller than the test view is a choice, as in FixRes or multi-crop; larger wastes time.
        largest = max((view.size for view in self.views), default=0)
        if largest > self.data.image_size:
            raise ConfigError(
                f"Expected views of at most 'data.image_size' = {self.data.image_size} pixels, got "
                f"{largest}: --image-size sets both."
            )
        # The rate would never reach its peak: the recipe is for a longer run.
        if self.optimiser.warmup_epochs > self.training.epochs:
            raise ConfigError(
                f"Expected 'optimiser.warmup_epochs' of at most 'training.epochs' = "
                f"{self.training.epochs}, got {self.optimiser.warmup_epochs:g}: train longer, or "
                f"--set optimiser.warmup_epochs={self.training.epochs / 10:g}."
            )

    def to_json(self) -> str:
        """Return the record as indented JSON; `from_json` gives back an equal object."""
        return json.dumps(encode(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """Read a record strictly: an unknown or missing field is a `ConfigError` that names it."""
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"Expected a configuration in JSON: {error}.") from error
        return decode(cls, raw, "config")


def read(path: str | Path) -> RunConfig:
    """Read a configuration file.

    Raises:
        ConfigError: there is no such file, or it is not a valid record.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"Expected a configuration file, got '{path}': no such file.")
    return RunConfig.from_json(read_text(path))


def read_text(path: Path) -> str:
    """Return the text of a configuration file.

    Raises:
        ConfigError: it is not text, an image for example.
    """
    try:
        return path.read_text(encoding="utf8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"Expected a configuration in JSON, got '{path}', which is not text in UTF-8: name a "
            "run's config.json."
        ) from error


def encode(value: object) -> Any:  # noqa: ANN401  (JSON data)
    """Return `value` as JSON data; a method's configuration carries its registered name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"name": value.name, **fields} if isinstance(value, MethodConfig) else fields
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def decode(kind: Any, raw: Any, where: str) -> Any:  # noqa: ANN401  (a type form, JSON data)
    """Read JSON data `raw` as type `kind`; `where` names the place in errors.

    Raises:
        ConfigError: a field is unknown (the nearest one is offered), missing or of the wrong type.
    """
    if isinstance(kind, type) and issubclass(kind, MethodConfig):
        if not isinstance(raw, dict) or "name" not in raw:
            raise ConfigError(
                f"Expected {where} to be an object with the field 'name', got {raw!r}."
            )
        method = get(raw["name"])
        fields = method.migrated({k: v for k, v in raw.items() if k != "name"})
        return _decode_fields(method, fields, where)
    if dataclasses.is_dataclass(kind):
        return _decode_fields(typing.cast(type, kind), raw, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if raw not in arguments:
            raise ConfigError(f"Expected {where} to be one of {list(arguments)}, got {raw!r}.")
        return raw
    if origin in (typing.Union, types.UnionType):
        if raw is None and type(None) in arguments:
            return None
        return decode(next(a for a in arguments if a is not type(None)), raw, where)
    if origin is tuple:
        if not isinstance(raw, list):
            raise ConfigError(f"Expected {where} to be a list, got {raw!r}.")
        if arguments[-1] is Ellipsis:
            return tuple(decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(raw))
        if len(raw) != len(arguments):
            raise ConfigError(f"Expected {where} to have {len(arguments)} entries, got {len(raw)}.")
        return tuple(
            decode(a, item, f"{where}[{i}]")
            for i, (a, item) in enumerate(zip(arguments, raw, strict=True))
        )
    return _decode_scalar(kind, raw, where)


def _decode_scalar(kind: type, raw: object, where: str) -> Any:  # noqa: ANN401  (of type `kind`)
    if kind is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if not isinstance(raw, kind) or (isinstance(raw, bool) and kind is not bool):
        raise ConfigError(f"Expected {where} to be of type {kind.__name__}, got {raw!r}.")
    if isinstance(raw, float) and not math.isfinite(raw):
        raise ConfigError(f"Expected {where} to be finite, got {raw!r}.")
    return raw


def _decode_fields(kind: type, raw: object, where: str) -> Any:  # noqa: ANN401  (of type `kind`)
    if not isinstance(raw, dict):
        raise ConfigError(f"Expected {where} to be an object, got {raw!r}.")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for name in raw:
        if name not in fields:
            raise ConfigError(f"Unknown field '{name}' in {where}: {nearest(name, fields)}.")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in raw:
            raise ConfigError(f"Missing field '{name}' in {where}.")
    return kind(
        **{name: decode(hints[name], value, f"{where}.{name}") for name, value in raw.items()}
    )
