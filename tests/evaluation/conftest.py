"""A small method, small images and synthetic features for the tests of the evaluation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cognates.data.images import Images
from cognates.data.views import ViewSpec, crop_and_flip
from cognates.methods.base import Method
from cognates.types import Batch, Embedding, Features, Loss


class TinyMethod(Method):
    """A random convolutional encoder with batch norm; its own uncertainty is 1 / (1 + |h|)."""

    default_score = "concentration"

    def __init__(self, *, seed: int = 0, default: str = "concentration") -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(
                nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
                nn.Conv2d(8, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            )  # fmt: skip
        self.default_score = default  # type: ignore[misc]

    def forward(self, batch: Batch) -> Loss:
        raise NotImplementedError

    def embed(self, images: Tensor) -> Embedding:
        h = self.encoder(images)
        own = 1 / (1 + h.norm(dim=1)) if self.default_score == "concentration" else None
        return Embedding(h, own)


@pytest.fixture
def method() -> TinyMethod:
    return TinyMethod().eval()


@pytest.fixture
def without_own_score() -> TinyMethod:
    return TinyMethod(default="view-disagreement").eval()


@pytest.fixture
def untrained() -> TinyMethod:
    return TinyMethod(seed=1).eval()


@pytest.fixture
def spec() -> ViewSpec:
    return crop_and_flip(16, scale=(0.4, 1.0))


def draw_images(n: int, seed: int, *, split: str, labelled: bool = True) -> Images:
    """Images of three classes: a bright bar whose row says which."""
    generator = np.random.default_rng(seed)
    label = np.arange(n) % 3
    pixels = generator.integers(0, 60, size=(n, 1, 16, 16))
    for i, value in enumerate(label):
        row = 2 + 5 * value
        pixels[i, 0, row : row + 2] += 12
    return Images(
        pixels=pixels.astype(np.uint8),
        dataset="bars",
        split=split,
        path=np.array([f"{split}/{i}.png" for i in range(n)]),
        targets={"label": label} if labelled else {},
        target_names={"label": ("top", "middle", "bottom")} if labelled else {},
        digest=f"bars-{split}-{n}-{seed}",
    )


@pytest.fixture
def images() -> tuple[Images, Images]:
    return draw_images(60, 0, split="train"), draw_images(40, 1, split="test")


@pytest.fixture
def unlabelled() -> tuple[Images, Images]:
    return (
        draw_images(60, 0, split="train", labelled=False),
        draw_images(40, 1, split="test", labelled=False),
    )


MakeFeatures = Callable[..., Features]


@pytest.fixture
def make_features() -> MakeFeatures:
    """Gaussian classes: `separation` is the distance of the class means over the noise."""

    def make(
        n: int = 300,
        d: int = 8,
        *,
        classes: int = 3,
        separation: float = 2.0,
        seed: int = 0,
        split: str = "train",
        scores: dict[str, np.ndarray] | None = None,
        default_score: str | None = None,
    ) -> Features:
        means = np.random.default_rng(99).normal(size=(classes, d)) * separation
        generator = np.random.default_rng(seed)
        label = np.arange(n) % classes
        return Features(
            representation=(means[label] + generator.normal(size=(n, d))).astype(np.float32),
            index=np.arange(n),
            targets={"label": label},
            scores=scores or {},
            default_score=default_score,
            dataset="gaussian",
            split=split,
        )

    return make
