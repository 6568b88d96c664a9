"""Divergences on the sphere, and the SimCLR identity of the variational reading."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import kl_divergence

from cognates.distributions import (
    PowerSpherical,
    SphericalUniform,
    VonMisesFisher,
    concentration_score,
    log_area,
)
from cognates.errors import ConfigError
from cognates.random import generator

F64 = torch.float64
FAMILIES = (PowerSpherical, VonMisesFisher)


def unit(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def around(family, dim: int, kappa: float):
    return family(torch.eye(dim, dtype=F64)[0], torch.tensor(kappa, dtype=F64))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_divergence_from_uniform_is_log_area_minus_entropy(family):
    for dim, kappa in ((2, 1.0), (3, 0.5), (128, 300.0), (2048, 1e4)):
        p = around(family, dim, kappa)
        divergence = kl_divergence(p, SphericalUniform(dim, dtype=F64)).item()
        assert divergence == pytest.approx(log_area(dim) - p.entropy().item(), rel=1e-10)


@pytest.mark.parametrize(
    ("dim", "kappa", "expected"),
    [
        (128, 10.0, 0.343),
        (128, 100.0, 13.798),
        (128, 1e3, 98.588),
        (2048, 100.0, 2.224),
        (2048, 1e3, 116.701),
        (2048, 1e4, 1195.793),
    ],
)
def test_the_divergence_from_uniform_has_the_tabulated_values(dim, kappa, expected):
    p = around(PowerSpherical, dim, kappa)
    divergence = kl_divergence(p, SphericalUniform(dim, dtype=F64)).item()
    assert divergence == pytest.approx(expected, abs=5.1e-4)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(dim=st.integers(2, 3000), log_kappa=st.floats(-8, 14), family=st.sampled_from(FAMILIES))
def test_the_divergence_from_uniform_is_positive_and_grows(dim, log_kappa, family):
    kappa = math.exp(log_kappa)
    one, two = (
        kl_divergence(around(family, dim, k), SphericalUniform(dim, dtype=F64)).item()
        for k in (kappa, 1.1 * kappa)
    )
    # At small kappa the divergence is about kappa^2 / (2 d); 1e-15 kappa is rounding.
    assert one >= -1e-15 * (1 + kappa)
    if kappa**2 / dim > 1e-8:
        assert two > one > 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [2, 3, 17, 2048])
def test_the_divergence_from_uniform_is_exactly_zero_at_concentration_zero(family, dim):
    uniform = SphericalUniform(dim, dtype=F64)
    assert kl_divergence(around(family, dim, 0.0), uniform).item() == 0
    assert kl_divergence(uniform, uniform).item() == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dim", "kappa", "k"), [(2, 1.0, 2.0), (3, 4.0, 0.0), (32, 60.0, 45.0)])
def test_the_divergence_from_von_mises_fisher_equals_monte_carlo(family, dim, kappa, k):
    gen = generator(0, "divergence", dim)
    loc_p, loc_q = unit(torch.randn(2, dim, generator=gen, dtype=F64))
    p = family(loc_p, torch.tensor(kappa, dtype=F64))
    q = VonMisesFisher(loc_q, torch.tensor(k, dtype=F64))
    z = p.sample((40_000,), generator=gen)
    draws = p.log_prob(z) - q.log_prob(z)
    error = 4 * draws.std().item() / math.sqrt(len(draws))
    assert kl_divergence(p, q).item() == pytest.approx(draws.mean().item(), abs=error)


def test_a_von_mises_fisher_distribution_does_not_diverge_from_itself():
    p = around(VonMisesFisher, 12, 33.0)
    assert kl_divergence(p, p).item() == pytest.approx(0, abs=1e-12)
    uniform = SphericalUniform(12, dtype=F64)
    flat = around(VonMisesFisher, 12, 0.0)
    assert kl_divergence(p, flat).item() == pytest.approx(kl_divergence(p, uniform).item())


def test_the_divergence_gradients_pass_gradcheck():
    loc = unit(torch.randn(3, 5, generator=generator(0, "gradcheck"), dtype=F64))
    target = VonMisesFisher(loc.flip(0), torch.tensor([0.5, 3.0, 30.0], dtype=F64))
    kappa = torch.tensor([0.5, 4.0, 40.0], dtype=F64, requires_grad=True)

    def divergence(kappa):
        p = PowerSpherical(loc, kappa)
        return kl_divergence(p, target) + kl_divergence(p, SphericalUniform(5, dtype=F64))

    assert torch.autograd.gradcheck(divergence, [kappa])


def test_distributions_on_different_spheres_are_refused():
    with pytest.raises(ConfigError, match="one sphere"):
        kl_divergence(around(PowerSpherical, 3, 1.0), SphericalUniform(4))
    with pytest.raises(NotImplementedError):
        kl_divergence(around(PowerSpherical, 3, 1.0), around(PowerSpherical, 3, 1.0))


def test_simclr_is_alignment_plus_uniformity_with_a_fixed_concentration():
    # With p(z | x_k) = vMF(z_k, 1/tau) and q a point at z_i: J_align + J_uniform = log N - InfoNCE.
    n, dim, temperature = 12, 9, 0.2
    gen = generator(0, "simclr")
    z, others = unit(torch.randn(2, n, dim, generator=gen, dtype=F64))
    kappa = torch.full((n,), 1 / temperature, dtype=F64)
    log_p = VonMisesFisher(others, kappa).log_prob(z[:, None])  # [i, k] = log p(z_i | x_k)
    align = log_p.diagonal().mean()
    uniform = -(log_p.logsumexp(1) - math.log(n)).mean()
    info_nce = torch.nn.functional.cross_entropy(z @ others.T / temperature, torch.arange(n))
    assert (align + uniform).item() == pytest.approx(math.log(n) - info_nce.item(), abs=1e-12)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(dim=st.integers(2, 4096), kappa=st.floats(0, 1e6), more=st.floats(1.001, 10))
def test_the_score_is_one_minus_the_expected_cosine_in_0_1_and_falls(dim, kappa, more):
    k = torch.tensor(kappa, dtype=F64)
    u = concentration_score(k, dim=dim)
    assert 0 < u.item() <= 1
    loc = torch.eye(dim, dtype=F64)[0]
    assert u.item() == pytest.approx(1 - PowerSpherical(loc, k).mean[0].item(), abs=1e-12)
    if kappa > 1e-3:
        assert concentration_score(more * k, dim=dim) < u
