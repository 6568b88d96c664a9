r"""Kullback-Leibler divergences on the sphere, registered with `torch.distributions.kl_divergence`.

With t = mu.z, f and E(k) the log density relative to the uniform one and its normaliser:

    KL(p || uniform)             = E_p[f(t)] = log A_d - H(p)
    KL(p || vMF(mu_q, k_q))      = KL(p || uniform) + E(k_q) - k_q (mu_q.mu_p) E_p[t]

KL(. || Power Spherical) has no closed form: use samples and `log_prob`.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions.kl import register_kl

from cognates.distributions.power_spherical import PowerSpherical
from cognates.distributions.spherical import Axial, SphericalUniform, precise
from cognates.distributions.von_mises_fisher import VonMisesFisher, log_partition
from cognates.errors import ConfigError


@register_kl(PowerSpherical, SphericalUniform)
@register_kl(VonMisesFisher, SphericalUniform)
def _axial_to_uniform(p: Axial, q: SphericalUniform) -> Tensor:
    _same_sphere(p.dim, q.dim)
    return p._divergence().to(p.loc.dtype)


@register_kl(PowerSpherical, VonMisesFisher)
@register_kl(VonMisesFisher, VonMisesFisher)
def _axial_to_von_mises_fisher(p: Axial, q: VonMisesFisher) -> Tensor:
    _same_sphere(p.dim, q.dim)
    between = (precise(p.loc) * precise(q.loc)).sum(-1)
    k = precise(q.concentration)
    agreement = k * between * p._first_moment()
    return (p._divergence() + log_partition(k, dim=q.dim) - agreement).to(p.loc.dtype)


@register_kl(SphericalUniform, SphericalUniform)
def _uniform_to_uniform(p: SphericalUniform, q: SphericalUniform) -> Tensor:
    _same_sphere(p.dim, q.dim)
    return p.entropy() - q.entropy()


def _same_sphere(p: int, q: int) -> None:
    if p != q:
        raise ConfigError(f"Expected two distributions on one sphere, got dimensions {p} and {q}.")
