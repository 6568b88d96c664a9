r"""beta-VAE: a VAE whose latents pay beta times for what they say about an image.

    z ~ N(0, I),   x ~ p(x | z),   q(z | x) = N(m(h), exp s(h)),   h = encoder(x)
    L = sum over views of [ -log p(x | z) + beta KL(q(z | x) || N(0, I)) ]

beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et al.,
2017), https://openreview.net/forum?id=Sy2fzU9gl.

Every view is an image of its own. The representation is m, its uncertainty the entropy of q(z | x).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from cognates.distributed import average, gather
from cognates.distributions import GroupNormal
from cognates.errors import ConfigError
from cognates.methods.base import Method, MethodConfig
from cognates.methods.registry import register
from cognates.networks.image_model import DEFAULT, ImageModel, ImageModelConfig
from cognates.objectives import elbo
from cognates.types import Batch, Embedding, Loss


class BetaVAE(Method):
    """A beta-VAE's networks and loss."""

    default_score = "posterior-entropy"

    def __init__(self, encoder: nn.Module, *, width: int, config: BetaVAEConfig) -> None:
        """Put the model on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.model = ImageModel(width, config.model)

    def forward(self, batch: Batch) -> Loss:
        """Return the weighted negative bound over the global batch."""
        images = self.model.stack(batch.views, index=batch.index, step=batch.step)
        views, n = images.shape[:2]
        posterior = self.model.posterior(self.encoder(images.flatten(0, 1)), views=views)
        z = self.model.draw(posterior, batch, self.config.name)
        terms = elbo(images, self.model.likelihood(z), posterior, None, beta=self.config.beta)
        return Loss(average(terms, n), monitored=gather(posterior.mean[0].detach()))

    def embed(self, images: Tensor) -> Embedding:
        """Return the posterior's mean (n, d) and its entropy (n,) in nats."""
        return self.model.embed(self.encoder(images))

    def further_scores(self, images: Tensor) -> dict[str, Tensor]:
        """Return `negative-elbo` (at beta 1) and `reconstruction`, (n,) in nats."""
        return self.model.scores(self.encoder(images), images, self.config.prior_of(1))


@register
@dataclass(frozen=True, kw_only=True)
class BetaVAEConfig(MethodConfig):
    """A beta-VAE's hyperparameters; networks' defaults are SimVE's."""

    name: ClassVar[str] = "beta-vae"
    paper: ClassVar[str] = (
        "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework "
        "(Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl"
    )
    models_pixels: ClassVar[bool] = True

    model: ImageModelConfig = DEFAULT
    """Latents, decoder and likelihood: method.model.latent_dim, decoder, likelihood, variance,
    learn_variance, channels, image_size."""
    beta: float = 4.0
    """At least 0; 1 is a VAE. The paper has 4 on images of chairs and faces; what it means depends
    on the likelihood's variance."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.beta < math.inf:
            raise ConfigError(f"Expected 'beta' of at least 0 and finite, got {self.beta}.")

    def completed(self, *, channels: int, image_size: int, views: int) -> BetaVAEConfig:
        """Return the configuration with the data's sizes."""
        del views
        return replace(self, model=self.model.completed(channels=channels, image_size=image_size))

    def prior_of(self, views: int) -> GroupNormal:
        """Return the joint density of so many latents: standard normal each, nothing in common."""
        return GroupNormal(views, self.model.latent_dim, 1.0, 0.0, validate_args=False)

    def build(self, encoder: nn.Module, *, width: int) -> BetaVAE:
        """Make the method around `encoder`, whose output is (n, width)."""
        return BetaVAE(encoder, width=width, config=self)
