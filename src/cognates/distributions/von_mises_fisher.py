r"""The von Mises-Fisher distribution: the exponential family of the direction on a sphere.

    p(z) = C_d(k) exp(k mu.z),   C_d(k) = k^nu / ((2 pi)^(d/2) I_nu(k)),   nu = d/2 - 1.

Relative to the uniform density the normaliser is E(k) = log of the mean of exp(k mu.z) over the
sphere = log(Gamma(nu + 1) (2/k)^nu I_nu(k)). It is computed from the uniform expansion of I_M at
the shifted order M = nu + 32, where that expansion is good for every k, and from there by the
backward recurrence of the ratios q_m = I_(m+1)/I_m. With q_m = k r_m all powers of k cancel:

    r_m = 1 / (2 (m + 1) + k q_(m+1)),        E[mu.z] = E'(k) = q_nu,
    E(k) = log(Gamma(M + 1) (2/k)^M I_M(k)) + sum_{m = nu}^{M-1} log(1 + k q_(m+1) / (2 (m + 1))),

which is exact at k = 0 and has no cancellation. Absolute error of E below 1e-9, besides rounding,
for d of 2 to 2048 and k up to 1e6.

References:
    NIST Digital Library of Mathematical Functions, https://dlmf.nist.gov, 10.41.3 and 10.41.10
    (the expansion and its coefficients), 10.29.1 (the recurrence).
    Simulation of the von Mises Fisher distribution (Wood, 1994),
    https://doi.org/10.1080/03610919408813161 (the sampler).
    Implicit Reparameterization Gradients (Figurnov, Mohamed and Mnih, 2018),
    https://arxiv.org/abs/1805.08498, equation 6.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from cognates.distributions.spherical import Axial, precise, standard_gamma

# 32: the fifth coefficient of the expansion, left out, is then below 1e-9 for every k (at order
# nu alone the error is 4e-4 at d = 8, and the expansion fails for d < 4).
_SHIFT = 32


class VonMisesFisher(Axial):
    r"""The von Mises-Fisher distribution on the unit sphere of R^d.

    Formula: p(z) = C_d(k) exp(k mu.z); k = 0 is uniform.

    Args:
        loc: (..., d) unit vectors mu, d at least 2. Normalise in float32 or better.
        concentration: (...) k, at least 0; larger is narrower, of the order of d.

    Raises:
        ConfigError: `loc` has no axis of at least two coordinates.
        ValueError: a parameter is outside its range (unless `validate_args` is False).

    Notes:
        Results are in the parameters' dtype (float32 or better), computed in float64. The cosine is
        drawn by Wood's rejection sampler; its gradient in k is the implicit one,
        -(dF/dk)/(dF/dt), by quadrature, good to 1e-8; it cannot be differentiated again.

    References:
        Simulation of the von Mises Fisher distribution (Wood, 1994),
        https://doi.org/10.1080/03610919408813161.

    Example:
        >>> p = VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(2.0))
        >>> p
        VonMisesFisher(loc: torch.Size([3]), concentration: 2.0)
        >>> p.mean                                  # coth 2 - 1/2
        tensor([0.0000, 0.0000, 0.5373])
    """

    def _log_ratio(self, cosine: Tensor) -> Tensor:
        return log_ratio(cosine, precise(self.concentration), dim=self.dim)

    def _first_moment(self) -> Tensor:
        return mean_cosine(precise(self.concentration), dim=self.dim)

    def _second_moment(self) -> Tensor:
        # E[1 - t^2] = (d - 1) q / k = (d - 1) r, by partial integration.
        return 1 - (self.dim - 1) * _recurrence(precise(self.concentration), self.dim)[0]

    def _divergence(self) -> Tensor:
        kappa = precise(self.concentration)
        return log_ratio(mean_cosine(kappa, dim=self.dim), kappa, dim=self.dim)

    def _cosine_and_sine(
        self, kappa: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        fixed = kappa.detach()
        angle = _wood(fixed, self.dim, generator)
        if kappa.requires_grad and torch.is_grad_enabled():
            angle = angle + _slope(angle, fixed, self.dim) * (kappa - fixed)
        return angle.cos(), angle.sin()


def log_ratio(
    cosine: Float[Tensor, "*#batch"], concentration: Float[Tensor, "*#batch"], *, dim: int
) -> Float[Tensor, "*batch"]:
    r"""Return the log density of a von Mises-Fisher distribution relative to the uniform one.

    Formula: k t - E(k) = k t + log C_d(k) + log A_d.

    Args:
        cosine: t = mu.z in [-1, 1].
        concentration: k, at least 0.
        dim: d, at least 2.

    Returns:
        Nats, in the dtype of the inputs; subtract `log_area(dim)` for the log density.

    Example:
        >>> log_ratio(torch.tensor([0.3]), torch.tensor([0.0]), dim=8)
        tensor([0.])
    """
    return concentration * cosine - log_partition(concentration, dim=dim)


def log_partition(concentration: Float[Tensor, "*batch"], *, dim: int) -> Float[Tensor, "*batch"]:
    r"""Return E(k) = log of the mean of exp(k mu.z) over the sphere: -log C_d(k) - log A_d.

    Args:
        concentration: k, at least 0.
        dim: d, at least 2.

    Returns:
        Nats, at least 0, in the dtype of the input; the derivative in k is `mean_cosine`.

    Example:
        >>> k = torch.tensor(2.0, dtype=torch.float64)
        >>> torch.allclose(log_partition(k, dim=3), (k.sinh() / k).log())
        True
    """
    order = dim / 2 - 1 + _SHIFT
    x = concentration / order
    root = torch.sqrt(1 + x * x)
    excess = x * x / (1 + root)  # root - 1, also where x * x vanishes beside 1
    top = order * (excess - torch.log1p(excess / 2)) - 0.25 * torch.log1p(x * x)
    series = _series(1 / root, order) / _series(torch.ones_like(root), order)
    return top + series.log() + _recurrence(concentration, dim)[1]


def mean_cosine(concentration: Float[Tensor, "*batch"], *, dim: int) -> Float[Tensor, "*batch"]:
    r"""Return the expected cosine of a von Mises-Fisher distribution.

    Formula: E[mu.z] = q_nu = I_(d/2)(k) / I_(d/2-1)(k), between 0 and 1.

    Args:
        concentration: k, at least 0.
        dim: d, at least 2.

    Returns:
        The shape and dtype of `concentration`; no unit.

    Example:
        >>> mean_cosine(torch.tensor([0.0, 2.0]), dim=3)
        tensor([0.0000, 0.5373])
    """
    return concentration * _recurrence(concentration, dim)[0]


@torch.no_grad()
def concentration_for(mean: Float[Tensor, "*batch"], *, dim: int) -> Float[Tensor, "*batch"]:
    r"""Return the concentration whose expected cosine is given: the maximum-likelihood estimate.

    Formula: k with E[mu.z] = q_nu(k) = r, by Newton's steps with q' = 1 - q^2 - (d-1) q/k from
    k = r (d - r^2)/(1 - r^2). Of cosines t with one unknown concentration, the likelihood
    k sum t - n E(k) is largest where q_nu(k) is their mean.

    Args:
        mean: r, at most 1.
        dim: d, at least 2.

    Returns:
        The shape and dtype of `mean`, without gradient: 0 where r <= 0, infinity where r = 1.

    References:
        Clustering on the Unit Hypersphere using von Mises-Fisher Distributions (Banerjee, Dhillon,
        Ghosh and Sra, 2005), https://jmlr.org/papers/v6/banerjee05a.html, equation 4.4 (the start).

    Example:
        >>> concentration_for(torch.tensor([-0.1, 0.0, 0.537315, 1.0]), dim=3)
        tensor([0.0000, 0.0000, 2.0000,    inf])
    """
    r = precise(mean)
    inside = (r > 0) & (r < 1)
    rr = torch.where(inside, r, torch.full_like(r, 0.5))
    k = rr * (dim - rr * rr) / (1 - rr * rr)
    # The start is good to a few percent and the steps converge quadratically: six are enough.
    for _ in range(6):
        q = mean_cosine(k, dim=dim)
        slope = 1 - q * q - (dim - 1) * q / k
        # never below a tenth: a step too long would leave the half line
        k = torch.maximum(k - (q - rr) / slope, k / 10)
    k = torch.where(
        inside, k, torch.where(r < 1, torch.zeros_like(r), torch.full_like(r, torch.inf))
    )
    return k.to(mean.dtype)


def _recurrence(k: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return r_nu = q_nu / k, and the sum of logarithms in E(k)."""
    order = dim / 2 - 1
    ratio = k * _top_ratio(k, order + _SHIFT)
    growth = []
    r = torch.empty_like(k)
    for step in range(_SHIFT - 1, -1, -1):
        twice = 2 * (order + step + 1)
        growth.append(k * ratio / twice)
        r = 1 / (twice + k * ratio)
        ratio = k * r
    return r, torch.stack(growth).log1p().sum(0)


