"""Settings and images that make a run of every registered method small enough for a test."""

from pathlib import Path

import numpy as np

from cognates.networks.image_model import ImageModelConfig

SMALL = {
    "dim": 6,
    "hidden": 7,
    "predictor_hidden": 5,
    "prototypes": 8,
    "vocabulary": 12,
    "length": 5,
    "text_width": 8,
    "text_layers": 1,
    "text_heads": 2,
    "model": ImageModelConfig(latent_dim=4, decoder="mlp"),
}
"""Settings by name: a method takes those that it has, a new one needs none."""


def write_colour(folder: Path, *, labels: bool = True) -> None:
    """Write 64 training and 24 test images of noise, 12 pixels in colour, as npz files."""
    generator = np.random.default_rng(0)
    for name, n in (("train", 64), ("test", 24)):
        pixels = generator.integers(0, 256, (n, 12, 12, 3), dtype=np.uint8)
        targets = {"labels": np.arange(n) % 2} if labels else {}
        np.savez(folder / f"{name}.npz", images=pixels, **targets)
