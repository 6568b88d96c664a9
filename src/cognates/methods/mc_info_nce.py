r"""MCInfoNCE: contrastive learning of a random latent, with a learned concentration per image.

    h = encoder(x),   mu = unit(projector(h)),   kappa = (d-1) softplus(a(h)) + 1e-3
    z_s ~ vMF(mu, kappa),   s = 1 ... S, for every view of every image
    L = -mean over p != l and images of log (1/S) sum_s softmax(z_s^p . z_s / tau) at view l

Probabilistic Contrastive Learning Recovers the Correct Aleatoric Uncertainty of Ambiguous Inputs
(Kirchhof, Kasneci and Oh, 2023), https://arxiv.org/abs/2302.02865.

The uncertainty of an image is u = (d-1)/(kappa + d-1). Averaging softmaxes before the logarithm
rewards an image whose views are hard to tell from others' for spreading its latent. Concentrations
start at 16, as in the paper; that they are read from h, their activation and the projector are
those of the other methods here. Negatives are the images of the global batch. The draws of a step
are those of the global batch: equal on every process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from cognates.distributed import gather
from cognates.distributions import PowerSpherical, VonMisesFisher, concentration_score
from cognates.errors import ConfigError
from cognates.methods.base import Method, MethodConfig
from cognates.methods.registry import register
from cognates.networks.heads import ConcentrationHead, projection_mlp
from cognates.objectives import mc_info_nce
from cognates.objectives.contrastive import Negatives
from cognates.objectives.dependence import unit_rows
from cognates.objectives.variational import Family
from cognates.random import generator
from cognates.types import Batch, Embedding, Loss

_FAMILIES = {"von-mises-fisher": VonMisesFisher, "power-spherical": PowerSpherical}


class McInfoNce(Method):
    """MCInfoNCE's networks and loss."""

    default_score = "concentration"

    def __init__(self, encoder: nn.Module, *, width: int, config: McInfoNceConfig) -> None:
        """Put the heads on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projector = projection_mlp(
            width, config.hidden, config.dim, layers=config.layers, last_affine=False
        )
        hidden = config.concentration_hidden or max(width // 4, 1)
        # The head is told the cosine that belongs to a concentration.
        start = config.start_concentration / (config.start_concentration + config.dim - 1)
        self.concentration = ConcentrationHead(width, hidden, config.dim, start=start)

    def forward(self, batch: Batch) -> Loss:
        """Return the objective over the global batch."""
        projections, concentrations = [], []
        for view in batch.views:
            h = self.encoder(view)
            projections.append(self.projector(h))
            concentrations.append(self.concentration(h))
        # `gather` works along the images, (n, v, ...); the objective wants the views first.
        z = gather(torch.stack(projections, dim=1)).transpose(0, 1)
        kappa = gather(torch.stack(concentrations, dim=1)).transpose(0, 1)
        config = self.config
        # Drawn for the global batch, so that every process draws the same.
        draws = generator(batch.seed, config.name, "latents", batch.step, device=z.device)
        terms = mc_info_nce(
            _FAMILIES[config.family](unit_rows(z), kappa, validate_args=False),
            samples=config.samples,
            temperature=config.temperature,
            negatives=config.negatives,
            generator=draws,
        )
        return Loss(terms, monitored=z[0].detach())

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
class McInfoNceConfig(MethodConfig):
    """MCInfoNCE's hyperparameters; the projector's defaults are SimSiam's for ImageNet."""

    name: ClassVar[str] = "mc-info-nce"
    paper: ClassVar[str] = (
        "Probabilistic Contrastive Learning Recovers the Correct Aleatoric Uncertainty of "
        "Ambiguous Inputs (Kirchhof, Kasneci and Oh, 2023), https://arxiv.org/abs/2302.02865"
    )

    dim: int = 128
    """Features d of the projection: the latent sphere lies in R^d."""
    hidden: int = 2048
    """Features between the projector's layers."""
    layers: int = 3
    """Linear maps in the projector."""
    concentration_hidden: int | None = None
    """Features between the concentration head's layers; None: a quarter of the encoder's width."""
    start_concentration: float = 16.0
    """kappa of every image at the start, above 0."""
    samples: int = 16
    """Latents drawn of every view, at least 1."""
    temperature: float = 0.1
    """Of the softmax, above 0: the inverse concentration of positive pairs."""
    negatives: Negatives = "all"
    """What a view is compared with: the points of both views (all), or of the other one (cross)."""
    family: Family = "von-mises-fisher"
    """The distribution on the sphere."""

    def __post_init__(self) -> None:
        """Check sizes and ranges."""
        for name in ("hidden", "layers", "concentration_hidden", "samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"Expected '{name}' of at least 1, got {value}.")
        if self.dim < 2:
            raise ConfigError(f"Expected 'dim' of at least 2 (a sphere), got {self.dim}.")
        for name in ("start_concentration", "temperature"):
            value = getattr(self, name)
            if not 0.0 < value < math.inf:
                raise ConfigError(f"Expected '{name}' above 0 and finite, got {value}.")

    def build(self, encoder: nn.Module, *, width: int) -> McInfoNce:
        """Make the method around `encoder`, whose output is (n, width)."""
        return McInfoNce(encoder, width=width, config=self)
