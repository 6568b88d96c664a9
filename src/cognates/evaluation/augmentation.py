"""`augmentation`: which drawn parameters of a view its representation still holds.

One view of every image with recorded parameters, from the training recipe and from one fixed
reference recipe, so that methods trained with different views compare. What a parameter changes in
the image is what is asked for: the factor of an image without jitter is 1, its shift of hue 0, and
the colours of an image without colour are not asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from cognates.data import augment
from cognates.data.images import Images
from cognates.data.views import ViewSpec
from cognates.errors import DataError
from cognates.evaluation.components import reduce
from cognates.evaluation.features import Transform, chunks, features_of, require_eval
from cognates.evaluation.linear import GRID
from cognates.evaluation.probing import Plan, Target, probe
from cognates.evaluation.subjects import BASELINES, TARGET
from cognates.methods.base import Method
from cognates.random import generator
from cognates.types import Features, Result

RECIPES = ("training", "reference")
NUMBERS = ("x", "y", "log-area", "brightness", "contrast", "saturation", "hue", "sigma")
DECISIONS = ("flip", "grey", "solarise")


def reference(size: int) -> ViewSpec:
    """Return the fixed recipe: everything that a view can vary, varied.

    Crop, flip, jitter, grey and blur are SimSiam's for ImageNet (Chen and He, 2021), solarise with
    probability .2 is that of BYOL's second view (Grill et al., 2020, appendix B).
    """
    return ViewSpec(size=size, blur=0.5, solarise=0.2)


def view(
    method: Method | None,
    images: Images,
    *,
    spec: ViewSpec,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    seed: int = 0,
) -> Features:
    """Embed one augmented view of every image, with its drawn parameters as targets.

    Args:
        method: in eval mode, on `device`; None: the pixels of the views, in [0, 1].
        images: one split; the draw depends on its name, so that splits get other views.
        spec: the recipe, and the size of the views.
        mean: per channel, as in training; not for pixels.
        std: per channel.
        device: where the method is.
        batch_size: images per forward pass; the result does not depend on it.
        seed: of the draw: every method and the pixels get the same views.

    Returns:
        Features with the targets of `images` and those of `parameters`, under `view/NAME`.

    Raises:
        ConfigError: a submodule is in training mode.
        DataError: there is no image.
    """
    if method is not None:
        require_eval(method)
    transform = Transform.of(spec.size, *((None, None) if method is None else (mean, std)))
    n, channels, height, width = images.pixels.shape
    drawn = augment.draw(
        spec,
        n,
        height=height,
        width=width,
        generator=generator(seed, "augmentation", images.split),
    )
    parts, start = [], 0
    with torch.no_grad():
        for chunk in chunks(images, batch_size, device if method is not None else "cpu"):
            views = transform.augmented(chunk, drawn.rows(start, start + len(chunk)))
            h = views.flatten(1) if method is None else method.embed(views).representation
            parts.append(h.float().cpu().numpy())
            start += len(chunk)
    found = parameters(drawn, spec, channels=channels, height=height, width=width)
    features = features_of(
        images,
        np.concatenate(parts).astype(np.float32),
        layer="pixels-view" if method is None else "backbone-view",
    )
    return replace(features, targets={**features.targets, **found})


def augmented_pair(
    method: Method | None,
    train: Images,
    test: Images,
    *,
    spec: ViewSpec,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    seed: int = 0,
) -> tuple[Features, Features]:
    """Return `view` of both splits; of pixels their components, which is all that is read."""
    first, second = (
        view(
            method,
            images,
            spec=spec,
            mean=mean,
            std=std,
            device=device,
            batch_size=batch_size,
            seed=seed,
        )
        for images in (train, test)
    )
    return reduce(first, second) if method is None else (first, second)


def parameters(
    drawn: augment.ViewParameters, spec: ViewSpec, *, channels: int, height: int, width: int
) -> dict[str, np.ndarray]:
    r"""Return what a recipe varies, by the name of the target (`view/NAME`).

    Args:
        drawn: parameters of n views.
        spec: the recipe; what it does not vary is left out.
        channels: 1 or 3; saturation, hue and grey do nothing to one channel.
        height: rows of the images.
        width: columns of the images.

    Returns:
        (n,) float64 for `x`, `y` (the crop's centre as a share of the image), `log-area` (of the
        crop's share of the image), `brightness`, `contrast`, `saturation` (factors), `hue` (turns)
        and `sigma` (pixels of the view), NaN where the image cannot show it; (n,) int64 for `flip`,
        `grey` and `solarise`.
    """
    box = {k: getattr(drawn, k).numpy().astype(np.float64) for k in ("top", "left")}
    high, wide = (side.numpy().astype(np.float64) for side in (drawn.height, drawn.width))
    jitter, grey = drawn.jitter.numpy(), drawn.grey.numpy()
    colour = channels == 3
    found: dict[str, np.ndarray] = {}
    if spec.scale != (1.0, 1.0):
        found["x"] = (box["left"] + wide / 2) / width
        found["y"] = (box["top"] + high / 2) / height
        found["log-area"] = np.log(high * wide / (height * width))
    for name, identity in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0)):
        of_colour = name in ("saturation", "hue")
        if not spec.jitter or not getattr(spec, name) or (of_colour and not colour):
            continue
        values = np.where(jitter, getattr(drawn, name).numpy(), float(identity))
        found[name] = np.where(grey, math.nan, values) if of_colour else values
    if spec.blur:
        found["sigma"] = np.where(drawn.blur.numpy(), drawn.sigma.numpy(), 0.0)
    for name in DECISIONS:
        if 0 < getattr(spec, name) < 1 and (colour or name != "grey"):
            found[name] = getattr(drawn, name).numpy().astype(np.int64)
    return {f"view/{name}": values for name, values in found.items()}


def feature_name(recipe: str, split: str, subject: str = "trained") -> str:
    """Return the name under which a protocol's `others` hold the features of views.

    Example:
        >>> feature_name("reference", "train"), feature_name("training", "test", "pixels")
        ('augmented-reference-train', 'pixels-augmented-training-test')
    """
    prefix = "" if subject == "trained" else f"{subject}-"
    return f"{prefix}augmented-{recipe}-{split}"


def augmentation(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    grid: int = GRID,
) -> list[Result]:
    """Protocol `augmentation`: parameters of views, and the class, read from views alone.

    Args:
        train: not used.
        test: not used.
        seed: of the MLP probe and of the resamples.
        others: features of `view` under the names of `feature_name`, of both splits, for the
            recipes `training`, `reference` or both.
        grid: number of penalties of the linear probe.

    Returns:
        `RECIPE/NAME/r2/PROBE` (PROBE `ridge` or `mlp`), `RECIPE/flip/balanced-accuracy/PROBE`
        (and grey, solarise) and, with labels, `RECIPE/class/accuracy/PROBE` (PROBE `linear` or
        `mlp`). What a recipe does not vary has no record.

    Raises:
        DataError: the features of the views are missing, or no parameter varies.
    """
    del train, test
    others = others or {}
    results = []
    for recipe in RECIPES:
        pair = [others.get(feature_name(recipe, split)) for split in ("train", "test")]
        if pair[0] is None or pair[1] is None:
            continue
        baselines = {
            f"{subject}-{split}": others[feature_name(recipe, split, subject)]
            for subject in BASELINES
            for split in ("train", "test")
            if feature_name(recipe, split, subject) in others
        }
        plan = Plan(protocol="augmentation", seed=seed, grid=grid, prefix=f"{recipe}/")
        found = targets(pair[0], pair[1])
        results += probe(pair[0], pair[1], found, plan, others=baselines)
    if not results:
        raise DataError(
            f"Expected features of augmented views ('{feature_name('reference', 'train')}', ...), "
            "got none: make them with cognates.evaluation.augmentation.view."
        )
    return results


def targets(train: Features, test: Features) -> list[Target]:
    """Return the targets that the features of views hold, and the class where there is one."""
    found = [
        Target(
            name=name,
            train=train.targets[f"view/{name}"],
            test=test.targets[f"view/{name}"],
            measures=("r2",) if name in NUMBERS else ("balanced-accuracy",),
        )
        for name in (*NUMBERS, *DECISIONS)
        if f"view/{name}" in train.targets and f"view/{name}" in test.targets
    ]
    if all(TARGET in f.targets and f.targets[TARGET].ndim == 1 for f in (train, test)):
        found.append(Target(name="class", train=train.targets[TARGET], test=test.targets[TARGET]))
    return found
