"""Von Mises-Fisher: the normaliser and its derivatives against independent Bessel functions."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ive

from cognates.distributions import VonMisesFisher, log_area, von_mises_fisher
from cognates.errors import ConfigError
from cognates.random import generator

F64 = torch.float64
DIMS = (2, 3, 4, 5, 8, 16, 128, 512, 2048)
CONCENTRATIONS = tuple(10.0**e for e in (-6, -3, -1, 0, 0.5, 1, 1.5, 2, 3, 4, 5, 6))


def around(dim: int, k: float) -> VonMisesFisher:
    loc = torch.zeros(dim, dtype=F64)
    loc[0] = 1
    return VonMisesFisher(loc, torch.tensor(k, dtype=F64))


def reference(dim: int, k: float) -> tuple[float, float]:
    """Return E(k) and the expected cosine from mpmath's Bessel function, with 40 digits."""
    with mpmath.workdps(40):
        nu, x = mpmath.mpf(dim) / 2 - 1, mpmath.mpf(k)
        bessel = mpmath.besseli(nu, x)
        value = mpmath.loggamma(nu + 1) + nu * mpmath.log(2 / x) + mpmath.log(bessel)
        return float(value), float(mpmath.besseli(nu + 1, x) / bessel)


@pytest.mark.parametrize("dim", DIMS)
def test_the_normaliser_is_within_1e_9_of_40_digit_values_and_the_mean_within_1e_13(dim):
    for k in CONCENTRATIONS:
        value, cosine = reference(dim, k)
        kappa = torch.tensor(k, dtype=F64, requires_grad=True)
        partition = von_mises_fisher.log_partition(kappa, dim=dim)
        partition.backward()
        # 1e-15 k: the rounding of a value of about k.
        assert partition.item() == pytest.approx(value, abs=1e-9 + 1e-15 * k)
        mean = von_mises_fisher.mean_cosine(kappa.detach(), dim=dim).item()
        assert mean == pytest.approx(cosine, rel=1e-13)
        # The derivative carries the truncation of the expansion's fourth order.
        assert kappa.grad is not None
        assert kappa.grad.item() == pytest.approx(cosine, rel=1e-8)


@pytest.mark.parametrize("dim", [2, 3, 5, 16, 128])
def test_the_density_agrees_with_scipys_bessel_function(dim):
    nu = dim / 2 - 1
    for k in (0.5, 5.0, 40.0, 700.0):
        z = around(dim, 1.0).rsample((4,), generator=generator(0, dim))
        bessel = math.log(ive(nu, k)) + k
        expected = nu * math.log(k) - dim / 2 * math.log(2 * math.pi) - bessel + k * z[:, 0]
        torch.testing.assert_close(around(dim, k).log_prob(z), expected, rtol=1e-11, atol=1e-8)


def test_the_ordinary_sphere_has_closed_forms():
    for k in (0.3, 2.0, 15.0):
        partition = von_mises_fisher.log_partition(torch.tensor(k, dtype=F64), dim=3).item()
        assert partition == pytest.approx(math.log(math.sinh(k) / k), abs=1e-8)
        assert around(3, k).mean[0].item() == pytest.approx(1 / math.tanh(k) - 1 / k, rel=1e-13)


@pytest.mark.parametrize("dim", [2, 3, 8, 2048])
def test_concentration_zero_is_exactly_uniform_with_the_right_derivatives(dim):
    k = torch.zeros((), dtype=F64, requires_grad=True)
    loc = torch.eye(dim, dtype=F64)[0]
    p = VonMisesFisher(loc, k)
    assert p.log_prob(loc).item() == -log_area(dim)
    assert p.entropy().item() == log_area(dim)
    (first,) = torch.autograd.grad(von_mises_fisher.log_partition(k, dim=dim), k, create_graph=True)
    (second,) = torch.autograd.grad(first, k)
    assert first.item() == 0
    assert second.item() == pytest.approx(1 / dim, rel=1e-6)  # the variance of t when uniform
    assert p.rsample().isfinite().all()


