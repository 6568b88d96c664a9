"""Three verbs: train a representation, load it and embed images, evaluate it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cognates.config import RunConfig
from cognates.errors import ConfigError, DataError, UnreadableWarning
from cognates.model import Model
from cognates.networks import bring
from cognates.recipes import resolve
from cognates.training import prepare
from cognates.training.storage import write_atomic

if TYPE_CHECKING:
    from torch import nn

    from cognates.data.images import Images
    from cognates.data.splits import Source
    from cognates.evaluation.drawn import Reference
    from cognates.types import Result


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and its configuration as recorded."""

    path: Path
    config: RunConfig

    def load(self) -> Model:
        """Return the trained model, on the CPU."""
        return load(self.path)


def train(
    method: str | None = None,
    *,
    data: str | None = None,
    out: str | Path | None = None,
    encoder: str | nn.Module | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    recipe: str | None = None,
    config: RunConfig | str | Path | None = None,
    init: str | Path | None = None,
    devices: int | None = None,
    precision: Literal["32-true", "bf16-mixed", "64-true"] | None = None,
    accumulate: int | None = None,
    clip: float | None = None,
    max_unreadable: float | None = None,
    stop_on_collapse: bool | None = None,
    plugin: str | Path | None = None,
    resume: str | Path | None = None,
    settings: Sequence[str] = (),
    progress: bool = True,
) -> Run:
    r"""Learn a representation of unlabelled images and write everything about it into `out`.

    The configuration starts from `config`, else from `recipe`, else from the default for the source
    (`cognates.recipes.default`); every argument that is given replaces its field.

    Args:
        method: a registered name, for example "vi-simsiam"; None where a recipe, a configuration or
            a plug-in says it.
        data: a SOURCE: "folder:DIR", "pairs:DIR" (images with captions), "idx:DIR",
            "npz:FILE_OR_DIR", "hub:ORG/NAME" or a bare name.
        out: the run's folder; it must not hold another run.
        encoder: the name of an encoder, or any module (n, c, h, w) -> (n, d). A module is not part
            of the record: the run cannot be repeated from `config.json` alone, and `load` must be
            given the module again.
        image_size: height and width of a view in pixels.
        epochs: passes over the training images.
        batch_size: images per step, over all devices and accumulation steps.
        learning_rate: at batch 256; multiplied by batch_size / 256.
        seed: of the initial weights, the order of the images and the views; None: the
            start's, which is 0 by default.
        device: "auto", "cpu" or "cuda".
        recipe: the name of a recipe, see `cognates.recipes.names`.
        config: a configuration, its file, or a run whose configuration is taken.
        init: weights to start from: a file of torchvision or timm, or an earlier run.
        devices: processes that share a batch.
        precision: "32-true", "bf16-mixed" or "64-true".
        accumulate: parts in which a batch goes through the encoder; batches of their own, unless
            `training.accumulation` is exact.
        clip: largest norm of the gradient.
        max_unreadable: share of unreadable files above which the source is refused.
        stop_on_collapse: end a run whose representation collapses with a `CollapseError`.
        plugin: a Python file that registers a method of yours; the run keeps a copy. To `resume` or
            repeat such a run, name a file again.
        resume: an interrupted run to go on with; other arguments may only say what it was started
            with.
        settings: any other field, as "optimiser.momentum=0.95".
        progress: whether to print how far the run is.

    Returns:
        The run.

    Raises:
        ConfigError: an argument does not exist or fit, or `out` holds another run.
        DataError: the source cannot be used.
        NonFiniteError: the loss became NaN or infinite.
        StorageError: something cannot be written.

    Example:
        ```python
        run = cognates.train("vi-simsiam", data="folder:photos", out="runs/photos", epochs=50)
        ```
    """
    from torch import nn

    from cognates.training.loop import fit

    if resume is not None and config is None:
        config = resume
    folder = _folder(out, resume)
    resolved = resolve(
        method,
        recipe=recipe,
        config=config,
        settings=settings,
        encoder=bring(encoder) if isinstance(encoder, nn.Module) else encoder,
        data=data,
        image_size=image_size,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        device=device,
        init=None if init is None else str(Path(init).resolve()),
        devices=devices,
        precision=precision,
        accumulate=accumulate,
        clip=clip,
        max_unreadable=max_unreadable,
        stop_on_collapse=stop_on_collapse,
        plugin=plugin,
    )
    # Before anything is decoded: a wrong device is found at once.
    prepare.torch_device(resolved)
    recorded = fit(resolved, folder, resume=resume is not None, progress=progress)
    describe_data(folder, recorded)
    return Run(folder, recorded)


