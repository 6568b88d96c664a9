"""Settings that make every registered method small enough for a test."""

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
