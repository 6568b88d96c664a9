r"""VI-SimSiam: SimSiam read as variational inference, with a learned concentration per image.

    h = encoder(x),   z = projector(h),   mu = unit(predictor(z))
    kappa = (d-1) softplus(a(h)) + 1e-3
    L = -mean over i != j of log p(sg(unit(z^j)); mu^i, kappa^i) / (d - 1),   p Power Spherical

Variants, by the configuration: the family, a posterior that is sampled, what kappa is read from and
by which activation, and how its loss and the encoder's meet (`coupling`): the encoder may feel the
density as in the paper (`joint`), without the head (`detached`), less of it (`beta-nll`), or
SimSiam's cosine instead, exactly as if there were no head (`cosine`; but for `clip`, which bounds
the gradient of all weights together). That is the default: it costs no accuracy, and its consensus
finds as many errors or more (`benchmarks/results/uncertainty-*-choice.md`).

Representation Uncertainty in Self-Supervised Learning as Variational Inference (Nakamura, Okada and
Taniguchi, 2023), https://arxiv.org/abs/2203.11437.

The uncertainty of an image is u = (d-1)/(kappa + d-1), one minus the cosine to expect between its
prediction and another view's projection; the default score is the `consensus` of its rank and that
of `distance-ratio` (`evaluation/relative.py`). The paper has no official code: that the posterior
is a point at the stopped target, that kappa is read from h, and its activation are choices made
here. A sampled posterior lies around the stopped target with the target view's own kappa.
Every view passes through the networks on its own, as in SimSiam.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from cognates.distributed import gather
from cognates.distributions import concentration_score
from cognates.errors import ConfigError
from cognates.methods.base import Latents, Method, MethodConfig
from cognates.methods.registry import register
from cognates.networks.heads import (
    Activation,
    ConcentrationHead,
    prediction_mlp,
    projection_mlp,
)
from cognates.objectives import vi_simsiam
from cognates.objectives.variational import Coupling, Family, Posterior, require_weights
from cognates.random import generator
from cognates.types import Batch, Embedding, Loss

Input = Literal["backbone", "projection"]
_CHOICES: dict[str, tuple[str, ...]] = {
    "concentration_input": get_args(Input),
    "activation": get_args(Activation),
    "family": get_args(Family),
    "coupling": get_args(Coupling),
    "posterior": get_args(Posterior),
}


class ViSimSiam(Method):
    """VI-SimSiam's networks and loss."""

    default_score = "consensus"
    own_score = "concentration"
    score_cost = "a search among 10,000 training images"

    def __init__(self, encoder: nn.Module, *, width: int, config: ViSimSiamConfig) -> None:
        """Put the heads on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projector = projection_mlp(
            width, config.hidden, config.dim, layers=config.layers, last_affine=False
        )
        self.predictor = prediction_mlp(config.dim, config.predictor_hidden)
        if config.concentration_input == "projection":
            width = config.dim
        # A quarter of the input's width: the shape of the predictor, with one output.
        hidden = config.concentration_hidden or max(width // 4, 1)
        self.concentration = ConcentrationHead(
            width, hidden, config.dim, start=config.start, activation=config.activation
        )

    def forward(self, batch: Batch) -> Loss:
        """Return the negative log density over the global batch."""
        config = self.config
        projections, predictions, concentrations = [], [], []
        for view in batch.views:
            h = self.encoder(view)
            z = self.projector(h)
            projections.append(z.detach())
            predictions.append(self.predictor(z))
            read = z if config.concentration_input == "projection" else h
            # With the cosine the encoder is SimSiam's: nothing of the density may reach it.
            apart = config.coupling in ("detached", "cosine")
            concentrations.append(self.concentration(read.detach() if apart else read))
        # `gather` works along the images, (n, v, ...); the objective wants the views first.
        projection = gather(torch.stack(projections, dim=1)).transpose(0, 1)
        terms = vi_simsiam(
            gather(torch.stack(predictions, dim=1)).transpose(0, 1),
            gather(torch.stack(concentrations, dim=1)).transpose(0, 1),
            projection,
            family=config.family,
            per_dimension=config.per_dimension,
            coupling=config.coupling,
            beta=config.beta,
            posterior=config.posterior,
            kl_weight=config.kl_weight,
            # Of the global batch, so that every process draws the same numbers.
            generator=generator(batch.seed, config.name, batch.step, device=projection.device)
            if config.posterior == "sampled"
            else None,
        )
        return Loss(terms, monitored=projection[0])

    def embed(self, images: Tensor) -> Embedding:
        """Return h (n, width) in float32 or better, and u = (d-1)/(kappa + d-1) in (0, 1]."""
        h = self.encoder(images)
        from_projection = self.config.concentration_input == "projection"
        kappa = self.concentration(self.projector(h) if from_projection else h)
        return Embedding(
            h.to(torch.promote_types(h.dtype, torch.float32)),
            concentration_score(kappa, dim=self.config.dim),
        )

    def latents(self, images: Tensor) -> Latents:
        """Return the prediction, the projection and the concentration of views."""
        h = self.encoder(images)
        z = self.projector(h)
        kappa = self.concentration(z if self.config.concentration_input == "projection" else h)
        return Latents(self.predictor(z), z, kappa)


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
    """Features between the concentration head's layers; None: a quarter of its input's."""
    concentration_input: Input = "backbone"
    """What the concentration is read from: the encoder's h or the projector's z."""
    activation: Activation = "softplus"
    """From the head's output to the concentration: softplus or exp."""
    start: float = 0.25
    """Cosine that every image expects at the start, between 0 and 1; 0.1 to 0.5 work."""
    family: Family = "power-spherical"
    """The distribution on the sphere."""
    per_dimension: bool = True
    """Divide the loss by d - 1, which keeps SimSiam's learning rates valid."""
    coupling: Coupling = "cosine"
    """How the density and the encoder meet. cosine: the encoder learns from SimSiam's cosine alone,
    and is SimSiam's to the bit, the head from the density; joint, the paper's: both learn from it;
    detached: the head's gradient stops at its input; beta-nll: joint, with pairs weighted by kappa
    to the power -beta."""
    beta: float = 0.5
    """Of beta-nll, from 0 (joint) to 1 (the pull on a prediction is free of kappa)."""
    posterior: Posterior = "delta"
    """A point at the target view's projection, or one draw of a density around it."""
    kl_weight: float = 0.1
    """Weight of a sampled posterior's divergence from the uniform sphere; at 1 the concentrations
    run to 0."""

    def __post_init__(self) -> None:
        """Check sizes and ranges."""
        for name in ("hidden", "layers", "predictor_hidden", "concentration_hidden"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"Expected '{name}' of at least 1, got {value}.")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"Expected '{name}' to be one of {list(known)}, got {getattr(self, name)!r}."
                )
        if self.dim < 2:
            raise ConfigError(f"Expected 'dim' of at least 2 (a sphere), got {self.dim}.")
        if not 0.0 < self.start < 1.0:
            raise ConfigError(f"Expected 'start' between 0 and 1 (a cosine), got {self.start}.")
        require_weights(beta=self.beta, kl_weight=self.kl_weight)

    @classmethod
    def migrated(cls, fields: Mapping[str, object]) -> dict[str, object]:
        """Read the field that `coupling` has replaced: detach_concentration, true or false."""
        found = dict(fields)
        old = found.get("detach_concentration")
        if isinstance(old, bool) and "coupling" not in found:
            del found["detach_concentration"]
            found["coupling"] = "detached" if old else "joint"
        return found

    def build(self, encoder: nn.Module, *, width: int) -> ViSimSiam:
        """Make the method around `encoder`, whose output is (n, width)."""
        return ViSimSiam(encoder, width=width, config=self)
