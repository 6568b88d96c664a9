r"""VICReg: equal views, features that vary, and that vary independently of each other.

    h = encoder(x),   z = expander(h)
    L = 25 (z^p - z^l)^2 + 25 max(0, 1 - std z) + (off-diagonal covariance of z)^2

VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning (Bardes, Ponce
and LeCun, 2022), https://arxiv.org/abs/2105.04906.

No predictor, no target, no stopped gradient: the variance term alone keeps images apart. Every view
passes through the networks on its own. The method has no uncertainty of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from cognates.distributed import gather
from cognates.errors import ConfigError
from cognates.methods.base import Method, MethodConfig
from cognates.methods.registry import register
from cognates.networks.heads import hidden_mlp
from cognates.objectives import vicreg
from cognates.types import Batch, Embedding, Loss


class VicReg(Method):
    """VICReg's networks and loss."""

    default_score = "view-disagreement"
    score_cost = "8 more forward passes per image"

    def __init__(self, encoder: nn.Module, *, width: int, config: VicRegConfig) -> None:
        """Put the expander on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.expander = hidden_mlp(width, config.hidden, config.dim, layers=config.layers)

    def forward(self, batch: Batch) -> Loss:
        """Return the three terms over the global batch."""
        local = torch.stack([self.expander(self.encoder(view)) for view in batch.views], dim=1)
        # `gather` works along the images, (n, v, d); the objective wants the views first.
        z = gather(local).transpose(0, 1)
        terms = vicreg(
            z,
            invariance=self.config.invariance,
            variance=self.config.variance,
            covariance=self.config.covariance,
        )
        # Features are to have a standard deviation of 1, and without the variance term they all
        # shrink: beside a constant of that size, which d ones have together, a monitor sees it.
        one = z.new_full((z.shape[1], 1), math.sqrt(z.shape[2]))
        return Loss(terms, monitored=torch.cat([z[0].detach(), one], dim=1))

    def embed(self, images: Tensor) -> Embedding:
        """Return h (n, width) in float32 or better, and no uncertainty."""
        h = self.encoder(images)
        return Embedding(h.to(torch.promote_types(h.dtype, torch.float32)), None)


@register
@dataclass(frozen=True, kw_only=True)
class VicRegConfig(MethodConfig):
    """VICReg's hyperparameters; the defaults are the paper's for ImageNet."""

    name: ClassVar[str] = "vicreg"
    paper: ClassVar[str] = (
        "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning "
        "(Bardes, Ponce and LeCun, 2022), https://arxiv.org/abs/2105.04906"
    )

    dim: int = 8192
    """Features of the embedding."""
    hidden: int = 8192
    """Features between the expander's layers."""
    layers: int = 3
    """Linear maps in the expander."""
    invariance: float = 25.0
    """Weight of the squared distance of two views."""
    variance: float = 25.0
    """Weight of the standard deviation that features lack; at 0 the representation collapses."""
    covariance: float = 1.0
    """Weight of the squared covariances of two features."""

    def __post_init__(self) -> None:
        """Check sizes and ranges."""
        for name in ("dim", "hidden", "layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Expected '{name}' of at least 1, got {getattr(self, name)}.")
        for name in ("invariance", "variance", "covariance"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"Expected a finite '{name}' of at least 0, got {getattr(self, name)}."
                )

    def require_images(self, images: int) -> None:
        """Refuse a batch of one image, whose features have no variance."""
        if images < 2:
            raise ConfigError(
                "Expected at least two images in each part of the batch (batch_size / accumulate), "
                f"got {images}: a feature of one image has no variance; raise the batch "
                "size."
            )

    def build(self, encoder: nn.Module, *, width: int) -> VicReg:
        """Make the method around `encoder`, whose output is (n, width)."""
        return VicReg(encoder, width=width, config=self)
