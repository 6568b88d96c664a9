r"""Normal distributions with a diagonal covariance: the posterior of an encoder.

    q(z) = prod_k N(z_k; m_k, exp(s_k)),   s the log variance

References:
    Auto-Encoding Variational Bayes (Kingma and Welling, 2013), https://arxiv.org/abs/1312.6114,
    section 2 and appendix B.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

from cognates.errors import ConfigError

LOG_2_PI = math.log(2 * math.pi)


class DiagonalNormal(Distribution):
    r"""A normal distribution on R^d with independent coordinates.

    Formula: log q(z) = -(1/2) sum_k [ (z_k - m_k)^2 exp(-s_k) + s_k + log 2 pi ].

    Args:
        loc: (..., d) the means m.
        log_variance: (..., d) s, the logarithms of the variances; any finite number.

    Raises:
        ConfigError: there is no axis of coordinates.
        ValueError: a parameter is not finite (unless `validate_args` is False).

    Notes:
        Results are in the parameters' dtype, float32 or better.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2013),
        https://arxiv.org/abs/1312.6114, section 2.4 and appendix B.

    Example:
        >>> q = DiagonalNormal(torch.zeros(3), torch.zeros(3))
        >>> q.log_prob(torch.zeros(3)), q.entropy()
        (tensor(-2.7568), tensor(4.2568))
    """

    # torch declares these as properties and sets them as attributes in its own subclasses.
    arg_constraints = {  # noqa: RUF012  # pyright: ignore
        "loc": constraints.real_vector,
        "log_variance": constraints.real_vector,
    }
    support = constraints.real_vector  # pyright: ignore
    has_rsample = True

    def __init__(
        self, loc: Tensor, log_variance: Tensor, validate_args: bool | None = None
    ) -> None:
        """Broadcast the parameters, in float32 or better; see the class for their meaning."""
        loc, log_variance = torch.broadcast_tensors(loc, log_variance)
        if loc.ndim < 1:
            raise ConfigError(
                "Expected 'loc' of shape (..., d), got a scalar: give one mean per coordinate."
            )
        dtype = torch.promote_types(loc.dtype, log_variance.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        self.loc, self.log_variance = loc.to(dtype), log_variance.to(dtype)
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """(..., d) the means."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """(..., d) the means."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """(..., d) the variances."""
        return self.log_variance.exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density (...) of `value` (..., d), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        scaled = (value - self.loc) * (-self.log_variance / 2).exp()
        return -0.5 * (scaled.square() + self.log_variance + LOG_2_PI).sum(-1)

    def entropy(self) -> Tensor:
        """Return the differential entropy (...) in nats: (1/2) sum_k (s_k + log 2 pi e)."""
        return 0.5 * (self.log_variance + (LOG_2_PI + 1)).sum(-1)

    def place(self, noise: Tensor) -> Tensor:
        """Return the points m + exp(s/2) noise, differentiable in the parameters.

        Args:
            noise: (..., d) standard normal numbers, of any source.
        """
        return self.loc + (self.log_variance / 2).exp() * noise

    def rsample(
        self, sample_shape: _size = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw (*sample_shape, ..., d), differentiable in the parameters.

        Args:
            sample_shape: leading axes of independent draws.
            generator: where the randomness comes from; None: torch's global state.
        """
        shape = self._extended_shape(torch.Size(sample_shape))
        kind = {"dtype": self.loc.dtype, "device": self.loc.device}
        return self.place(torch.randn(shape, generator=generator, **kind))

    def sample(
        self, sample_shape: _size = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw (*sample_shape, ..., d) without a gradient; arguments as for `rsample`."""
        with torch.no_grad():
            return self.rsample(sample_shape, generator=generator)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> DiagonalNormal:
        """Return the distribution with its parameters expanded to `batch_shape`."""
        new = cast("DiagonalNormal", self._get_checked_instance(DiagonalNormal, _instance))
        shape = (*batch_shape, *self.event_shape)
        new.loc, new.log_variance = self.loc.expand(shape), self.log_variance.expand(shape)
        Distribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new
