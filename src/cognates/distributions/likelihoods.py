r"""How likely an image is, given what a decoder drew: Bernoulli, continuous Bernoulli, normal.

A decoder returns one logit l per pixel and channel, and mu = 1/(1 + exp(-l)) lies in (0, 1) like
the pixels x. Every likelihood here has pixels that are independent given mu.

References:
    Auto-Encoding Variational Bayes (Kingma and Welling, 2013), https://arxiv.org/abs/1312.6114,
    appendix C (Bernoulli and normal decoders).
    The continuous Bernoulli: fixing a pervasive error in variational autoencoders (Loaiza-Ganem and
    Cunningham, 2019), https://arxiv.org/abs/1907.06845.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional

from cognates.distributions.normal import LOG_2_PI
from cognates.errors import ConfigError

_NEAR_ZERO = 0.1
"""Below this logit the normaliser's series is used; its first term left out is below 3e-16."""


class ImageLikelihood(Distribution, ABC):
    """The density of images given a decoder's logits; abstract.

    Args:
        logits: (..., c, h, w) the decoder's output before the sigmoid.
    """

    arg_constraints = {}  # noqa: RUF012  # pyright: ignore
    support = constraints.independent(constraints.unit_interval, 3)  # pyright: ignore

    def __init__(self, logits: Float[Tensor, "*batch c h w"]) -> None:
        """Keep the logits in float32 or better."""
        if logits.ndim < 3:
            raise ConfigError(
                f"Expected logits of shape (..., c, h, w), got {tuple(logits.shape)}: one per "
                "channel and pixel."
            )
        self.logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # Images are checked once per batch by whoever has them; not here, once per density.
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=False)

    @property
    def location(self) -> Tensor:
        """(..., c, h, w) mu in (0, 1): what the decoder drew."""
        return self.logits.sigmoid()

    @property
    def mean(self) -> Tensor:
        """(..., c, h, w) the expected image."""
        return self.location

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density (...) of images `value` (..., c, h, w) in [0, 1], in nats.

        Raises:
            ConfigError: the images have another shape than the decoder's.
        """
        return -self.energy(value) - self.log_normaliser()

    def energy(self, value: Tensor) -> Tensor:
        """Return (...) the part of -log p that depends on the image, as the released code has it.

        Raises:
            ConfigError: the images have another shape than the decoder's.
        """
        if value.shape != self.logits.shape:
            raise ConfigError(
                f"Expected images of the decoder's shape {tuple(self.logits.shape)}, got "
                f"{tuple(value.shape)}: views and decoder need the same size and order of axes."
            )
        # Per image first: a float32 sum over a batch of 7e6 nats resolves half a nat.
        return self._energy(value.to(self.logits.dtype)).sum((-3, -2, -1))

    def log_normaliser(self) -> Tensor:
        """Return (...) what has to be added to the energy for a density."""
        return self.logits.new_zeros(self.batch_shape)

    @abstractmethod
    def _energy(self, x: Tensor) -> Tensor:
        """Return the energy of every pixel, (..., c, h, w)."""

    def _cross_entropy(self, x: Tensor) -> Tensor:
        # From logits: log(sigmoid) would lose a black or white pixel in float32.
        return functional.binary_cross_entropy_with_logits(self.logits, x, reduction="none")


class BernoulliImage(ImageLikelihood):
    r"""Black or white pixels: log p(x) = sum [ x log mu + (1-x) log(1-mu) ].

    Args:
        logits: (..., c, h, w) of mu.

    Notes:
        A density for x in {0, 1} only. For grey values it is the usual cross-entropy of the VAE
        literature, which is no likelihood; `ContinuousBernoulliImage` is.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2013),
        https://arxiv.org/abs/1312.6114, appendix C.1.

    Example:
        >>> BernoulliImage(torch.zeros(1, 2, 2)).log_prob(torch.ones(1, 2, 2))
        tensor(-2.7726)
    """

    def _energy(self, x: Tensor) -> Tensor:
        return self._cross_entropy(x)


class TemperedBernoulliImage(ImageLikelihood):
    r"""The released code's form for grey images: the Bernoulli log likelihood divided by s_x.

    Formula: (1/s_x) sum [ x log mu + (1-x) log(1-mu) ].

    Args:
        logits: (..., c, h, w) of mu.
        temperature: s_x > 0; exp(-4.6) in the released code. At 1 it is `BernoulliImage`.

    Raises:
        ConfigError: the temperature is not above 0.

    Notes:
        `log_prob` is not a log density unless the temperature is 1: the "bound" made with it bounds
        nothing. It is here because the published results were made with it.

    Example:
        >>> TemperedBernoulliImage(torch.zeros(1, 2, 2), 0.5).log_prob(torch.ones(1, 2, 2))
        tensor(-5.5452)
    """

    def __init__(self, logits: Float[Tensor, "*batch c h w"], temperature: float) -> None:
        """Keep both; see the class."""
        if not temperature > 0:
            raise ConfigError(f"Expected a temperature above 0, got {temperature}.")
        super().__init__(logits)
        self.temperature = temperature

    def _energy(self, x: Tensor) -> Tensor:
        return self._cross_entropy(x) / self.temperature


class ContinuousBernoulliImage(ImageLikelihood):
    r"""A density on [0, 1] whose energy is the cross-entropy.

    Formula: log p(x) = sum [ x log mu + (1-x) log(1-mu) + log C(mu) ], and from the logit
    C = l / tanh(l/2), 2 at l = 0.

    Args:
        logits: (..., c, h, w) l of mu.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders
        (Loaiza-Ganem and Cunningham, 2019), https://arxiv.org/abs/1907.06845, equation 8; the form
        in the logit is derived here.

    Example:
        >>> ContinuousBernoulliImage(torch.zeros(1, 2, 2)).log_prob(torch.rand(1, 2, 2))
        tensor(0.)
    """

    @property
    def mean(self) -> Tensor:
        """(..., c, h, w) the expected image, 1/(1 - exp(-l)) - 1/l; it is not mu."""
        small = self.logits.abs() < _NEAR_ZERO
        near = torch.where(small, self.logits, torch.zeros_like(self.logits))
        far = torch.where(small, torch.ones_like(self.logits), self.logits)
        series = 0.5 + near * (1 / 12 - near**2 * (1 / 720 - near**2 / 30240))
        return torch.where(small, series, -1 / torch.expm1(-far) - 1 / far)

    def log_normaliser(self) -> Tensor:
        """Return (...) minus the sum of log C."""
        size = self.logits.abs()
        small = size < _NEAR_ZERO
        # Each branch sees only arguments of its own range, so neither gives a NaN gradient.
        near = torch.where(small, self.logits, torch.zeros_like(size)).square()
        far = torch.where(small, torch.ones_like(size), size)
        series = math.log(2) + near * (
            1 / 12 - near * (7 / 1440 - near * (31 / 90720 - near * 127 / 4838400))
        )
        direct = far.log() - torch.tanh(far / 2).log()
        return -torch.where(small, series, direct).sum((-3, -2, -1))

    def _energy(self, x: Tensor) -> Tensor:
        return self._cross_entropy(x)


class NormalImage(ImageLikelihood):
    r"""Pixels that scatter around mu with one variance.

    Formula: log p(x) = -sum (x - mu)^2 / (2 s_x) - (P/2) log(2 pi s_x), P values per image.

    Args:
        logits: (..., c, h, w) of mu.
        variance: s_x > 0, a number (exp(-4.6) in the released code) or a scalar tensor, which may
            be a parameter that is learnt.

    Raises:
        ConfigError: a variance given as a number is not above 0.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2013),
        https://arxiv.org/abs/1312.6114, appendix C.2.

    Example:
        >>> NormalImage(torch.zeros(1, 2, 2), 1.0).log_prob(torch.ones(1, 2, 2))
        tensor(-4.1758)
    """

    def __init__(
        self, logits: Float[Tensor, "*batch c h w"], variance: float | Float[Tensor, ""]
    ) -> None:
        """Keep both; see the class."""
        # A tensor is not read: on a GPU that would wait for all that is queued.
        if not isinstance(variance, Tensor) and not variance > 0:
            raise ConfigError(f"Expected a variance above 0, got {variance}.")
        super().__init__(logits)
        self.scale = torch.as_tensor(variance, dtype=self.logits.dtype, device=self.logits.device)

    @property
    def variance(self) -> Tensor:
        """(..., c, h, w) s_x everywhere."""
        return self.scale.expand(self.logits.shape)

    def log_normaliser(self) -> Tensor:
        """Return (...) (P/2) log(2 pi s_x)."""
        size = math.prod(self.event_shape)
        return (size / 2 * (self.scale.log() + LOG_2_PI)).expand(self.batch_shape)

    def _energy(self, x: Tensor) -> Tensor:
        return (x - self.location).square() / (2 * self.scale)