def load(
    path: str | Path, *, encoder: nn.Module | None = None, plugin: str | Path | None = None
) -> Model:
    """Load the trained model of a run directory, on the CPU.

    Nothing of the run is executed: a method from a plug-in needs the file named again.

    Args:
        path: the folder of a finished run.
        encoder: the module that the run was trained with, if it was a module of yours.
        plugin: the file of the method, if the run was trained with one that this process has not
            loaded; the run's own copy is `plugin.py` in its folder.

    Raises:
        ConfigError: `path` is no finished run, or it needs a plug-in.
        StorageError: a file of the model is damaged.
    """
    if encoder is not None:
        bring(encoder)
    return Model.read(path, device="cpu", plugin=plugin)


def evaluate(
    run: Run | str | Path,
    data: str | None = None,
    only: Sequence[str] | None = None,
    *,
    device: str = "auto",
    grid: int | None = None,
    reference: Run | str | Path | None = None,
    images: int | None = None,
    plugin: str | Path | None = None,
    ood: Sequence[str] = (),
    score: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Result]:
    r"""Measure a run beside raw pixels and the encoder as it was before training.

    Args:
        run: a run or its folder.
        data: another SOURCE than the run's own.
        only: names of protocols or of their groups; None: all standard ones, and those of
            generative methods where the run draws images.
        device: "auto", "cpu" or "cuda".
        grid: penalties that the linear probes try, at least 1; None: the protocol's.
        reference: another run, whose encoder compares samples with images (protocol `generation`);
            None: a convolutional encoder with fixed random weights.
        images: at most so many images of each split, drawn by a fixed seed; None: all, and of
            dSprites, for its protocol, 20,000 and 5,000.
        plugin: the file of the run's method, as for `load`.
        ood: other SOURCEs, whose test images the uncertainty should tell from those of `data`
            (protocol `ood`; without `only` it is the only one that runs). They are resized, and
            their channels converted, to what the run sees.
        score: the uncertainty that stands for the run, as in `Model.scores`; None: its own default.
        progress: called with one line of text after every step.

    Returns:
        The results; also in `results.json`, or in `results-NAME-HASH.json` for another source:
        two folders of one name have two files.

    Raises:
        ConfigError: no finished run, one that needs a plug-in, an unknown protocol or score, a
            protocol that the method does not allow, a grid or number of images below 1, or a
            reference that is the run itself or sees images of another size.
        DataError: the source cannot be used, has no test images, or lacks the labels, attributes or
            factors that every protocol of `only` needs.
    """
    from cognates.evaluation import suite
    from cognates.evaluation.records import results_file, write_results

    if ood:
        only = ["ood"] if only is None else [*only, "ood"]
    suite.resolve(only)
    if grid is not None and grid < 1:
        raise ConfigError(f"Expected a grid of at least 1 penalty, got {grid}.")
    if images is not None and images < 1:
        raise ConfigError(f"Expected at least 1 image of each split, got {images}.")
    folder = run.path if isinstance(run, Run) else Path(run)
    model = Model.read(folder, device=device, plugin=plugin)
    source = data or model.config.data.source
    train_images, test_images = (
        _images(model.config, source, split) for split in ("train", "test")
    )
    options: dict[str, Any] = {} if grid is None else {"grid": grid}
    own = source == model.config.data.source
    results = suite.evaluate(
        *(model.method, train_images, test_images),
        views=model.config.views,
        size=model.config.data.image_size,
        mean=model.config.data.mean,
        std=model.config.data.std,
        # Freshly drawn weights, also where training began from those of `encoder.init`.
        untrained=prepare.build_method(model.config, initial=False).eval().to(model.device),
        out=folder if own else None,
        only=only,
        images=images,
        run_seed=model.config.training.seed,
        quantiles=model.quantiles_of(score),
        bank=model.bank,
        default_score=model.require_score(score),
        reference=None if reference is None else _reference(reference, model),
        outside=_others(model.config, source, ood),
        tokenizer=model.tokenizer if model.config.method.text else None,
        device=model.device,
        progress=progress,
        **options,
    )
    if not own:
        path = folder / results_file(test_images.dataset, source)
        write_results(path, results)
        if progress is not None:
            progress(f"Records about {source}: {path}")
    return results


