r"""Recipes of CLIP, for data a ten-thousandth of the paper's.

Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021),
https://arxiv.org/abs/2103.00020.

Settings of this library for thousands of pairs on a CPU: a text encoder of two narrow blocks, a
short vocabulary and small images. They were not compared with others.
"""

from __future__ import annotations

from typing import Any

from cognates.config import (
    DataConfig,
    EncoderConfig,
    RunConfig,
    TrainingConfig,
)
from cognates.data.views import ViewSpec
from cognates.recipes.defaults import CLIP, CLIP_TEXT, clip_optimiser, method_config


def photograph(size: int) -> ViewSpec:
    """Return a view of which a caption is still true: most of the image, its colours nearly kept.

    Mirrored, "left" and "right" are wrong, but few captions say so.
    """
    return ViewSpec(
        size=size,
        scale=(0.5, 1.0),
        jitter=0.5,
        hue=0.05,
        grey=0.05,
    )


def flickr8k(method: str = CLIP) -> RunConfig:
    """Return a run on Flickr8k's 6,000 training photographs that two CPU cores finish."""
    settings: dict[str, Any] = {"dim": 256, "hidden": 512, "predictor_hidden": 128}
    if method == CLIP:
        settings = {"dim": 256, **CLIP_TEXT}
    return RunConfig(
        method=method_config(method, **settings),
        encoder=EncoderConfig(name="convnet"),
        data=DataConfig(source="flickr8k", image_size=48, channels=3),
        views=(photograph(48),) * (1 if method == CLIP else 2),
        optimiser=clip_optimiser(),
        training=TrainingConfig(epochs=100, batch_size=128),
    )
