r"""What the generative methods share: a posterior of latents, and a likelihood of images.

    q(z | x) = N(m(h), exp s(h)),   h = encoder(x);   p(x | z) = likelihood(decoder(z))

Views come first here, (v, n, ...); the networks see them as v n images, and what comes back is
given its two axes again, so that no group can take a view of another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from cognates.distributions import (
    BernoulliImage,
    ContinuousBernoulliImage,
    DiagonalNormal,
    GroupNormal,
    ImageLikelihood,
    NormalImage,
    TemperedBernoulliImage,
)
from cognates.errors import ConfigError
from cognates.networks.decoders import build_decoder
from cognates.networks.heads import PosteriorHead
from cognates.random import fold_in, normal_of
from cognates.types import Batch, Embedding

_ROUNDING = 1e-3
"""How far outside [0, 1] a pixel may lie: a resampled one passes it by rounding."""


@dataclass(frozen=True, kw_only=True)
class ImageModelConfig:
    """Latents, decoder and likelihood of a generative method."""

    latent_dim: int = 64
    """Dimensions of a latent, which is the representation (10 on MNIST in the released code)."""
    decoder: Literal["convnet", "mlp", "resnet"] = "convnet"
    """The counterparts of the encoders vae-convnet, vae-mlp and vae-resnet."""
    likelihood: Literal["normal", "bernoulli", "continuous-bernoulli", "tempered-bernoulli"] = (
        "normal"
    )
    """How pixels scatter around what the decoder draws; tempered: the released code's on MNIST."""
    variance: float = 0.010051835744633586
    """Variance of a pixel, or the temperature of the tempered form: exp(-4.6) in the released code,
    1 in the ICLR submission."""
    learn_variance: bool = False
    """Whether the variance of the normal likelihood is learnt, from that value on."""
    channels: int | None = None
    """Channels that the decoder draws; None: those of the data."""
    image_size: int | None = None
    """Height and width that the decoder draws; None: those of the views."""

    def __post_init__(self) -> None:
        """Check sizes and ranges."""
        if self.latent_dim < 1:
            raise ConfigError(f"Expected 'latent_dim' of at least 1, got {self.latent_dim}.")
        if not 0 < self.variance < math.inf:
            raise ConfigError(f"Expected 'variance' above 0 and finite, got {self.variance}.")
        if self.learn_variance and self.likelihood != "normal":
            raise ConfigError(
                "Expected the likelihood 'normal' with 'learn_variance', got "
                f"'{self.likelihood}', which has no variance to learn."
            )

    def completed(self, *, channels: int, image_size: int) -> ImageModelConfig:
        """Return the configuration with the data's sizes where none is given."""
        return replace(
            self,
            channels=channels if self.channels is None else self.channels,
            image_size=image_size if self.image_size is None else self.image_size,
        )


DEFAULT = ImageModelConfig()


