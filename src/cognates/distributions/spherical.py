r"""What every distribution on the unit sphere shares, and the uniform one.

A rotationally symmetric density around mu depends on z only through the cosine t = mu.z. Written
relative to the uniform density, log p(z) = -log A_d + f(t), no term is larger than it has to be:
f is 0 at concentration 0, and the large constants of the normalisers (lgamma of thousands) never
meet. A family therefore supplies f, three moments of t and a draw of its angle; everything else is
here.

References:
    The Power Spherical distribution (De Cao and Aziz, 2020), https://arxiv.org/abs/2006.04437.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint
from torch.types import _size

from cognates.errors import ConfigError


class UnitVector(Constraint):
    """Vectors of norm 1, up to the square root of their dtype's precision."""

    is_discrete = False
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Return for each vector whether its norm is 1."""
        tolerance = math.sqrt(torch.finfo(value.dtype).eps)
        return (torch.linalg.vector_norm(value, dim=-1) - 1).abs() < tolerance


unit_vector = UnitVector()


def log_area(dim: int) -> float:
    r"""Return the logarithm of the area of the unit sphere of R^d.

    Formula: log A_d = log 2 + (d/2) log pi - log Gamma(d/2).

    Args:
        dim: d, at least 1.

    Returns:
        Nats; minus the log density of the uniform distribution.

    Example:
        >>> round(log_area(3), 6) == round(math.log(4 * math.pi), 6)
        True
    """
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def concentration_score(
    concentration: Float[Tensor, "*batch"], *, dim: int
) -> Float[Tensor, "*batch"]:
    r"""Return the uncertainty that belongs to a concentration: one minus the expected cosine.

    Formula: u = (d - 1) / (kappa + d - 1) = 1 - E[mu.z] for a Power Spherical distribution.

    Args:
        concentration: kappa, at least 0.
        dim: d, at least 2.

    Returns:
        The shape of `concentration`, in (0, 1], no unit; larger is less certain. Comparable between
        dimensions, which kappa itself is not.

    Example:
        >>> concentration_score(torch.tensor([0.0, 7.0]), dim=8)
        tensor([1.0000, 0.5000])
    """
    return (dim - 1) / (concentration + (dim - 1))


def precise(x: Tensor) -> Tensor:
    """Return `x` in float64, or in float32 on a device that has no float64 (Apple's)."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


class Axial(Distribution, ABC):
    """A density on the sphere that depends on the cosine to `loc`; abstract."""

    # torch declares these as properties and sets them as attributes in its own subclasses.
    arg_constraints = {  # noqa: RUF012  # pyright: ignore
        "loc": unit_vector,
        "concentration": constraints.nonnegative,
    }
    support = unit_vector  # pyright: ignore
    has_rsample = True

    def __init__(
        self, loc: Tensor, concentration: Tensor | float, validate_args: bool | None = None
    ) -> None:
        """Broadcast the parameters, in float32 or better; see the class for their meaning."""
        if loc.ndim < 1 or loc.shape[-1] < 2:
            raise ConfigError(
                f"Expected 'loc' of shape (..., d) with d of at least 2, got {tuple(loc.shape)}: "
                "give a unit vector per distribution."
            )
        kappa = torch.as_tensor(concentration, device=loc.device)
        dtype = loc.dtype
        if isinstance(concentration, Tensor):
            dtype = torch.promote_types(dtype, concentration.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        batch = torch.broadcast_shapes(loc.shape[:-1], kappa.shape)
        self.loc = loc.to(dtype).expand(*batch, loc.shape[-1])
        self.concentration = kappa.to(dtype).expand(batch)
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    @property
    def dim(self) -> int:
        """The dimension d of the space around the sphere."""
        return self.event_shape[0]

    @property
    def mean(self) -> Tensor:
        """(..., d) E[z] = mu E[mu.z]: inside the ball, not on the sphere."""
        return self.loc * self._first_moment().to(self.loc.dtype)[..., None]

    @property
    def mode(self) -> Tensor:
        """(..., d) the direction mu."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        r"""(..., d) the variance of each coordinate.

        Formula: (E[t^2] - E[t]^2) mu_i^2 + (1 - E[t^2]) (1 - mu_i^2) / (d - 1).
        """
        first, second, square = self._first_moment(), self._second_moment(), precise(self.loc) ** 2
        along, across = second - first**2, (1 - second) / (self.dim - 1)
        total = along[..., None] * square + across[..., None] * (1 - square)
        return total.to(self.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density (...) of unit vectors `value` (..., d), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        # mu.z in the parameters' precision and no matrix product: autocast leaves it alone.
        cosine = (self.loc * value.to(self.loc.dtype)).sum(-1).clamp(-1.0, 1.0)
        relative = self._log_ratio(precise(cosine))
        return (relative - log_area(self.dim)).to(self.loc.dtype)

    def log_prob_at(self, cosine: Tensor) -> Tensor:
        """Return the log density in nats where mu.z is `cosine`, which broadcasts to (...).

        For many points and many directions at once: the cosines are then one matrix product.
        """
        relative = self._log_ratio(precise(cosine).clamp(-1.0, 1.0))
        return (relative - log_area(self.dim)).to(self.loc.dtype)

    def entropy(self) -> Tensor:
        """Return the differential entropy (...) in nats; at concentration 0 it is log A_d."""
        return (log_area(self.dim) - self._divergence()).to(self.loc.dtype)

    def rsample(
        self,
        sample_shape: _size = (),
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw (*sample_shape, ..., d), differentiable in `loc` and `concentration`.

        Args:
            sample_shape: leading axes of independent draws.
            generator: where the randomness comes from; None: torch's global state.
        """
        shape = self._extended_shape(torch.Size(sample_shape))
        kappa = precise(self.concentration).expand(shape[:-1])
        cosine, sine = self._cosine_and_sine(kappa, generator)
        loc = precise(self.loc).expand(shape)
        return _place(loc, cosine, sine, generator).to(self.loc.dtype)

    def sample(
        self,
        sample_shape: _size = (),
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw (*sample_shape, ..., d) without a gradient; arguments as for `rsample`."""
        with torch.no_grad():
            return self.rsample(sample_shape, generator=generator)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> Axial:
        """Return the distribution with its parameters expanded to `batch_shape`."""
        new = cast("Axial", self._get_checked_instance(type(self), _instance))
        new.loc = self.loc.expand(*batch_shape, self.dim)
        new.concentration = self.concentration.expand(batch_shape)
        Distribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @abstractmethod
    def _log_ratio(self, cosine: Tensor) -> Tensor:
        """Return f(t), the log density relative to the uniform one."""

    @abstractmethod
    def _first_moment(self) -> Tensor:
        """Return E[t]."""

    @abstractmethod
    def _second_moment(self) -> Tensor:
        """Return E[t^2]."""

    @abstractmethod
    def _divergence(self) -> Tensor:
        """Return E[f(t)], the divergence from the uniform distribution in nats."""

    @abstractmethod
    def _cosine_and_sine(
        self, kappa: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Draw the cosine and the sine of the angle to `loc`, in the shape of `kappa`."""


class SphericalUniform(Distribution):
    r"""The uniform distribution on the unit sphere of R^d.

    Formula: log p(z) = -log A_d.

    Args:
        dim: d, at least 2.
        dtype: floating dtype of samples and results; None: torch's default.
        device: where samples are made; None: torch's default.

    Raises:
        ConfigError: `dim` is below 2.

    Example:
        >>> SphericalUniform(3)
        SphericalUniform(dim: 3)
        >>> SphericalUniform(3).entropy()
        tensor(2.5310)
    """

    # The dimension is an integer and is checked in the constructor. (For pyright, see `Axial`.)
    arg_constraints = {}  # noqa: RUF012  # pyright: ignore
    support = unit_vector  # pyright: ignore
    has_rsample = True

    def __init__(
        self,
        dim: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        """Make the distribution; see the class for the arguments."""
        if dim < 2:
            raise ConfigError(f"Expected 'dim' of at least 2, got {dim}.")
        self.dim = dim
        self._like = torch.zeros((), dtype=dtype, device=device)
        super().__init__(torch.Size(), torch.Size([dim]), validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """(..., d) zero: no direction is preferred."""
        return self._like.expand(*self.batch_shape, self.dim)

    @property
    def variance(self) -> Tensor:
        """(..., d) 1/d for each coordinate."""
        return (self._like + 1 / self.dim).expand(*self.batch_shape, self.dim)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density (...) of unit vectors `value` (..., d), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        return value.new_full(shape, -log_area(self.dim))

    def entropy(self) -> Tensor:
        """Return log A_d (...) in nats."""
        return (self._like + log_area(self.dim)).expand(self.batch_shape)

    def rsample(
        self,
        sample_shape: _size = (),
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw (*sample_shape, ..., d); arguments as for `PowerSpherical.rsample`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return _directions(shape, precise(self._like), generator).to(self._like.dtype)

    def sample(
        self,
        sample_shape: _size = (),
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw (*sample_shape, ..., d); the same as `rsample`, nothing has a gradient."""
        return self.rsample(sample_shape, generator=generator)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> SphericalUniform:
        """Return the distribution with the batch shape `batch_shape`."""
        new = cast("SphericalUniform", self._get_checked_instance(SphericalUniform, _instance))
        new.dim, new._like = self.dim, self._like
        Distribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __repr__(self) -> str:
        """Return the constructor's argument, and the batch shape when there is one."""
        batch = f", batch_shape: {tuple(self.batch_shape)}" if self.batch_shape else ""
        return f"SphericalUniform(dim: {self.dim}{batch})"


def standard_gamma(shape: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw Gamma(shape, 1) variables with torch's implicit gradient, good to about three digits."""
    # What torch.distributions.Gamma calls; called here because that class takes no generator.
    return torch._standard_gamma(shape, generator=generator)  # pyright: ignore


def _directions(shape: torch.Size, like: Tensor, generator: torch.Generator | None) -> Tensor:
    # In float64: a float32 normal is exactly 0 once in 2^24, which has no direction in R^1.
    normal = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
    return normal / torch.linalg.vector_norm(normal, dim=-1, keepdim=True)


def _place(loc: Tensor, cosine: Tensor, sine: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return vectors with the given angle to `loc` and a uniform direction around it."""
    # The reflection H along mu + s e_1 with s = sign(mu_1) sends e_1 to -s mu. Its axis is at least
    # sqrt(2) long for every mu, where the textbook's e_1 - mu vanishes at mu = e_1.
    around = _directions(torch.Size([*loc.shape[:-1], loc.shape[-1] - 1]), loc, generator)
    y = torch.cat([cosine[..., None], sine[..., None] * around], dim=-1)
    first = loc[..., :1].detach()
    sign = torch.where(first > 0, torch.ones_like(first), -torch.ones_like(first))
    axis = torch.cat([loc[..., :1] + sign, loc[..., 1:]], dim=-1)
    along = (y * axis).sum(-1, keepdim=True) / (axis * axis).sum(-1, keepdim=True)
    return -sign * (y - 2 * along * axis)
