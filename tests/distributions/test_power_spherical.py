"""Power Spherical: density, moments and entropy against quadrature, high precision and a table."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cognates.distributions import PowerSpherical, log_area, power_spherical
from cognates.errors import ConfigError

F64 = torch.float64
# d, kappa, log Z, entropy, KL to uniform, (cosine, log density there), expected cosine: computed
# with 40 digits from the closed forms of De Cao and Aziz 2020, section 3.
TABLE = [
    (3, 0.5, 2.4721327291411, 2.4588924721945, 0.072131774774831, 0.3, -2.3409505969074, 0.2),
    (8, 5.0, 4.3712801786194, 2.7183985878016, 0.7619086669279, 0.5, -2.3439546380785, 5 / 12),
    (
        128,
        300.0,
        -10.886268897484,
        -170.4675894101,
        43.414132885737,
        0.7,
        170.07474421614,
        300 / 427,
    ),
    (
        2048,
        18423.5,
        5226.7318513009,
        -6598.4632207942,
        1700.0793581401,
        0.9,
        6598.4632205963,
        18423.5 / 20470.5,
    ),
]


def around(dim: int, kappa: float, dtype: torch.dtype = F64) -> PowerSpherical:
    loc = torch.zeros(dim, dtype=dtype)
    loc[0] = 1
    return PowerSpherical(loc, torch.tensor(kappa, dtype=dtype))


def at(dim: int, cosine: float, dtype: torch.dtype = F64) -> torch.Tensor:
    z = torch.zeros(dim, dtype=dtype)
    z[0], z[1] = cosine, math.sqrt(max(0.0, 1 - cosine**2))
    return z


def log_normaliser(dim: int, kappa: float, cosine: float = 0.25) -> float:
    density = around(dim, kappa).log_prob(at(dim, cosine)).item()
    return kappa * math.log1p(cosine) - density


@pytest.mark.parametrize(
    ("dim", "kappa", "log_z", "entropy", "divergence", "s", "density", "c"), TABLE
)
def test_the_published_values_hold_to_1e_10(dim, kappa, log_z, entropy, divergence, s, density, c):
    p = around(dim, kappa)
    assert log_normaliser(dim, kappa, s) == pytest.approx(log_z, rel=1e-10)
    assert p.entropy().item() == pytest.approx(entropy, rel=1e-10)
    assert log_area(dim) - p.entropy().item() == pytest.approx(divergence, rel=1e-10)
    assert p.log_prob(at(dim, s)).item() == pytest.approx(density, rel=1e-10)
    assert p.mean[0].item() == pytest.approx(c, rel=1e-10)


def test_the_table_has_four_rows_from_the_small_to_the_large():
    assert [row[0] for row in TABLE] == [3, 8, 128, 2048]


@pytest.mark.parametrize("dim", [2, 3, 5, 8, 16])
@pytest.mark.parametrize("kappa", [0.0, 0.5, 3.0, 20.0])
def test_the_density_integrates_to_one_and_its_entropy_and_moments_are_its_integrals(dim, kappa):
    p = around(dim, kappa)
    angle, weight = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(1000))
    angle, weight = math.pi / 2 * (angle + 1), math.pi / 2 * weight
    z = torch.zeros(1000, dim, dtype=F64)
    z[:, 0], z[:, 1] = angle.cos(), angle.sin()
    ring = math.exp(log_area(dim - 1))  # the two points of a line, at d = 2
    log_p = p.log_prob(z)
    measure = ring * weight * angle.sin() ** (dim - 2) * log_p.exp()
    first, second = (measure @ angle.cos() ** power for power in (1, 2))
    assert measure.sum().item() == pytest.approx(1, abs=1e-10)
    # 1e-6: the entropy's integrand has a logarithm at -mu.
    assert -(measure @ log_p).item() == pytest.approx(p.entropy().item(), abs=1e-6)
    assert p.mean[0].item() == pytest.approx(first.item(), abs=1e-10)
    assert p.variance[0].item() == pytest.approx((second - first**2).item(), abs=1e-10)
    assert p.variance[1].item() == pytest.approx((1 - second).item() / (dim - 1), abs=1e-10)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(dim=st.integers(2, 4096), log_kappa=st.floats(-8, 14))
def test_the_normaliser_and_entropy_equal_40_digit_values(dim, log_kappa):
    kappa = math.exp(log_kappa)
    with mpmath.workdps(40):
        k, b = mpmath.mpf(kappa), mpmath.mpf(dim - 1) / 2
        a = b + k
        log_z = (
            (a + b) * mpmath.log(2)
            + b * mpmath.log(mpmath.pi)
            + mpmath.loggamma(a)
            - mpmath.loggamma(a + b)
        )
        entropy = log_z - k * (mpmath.log(2) + mpmath.psi(0, a) - mpmath.psi(0, a + b))
    # 1e-13 of the largest number that enters a sum: rounding in float64.
    size = 1 + kappa + abs(log_area(dim)) + abs(float(log_z))
    assert log_normaliser(dim, kappa) == pytest.approx(float(log_z), abs=1e-13 * size)
    assert around(dim, kappa).entropy().item() == pytest.approx(float(entropy), abs=1e-13 * size)


@pytest.mark.parametrize("kappa", [0.5, 4.0, 60.0])
def test_on_the_ordinary_sphere_the_normaliser_has_its_closed_form(kappa):
    expected = math.log(2 * math.pi) + (kappa + 1) * math.log(2) - math.log(kappa + 1)
    assert log_normaliser(3, kappa) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("dim", [2, 3, 8, 128, 2048])
def test_concentration_zero_is_exactly_uniform_also_at_the_far_pole(dim):
    p = around(dim, 0.0)
    for cosine in (-1.0, -0.3, 0.0, 1.0):
        assert p.log_prob(at(dim, cosine)).item() == -log_area(dim)
    assert p.entropy().item() == log_area(dim)


def test_the_density_vanishes_opposite_to_the_mean_direction():
    assert around(8, 2.0).log_prob(at(8, -1.0)).item() == -math.inf


def test_gradients_of_density_and_entropy_pass_gradcheck_twice():
    generator = torch.Generator().manual_seed(0)
    loc = torch.nn.functional.normalize(torch.randn(3, 4, generator=generator, dtype=F64), dim=-1)
    z = torch.nn.functional.normalize(torch.randn(3, 4, generator=generator, dtype=F64), dim=-1)
    kappa = torch.tensor([0.1, 13.6, 60.0], dtype=F64)  # both sides of the series' 16
    inputs = [x.requires_grad_() for x in (loc, kappa, z)]

    def log_prob(loc, kappa, z):
        return PowerSpherical(loc, kappa, validate_args=False).log_prob(z)

    def entropy(kappa):
        return PowerSpherical(loc.detach(), kappa).entropy()

    assert torch.autograd.gradcheck(log_prob, inputs)
    assert torch.autograd.gradgradcheck(log_prob, inputs)
    assert torch.autograd.gradcheck(entropy, [kappa])


@pytest.mark.parametrize(("dim", "bound"), [(3, 1e-5), (16, 1e-5), (256, 1e-4), (2048, 4e-4)])
def test_float32_arithmetic_alone_keeps_the_stated_accuracy(dim, bound):
    # What a device without float64 computes; 1.2e-4 is a unit in the last place at d = 2048.
    c = torch.linspace(0.05, 0.95, 40)
    kappa = ((dim - 1) * c / (1 - c)).float()
    single = power_spherical.log_ratio(c, kappa, dim=dim)
    double = power_spherical.log_ratio(c.double(), kappa.double(), dim=dim)
    assert (single - double).abs().max() < bound


def test_results_keep_the_parameters_dtype_and_half_precision_becomes_float32():
    assert around(4, 2.0, torch.float32).log_prob(at(4, 0.5, torch.float32)).dtype == torch.float32
    assert around(4, 2.0).entropy().dtype == F64
    half = PowerSpherical(torch.eye(4, dtype=torch.bfloat16), torch.ones(4, dtype=torch.bfloat16))
    assert half.mean.dtype == torch.float32
    assert half.rsample().dtype == torch.float32


def test_parameters_broadcast_and_expand():
    p = PowerSpherical(torch.eye(4, dtype=F64), torch.tensor([[1.0], [2.0]], dtype=F64))
    assert (p.batch_shape, p.event_shape) == ((2, 4), (4,))
    q = p.expand((3, 2, 4))
    assert q.rsample((5,)).shape == (5, 3, 2, 4, 4)
    assert torch.equal(q.entropy()[0], p.entropy())
    assert isinstance(q, PowerSpherical)


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="loc"):
        PowerSpherical(torch.ones(4), 1.0)
    with pytest.raises(ValueError, match="concentration"):
        PowerSpherical(torch.eye(4)[0], -1.0)
    with pytest.raises(ConfigError, match="d of at least 2"):
        PowerSpherical(torch.ones(1), 1.0)
    with pytest.raises(ValueError, match="value"):
        PowerSpherical(torch.eye(4)[0], 1.0).log_prob(torch.ones(4))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), dim=st.integers(2, 40), kappa=st.floats(0, 500))
def test_the_density_is_invariant_to_rotation(seed, dim, kappa):
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(dim, dim, generator=generator, dtype=F64)
    rotation = torch.linalg.qr(square).Q
    loc, z = torch.nn.functional.normalize(
        torch.randn(2, dim, generator=generator, dtype=F64), dim=-1
    )
    before = PowerSpherical(loc, kappa).log_prob(z)
    after = PowerSpherical(rotation @ loc, kappa).log_prob(rotation @ z)
    # A rounding of 1e-15 in the cosine counts kappa / (1 + t) times.
    slope = kappa / max(1 + (loc @ z).item(), 1e-3)
    assert after.item() == pytest.approx(before.item(), abs=1e-12 * (1 + slope))
