r"""The joint density of related latents whose common mean is integrated out.

    z^j = psi + e^j,   e^j ~ N(0, sigma^2 I) for each of v views,   psi ~ N(0, gamma^2 I) or flat

The views of one image share psi. Per coordinate the v latents are jointly normal with covariance
sigma^2 I + gamma^2 11', whose eigenvalues are sigma^2 (v - 1 times: differences between views) and
sigma^2 + v gamma^2 (once: their mean), so that every quantity has a closed form in the mean of the
views and the deviations from it.

References:
    A Probabilistic Model behind Self-Supervised Learning (Bizeul, Schoelkopf and Allen, 2024),
    https://arxiv.org/abs/2402.01399. The closed forms are derived here.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

from cognates.distributions.normal import LOG_2_PI, DiagonalNormal
from cognates.errors import ConfigError


class GroupNormal(Distribution):
    r"""The density of v latents in R^d around a common mean that nobody knows.

    Formula, with zbar the mean of the views and SS = sum_j |z^j - zbar|^2:

        log p = -(d/2) [ v log 2 pi + (v-1) log sigma^2 + log(sigma^2 + v gamma^2) ]
                - SS/(2 sigma^2) - v |zbar|^2 / (2 (sigma^2 + v gamma^2))
        flat:  -(d/2) [ (v-1) log(2 pi sigma^2) + log v ] - SS/(2 sigma^2)

    Args:
        views: v, at least 1.
        dim: d, at least 1.
        within: sigma^2 > 0, the variance of a view around the mean; .15 in the released code.
        between: gamma^2 >= 0, the variance of the mean around 0; `math.inf` is the flat prior of
            density 1, the limit gamma^2 -> infinity of log p + (d/2) log(2 pi gamma^2).

    Raises:
        ConfigError: a number is out of its range, or a value has the views on another axis.

    Notes:
        The variances are numbers, so results are in the value's dtype, float32 or better. Views
        stand on the last axis but one: (..., v, d). The flat prior has no samples; at v = 1 its log
        density is the constant 0.

    References:
        A Probabilistic Model behind Self-Supervised Learning (Bizeul, Schoelkopf and Allen, 2024),
        https://arxiv.org/abs/2402.01399; the integral is derived here.

    Example:
        >>> p = GroupNormal(2, 3, within=0.15, between=1.0)
        >>> p.log_prob(torch.ones(5, 2, 3)).shape
        torch.Size([5])
        >>> GroupNormal(1, 3, within=0.4, between=0.6).log_prob(torch.zeros(1, 3))
        tensor(-2.7568)
    """

    arg_constraints = {}  # noqa: RUF012  # pyright: ignore
    support = constraints.independent(constraints.real, 2)  # pyright: ignore
    has_rsample = True

    def __init__(
        self,
        views: int,
        dim: int,
        within: float = 0.15,
        between: float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        """Keep the four numbers; see the class for their meaning."""
        if views < 1 or dim < 1:
            raise ConfigError(
                f"Expected at least one view and one dimension, got {views} and {dim}."
            )
        if not 0 < within < math.inf:
            raise ConfigError(f"Expected 'within' above 0 and finite, got {within}.")
        if not between >= 0:
            raise ConfigError(f"Expected 'between' of at least 0, got {between}.")
        self.views, self.dim, self.within, self.between = views, dim, within, between
        super().__init__(torch.Size(), torch.Size((views, dim)), validate_args=validate_args)

    @property
    def flat(self) -> bool:
        """Whether the common mean has a flat prior."""
        return math.isinf(self.between)

    def log_prob(self, value: Float[Tensor, "*batch v d"]) -> Float[Tensor, "*batch"]:
        """Return the log density (...) of `value` (..., v, d), in nats."""
        return -self.energy(value) - self.log_normaliser()

    def energy(self, value: Float[Tensor, "*batch v d"]) -> Float[Tensor, "*batch"]:
        r"""Return the part of -log p that depends on `value`, which is what the released code has.

        Formula: SS/(2 sigma^2) + v |zbar|^2 / (2 (sigma^2 + v gamma^2)), the latter 0 if flat.

        Args:
            value: (..., v, d).

        Returns:
            Nats (...), at least 0.
        """
        return self._energy(self._checked(value), None)

    def expected_log_prob(self, posterior: DiagonalNormal) -> Float[Tensor, "*batch"]:
        r"""Return E[log p(z)] for views that are independent of each other given their images.

        Formula: the log density at the means, with (v-1)/v sum_jk s_jk added to SS and
        sum_jk s_jk / v^2 to |zbar|^2, s the variances.

        Args:
            posterior: of the views, with batch shape (..., v) and d coordinates.

        Returns:
            Nats (...): the exact expectation, no sample.

        Raises:
            ConfigError: the posterior has other axes.

        Example:
            >>> q = DiagonalNormal(torch.zeros(2, 1), torch.zeros(2, 1))
            >>> GroupNormal(2, 1, within=1.0, between=0.0).expected_log_prob(q)
            tensor(-2.8379)
        """
        return -self.expected_energy(posterior) - self.log_normaliser()

    def expected_energy(self, posterior: DiagonalNormal) -> Float[Tensor, "*batch"]:
        """Return (...) the expectation of `energy`; see `expected_log_prob`."""
        return self._energy(self._checked(posterior.mean), posterior.variance)

    def log_normaliser(self) -> float:
        """Return what has to be added to the energy for minus the log density, in nats."""
        v, d = self.views, self.dim
        if self.flat:
            return d / 2 * ((v - 1) * (LOG_2_PI + math.log(self.within)) + math.log(v))
        return d / 2 * (v * LOG_2_PI + self._log_determinant())

    def common_mean(self, value: Float[Tensor, "*batch v d"]) -> DiagonalNormal:
        r"""Return p(psi | z^1 .. z^v), what the latents of a group say about their common mean.

        Formula: N(v gamma^2 zbar / (sigma^2 + v gamma^2), sigma^2 gamma^2 / (sigma^2 + v gamma^2));
        flat: N(zbar, sigma^2 / v).

        Args:
            value: (..., v, d).

        Returns:
            A diagonal normal with batch shape (...) and d coordinates.

        Raises:
            ConfigError: the value has other axes, or `between` is 0 and psi is known to be 0.

        Example:
            >>> GroupNormal(2, 1, 0.5, 0.5).common_mean(torch.ones(2, 1)).mean
            tensor([0.6667])
        """
        if self.between == 0:
            raise ConfigError(
                "Expected 'between' above 0, got 0: the common mean is then 0 and no normal."
            )
        centre, v = self._checked(value).mean(-2), self.views
        share = 1.0 if self.flat else v * self.between / (self.within + v * self.between)
        log_variance = math.log(share * self.within / v)
        return DiagonalNormal(share * centre, torch.full_like(centre, log_variance))

    def entropy(self) -> Tensor:
        """Return the differential entropy (*batch) in nats; infinite for the flat prior."""
        value = math.inf
        if not self.flat:
            value = self.dim / 2 * (self._log_determinant() + self.views * (LOG_2_PI + 1))
        return torch.full(self.batch_shape, value)

    def rsample(
        self, sample_shape: _size = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw (*sample_shape, *batch, v, d): a mean per group, then its views.

        Raises:
            ConfigError: the prior is flat.
        """
        if self.flat:
            raise ConfigError(
                "Expected a finite 'between' to draw from, got the flat prior, which has no "
                "samples: give the variance of the common mean."
            )
        groups = (*sample_shape, *self.batch_shape)
        psi = torch.randn((*groups, 1, self.dim), generator=generator)
        own = torch.randn((*groups, self.views, self.dim), generator=generator)
        return math.sqrt(self.between) * psi + math.sqrt(self.within) * own

    def sample(
        self, sample_shape: _size = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw (*sample_shape, *batch, v, d); see `rsample`."""
        with torch.no_grad():
            return self.rsample(sample_shape, generator=generator)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> GroupNormal:
        """Return the distribution with batch shape `batch_shape`; it has no batched parameter."""
        new = cast("GroupNormal", self._get_checked_instance(GroupNormal, _instance))
        new.views, new.dim, new.within, new.between = (
            self.views,
            self.dim,
            self.within,
            self.between,
        )
        Distribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _checked(self, value: Tensor) -> Tensor:
        if value.ndim < 2 or value.shape[-2:] != self.event_shape:
            raise ConfigError(
                f"Expected latents of shape (..., v, d) = (..., {self.views}, {self.dim}), got "
                f"{tuple(value.shape)}: put the views of one image on the last axis but one, "
                "z.transpose(0, 1) for views first."
            )
        if self._validate_args:
            self._validate_sample(value)
        return value.to(torch.promote_types(value.dtype, torch.float32))

    def _log_determinant(self) -> float:
        """Return the log determinant of one coordinate's covariance."""
        v = self.views
        return (v - 1) * math.log(self.within) + math.log(self.within + v * self.between)

    def _energy(self, z: Tensor, variance: Tensor | None) -> Tensor:
        v = self.views
        centre = z.mean(-2)
        # Deviations first: sum |z|^2 - v |zbar|^2 would cancel for views that agree.
        spread = (z - centre[..., None, :]).square().sum((-2, -1))
        middle = centre.square().sum(-1)
        if variance is not None:
            noise = variance.sum((-2, -1))
            spread, middle = spread + noise * (v - 1) / v, middle + noise / v**2
        energy = spread / (2 * self.within)
        return energy if self.flat else energy + v / (2 * (self.within + v * self.between)) * middle
