"""Runs of the methods that draw images: simve, vae, beta-vae, cr-vae."""

from __future__ import annotations

import dataclasses

from cognates.config import (
    DataConfig,
    EncoderConfig,
    OptimiserConfig,
    RunConfig,
    TrainingConfig,
)
from cognates.data.views import ViewSpec, crop_and_flip
from cognates.networks.image_model import ImageModelConfig
from cognates.recipes.defaults import method_config

METHODS = ("simve", "vae", "beta-vae", "cr-vae")


def fashion_mnist_generative(method: str = "simve") -> RunConfig:
    """Return a run on Fashion-MNIST with the small convolutional pair and crops and flips."""
    return RunConfig(
        method=method_config(method, model=ImageModelConfig(latent_dim=32)),
        encoder=EncoderConfig(name="vae-convnet"),
        data=DataConfig(source="fashion-mnist", image_size=28, channels=1),
        views=views_for(method, crop_and_flip(28, scale=(0.4, 1.0))),
        optimiser=image_model_optimiser(),
        training=TrainingConfig(epochs=20, batch_size=128),
    )


def cifar10_generative(method: str = "simve") -> RunConfig:
    """Return a run on CIFAR-10 with the residual pair; crops, flips and changes of colour."""
    view = ViewSpec(size=32, scale=(0.6, 1.0), grey=0.0)
    return RunConfig(
        method=method_config(method, model=ImageModelConfig(decoder="resnet")),
        encoder=EncoderConfig(name="vae-resnet"),
        data=DataConfig(source="cifar10", image_size=32, channels=3),
        views=views_for(method, view),
        optimiser=image_model_optimiser(),
        training=TrainingConfig(epochs=400, batch_size=64),
    )


def simve_fashion_mnist(method: str = "simve") -> RunConfig:
    """Return SimVE's Fashion-MNIST run as released, but for flips and what `Recipe.paper` says.

    The released Adam has a rate of 8e-5 and eps 1e-4 on the sum over 64 groups: 1.6e-6 on the mean.
    """
    model = ImageModelConfig(latent_dim=10, decoder="mlp", likelihood="tempered-bernoulli")
    view = dataclasses.replace(crop_and_flip(28, scale=(0.4, 1.0)), ratio=(0.75, 1.3))
    return RunConfig(
        method=method_config(method, model=model),
        encoder=EncoderConfig(name="vae-mlp"),
        data=DataConfig(source="fashion-mnist", image_size=28, channels=1),
        views=views_for(method, view),
        optimiser=released_optimiser(64),
        training=TrainingConfig(epochs=400, batch_size=64),
    )


def simve_cifar10(method: str = "simve") -> RunConfig:
    """Return SimVE's CIFAR-10 run as released, but for flips and what `Recipe.paper` says."""
    view = ViewSpec(
        size=32,
        scale=(0.6, 1.0),
        jitter=1.0,
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
        grey=0.0,
    )
    return RunConfig(
        method=method_config(method, model=ImageModelConfig(latent_dim=64, decoder="resnet")),
        encoder=EncoderConfig(name="vae-resnet"),
        data=DataConfig(source="cifar10", image_size=32, channels=3),
        views=views_for(method, view),
        optimiser=released_optimiser(64),
        training=TrainingConfig(epochs=400, batch_size=64),
    )


def for_pixels(config: RunConfig) -> RunConfig:
    """Return a run made for another kind of method with what a method that draws images needs.

    An encoder that keeps positions, Adam, views of the size that the decoder draws, and for CR-VAE
    the image itself as the first of them.
    """
    view = dataclasses.replace(config.views[-1], size=config.data.image_size)
    return dataclasses.replace(
        config,
        encoder=EncoderConfig(name="vae-convnet"),
        views=views_for(config.method.name, view),
        optimiser=image_model_optimiser(),
    )


def views_for(method: str, view: ViewSpec) -> tuple[ViewSpec, ...]:
    """Return two views; the first one of CR-VAE is the image itself, uncropped and unflipped."""
    if method == "cr-vae":
        whole = crop_and_flip(view.size, scale=(1.0, 1.0))
        return (dataclasses.replace(whole, flip=0.0), view)
    return (view, view)


def image_model_optimiser() -> OptimiserConfig:
    """Adam at 2e-3 for a batch of 256: this library's, for short runs of the small networks."""
    return OptimiserConfig(name="adamw", learning_rate=2e-3, weight_decay=0.0, warmup_epochs=0.5)


def released_optimiser(groups: int) -> OptimiserConfig:
    """Adam as in SimVE's released code: 8e-5 at every step, eps 1e-4 / groups, no decay."""
    return OptimiserConfig(
        name="adamw",
        learning_rate=8e-5 * 256 / groups,  # the rate of a configuration is that of 256 images
        weight_decay=0.0,
        eps=1e-4 / groups,
        constant_rate=("encoder", "model"),
    )
