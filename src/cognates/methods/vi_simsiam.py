r"""VI-SimSiam: SimSiam read as variational inference, with a learned concentration per image.

    h = encoder(x),   z = projector(h),   mu = unit(predictor(z))
    kappa = (d-1) softplus(a(h)) + 1e-3
    L = -mean over i != j of log p(sg(unit(z^j)); mu^i, kappa^i) / (d - 1),   p Power Spherical

Representation Uncertainty in Self-Supervised Learning as Variational Inference (Nakamura, Okada and
Taniguchi, 2023), https://arxiv.org/abs/2203.11437.

The uncertainty of an image is u = (d-1)/(kappa + d-1), one minus the cosine to expect between its
prediction and another view's projection. The paper has no official code: that the posterior is a
point at the stopped target, that kappa is read from h, and its activation are choices made here.
Every view passes through the networks on its own, as in SimSiam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from cognates.distributed import gather
from cognates.distributions import concentration_score
from cognates.errors import ConfigError
from cognates.methods.base import Method, MethodConfig
from cognates.methods.registry import register
from cognates.networks.heads import ConcentrationHead, prediction_mlp, projection_mlp
from cognates.objectives import vi_simsiam
from cognates.objectives.variational import Family
from cognates.types import Batch, Embedding, Loss


class ViSimSiam(Method):
    """VI-SimSiam's networks and loss."""

    default_score = "concentration"

    def __init__(self, encoder: nn.Module, *, width: int, config: ViSimSiamConfig) -> None:
        """Put the heads on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projector = projection_mlp(
            width, config.hidden, config.dim, layers=config.layers, last_affine=False
        )
        self.predictor = prediction_mlp(config.dim, config.predictor_hidden)
        # A quarter of the encoder's width: the shape of the predictor, with one output.
        hidden = config.concentration_hidden or max(width // 4, 1)
        self.concentration = ConcentrationHead(width, hidden, config.dim, start=config.start)

    def forward(self, batch: Batch) -> Loss:
        """Return the negative log density over the global batch."""
        projections, predictions, concentrations = [], [], []
        for view in batch.views:
            h = self.encoder(view)
            z = self.projector(h)
            projections.append(z.detach())
            predictions.append(self.predictor(z))
            concentrations.append(
                self.concentration(h.detach() if self.config.detach_concentration else h)
            )
        # `gather` works along the images, (n, v, ...); the objective wants the views first.
        projection = gather(torch.stack(projections, dim=1)).transpose(0, 1)
        terms = vi_simsiam(
            gather(torch.stack(predictions, dim=1)).transpose(0, 1),
            gather(torch.stack(concentrations, dim=1)).transpose(0, 1),
            projection,
            family=self.config.family,
            per_dimension=self.config.per_dimension,
        )
        return Loss(terms, monitored=projection[0])

    def embed(self, images: Tensor) -> Embedding:
        """Return h (n, width) in float32 or better, and u = (d-1)/(kappa + d-1) in (0, 1]."""
        h = self.encoder(images)
        kappa = self.concentration(h)
        return Embedding(
            h.to(torch.promote_types(h.dtype, torch.float32)),
            concentration_score(kappa, dim=self.config.dim),
        )


@register
@dataclass(frozen=True, kw_only=True)
class ViSimSiamConfig(MethodConfig):
    """VI-SimSiam's hyperparameters; the networks' defaults are SimSiam's for ImageNet."""

    name: ClassVar[str] = "vi-simsiam"
    paper: ClassVar[str] = (
        "Representation Uncertainty in Self-Supervised Learning as Variational Inference "
        "(Nakamura, Okada and Taniguchi, 2023), https://arxiv.org/abs/2203.11437"
    )

    dim: int = 2048
    """Features d of the projection: the latent sphere lies in R^d."""
    hidden: int = 2048
    """Features between the projector's layers."""
    layers: int = 3
    """Linear maps in the projector; SimSiam has 2 on CIFAR."""
    predictor_hidden: int = 512
    """Features in the predictor's bottleneck; SimSiam has dim / 4."""
    concentration_hidden: int | None = None
    """Features between the concentration head's layers; None: a quarter of the encoder's width."""
    start: float = 0.25
    """Cosine that every image expects at the start, between 0 and 1; 0.1 to 0.5 work."""
    family: Family = "power-spherical"
    """The distribution on the sphere."""
    per_dimension: bool = True
    """Divide the loss by d - 1, which keeps SimSiam's learning rates valid."""
    detach_concentration: bool = False
    """Stop the gradient of the concentration head at h: kappa then does not shape the encoder
    through its head."""

    def __post_init__(self) -> None:
        """Check sizes and ranges."""
        for name in ("hidden", "layers", "predictor_hidden", "concentration_hidden"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"Expected '{name}' of at least 1, got {value}.")
        if self.dim < 2:
            raise ConfigError(f"Expected 'dim' of at least 2 (a sphere), got {self.dim}.")
        if not 0.0 < self.start < 1.0:
            raise ConfigError(f"Expected 'start' between 0 and 1 (a cosine), got {self.start}.")

    def build(self, encoder: nn.Module, *, width: int) -> ViSimSiam:
        """Make the method around `encoder`, whose output is (n, width)."""
        return ViSimSiam(encoder, width=width, config=self)
