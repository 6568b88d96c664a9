r"""VAE: a variational autoencoder; every view is an image of its own.

    z ~ N(0, I),   x ~ p(x | z),   q(z | x) = N(m(h), exp s(h)),   h = encoder(x)
    L = sum over views of [ -log p(x | z) + KL(q(z | x) || N(0, I)) ]

Auto-Encoding Variational Bayes (Kingma and Welling, 2013), https://arxiv.org/abs/1312.6114.

Here it is the reference for SimVE: the same networks and views, without a common latent. The
representation is m, its uncertainty the entropy of q(z | x).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from cognates.distributed import average, gather
from cognates.distributions import GroupNormal
from cognates.methods.base import Method, MethodConfig
from cognates.methods.registry import register
from cognates.networks.image_model import DEFAULT, ImageModel, ImageModelConfig
from cognates.objectives import elbo
from cognates.types import Batch, Embedding, Loss


class VAE(Method):
    """A VAE's networks and loss."""

    default_score = "posterior-entropy"

    def __init__(self, encoder: nn.Module, *, width: int, config: VAEConfig) -> None:
        """Put the model on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.model = ImageModel(width, config.model)

    def forward(self, batch: Batch) -> Loss:
        """Return the negative bound over the global batch."""
        images = self.model.stack(batch.views, index=batch.index, step=batch.step)
        views, n = images.shape[:2]
        posterior = self.model.posterior(self.encoder(images.flatten(0, 1)), views=views)
        z = self.model.draw(posterior, batch, self.config.name)
        terms = elbo(images, self.model.likelihood(z), posterior, None)
        return Loss(average(terms, n), monitored=gather(posterior.mean[0].detach()))

    def embed(self, images: Tensor) -> Embedding:
        """Return the posterior's mean (n, d) and its entropy (n,) in nats."""
        return self.model.embed(self.encoder(images))

    def further_scores(self, images: Tensor) -> dict[str, Tensor]:
        """Return `negative-elbo` and `reconstruction`, (n,) in nats."""
        return self.model.scores(self.encoder(images), images, self.config.prior_of(1))


@register
@dataclass(frozen=True, kw_only=True)
class VAEConfig(MethodConfig):
    """A VAE's hyperparameters; networks' defaults are SimVE's."""

    name: ClassVar[str] = "vae"
    paper: ClassVar[str] = (
        "Auto-Encoding Variational Bayes (Kingma and Welling, 2013), "
        "https://arxiv.org/abs/1312.6114"
    )
    models_pixels: ClassVar[bool] = True

    model: ImageModelConfig = DEFAULT
    """Latents, decoder and likelihood: method.model.latent_dim, decoder, likelihood, variance,
    learn_variance, channels, image_size."""

    def completed(self, *, channels: int, image_size: int, views: int) -> VAEConfig:
        """Return the configuration with the data's sizes."""
        del views
        return replace(self, model=self.model.completed(channels=channels, image_size=image_size))

    def prior_of(self, views: int) -> GroupNormal:
        """Return the joint density of so many latents: standard normal each, nothing in common."""
        return GroupNormal(views, self.model.latent_dim, 1.0, 0.0, validate_args=False)

    def build(self, encoder: nn.Module, *, width: int) -> VAE:
        """Make the method around `encoder`, whose output is (n, width)."""
        return VAE(encoder, width=width, config=self)
