r"""Recipes of BYOL, VICReg, DINO and SimCLR: their papers' for ImageNet, ours for small images.

Bootstrap Your Own Latent (Grill et al., 2020), https://arxiv.org/abs/2006.07733.
VICReg (Bardes, Ponce and LeCun, 2022), https://arxiv.org/abs/2105.04906.
Emerging Properties in Self-Supervised Vision Transformers (Caron et al., 2021),
https://arxiv.org/abs/2104.14294.
A Simple Framework for Contrastive Learning of Visual Representations (Chen et al., 2020),
https://arxiv.org/abs/2002.05709.

On small images the encoder, views, epochs and batch are those of the other methods; heads and
optimiser are the method's own.
"""

from __future__ import annotations

import dataclasses

from cognates.config import DataConfig, EncoderConfig, OptimiserConfig, RunConfig, TrainingConfig
from cognates.data.views import ViewSpec, simsiam_imagenet
from cognates.methods.base import MethodConfig
from cognates.recipes.defaults import baseline_heads, baseline_optimiser, method_config
from cognates.recipes.ssl_hsic import imagenet_views

METHODS = ("byol", "vicreg", "dino", "simclr")
_PAPERS = {
    "byol": "Bootstrap Your Own Latent (Grill et al., 2020), https://arxiv.org/abs/2006.07733",
    "vicreg": "VICReg (Bardes, Ponce and LeCun, 2022), https://arxiv.org/abs/2105.04906",
    "dino": (
        "Emerging Properties in Self-Supervised Vision Transformers (Caron et al., 2021), "
        "https://arxiv.org/abs/2104.14294"
    ),
    "simclr": (
        "A Simple Framework for Contrastive Learning of Visual Representations (Chen et al., "
        "2020), https://arxiv.org/abs/2002.05709"
    ),
}


def own(
    settings: str, *, cost: str = "not measured", **differing: str
) -> dict[str, dict[str, str]]:
    """Return what is known of a recipe for each method: where its settings come from, its result.

    Args:
        settings: what of them is not the paper's.
        cost: what a run takes.
        differing: by method, an expectation other than "not measured".
    """
    return {
        method: {
            "paper": f"{paper}; {settings}",
            "expected": differing.get(method, "not measured"),
            "cost": cost,
        }
        for method, paper in _PAPERS.items()
    }


def adapted(config: RunConfig, method: str) -> RunConfig:
    """Return a short run of SimSiam's family with the heads and the optimiser of `method`."""
    return dataclasses.replace(
        config, method=heads(method, width=512), optimiser=baseline_optimiser(method)
    )


def long(config: RunConfig, method: str) -> RunConfig:
    """Return a long run of SimSiam's family with the heads and the optimiser of `method`."""
    return dataclasses.replace(
        config,
        method=heads(method, width=2048),
        optimiser=dataclasses.replace(baseline_optimiser(method), warmup_epochs=10.0),
    )


def heads(method: str, *, width: int) -> MethodConfig:
    """Return the configuration of `method` for small images with hidden layers of `width`."""
    return method_config(method, **baseline_heads(method, width))


def imagenet(method: str) -> RunConfig:
    """Return the paper's run on ImageNet with ResNet-50."""
    return {
        "byol": byol_imagenet,
        "vicreg": vicreg_imagenet,
        "dino": dino_imagenet,
        "simclr": simclr_imagenet,
    }[method]()


def byol_imagenet() -> RunConfig:
    """Return BYOL's run: 1000 epochs of batch 4096 with LARS at 0.2 (section 3.3)."""
    return _imagenet("byol", imagenet_views(224), _lars(0.2, 1.5e-6), epochs=1000, batch_size=4096)


def vicreg_imagenet() -> RunConfig:
    """Return VICReg's run: 1000 epochs of batch 2048 with LARS at 0.2 (section 4.2)."""
    return _imagenet("vicreg", imagenet_views(224), _lars(0.2, 1e-6), epochs=1000, batch_size=2048)


def dino_imagenet() -> RunConfig:
    """Return DINO's run for convolutional encoders: two views of 224 pixels and eight of 96.

    Crops, rate of SGD, weight decay and 100 epochs are those that the released code's README names
    for ResNet-50. Number and size of the views, batch and teacher are the paper's for ViT: the
    README's command has a batch of 512 and a teacher whose temperature stays at .04, clips the
    gradient of each parameter at a norm of 3, and trains in half precision.
    """
    small = dataclasses.replace(simsiam_imagenet(96), scale=(0.05, 0.14), saturation=0.2)
    views = (
        tuple(dataclasses.replace(view, scale=(0.14, 1.0)) for view in imagenet_views(224))
        + (small,) * 8
    )
    optimiser = OptimiserConfig(learning_rate=0.03, weight_decay=1e-4, warmup_epochs=10.0)
    return _imagenet("dino", views, optimiser, epochs=100, batch_size=1024)


def simclr_imagenet() -> RunConfig:
    """Return SimCLR's run: 1000 epochs of batch 4096 with LARS at 0.3 (sections 2.3 and 6).

    Both views have the crops from 8 % of the area, the colours of strength 1 and the blur of half
    of the images of appendix A; the blur's radius in pixels is the paper's.
    """
    view = ViewSpec(
        size=224,
        scale=(0.08, 1.0),
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
        blur=0.5,
    )
    return _imagenet("simclr", (view,) * 2, _lars(0.3, 1e-6), epochs=1000, batch_size=4096)


def _imagenet(
    method: str,
    views: tuple[ViewSpec, ...],
    optimiser: OptimiserConfig,
    *,
    epochs: int,
    batch_size: int,
) -> RunConfig:
    return RunConfig(
        method=method_config(method),
        encoder=EncoderConfig(name="resnet50", stem="standard"),
        data=DataConfig(source="imagenet", image_size=224, channels=3),
        views=views,
        optimiser=optimiser,
        training=TrainingConfig(epochs=epochs, batch_size=batch_size),
    )


def _lars(rate: float, decay: float) -> OptimiserConfig:
    return OptimiserConfig(
        name="lars", learning_rate=rate, momentum=0.9, weight_decay=decay, warmup_epochs=10.0
    )
