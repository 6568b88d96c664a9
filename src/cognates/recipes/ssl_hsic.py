r"""Recipes of SSL-HSIC: the released code's for ImageNet, and ours for smaller images.

Self-Supervised Learning with Kernel Dependence Maximization (Li, Pogodin, Sutherland and Gretton,
2021), https://arxiv.org/abs/2106.08320; https://github.com/google-deepmind/ssl_hsic at d7ea38d.

The gradient of the loss is small, about 1/sqrt(n) of that of a cosine: LARS divides its scale out,
and SGD needs about eight times SimSiam's rate. The batch must hold more than gamma^2 + 1 = 10
images, for with fewer a collapsed batch has the lower loss.
"""

from __future__ import annotations

from cognates.config import (
    DataConfig,
    EncoderConfig,
    OptimiserConfig,
    RunConfig,
    TrainingConfig,
)
from cognates.data.views import ViewSpec, grey_images, simsiam_cifar
from cognates.recipes.defaults import hsic_optimiser, method_config

NAME = "ssl-hsic"


def fashion_mnist() -> RunConfig:
    """Return a run on Fashion-MNIST with the encoder, views, epochs and batch of the others.

    Without a target, and with gamma = 1: an encoder whose projections start close together, as
    this one's do, pulls them closer still at gamma = 3. On CIFAR-10 it stayed there, below the
    spread that counts as collapsed, and lost 3 to 4 points of the linear probe
    (`benchmarks/results/cifar10-ssl-hsic-choice.md`).
    """
    return RunConfig(
        method=method_config(NAME, dim=128, hidden=512, target=False, gamma=1.0),
        encoder=EncoderConfig(name="convnet"),
        data=DataConfig(source="fashion-mnist", image_size=28, channels=1),
        views=(grey_images(28, scale=(0.3, 1.0)),) * 2,
        optimiser=hsic_optimiser(),
        training=TrainingConfig(epochs=20, batch_size=256),
    )


def cifar10() -> RunConfig:
    """Return a run on CIFAR-10: ResNet-18 with the small stem, LARS, 800 epochs."""
    return RunConfig(
        method=method_config(NAME, dim=128, hidden=2048),
        encoder=EncoderConfig(name="resnet18", stem="small"),
        data=DataConfig(source="cifar10", image_size=32, channels=3),
        views=(ViewSpec(size=32, saturation=0.2),) * 2,
        optimiser=lars(warmup_epochs=10.0),
        training=TrainingConfig(epochs=800, batch_size=512),
    )


def cifar10_small() -> RunConfig:
    """Return a run on CIFAR-10 with the encoder, views, epochs and batch of the others."""
    return RunConfig(
        method=method_config(NAME, dim=128, hidden=512, target=False, gamma=1.0),
        encoder=EncoderConfig(name="convnet"),
        data=DataConfig(source="cifar10", image_size=32, channels=3),
        views=(simsiam_cifar(32),) * 2,
        optimiser=hsic_optimiser(),
        training=TrainingConfig(epochs=20, batch_size=256),
    )


def imagenette() -> RunConfig:
    """Return a run on ImageNette at 128 pixels: ResNet-18, the views of ImageNet, LARS."""
    return RunConfig(
        method=method_config(NAME, dim=128, hidden=2048),
        encoder=EncoderConfig(name="resnet18", stem="standard"),
        data=DataConfig(source="imagenette", image_size=128, channels=3),
        views=imagenet_views(128),
        optimiser=lars(warmup_epochs=10.0),
        training=TrainingConfig(epochs=200, batch_size=256),
    )


def imagenet(method: str = NAME) -> RunConfig:
    """Return the paper's run: ResNet-50, 1000 epochs of batch 4096 with LARS.

    At 16,384 points a step the loss comes from random features, as in the released code, which
    averages 128 draws of 512: here all processes share one pair of draws of 4096.
    """
    return RunConfig(
        method=method_config(method, dim=256, hidden=4096, features=4096),
        encoder=EncoderConfig(name="resnet50", stem="standard"),
        data=DataConfig(source="imagenet", image_size=224, channels=3),
        views=imagenet_views(224),
        optimiser=lars(warmup_epochs=10.0),
        training=TrainingConfig(epochs=1000, batch_size=4096),
    )


def imagenet_views(size: int) -> tuple[ViewSpec, ViewSpec]:
    """Return BYOL's two kinds of view: always blurred, and seldom blurred but solarised.

    The crops start at 8 % of the area and saturation changes by 0.2. The released code adds to the
    brightness; this library multiplies.
    """
    first = {"size": size, "scale": (0.08, 1.0), "saturation": 0.2}
    return ViewSpec(**first, blur=1.0), ViewSpec(**first, blur=0.1, solarise=0.2)


def lars(*, warmup_epochs: float) -> OptimiserConfig:
    """LARS of the released code: 0.4 at batch 256, momentum 0.9, weight decay 1e-6."""
    return OptimiserConfig(
        name="lars",
        learning_rate=0.4,
        momentum=0.9,
        weight_decay=1e-6,
        warmup_epochs=warmup_epochs,
    )