def _top_ratio(k: Tensor, order: float) -> Tensor:
    """Return I_(M+1)(k) / (k I_M(k)) from the expansions at M and M + 1, without cancellation."""
    low, high = torch.sqrt(order**2 + k * k), torch.sqrt((order + 1) ** 2 + k * k)
    gap = (2 * order + 1) / (low + high)  # high - low
    exponent = (
        gap
        - order * torch.log1p((1 + gap) / (order + low))
        - 0.25 * torch.log1p((2 * order + 1) / low**2)
    )
    series = _series((order + 1) / high, order + 1) / _series(order / low, order)
    return exponent.exp() * series / (order + 1 + high)


def _series(t: Tensor, order: float) -> Tensor:
    """Return 1 + sum of u_j(t)/M^j, j of 1 to 4: DLMF 10.41.10, the fourth from 10.41.9."""
    y = t * t
    first = t * (3 - 5 * y) / 24
    second = y * (81 - y * (462 - 385 * y)) / 1152
    third = t * y * (30375 - y * (369603 - y * (765765 - 425425 * y))) / 414720
    fourth = 349922430 - y * (446185740 - 185910725 * y)
    fourth = y * y * (4465125 - y * (94121676 - y * fourth)) / 39813120
    return 1 + (first + (second + (third + fourth / order) / order) / order) / order