class ImageModel(nn.Module):
    """The posterior's head, the decoder and the likelihood.

    Args:
        width: features of the encoder's output, at least 1.
        config: with `channels` and `image_size` given.

    Raises:
        ConfigError: a size is missing or does not fit the decoder.

    Example:
        >>> config = ImageModelConfig(latent_dim=2, channels=1, image_size=8)
        >>> model = ImageModel(16, config)
        >>> q = model.posterior(torch.zeros(6, 16), views=2)
        >>> model.likelihood(q.mean).batch_shape, q.batch_shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
    """

    def __init__(self, width: int, config: ImageModelConfig) -> None:
        """Make the networks; see the class for the arguments."""
        super().__init__()
        if config.channels is None or config.image_size is None:
            raise ConfigError(
                "Expected the decoder's 'channels' and 'image_size', got none: give them, or call "
                "completed(...) on the configuration."
            )
        self.config = config
        self.shape = (config.channels, config.image_size, config.image_size)
        self.head = PosteriorHead(width, config.latent_dim)
        self.decoder = build_decoder(
            config.decoder,
            channels=config.channels,
            image_size=config.image_size,
            latent_dim=config.latent_dim,
        )
        self.pixel_log_variance: nn.Parameter | None = None
        if config.learn_variance:
            self.pixel_log_variance = nn.Parameter(torch.tensor(math.log(config.variance)))

    def stack(
        self,
        views: Sequence[Tensor],
        *,
        index: Tensor | None = None,
        step: int = 0,
        least: int = 1,
    ) -> Tensor:
        """Return views as (v, n, c, h, w) after checking their number, shape and range.

        With `index` (n,), the images' numbers, every view has to have a row for each of them.

        On a GPU the range is checked at the first step only, for reading it waits.

        Raises:
            ConfigError: there are too few views, a view has another shape than the decoder's
                images, another number of rows than `index`, or values outside [0, 1].
        """
        if len(views) < least:
            raise ConfigError(
                f"Expected at least {least} views of an image, got {len(views)}: the latents of a "
                "group have to share something; for one view train 'vae'."
            )
        for view in views:
            if view.shape[1:] != torch.Size(self.shape):
                raise ConfigError(
                    f"Expected views of shape (n, {', '.join(map(str, self.shape))}), which the "
                    f"decoder draws, got {tuple(view.shape)}: give all views and the decoder one "
                    "size."
                )
            if index is not None and len(view) != len(index):
                raise ConfigError(
                    f"Expected {len(index)} rows in every view, one for each number in "
                    f"'batch.index', got {len(views)} views and {len(view)} rows in one: give v "
                    "views of shape (n, c, h, w) each, views first and images second."
                )
        images = torch.stack(list(views))
        if images.device.type == "cpu" or step == 0:
            low, high = (bound.item() for bound in images.detach().aminmax())
            if low < -_ROUNDING or high > 1 + _ROUNDING:
                raise ConfigError(
                    f"Expected images in [0, 1], got values from {low:.3g} to {high:.3g}: train "
                    "without normalisation (data.mean 0 and data.std 1), for the decoder draws "
                    "pixels."
                )
        return images

    def posterior(self, representation: Tensor, *, views: int) -> DiagonalNormal:
        """Return q(z | x), batch shape (v, n), from the encoder's output (v n, width)."""
        parts = (part.unflatten(0, (views, -1)) for part in self.head(representation))
        return DiagonalNormal(*parts, validate_args=False)

    def draw(self, posterior: DiagonalNormal, batch: Batch, name: str) -> Tensor:
        """Return z (v, n, d): in training a draw of (seed, step, image) alone, else the mean.

        Args:
            posterior: batch shape (v, n).
            batch: whose seed, step and images the draw is folded from.
            name: of the method, so that two methods draw different numbers.
        """
        if not self.training:
            return posterior.mean
        views, _, dim = posterior.loc.shape
        seed = fold_in(batch.seed, name, batch.step)
        noise = normal_of(batch.index, views, dim, seed=seed, dtype=posterior.loc.dtype)
        return posterior.place(noise.to(posterior.loc.device).transpose(0, 1))

    def likelihood(self, z: Tensor) -> ImageLikelihood:
        """Return p(x | z), batch shape (v, n), for latents (v, n, d)."""
        logits = self.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        kind, variance = self.config.likelihood, self.config.variance
        if kind == "bernoulli":
            return BernoulliImage(logits)
        if kind == "continuous-bernoulli":
            return ContinuousBernoulliImage(logits)
        if kind == "tempered-bernoulli":
            return TemperedBernoulliImage(logits, variance)
        return NormalImage(
            logits, variance if self.pixel_log_variance is None else self.pixel_log_variance.exp()
        )

    def embed(self, representation: Tensor) -> Embedding:
        """Return the posterior's mean (n, d) and its entropy (n,) in nats."""
        q = self.posterior(representation, views=1)
        return Embedding(q.mean[0], q.entropy()[0])

    def scores(
        self, representation: Tensor, images: Tensor, prior: GroupNormal
    ) -> dict[str, Tensor]:
        r"""Return how ill the model explains each image, in nats.

        Formula: `reconstruction` = -log p(x | m), `negative-elbo` = that plus KL(q(z | x) || p(z)).

        Args:
            representation: (n, width) of the images.
            images: (n, c, h, w) in [0, 1].
            prior: of one view's latent.

        Raises:
            ConfigError: the images do not fit; see `stack`.
        """
        x = self.stack([images])
        q = self.posterior(representation, views=1)
        reconstruction = -self.likelihood(q.mean).log_prob(x)[0]
        one = DiagonalNormal(q.loc.transpose(0, 1), q.log_variance.transpose(0, 1), False)
        divergence = -prior.expected_log_prob(one) - q.entropy()[0]
        return {"negative-elbo": reconstruction + divergence, "reconstruction": reconstruction}
