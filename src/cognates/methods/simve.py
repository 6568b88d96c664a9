r"""SimVE (SimVAE): a generative model in which the views of an image share a latent.

    psi ~ N(0, gamma^2 I) or flat,   z^j ~ N(psi, sigma^2 I),   x^j ~ p(x | z^j)
    q(z | x) = N(m(h), exp s(h)),   h = encoder(x)
    L = -sum over j of [ log p(x^j | z^j) + H(q(z^j | x^j)) ] - log p(z^1 .. z^v)

A Probabilistic Model behind Self-Supervised Learning (Bizeul, Schoelkopf and Allen, 2024),
https://arxiv.org/abs/2402.01399.

psi is integrated out in closed form, so no number per image is stored. What the views share goes to
psi (content), what they differ in to z - psi (style), which the reconstruction keeps. The
representation is m of the image itself, its uncertainty the entropy of q(z | x). All views pass
through the networks at once, so batch statistics are those of all views, as in the released code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor, nn

from cognates.distributed import average, gather
from cognates.distributions import GroupNormal
from cognates.errors import ConfigError
from cognates.methods.base import Method, MethodConfig
from cognates.methods.registry import register
from cognates.networks.image_model import DEFAULT, ImageModel, ImageModelConfig
from cognates.objectives import group_elbo
from cognates.types import Batch, Embedding, Loss


class SimVE(Method):
    """SimVE's networks and loss."""

    default_score = "posterior-entropy"

    def __init__(self, encoder: nn.Module, *, width: int, config: SimVEConfig) -> None:
        """Put the model on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.model = ImageModel(width, config.model)

    def forward(self, batch: Batch) -> Loss:
        """Return the negative bound over the global batch."""
        images = self.model.stack(batch.views, index=batch.index, step=batch.step, least=2)
        views, n = images.shape[:2]
        posterior = self.model.posterior(self.encoder(images.flatten(0, 1)), views=views)
        z = self.model.draw(posterior, batch, self.config.name)
        terms = group_elbo(
            images,
            self.model.likelihood(z),
            posterior,
            z,
            prior=self.config.prior_of(views),
            parity=self.config.parity,
        )
        # Groups are not coupled, so their terms travel and the images do not.
        terms = average(terms, n, total=self.config.parity is not None)
        return Loss(terms, monitored=gather(posterior.mean[0].detach()))

    def embed(self, images: Tensor) -> Embedding:
        """Return the posterior's mean (n, d) and its entropy (n,) in nats."""
        return self.model.embed(self.encoder(images))

    def further_scores(self, images: Tensor) -> dict[str, Tensor]:
        """Return `negative-elbo` (of one view) and `reconstruction`, (n,) in nats."""
        return self.model.scores(self.encoder(images), images, self.config.prior_of(1))


@register
@dataclass(frozen=True, kw_only=True)
class SimVEConfig(MethodConfig):
    """SimVE's hyperparameters; the numbers are the released code's for CIFAR-10."""

    name: ClassVar[str] = "simve"
    paper: ClassVar[str] = (
        "A Probabilistic Model behind Self-Supervised Learning (Bizeul, Schoelkopf and Allen, "
        "2024), https://arxiv.org/abs/2402.01399"
    )
    models_pixels: ClassVar[bool] = True

    model: ImageModelConfig = DEFAULT
    """Latents, decoder and likelihood: method.model.latent_dim, decoder, likelihood, variance,
    learn_variance, channels, image_size."""
    within: float = 0.15
    """sigma^2, the variance of a view's latent around the group's mean; above 0."""
    prior: Literal["normal", "flat"] = "normal"
    """Of the group's mean; flat leaves the scale of the latents free."""
    between: float | None = None
    """gamma^2, the variance of the group's mean; None: 1 - within / views, with which the mean over
    the views has variance 1 (the released code's)."""
    parity: Literal["head", "first"] | None = None
    """The loss of the released code's last or first commit: sums over the batch (its Adam eps 1e-4
    belongs to that), no constants, and at the head an entropy weight of 2 pi."""

    def __post_init__(self) -> None:
        """Check ranges."""
        GroupNormal(1, 1, within=self.within, between=self.between or 0.0)
        if self.parity is not None and self.model.learn_variance:
            raise ConfigError(
                f"Expected no 'parity' with 'learn_variance', got '{self.parity}': leave one out, "
                "for the released form has no normaliser and its variance would grow without end."
            )

    def completed(self, *, channels: int, image_size: int, views: int) -> SimVEConfig:
        """Return the configuration with the data's sizes and the variance of the group's mean."""
        between = 1 - self.within / max(views, 1) if self.between is None else self.between
        if between < 0:
            raise ConfigError(
                f"Expected 'within' of at most {views}, the number of views, or a 'between', got "
                f"{self.within}: then 1 - within / views is no variance."
            )
        model = self.model.completed(channels=channels, image_size=image_size)
        return replace(self, model=model, between=between)

    def prior_of(self, views: int) -> GroupNormal:
        """Return the joint density of so many latents of one group."""
        if self.between is None:
            raise ConfigError(
                "Expected 'between', got none: give it, or call completed(...) on the "
                "configuration."
            )
        between = float("inf") if self.prior == "flat" else self.between
        return GroupNormal(views, self.model.latent_dim, self.within, between, validate_args=False)

    def build(self, encoder: nn.Module, *, width: int) -> SimVE:
        """Make the method around `encoder`, whose output is (n, width)."""
        return SimVE(encoder, width=width, config=self)
