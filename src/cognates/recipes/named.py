"""Recipes with a name: a paper, a data set, an expected result, a cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from cognates.config import (
    DataConfig,
    EncoderConfig,
    OptimiserConfig,
    RunConfig,
    TrainingConfig,
)
from cognates.data.views import grey_images, simsiam_cifar, simsiam_imagenet
from cognates.errors import ConfigError, nearest
from cognates.recipes import baselines, clip, compared, generative, ssl_hsic
from cognates.recipes.defaults import imagenet_optimiser, method_config

_SIMSIAM = (
    "Exploring Simple Siamese Representation Learning (Chen and He, 2021), "
    "https://arxiv.org/abs/2011.10566"
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A function that returns a configuration, and what is known about the run."""

    name: str
    build: Callable[[str], RunConfig]
    """Called with the name of a method."""
    methods: tuple[str, ...]
    """The methods it is meant for; the first is the default."""
    paper: str
    """Where the settings come from."""
    data: str
    """The images, and what their licence allows."""
    expected: str
    """The result, with the protocol that gives it."""
    cost: str
    """Time and machine."""
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By method with settings of its own: the paper, expectation and cost that differ."""

    def of(self, method: str) -> Recipe:
        """Return what is known of this recipe for a method."""
        return replace(self, own={}, **self.own[method]) if method in self.own else self


def demo(method: str = "vi-simsiam") -> RunConfig:
    """Return the run of `cognates demo`: 10,000 images of clothes, minutes on two CPU cores.

    The second view has 20 pixels: a step costs a quarter less, which buys epochs, and the encoder
    sees garments at two scales, as in multi-crop (SwAV, https://arxiv.org/abs/2006.09882). The
    density teaches the encoder too, as in VI-SimSiam's paper.
    """
    return RunConfig(
        method=method_config(method, dim=512, hidden=512, predictor_hidden=128, coupling="joint"),
        encoder=EncoderConfig(name="convnet"),
        data=DataConfig(source="fashion-mnist-mini", image_size=28, channels=1),
        views=tuple(grey_images(size, scale=(0.4, 1.0), jitter=1.0) for size in (28, 20)),
        optimiser=OptimiserConfig(learning_rate=0.3, weight_decay=5e-4, warmup_epochs=1.0),
        training=TrainingConfig(epochs=20, batch_size=64),
    )


def fashion_mnist(method: str = "vi-simsiam") -> RunConfig:
    """Return a run on the 60,000 training images of Fashion-MNIST."""
    if method == ssl_hsic.NAME:
        return ssl_hsic.fashion_mnist()
    if method in baselines.METHODS:
        return baselines.adapted(fashion_mnist("simsiam"), method)
    if method == clip.CLIP:
        return clip.of_views(fashion_mnist("simsiam"))
    return RunConfig(
        method=method_config(method, dim=512, hidden=512, predictor_hidden=128),
        encoder=EncoderConfig(name="convnet"),
        data=DataConfig(source="fashion-mnist", image_size=28, channels=1),
        views=(grey_images(28, scale=(0.3, 1.0)),) * 2,
        optimiser=OptimiserConfig(learning_rate=0.2, weight_decay=5e-4, warmup_epochs=1.0),
        training=TrainingConfig(epochs=20, batch_size=256),
    )


def cifar10(method: str = "vi-simsiam") -> RunConfig:
    """Return SimSiam's CIFAR-10 run: ResNet-18, small stem, two-layer projector, 800 epochs."""
    if method == ssl_hsic.NAME:
        return ssl_hsic.cifar10()
    if method in baselines.METHODS:
        return baselines.long(cifar10("simsiam"), method)
    if method == clip.CLIP:
        return clip.of_views(cifar10("simsiam"))
    return RunConfig(
        method=method_config(method, dim=2048, hidden=2048, layers=2, predictor_hidden=512),
        encoder=EncoderConfig(name="resnet18", stem="small"),
        data=DataConfig(source="cifar10", image_size=32, channels=3),
        views=(simsiam_cifar(32),) * 2,
        optimiser=OptimiserConfig(learning_rate=0.03, weight_decay=5e-4, warmup_epochs=10.0),
        training=TrainingConfig(epochs=800, batch_size=512),
    )


def cifar10_small(method: str = "vi-simsiam") -> RunConfig:
    """Return a run on CIFAR-10 that a CPU finishes: convnet, 20 epochs, one set of views."""
    if method == ssl_hsic.NAME:
        return ssl_hsic.cifar10_small()
    if method in baselines.METHODS:
        return baselines.adapted(cifar10_small("simsiam"), method)
    if method == clip.CLIP:
        return clip.of_views(cifar10_small("simsiam"))
    return RunConfig(
        method=method_config(method, dim=512, hidden=512, predictor_hidden=128),
        encoder=EncoderConfig(name="convnet"),
        data=DataConfig(source="cifar10", image_size=32, channels=3),
        views=(simsiam_cifar(32),) * 2,
        optimiser=OptimiserConfig(learning_rate=0.2, weight_decay=5e-4, warmup_epochs=1.0),
        training=TrainingConfig(epochs=20, batch_size=256),
    )


def imagenette(method: str = "vi-simsiam") -> RunConfig:
    """Return a run on ImageNette at 128 pixels with ResNet-18 and SimSiam's ImageNet settings."""
    if method == ssl_hsic.NAME:
        return ssl_hsic.imagenette()
    if method in baselines.METHODS:
        return baselines.long(imagenette("simsiam"), method)
    if method == clip.CLIP:
        return clip.of_views(imagenette("simsiam"))
    return RunConfig(
        method=method_config(method, dim=2048, hidden=2048, layers=3, predictor_hidden=512),
        encoder=EncoderConfig(name="resnet18", stem="standard"),
        data=DataConfig(source="imagenette", image_size=128, channels=3),
        views=(simsiam_imagenet(128),) * 2,
        optimiser=imagenet_optimiser(),
        training=TrainingConfig(epochs=100, batch_size=256),
    )


def imagenette_64(method: str = "vi-simsiam") -> RunConfig:
    """Return a run on ImageNette at 64 pixels that a CPU finishes in minutes."""
    if method in baselines.METHODS:
        return baselines.adapted(imagenette_64("simsiam"), method)
    if method == clip.CLIP:
        return clip.of_views(imagenette_64("simsiam"))
    return RunConfig(
        method=method_config(method, dim=512, hidden=512, predictor_hidden=128),
        encoder=EncoderConfig(name="convnet"),
        data=DataConfig(source="imagenette", image_size=64, channels=3),
        views=(simsiam_cifar(64),) * 2,
        optimiser=OptimiserConfig(learning_rate=0.2, weight_decay=5e-4, warmup_epochs=1.0),
        training=TrainingConfig(epochs=12, batch_size=128),
    )


def imagenet(method: str = ssl_hsic.NAME) -> RunConfig:
    """Return the run on ImageNet of the method's own paper, or of SSL-HSIC's."""
    if method in baselines.METHODS:
        return baselines.imagenet(method)
    return ssl_hsic.imagenet(method)


_METHODS = ("vi-simsiam", "simsiam")
_RIVALS = ("mc-info-nce", "loss-prediction")
"""Other learnt uncertainties, on the encoder and views of the methods above."""
_SIMVE = (
    "A Probabilistic Model behind Self-Supervised Learning (Bizeul, Schoelkopf and Allen, 2024), "
    "https://arxiv.org/abs/2402.01399, and its released code"
)
_HSIC = (
    "Self-Supervised Learning with Kernel Dependence Maximization (Li et al., 2021), "
    "https://arxiv.org/abs/2106.08320"
)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="demo",
            build=demo,
            methods=_METHODS,
            paper="settings of this library: short runs need larger steps and milder crops",
            data="fashion-mnist-mini, embedded in the package (MIT)",
            expected="linear .852, few labels .722 with VI-SimSiam (pixels .834, .691), seed 0",
            cost="4 min of training on two CPU cores",
        ),
        Recipe(
            name="fashion-mnist",
            build=fashion_mnist,
            methods=(*_METHODS, *_RIVALS, ssl_hsic.NAME, *baselines.METHODS, clip.CLIP),
            paper="settings of this library, those of the demo",
            data="Fashion-MNIST (MIT)",
            expected="linear .887, kNN .877 with SimSiam (pixels .844, .846), seed 0",
            cost="42 min of training on one CPU core",
            own={
                ssl_hsic.NAME: {
                    "paper": "settings of this library; the encoder and views of the other methods",
                    "expected": "linear .885, kNN .868 after 10 epochs (pixels .844, .846), seed 0",
                    "cost": "24 min on one CPU core for 10 epochs",
                },
                **compared.FASHION_MNIST,
            },
        ),
        Recipe(
            name="cifar10",
            build=cifar10,
            methods=(*_METHODS, ssl_hsic.NAME, *baselines.METHODS, clip.CLIP),
            paper=f"{_SIMSIAM}, appendix D",
            data="CIFAR-10 (research use)",
            expected="not measured; lightly has kNN .904 for SimSiam (k = 200, best test epoch)",
            cost="not measured; needs a GPU",
            own={
                ssl_hsic.NAME: {
                    "paper": f"{_HSIC}; heads and views scaled down by this library",
                    "expected": "not measured",
                    "cost": "not measured; needs a GPU",
                },
                **compared.paired(),
                **baselines.own(
                    "heads and optimiser of this library",
                    byol="not measured; lightly has kNN .910 (k = 200, best test epoch)",
                    dino="not measured; lightly has kNN .848 (k = 200, best test epoch)",
                    simclr="not measured; lightly has kNN .879 (k = 200, best test epoch)",
                ),
            },
        ),
        Recipe(
            name="cifar10-small",
            build=cifar10_small,
            methods=(*_METHODS, *_RIVALS, ssl_hsic.NAME, *baselines.METHODS, clip.CLIP),
            paper="settings of this library, for a CPU",
            data="CIFAR-10 (research use)",
            expected="20,000 images, 10 epochs: linear .505, kNN .441 with VI-SimSiam, seed 0",
            cost="8 to 15 min on one CPU core for that",
            own={
                ssl_hsic.NAME: {
                    "expected": "20,000 images, 10 epochs: linear .539, kNN .495, seed 0",
                    "cost": "8 min on one CPU core for that",
                },
                **compared.CIFAR10,
            },
        ),
        Recipe(
            name="imagenet",
            build=imagenet,
            methods=(ssl_hsic.NAME, *baselines.METHODS),
            paper=f"{_HSIC}, settings of its released code",
            data="ImageNet-1k (research use, on request)",
            expected="linear about .748 by the released code's README; not repeated here",
            cost="not measured; 8e19 operations by count (8 passes of 8e9 for 1.28e9 images)",
            own=baselines.own(
                "its settings for ResNet-50",
                byol="linear .743 by the paper; not repeated here",
                vicreg="linear .732 by the paper; not repeated here",
                simclr="linear .693 by the paper; not repeated here",
            ),
        ),
        Recipe(
            name="imagenette",
            build=imagenette,
            methods=(*_METHODS, ssl_hsic.NAME, *baselines.METHODS, clip.CLIP),
            paper=f"{_SIMSIAM}, appendix A",
            data="ImageNette (research use)",
            expected="not measured; lightly has kNN .872 for SimSiam (800 epochs, best one)",
            cost="not measured; needs a GPU",
            own={
                ssl_hsic.NAME: {
                    "paper": f"{_HSIC}; heads and length scaled down by this library",
                    "expected": "not measured",
                    "cost": "not measured; needs a GPU",
                },
                **compared.paired(),
                **baselines.own(
                    "heads and optimiser of this library",
                    byol="not measured; lightly has kNN .887 (800 epochs, best one)",
                    vicreg="not measured; lightly has kNN .845 (800 epochs, best one)",
                    dino="not measured; lightly has kNN .888 (800 epochs, best one)",
                    simclr="not measured; lightly has kNN .889 (800 epochs, best one)",
                ),
            },
        ),
        Recipe(
            name="imagenette-64",
            build=imagenette_64,
            methods=(*_METHODS, *baselines.METHODS, clip.CLIP),
            own={
                **baselines.own("heads, optimiser and length of this library"),
                **compared.paired(),
            },
            paper="settings of this library, for a CPU",
            data="ImageNette (research use)",
            expected="linear .511, kNN .424 with VI-SimSiam (pixels .398, .225), seed 0",
            cost="15 min of training on one CPU core",
        ),
        Recipe(
            name="flickr8k",
            build=clip.flickr8k,
            methods=(clip.CLIP,),
            paper="settings of this library",
            data="Flickr8k (research use)",
            expected="R@10 .272 image to text, .247 text to image (chance .010), seed 0",
            cost="39 min on two CPU cores",
        ),
        Recipe(
            name="clip",
            build=clip.web,
            methods=(clip.CLIP,),
            paper=f"{compared.CLIP_PAPER}, tables 18 and 19; ResNet-50 as torchvision has it",
            data="pairs of image and text of your own; the paper's 400 million are not public",
            expected="not measured",
            cost="not measured; the paper's larger ResNet took 18 days on 592 GPUs",
        ),
        Recipe(
            name="fashion-mnist-generative",
            build=generative.fashion_mnist_generative,
            methods=generative.METHODS,
            paper="settings of this library, for a CPU",
            data="Fashion-MNIST (MIT)",
            expected="not measured",
            cost="not measured",
        ),
        Recipe(
            name="cifar10-generative",
            build=generative.cifar10_generative,
            methods=generative.METHODS,
            paper=f"networks of {_SIMVE}; views and optimiser of this library",
            data="CIFAR-10 (research use)",
            expected="not measured",
            cost="not measured; needs a GPU",
        ),
        Recipe(
            name="simve-fashion-mnist",
            build=generative.simve_fashion_mnist,
            methods=generative.METHODS,
            paper=f"{_SIMVE}, which flips vertically and not horizontally",
            data="Fashion-MNIST (MIT)",
            expected="not measured; the released curves end at 277 nats per image of cross-entropy",
            cost="not measured; 400 epochs",
        ),
        Recipe(
            name="simve-cifar10",
            build=generative.simve_cifar10,
            methods=generative.METHODS,
            paper=f"{_SIMVE}, which flips vertically and crops from 256 pixels",
            data="CIFAR-10 (research use)",
            expected="not measured; the released curves reach a squared error of .0046 per pixel",
            cost="not measured; needs a GPU",
        ),
    )
}


def names() -> list[str]:
    """Return the name of every recipe, sorted."""
    return sorted(RECIPES)


def get(name: str) -> Recipe:
    """Return the recipe called `name`.

    Raises:
        ConfigError: no recipe has this name; the nearest one is offered.
    """
    if name not in RECIPES:
        raise ConfigError(f"Expected the name of a recipe, got '{name}': {nearest(name, RECIPES)}.")
    return RECIPES[name]
