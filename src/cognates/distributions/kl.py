r"""Kullback-Leibler divergences, registered with `torch.distributions.kl_divergence`.

With t = mu.z, f and E(k) the log density relative to the uniform one and its normaliser:

    KL(p || uniform)             = E_p[f(t)] = log A_d - H(p)
    KL(p || vMF(mu_q, k_q))      = KL(p || uniform) + E(k_q) - k_q (mu_q.mu_p) E_p[t]

KL(. || Power Spherical) has no closed form: use samples and `log_prob`. Diagonal normals, with log
variances s and means m, per coordinate:

    KL(p || q) = (1/2) [ exp(t) - 1 - t + (m_p - m_q)^2 exp(-s_q) ],   t = s_p - s_q
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions.kl import register_kl

from cognates.distributions.normal import DiagonalNormal
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


@register_kl(DiagonalNormal, DiagonalNormal)
def _between_diagonal_normals(p: DiagonalNormal, q: DiagonalNormal) -> Tensor:
    if p.event_shape != q.event_shape:
        raise ConfigError(
            f"Expected two normals of one dimension, got {p.event_shape[0]} and {q.event_shape[0]}."
        )
    t = p.log_variance - q.log_variance
    # expm1, and not the variances themselves: two posteriors that nearly agree lose no digits.
    moved = (p.loc - q.loc).square() * (-q.log_variance).exp()
    return 0.5 * (torch.expm1(t) - t + moved).sum(-1)


def _same_sphere(p: int, q: int) -> None:
    if p != q:
        raise ConfigError(f"Expected two distributions on one sphere, got dimensions {p} and {q}.")