@pytest.mark.parametrize("dim", [2, 3, 8])
@pytest.mark.parametrize("k", [0.0, 0.7, 12.0])
def test_entropy_and_variance_are_their_integrals(dim, k):
    p = around(dim, k)
    angle, weight = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(200))
    angle, weight = math.pi / 2 * (angle + 1), math.pi / 2 * weight
    z = torch.zeros(200, dim, dtype=F64)
    z[:, 0], z[:, 1] = angle.cos(), angle.sin()
    log_p = p.log_prob(z)
    ring = math.exp(log_area(dim - 1))  # the two points of a line, at d = 2
    measure = ring * weight * angle.sin() ** (dim - 2) * log_p.exp()
    first, second = (measure @ angle.cos() ** power for power in (1, 2))
    # 1e-8: the stated error of the normaliser.
    assert measure.sum().item() == pytest.approx(1, abs=1e-8)
    assert -(measure @ log_p).item() == pytest.approx(p.entropy().item(), abs=5e-8)
    assert p.variance[0].item() == pytest.approx((second - first**2).item(), abs=1e-8)
    assert p.variance[1].item() == pytest.approx((1 - second).item() / (dim - 1), abs=1e-8)


def test_gradients_pass_gradcheck_twice():
    gen = generator(1, "gradcheck")
    loc, z = torch.nn.functional.normalize(torch.randn(2, 3, 3, generator=gen, dtype=F64), dim=-1)
    k = torch.tensor([0.0, 0.8, 30.0], dtype=F64)
    inputs = [x.clone().requires_grad_() for x in (loc, k, z)]

    def log_prob(loc, k, z):
        return VonMisesFisher(loc, k, validate_args=False).log_prob(z)

    def entropy(k):
        return VonMisesFisher(loc, k, validate_args=False).entropy()

    # The numerical derivative steps below 0, where both functions are even in k or smooth.
    assert torch.autograd.gradcheck(log_prob, inputs)
    assert torch.autograd.gradgradcheck(log_prob, inputs)
    assert torch.autograd.gradcheck(entropy, inputs[1:2])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(dim=st.integers(2, 3000), log_k=st.floats(-10, 12))
def test_the_expected_cosine_solves_its_differential_equation(dim, log_k):
    # q' = 1 - q^2 - (d-1) q / k, which any ratio of these Bessel functions satisfies.
    k = torch.tensor(math.exp(log_k), dtype=F64, requires_grad=True)
    q = von_mises_fisher.mean_cosine(k, dim=dim)
    (slope,) = torch.autograd.grad(q, k)
    rest = 1 - q * q - (dim - 1) * q / k
    assert 0 < q.item() < 1
    assert slope.item() > 0
    assert slope.item() == pytest.approx(rest.item(), rel=1e-6, abs=1e-14)


def test_the_float32_path_is_good_to_2e_6_per_dimension():
    for dim in (3, 128, 2048):
        c = torch.linspace(0.05, 0.95, 20)
        k = (dim - 1) * c / (1 - c**2)
        single = von_mises_fisher.log_ratio(c, k, dim=dim)
        double = von_mises_fisher.log_ratio(c.double(), k.double(), dim=dim)
        assert (single - double).abs().max() < 2e-6 * dim


@pytest.mark.parametrize("dim", [2, 3, 16, 512, 4096])
def test_the_concentration_for_a_mean_cosine_is_its_inverse(dim):
    k = torch.cat([torch.logspace(-3, 7, 41, dtype=F64)])
    mean = von_mises_fisher.mean_cosine(k, dim=dim)
    found = von_mises_fisher.concentration_for(mean, dim=dim)
    # 1 - r is about (d-1)/(2k): the rounding of r counts 2k/(d-1) times
    torch.testing.assert_close(found / k, torch.ones(41, dtype=F64), rtol=0, atol=1e-8)
    edges = torch.tensor([-0.3, 0.0, 1.0])
    edge = von_mises_fisher.concentration_for(edges, dim=dim).tolist()
    assert edge == [0.0, 0.0, math.inf]


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="loc"):
        VonMisesFisher(torch.full((4,), 0.4), 1.0)
    with pytest.raises(ConfigError, match="d of at least 2"):
        VonMisesFisher(torch.ones(()), 1.0)
