r"""SimSiam: predict one view's projection from another's, with no gradient through the target.

    h = encoder(x),   z = projector(h),   p = predictor(z)
    L = -mean over i != j of cos(p^i, sg(z^j))

Exploring Simple Siamese Representation Learning (Chen and He, 2021),
https://arxiv.org/abs/2011.10566.

Every view passes through the networks on its own, as in the paper's algorithm 1, so that the batch
statistics are those of one view. The method has no uncertainty of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from cognates.distributed import gather
from cognates.errors import ConfigError
from cognates.methods.base import Method, MethodConfig
from cognates.methods.registry import register
from cognates.networks.heads import prediction_mlp, projection_mlp
from cognates.objectives import negative_cosine
from cognates.types import Batch, Embedding, Loss


class SimSiam(Method):
    """SimSiam's networks and loss."""

    default_score = "view-disagreement"
    score_cost = "8 more forward passes per image"

    def __init__(self, encoder: nn.Module, *, width: int, config: SimSiamConfig) -> None:
        """Put the heads on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.encoder = encoder
        self.projector = projection_mlp(
            width, config.hidden, config.dim, layers=config.layers, last_affine=False
        )
        self.predictor = prediction_mlp(config.dim, config.predictor_hidden)

    def forward(self, batch: Batch) -> Loss:
        """Return the negative cosine over the global batch."""
        projections, predictions = [], []
        for view in batch.views:
            z = self.projector(self.encoder(view))
            projections.append(z.detach())
            predictions.append(self.predictor(z))
        # `gather` works along the images, (n, v, d); the objective wants the views first.
        projection = gather(torch.stack(projections, dim=1)).transpose(0, 1)
        prediction = gather(torch.stack(predictions, dim=1)).transpose(0, 1)
        return Loss(negative_cosine(prediction, projection), monitored=projection[0])

    def embed(self, images: Tensor) -> Embedding:
        """Return h (n, width) in float32 or better, and no uncertainty."""
        h = self.encoder(images)
        return Embedding(h.to(torch.promote_types(h.dtype, torch.float32)), None)


@register
@dataclass(frozen=True, kw_only=True)
class SimSiamConfig(MethodConfig):
    """SimSiam's hyperparameters; the defaults are the paper's for ImageNet."""

    name: ClassVar[str] = "simsiam"
    paper: ClassVar[str] = (
        "Exploring Simple Siamese Representation Learning (Chen and He, 2021), "
        "https://arxiv.org/abs/2011.10566"
    )

    dim: int = 2048
    """Features of the projection."""
    hidden: int = 2048
    """Features between the projector's layers."""
    layers: int = 3
    """Linear maps in the projector; the paper has 2 on CIFAR."""
    predictor_hidden: int = 512
    """Features in the predictor's bottleneck; the paper has dim / 4."""

    def __post_init__(self) -> None:
        """Check sizes."""
        for name in ("dim", "hidden", "layers", "predictor_hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Expected '{name}' of at least 1, got {getattr(self, name)}.")

    def build(self, encoder: nn.Module, *, width: int) -> SimSiam:
        """Make the method around `encoder`, whose output is (n, width)."""
        return SimSiam(encoder, width=width, config=self)