def _wood(k: Tensor, dim: int, generator: torch.Generator | None) -> Tensor:
    """Draw the angle to the mean direction, by rejection from the envelope of Wood (1994)."""
    flat = k.reshape(-1)
    half = (dim - 1) / 2
    b = (dim - 1) / (2 * flat + torch.sqrt(4 * flat**2 + (dim - 1) ** 2))
    angle = torch.empty_like(flat)
    left = torch.arange(len(flat), device=k.device)
    while len(left):
        shape = torch.full((2, len(left)), half, dtype=k.dtype, device=k.device)
        far, near = standard_gamma(shape, generator)
        bb, kk = b[left], flat[left]
        # With Z = far / (far + near) the proposal is W = (1 - (1+b) Z) / (1 - (1-b) Z); from the
        # two gammas 1 - W keeps its digits where W is close to 1 (1 - W is about 1e-6 at k = 1e6).
        scaled = near + bb * far
        below = 2 * bb * far / scaled  # 1 - W
        best = 2 * bb / (1 + bb)  # 1 - W at the envelope's point of contact
        margin = kk * (best - below) + (dim - 1) * torch.log((1 + bb) / 2 * (near + far) / scaled)
        uniform = torch.rand(len(left), dtype=k.dtype, device=k.device, generator=generator)
        # Negated, so that a NaN concentration is accepted and shows, rather than looping for ever.
        refused = margin < uniform.log()
        kept = ~refused
        angle[left[kept]] = 2 * torch.asin((below[kept] / 2).clamp(max=1.0).sqrt())
        left = left[refused]
    return angle.reshape(k.shape)


def _slope(angle: Tensor, k: Tensor, dim: int) -> Tensor:
    r"""Return d angle / d k at fixed probability, by quadrature over the shorter tail.

    The density of the angle is proportional to g(a) = exp(k cos a) sin(a)^(d-2), smooth for every
    d; -g(angle) d angle/dk is the integral of (cos a - q) g(a) from 0 to the angle, and with the
    other sign the integral from the angle to pi.
    """
    r = _recurrence(k, dim)[0]
    mean = k * r
    # Width of g at its peak, from its second logarithmic derivative with E[sin^2] = (d - 1) r;
    # beyond 12 widths from where the tail starts it is below exp(-72) of its first value.
    reach = 12 / torch.sqrt(k * mean + (dim - 2) / ((dim - 1) * r))
    angle = angle.clamp(min=1e-30)
    near = angle.cos() >= mean
    length = torch.where(near, angle, torch.pi - angle).minimum(reach)
    nodes, weights = (x.to(k) for x in _gauss_legendre(64))
    signed = torch.where(near, -length, length)[..., None]
    a, start = angle[..., None] + signed * nodes, angle[..., None]
    # cos a - cos angle as a product: a difference would lose every digit at k = 1e6.
    drop = -2 * torch.sin((a + start) / 2) * torch.sin((a - start) / 2)
    log_g = k[..., None] * drop + (dim - 2) * (a.sin() / start.sin()).log()
    integrand = (start.cos() + drop - mean[..., None]) * log_g.exp()
    return (integrand * weights).sum(-1) * signed.squeeze(-1)


@functools.cache
def _gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights on [0, 1], from the Jacobi matrix (Golub and Welsch, 1969)."""
    i = torch.arange(1, n, dtype=torch.float64)
    off = i / torch.sqrt(4 * i**2 - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (nodes + 1) / 2, vectors[0] ** 2
