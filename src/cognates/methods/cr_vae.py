r"""CR-VAE: a VAE that should find the same latent for an image and for a view of it.

    z ~ N(0, I),   x ~ p(x | z),   q(z | x) = N(m(h), exp s(h)),   h = encoder(x)
    L = sum over j of [ -log p(x^j | z^j) + KL(q(z | x^j) || N(0, I)) ]
        + lambda sum over j >= 1 of KL(q(z | x^j) || q(z | x^0))

Consistency Regularization for Variational Auto-Encoders (Sinha and Dieng, 2021),
https://arxiv.org/abs/2105.14859.

x^0 is the image itself, so the first view of a run should change next to nothing; the others are
augmented. The released code takes a variance for a deviation in the
last divergence; here it is right. The representation is m, its uncertainty the entropy of q(z | x).
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
from cognates.objectives import consistency_elbo
from cognates.types import Batch, Embedding, Loss


class CRVAE(Method):
    """CR-VAE's networks and loss."""

    default_score = "posterior-entropy"

    def __init__(self, encoder: nn.Module, *, width: int, config: CRVAEConfig) -> None:
        """Put the model on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.model = ImageModel(width, config.model)

    def forward(self, batch: Batch) -> Loss:
        """Return the negative bounds and the consistency term over the global batch."""
        images = self.model.stack(batch.views, index=batch.index, step=batch.step, least=2)
        views, n = images.shape[:2]
        posterior = self.model.posterior(self.encoder(images.flatten(0, 1)), views=views)
        z = self.model.draw(posterior, batch, self.config.name)
        terms = consistency_elbo(
            images, self.model.likelihood(z), posterior, None, weight=self.config.weight
        )
        return Loss(average(terms, n), monitored=gather(posterior.mean[0].detach()))

    def embed(self, images: Tensor) -> Embedding:
        """Return the posterior's mean (n, d) and its entropy (n,) in nats."""
        return self.model.embed(self.encoder(images))

    def further_scores(self, images: Tensor) -> dict[str, Tensor]:
        """Return `negative-elbo` and `reconstruction`, (n,) in nats."""
        return self.model.scores(self.encoder(images), images, self.config.prior_of(1))


@register
@dataclass(frozen=True, kw_only=True)
class CRVAEConfig(MethodConfig):
    """CR-VAE's hyperparameters; networks' defaults are SimVE's."""

    name: ClassVar[str] = "cr-vae"
    paper: ClassVar[str] = (
        "Consistency Regularization for Variational Auto-Encoders (Sinha and Dieng, 2021), "
        "https://arxiv.org/abs/2105.14859"
    )
    models_pixels: ClassVar[bool] = True

    model: ImageModelConfig = DEFAULT
    """Latents, decoder and likelihood: method.model.latent_dim, decoder, likelihood, variance,
    learn_variance, channels, image_size."""
    weight: float = 1e-3
    """lambda of the consistency term, at least 0; the released code's."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.weight < math.inf:
            raise ConfigError(f"Expected 'weight' of at least 0 and finite, got {self.weight}.")

    def completed(self, *, channels: int, image_size: int, views: int) -> CRVAEConfig:
        """Return the configuration with the data's sizes."""
        del views
        return replace(self, model=self.model.completed(channels=channels, image_size=image_size))

    def prior_of(self, views: int) -> GroupNormal:
        """Return the joint density of so many latents: standard normal each, nothing in common."""
        return GroupNormal(views, self.model.latent_dim, 1.0, 0.0, validate_args=False)

    def build(self, encoder: nn.Module, *, width: int) -> CRVAE:
        """Make the method around `encoder`, whose output is (n, width)."""
        return CRVAE(encoder, width=width, config=self)
