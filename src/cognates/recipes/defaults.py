"""What a run does when nobody says otherwise, for a folder of photographs and for arrays."""

from __future__ import annotations

import dataclasses
from typing import Any

from cognates.config import (
    DataConfig,
    EncoderConfig,
    OptimiserConfig,
    RunConfig,
    TrainingConfig,
)
from cognates.data.sources import Source
from cognates.data.views import ViewSpec, grey_images, simsiam_cifar, simsiam_imagenet
from cognates.methods.base import MethodConfig
from cognates.methods.registry import get

EPOCHS = 100
BATCH = 256
BASELINES = ("byol", "vicreg", "dino", "simclr")
"""Methods whose heads and optimiser are their own everywhere."""
CLIP = "clip"
CLIP_TEXT: dict[str, Any] = {
    "vocabulary": 2000,
    "length": 24,
    "omitted": 0.3,
    "text_width": 128,
    "text_layers": 1,
    "text_heads": 2,
    "text_pooling": "mean",
}
"""CLIP's text encoder for thousands of captions: see the recipe `flickr8k`."""
SMALL = 64
"""Arrays up to this many pixels get the views and networks of small images."""


def default(method: str, source: Source, *, spec: str, on_gpu: bool = False) -> RunConfig:
    r"""Return the configuration for a source that no recipe is about.

    Folders, and arrays above 64 pixels: `resnet18`, at most 96 pixels on a CPU and 224 on a GPU,
    SimSiam's views and optimiser for ImageNet. Small arrays: their own size; `convnet` on a CPU and
    for grey images, else `resnet18`; SimSiam's views for CIFAR, or for grey images crop, flip,
    brightness and contrast.
    100 epochs, batch min(256, n/4). SSL-HSIC, BYOL, VICReg, DINO and SimCLR have heads and an
    optimiser of their own, SSL-HSIC a smaller gamma for batches below 16. CLIP has AdamW, and a
    single view where captions are its other half.

    Args:
        method: a registered name.
        source: the opened source; only its description is read.
        spec: the SOURCE that opened it.
        on_gpu: whether the run will have a GPU.

    Returns:
        A configuration whose normalisation is measured when the run starts.

    References:
        Exploring Simple Siamese Representation Learning (Chen and He, 2021),
        https://arxiv.org/abs/2011.10566, appendices A (ImageNet) and D (CIFAR-10).
    """
    native = source.native_size
    small = native is not None and native <= SMALL
    grey = source.native_channels == 1
    usual = 224 if on_gpu else 96
    size = usual if native is None else min(native, usual)
    dim = 2048 if on_gpu else 512
    heads = {"dim": dim, "hidden": dim, "predictor_hidden": dim // 4}
    optimiser = small_image_optimiser() if small else imagenet_optimiser()
    batch = batch_size(len(source.splits["train"]))
    if method == "ssl-hsic":
        heads = {"dim": 128, "hidden": dim, "gamma": hsic_gamma(batch)}
        optimiser = hsic_optimiser()
    if method == "post-hoc":
        optimiser = head_optimiser()
    if method in BASELINES:
        heads, optimiser = baseline_heads(method, dim), baseline_optimiser(method)
    views = 2
    if method == CLIP:
        # An image and its caption; without captions two views, each with an encoder of its own.
        paired = source.captions is not None
        heads = {"dim": 256, "second": "text" if paired else "image", **CLIP_TEXT}
        views, optimiser = 1 if paired else 2, clip_optimiser()
    return RunConfig(
        method=method_config(method, **heads),
        encoder=EncoderConfig(name="convnet" if small and (grey or not on_gpu) else "resnet18"),
        data=DataConfig(source=spec, image_size=size, channels=1 if grey else 3),
        views=(view_for(size, small=small, grey=grey),) * views,
        optimiser=optimiser,
        training=TrainingConfig(epochs=EPOCHS, batch_size=batch),
    )


def method_config(name: str, **settings: Any) -> MethodConfig:  # noqa: ANN401  (of any field)
    """Return the configuration of the method `name` with those of `settings` that it has.

    Example:
        >>> method_config("simsiam", dim=128, temperature=0.1).dim
        128
    """
    kind = get(name)
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{key: value for key, value in settings.items() if key in known})


def view_for(size: int, *, small: bool, grey: bool) -> ViewSpec:
    """Return SimSiam's views for the kind of image."""
    if grey:
        return grey_images(size)
    return simsiam_cifar(size) if small else simsiam_imagenet(size)


