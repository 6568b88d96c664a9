"""Give any trained encoder an uncertainty: `fit_uncertainty`."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from cognates.api import Run, describe_data
from cognates.config import RunConfig, TrainingConfig
from cognates.errors import ConfigError
from cognates.methods.post_hoc import PostHocConfig
from cognates.model import Model
from cognates.networks import bring
from cognates.recipes import defaults, resolve
from cognates.training import checkpoint, prepare, record

if TYPE_CHECKING:
    from cognates.data.images import Images

EPOCHS = 20
VIEWS = 4


def fit_uncertainty(
    encoder: Run | str | Path | nn.Module | Callable[[Tensor], Tensor],
    *,
    data: str | None = None,
    out: str | Path | None = None,
    views: int = VIEWS,
    image_size: int | None = None,
    init: str | Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    max_unreadable: float | None = None,
    features: str | Path | None = None,
    plugin: str | Path | None = None,
    settings: Sequence[str] = (),
    progress: bool = True,
) -> Model:
    r"""Fit an uncertainty head on a frozen encoder, in minutes; the encoder does not change.

    Views of every training image are embedded once and kept on disk; the head learns from them how
    far an image's views fall apart (method `post-hoc`). With `out` the result is a run like any
    other: `load`, `evaluate`, `cognates embed` and `cognates report` take it as it is.

    Args:
        encoder: a run or its folder; a name, such as "resnet50" or "timm:vit_small_patch16_224",
            whose weights `init` gives; a module (n, c, h, w) -> (n, d); or any function like that.
        data: a SOURCE; None: the run's own.
        out: the new run's folder; None: nothing is kept but what is returned.
        views: views of every image, at least 2.
        image_size: height and width of a view in pixels; not for a run, which has its own.
        init: weights of an encoder by name: a file of torchvision or timm. Without it the encoder
            has random weights.
        epochs: passes over the cached views; None: 20.
        batch_size: images per step; None: as for `train`.
        learning_rate: at batch 256; None: 3e-3 (AdamW).
        seed: of the views, the held-out images and the head; None: 0.
        device: "auto", "cpu" or "cuda".
        max_unreadable: share of unreadable files above which the source is refused.
        features: the folder where embedded views are kept and looked for; None: `features/` of the
            new run. Another fit of the same encoder, data, views and seed then starts at once.
        plugin: the file of the method, for a run that was trained with a plug-in.
        settings: any other field, as "method.components=16" or, for an encoder that wants another
            normalisation than that of the data, "data.mean=[0.485,0.456,0.406]".
        progress: whether to print how far it is.

    Returns:
        The model: `model.embed(images)` gives the encoder's representation and the uncertainty.

    Raises:
        ConfigError: the encoder is unknown, a function is to be saved, an argument does not go with
            the encoder, or `out` holds another run.
        DataError: the source cannot be used.
        NonFiniteError: the encoder gives a NaN.
        StorageError: something cannot be written.

    Notes:
        A module is saved with its weights and not its code: give it to `load` again
        (`encoder=`). A function cannot be saved.

    References:
        Representation Uncertainty in Self-Supervised Learning as Variational Inference (Nakamura,
        Okada and Taniguchi, 2023), https://arxiv.org/abs/2203.11437.

    Example:
        ```python
        model = cognates.fit_uncertainty("runs/simsiam", out="runs/simsiam-sure")
        representation, uncertainty = model.embed("folder:photos")
        ```
    """
    if views < 2:
        raise ConfigError(f"Expected at least 2 views of every image, got {views}.")
    options = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "device": device,
        "max_unreadable": max_unreadable,
    }
    if isinstance(encoder, Run):
        encoder = encoder.path
    folder = _run_folder(encoder)
    if folder is not None:
        if image_size is not None or init is not None:
            raise ConfigError(
                "Expected neither image size nor initial weights for a run, which has its own: "
                "name an encoder instead, or leave them out."
            )
        base = _of_run(folder, data, plugin=plugin)
        config = resolve(None, config=base, settings=settings, **options)
    else:
        config = resolve(
            "post-hoc",
            data=data,
            encoder=_name(encoder, saved=out is not None),
            image_size=image_size,
            init=None if init is None else str(Path(init).resolve()),
            settings=settings,
            **{**options, "epochs": EPOCHS if epochs is None else epochs},
        )
    specs = tuple(config.views[number % len(config.views)] for number in range(views))
    config = dataclasses.replace(config, views=specs)
    cached = None if features is None else Path(features)
    if out is not None:
        return _fit(config, Path(out), features=cached, show=progress)
    with tempfile.TemporaryDirectory(prefix="cognates-") as temporary:
        return _fit(config, Path(temporary) / "run", features=cached, show=progress)


def _fit(config: RunConfig, run: Path, *, features: Path | None, show: bool) -> Model:
    """Fit as a configuration says, into an empty folder, and read the model back."""
    from cognates.training import head

    started = datetime.now(UTC)
    prepare.torch_device(config)  # before anything is decoded: a wrong device is found at once
    config, images = _prepared(config, run, show)
    device = prepare.torch_device(config)
    found = record.environment(device=device, devices=1) | {"started": started.isoformat()}
    record.write_environment(run, found, finished=None, seconds=None)
    head.fit(config, run, images, features=features, show=show)
    ended = datetime.now(UTC)
    seconds = round((ended - started).total_seconds(), 3)
    record.write_environment(run, found, finished=ended.isoformat(), seconds=seconds)
    describe_data(run, config)
    return Model(checkpoint.read_model(run), device)


def _prepared(config: RunConfig, run: Path, show: bool) -> tuple[RunConfig, Images]:
    if config.method.name != "post-hoc":
        raise ConfigError(f"Expected the method 'post-hoc', got '{config.method.name}'.")
    if config.training.devices != 1 or config.training.accumulate != 1:
        raise ConfigError("Expected one process and whole batches to fit a head: leave them out.")
    return prepare.prepare(config, run, resume=False, progress=show)


def _run_folder(encoder: object) -> Path | None:
    """Return the run that is named, None for any other kind of encoder."""
    if isinstance(encoder, str | Path):
        path = Path(encoder)
        if path.is_dir() or (isinstance(encoder, Path) and not path.exists()):
            return path
    return None


def _of_run(run: Path, data: str | None, *, plugin: str | Path | None) -> RunConfig:
    """Return the configuration of a head on the encoder of a run, which is normalised as it was."""
    base = checkpoint.read_model(run, plugin=plugin).config
    source = data or base.data.source
    batch = _batch_size(source)
    return dataclasses.replace(
        base,
        method=PostHocConfig(),
        encoder=dataclasses.replace(base.encoder, init=str(run.resolve())),
        data=dataclasses.replace(base.data, source=source),
        optimiser=defaults.head_optimiser(),
        training=TrainingConfig(epochs=EPOCHS, batch_size=batch, device=base.training.device),
        plugin=None,
        plugin_sha256=None,
    )


def _batch_size(source: str) -> int:
    from cognates.data.sources import open_source

    return defaults.batch_size(len(open_source(source).splits["train"]))


def _name(encoder: Any, *, saved: bool) -> str:  # noqa: ANN401  (checked here)
    """Return the name under which a configuration mentions an encoder that is not a run's."""
    if isinstance(encoder, str):
        return encoder
    if isinstance(encoder, nn.Module):
        return bring(encoder)
    if not callable(encoder):
        raise ConfigError(
            f"Expected a run, the name of an encoder, a module or a function, got a "
            f"{type(encoder).__name__}."
        )
    if saved:
        raise ConfigError(
            "Expected an encoder that a run can keep, got a function: leave `out` away, or give "
            "the name of a registered encoder, a torch.nn.Module or a run."
        )
    return bring(_Called(cast("Callable[[Tensor], Tensor]", encoder)))


class _Called(nn.Module):
    """A function in the clothes of a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)
