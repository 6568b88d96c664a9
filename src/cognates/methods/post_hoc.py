r"""Post-hoc uncertainty: VI-SimSiam's concentration for an encoder that somebody else has trained.

    h = encoder(x), frozen;   z = W (h - m): the first principal components of h, each of variance 1
    mu = t = unit(z),   kappa = (d-1) softplus(a((h - m)/s)) + 1e-3
    L = -mean over i != j of log p(t^j; mu^i, kappa^i) / (d - 1),   p Power Spherical

Representation Uncertainty in Self-Supervised Learning as Variational Inference (Nakamura, Okada and
Taniguchi, 2023), https://arxiv.org/abs/2203.11437.

This is VI-SimSiam with the head on detached features, where neither projector nor predictor is
learnt: where the target may move, a projector can make any image's views agree, and the likelihood
would reward it for that. Here only the head learns, so nothing can collapse, and kappa says how far
the views of such an image fall apart in the encoder's own space. Whitening makes that space even:
of raw features, above all non-negative ones, the mean and a few directions decide every cosine.
m, W and the deviations s are measured once, on the first features that the method sees in training.

`cognates fit-uncertainty` fits it in minutes on cached features; `cognates train post-hoc --init
RUN` does the same with fresh views at every step. The uncertainty is u = (d-1)/(kappa + d-1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from cognates.distributed import gather
from cognates.distributions import concentration_score
from cognates.errors import ConfigError
from cognates.methods.base import Method, MethodConfig
from cognates.methods.registry import register
from cognates.networks.heads import ConcentrationHead
from cognates.objectives import vi_simsiam
from cognates.objectives.variational import Family
from cognates.types import Batch, Embedding, Loss

# Below this share of the largest variance a direction is rounding (float32 features, float64 sums).
_LEAST_VARIANCE = 1e-6


class PostHoc(Method):
    """A frozen encoder, a fixed linear map and the head."""

    # The head's own score is at chance on one of two sets: benchmarks/results/post-hoc-*.md.
    default_score = "distance-ratio"
    own_score = "concentration"
    score_cost = "a search among 10,000 training images"

    centre: Tensor
    deviation: Tensor
    basis: Tensor
    measured: Tensor

    def __init__(self, encoder: nn.Module, *, width: int, config: PostHocConfig) -> None:
        """Freeze `encoder`, whose output is (n, width), and put the head on it."""
        super().__init__()
        self.config = config
        self.encoder = encoder.requires_grad_(False)
        self.dim = min(config.components, width)
        if self.dim < 2:
            raise ConfigError(
                f"Expected an encoder with at least 2 features, got {width}: on a line there is no "
                "direction to be sure of."
            )
        hidden = config.head_hidden or max(width // 4, 1)
        self.concentration = ConcentrationHead(width, hidden, self.dim, start=config.start)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.register_buffer("basis", torch.eye(width, self.dim))
        self.register_buffer("measured", torch.tensor(False))

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but the encoder, whose batch norms are frozen too."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, batch: Batch) -> Loss:
        """Return the negative log density over the global batch."""
        with torch.no_grad():
            h = torch.stack([self.encoder(view) for view in batch.views])
        return self.loss_of(h)

    def loss_of(self, representations: Tensor) -> Loss:
        """Return the loss of the encoder's outputs (v, n, width) for the views of n images."""
        if self.training and not self.measured:
            # `gather` works along the images.
            self.measure(gather(representations.transpose(0, 1)).flatten(0, 1))
        kappa = torch.stack([self._kappa(view) for view in representations])
        z = gather(self._whitened(representations).transpose(0, 1)).transpose(0, 1)
        terms = vi_simsiam(
            z, gather(kappa.transpose(0, 1)).transpose(0, 1), z, family=self.config.family
        )
        return Loss(terms, monitored=z[0].detach())

    @torch.no_grad()
    def measure(self, representations: Tensor) -> None:
        """Set the maps from representations (n, width) of views: their statistics."""
        h = representations.double()
        centre = h.mean(0)
        covariance = torch.cov((h - centre).T, correction=0)
        variances, directions = torch.linalg.eigh(covariance)
        variances, directions = variances.flip(0), directions.flip(1)
        # A direction's sign is arbitrary: its largest entry is positive, on every machine.
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        directions = directions * torch.where(largest < 0, -1.0, 1.0)
        floor = _LEAST_VARIANCE * variances[0].clamp_min(torch.finfo(torch.float32).tiny)
        self.centre.copy_(centre)
        self.deviation.copy_(covariance.diagonal().clamp_min(floor).sqrt())
        self.basis.copy_((directions * variances.clamp_min(floor).rsqrt())[:, : self.dim])
        self.measured.fill_(True)

    def embed(self, images: Tensor) -> Embedding:
        """Return h (n, width) in float32 or better, and u = (d-1)/(kappa + d-1) in (0, 1]."""
        h = self.encoder(images)
        kappa = self._kappa(h)
        return Embedding(
            h.to(torch.promote_types(h.dtype, torch.float32)),
            concentration_score(kappa, dim=self.dim),
        )

    def _kappa(self, h: Tensor) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            return self.concentration((h.to(self.basis.dtype) - self.centre) / self.deviation)

    def _whitened(self, h: Tensor) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            return (h.to(self.basis.dtype) - self.centre) @ self.basis


@register
@dataclass(frozen=True, kw_only=True)
class PostHocConfig(MethodConfig):
    """The head's hyperparameters."""

    name: ClassVar[str] = "post-hoc"
    paper: ClassVar[str] = (
        "Representation Uncertainty in Self-Supervised Learning as Variational Inference "
        "(Nakamura, Okada and Taniguchi, 2023), https://arxiv.org/abs/2203.11437"
    )

    components: int = 64
    """Principal components d of the features that span the latent's space; the encoder's width if
    that is less."""
    head_hidden: int | None = None
    """Features between the head's layers; None: a quarter of the encoder's width."""
    start: float = 0.25
    """Cosine that every image expects at the start, between 0 and 1."""
    family: Family = "power-spherical"
    """The distribution on the sphere."""

    def __post_init__(self) -> None:
        """Check sizes and ranges."""
        if self.components < 2:
            raise ConfigError(f"Expected at least 2 'components', got {self.components}.")
        if self.head_hidden is not None and self.head_hidden < 1:
            raise ConfigError(f"Expected 'head_hidden' of at least 1, got {self.head_hidden}.")
        if not 0.0 < self.start < 1.0:
            raise ConfigError(f"Expected 'start' between 0 and 1 (a cosine), got {self.start}.")

    def build(self, encoder: nn.Module, *, width: int) -> PostHoc:
        """Make the method around `encoder`, whose output is (n, width)."""
        return PostHoc(encoder, width=width, config=self)