def _reference(run: Run | str | Path, model: Model) -> Reference:
    """Return the encoder of another run, to compare pictures of `model` by.

    Raises:
        ConfigError: it sees images of another kind.
    """
    from cognates.evaluation.drawn import reference_of
    from cognates.evaluation.features import Transform

    other = Model.read(run.path if isinstance(run, Run) else run, device=str(model.device))
    data, wanted = other.config.data, model.config.data
    if (data.channels, data.image_size) != (wanted.channels, wanted.image_size):
        raise ConfigError(
            f"Expected a reference run with images of {wanted.channels} channels and "
            f"{wanted.image_size} pixels, got {data.channels} and {data.image_size}: train one "
            f"with --image-size {wanted.image_size} on the same source."
        )
    return reference_of(
        other.method,
        method_name=other.config.method.name,
        transform=Transform.of(data.image_size, data.mean, data.std),
        device=model.device,
    )


def _folder(out: str | Path | None, resume: str | Path | None) -> Path:
    """Return the folder of the run, which one of the two arguments names."""
    if out is None and resume is None:
        raise ConfigError("Expected a folder for the run, got none: for example --out runs/photos.")
    if out is not None and resume is not None and Path(out).resolve() != Path(resume).resolve():
        raise ConfigError(
            f"Expected one run, got resume '{resume}' and out '{out}': leave one out."
        )
    return Path(out if out is not None else resume or "")


def _images(config: RunConfig, source: str, split: str) -> Images:
    """Return one split as the run's encoder wants it.

    The run's own source was judged when it was trained on: what is unreadable in it stands in
    unreadable.txt and is not said again, and no share of its test images is too much.
    """
    from cognates.data import cache
    from cognates.data.sources import open_source

    if split not in open_source(source).splits:
        raise ConfigError(
            f"Expected a source with a {split} split, got '{source}' without: give it more images."
        )
    own = source == config.data.source
    with warnings.catch_warnings():
        if own:
            warnings.simplefilter("ignore", UnreadableWarning)
        return cache.load(
            source,
            split,
            image_size=config.data.image_size,
            channels=config.data.channels,
            max_unreadable=1.0 if own and split == "test" else config.data.max_unreadable,
            progress=False,
        )


def _others(config: RunConfig, source: str, others: Sequence[str]) -> dict[str, Images]:
    """Return the test images of other sources by name, each as the run's encoder wants them.

    Raises:
        ConfigError: one is the evaluated source itself, is named twice, or has no test images.
    """
    from cognates.data.sources import absolute

    seen = {absolute(source)}
    found: dict[str, Images] = {}
    for other in others:
        if absolute(other) in seen:
            raise ConfigError(
                f"Expected other sources than '{source}' for the protocol 'ood', each once, got "
                f"'{other}': name another."
            )
        seen.add(absolute(other))
        images = _images(config, other, "test")
        name = images.dataset
        number = 2
        while name in found:  # two folders of one name
            name, number = f"{images.dataset}-{number}", number + 1
        found[name] = images
    return found


def describe_data(run: Path, config: RunConfig) -> None:
    """Write data.json and unreadable.txt: the images of the run, and what was left out of them."""
    from cognates.data.sources import open_source

    source = open_source(config.data.source)
    label = source.target_names.get("label")
    counts = {name: len(split) for name, split in source.splits.items()}
    unreadable: list[tuple[str, str]] = []
    for name in [name for name in ("train", "test") if name in counts]:
        readable, missing = _readable(config, source, name)
        counts[name] = readable
        unreadable += missing
    summary = {
        "source": config.data.source,
        "name": source.name,
        "kind": source.kind,
        "note": source.note,
        "splits": {name: {"images": count} for name, count in counts.items()},
        "classes": None if label is None else len(label),
        "native_size": source.native_size,
        "unreadable": len(unreadable),
    }
    write_atomic(run / "data.json", (json.dumps(summary, indent=2) + "\n").encode())
    listed = "".join(f"{path}\t{reason}\n" for path, reason in unreadable)
    write_atomic(run / "unreadable.txt", listed.encode("utf8", "backslashreplace"))


def _readable(config: RunConfig, source: Source, split: str) -> tuple[int, list[tuple[str, str]]]:
    """Return how many images of a split can be read, and (path, reason) of those that cannot."""
    try:
        images = _images(config, config.data.source, split)
    except DataError:
        # Not one test image can be read: the run is finished all the same.
        part = source.splits[split]
        names = [source.reader.name(int(row)) for row in part.rows]
        return 0, [*part.problems, *((name, f"no {split} image can be read") for name in names)]
    return len(images), list(images.unreadable)