def imagenet_optimiser() -> OptimiserConfig:
    """SimSiam on ImageNet: SGD, .05, weight decay 1e-4, constant for the predictor (appendix A)."""
    return OptimiserConfig(learning_rate=0.05, weight_decay=1e-4, constant_rate=("predictor",))


def without_absent_predictor(config: RunConfig) -> RunConfig:
    """Return a run made for SimSiam's family without the rate of a predictor that is not there."""
    kept = tuple(name for name in config.optimiser.constant_rate if name != "predictor")
    if config.method.has_predictor or kept == config.optimiser.constant_rate:
        return config
    optimiser = dataclasses.replace(config.optimiser, constant_rate=kept)
    return dataclasses.replace(config, optimiser=optimiser)


def small_image_optimiser() -> OptimiserConfig:
    """SimSiam on CIFAR-10: SGD, weight decay 5e-4 (appendix D), at twice its rate of .03.

    The paper trains 800 epochs at .03; runs as short as the default ones need the larger steps.
    """
    return OptimiserConfig(learning_rate=0.06, weight_decay=5e-4)


def baseline_heads(method: str, width: int) -> dict[str, Any]:
    """Return what the heads of a baseline are for small data, with hidden layers of `width`.

    Targets follow faster than in the papers' long runs: BYOL has .99 for 300 epochs. DINO's head
    has batch normalisation: without it all images of a fresh `convnet` lie in one direction of the
    bottleneck, where the loss has next to no gradient. SimCLR's temperature is the paper's for
    CIFAR-10 (appendix B.9).
    """
    return {
        "byol": {"dim": 128, "hidden": width, "target_decay": 0.99},
        "vicreg": {"dim": width, "hidden": width},
        "dino": {
            "dim": 128,
            "hidden": width,
            "prototypes": 2 * width,
            "batch_norm": True,
            "target_decay": 0.99,
        },
        "simclr": {"dim": 128, "hidden": width, "temperature": 0.5},
    }[method]


def baseline_optimiser(method: str) -> OptimiserConfig:
    """Return the optimiser of a baseline for small data.

    After 4 epochs of CIFAR-10 other rates were worse or differed by less than the intervals, on
    held-out images and with one seed (`benchmarks/results/cifar10-byol-choice.md` and so on).
    """
    rate = {"byol": 0.1, "vicreg": 0.03, "dino": 0.2, "simclr": 0.2}[method]
    return OptimiserConfig(learning_rate=rate, weight_decay=5e-4, warmup_epochs=1.0)


def hsic_optimiser() -> OptimiserConfig:
    """SSL-HSIC in short runs: SGD at .5, about eight times SimSiam's rate.

    On Fashion-MNIST and CIFAR-10 .2, .5 and 1 differ by less than their intervals
    (`benchmarks/results/fashion-mnist-ssl-hsic-rates.md`, `cifar10-ssl-hsic-choice.md`).
    """
    return OptimiserConfig(learning_rate=0.5, weight_decay=5e-4, warmup_epochs=1.0)


def head_optimiser() -> OptimiserConfig:
    """AdamW for a head on frozen features: the rate is three times its usual one."""
    return OptimiserConfig(name="adamw", learning_rate=3e-3, weight_decay=1e-4)


def clip_optimiser() -> OptimiserConfig:
    """CLIP in short runs: AdamW at .002 per 256 pairs, weight decay .1, gradients of norm 1."""
    return OptimiserConfig(
        name="adamw", learning_rate=2e-3, weight_decay=0.1, warmup_epochs=2.0, clip=1.0
    )


def hsic_gamma(images: int) -> float:
    """Return SSL-HSIC's gamma for a batch: the paper's 3, or less where 3 rewards a collapse.

    Of n images spread evenly the variance term is gamma/sqrt(n - 1) of the dependence: below 16
    images gamma keeps the share that 3 has at 16.

    Example:
        >>> [hsic_gamma(n) for n in (256, 16, 8, 4, 2)]
        [3.0, 3.0, 2.05, 1.34, 0.77]
    """
    return min(3.0, round(3.0 * ((images - 1) / 15) ** 0.5, 2))


def batch_size(images: int) -> int:
    """Return min(256, n/4), at least 2, rounded to a multiple of 16 or to a power of two below 16.

    Example:
        >>> [batch_size(n) for n in (60_000, 900, 100, 40, 3)]
        [256, 224, 16, 8, 2]
    """
    quarter = min(BATCH, images // 4)
    if quarter >= 16:
        return quarter - quarter % 16
    return max(2, 1 << max(0, quarter.bit_length() - 1))
