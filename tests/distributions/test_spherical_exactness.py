"""Both families over the whole range of use: against integrals, their marginals, and float32."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import betainc, xlogy
from scipy.stats import kstest
from torch.distributions import kl_divergence

from cognates.distributions import PowerSpherical, SphericalUniform, VonMisesFisher, log_area
from cognates.random import generator

F64 = torch.float64
FAMILIES = (PowerSpherical, VonMisesFisher)
DIMS = tuple(range(2, 17))
CONCENTRATIONS = (0.0, 0.1, 1.0, 10.0, 20.0, 100.0, 1e3, 1e4)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(1500)


def around(family, dim: int, kappa, dtype: torch.dtype = F64):
    k = torch.as_tensor(kappa, dtype=dtype)
    return family(torch.eye(dim, dtype=dtype)[0].expand(*k.shape, dim), k)


def log_kernel(family, kappa: float, angle: np.ndarray) -> np.ndarray:
    """Return the logarithm of the density at an angle, relative to the mean direction."""
    if family is PowerSpherical:  # ((1 + cos a)/2)^kappa
        return 2 * kappa * np.log(np.cos(angle / 2))
    return -2 * kappa * np.sin(angle / 2) ** 2


def measure(family, dim: int, kappa: float) -> tuple[np.ndarray, np.ndarray]:
    """Return angles and the unnormalised mass there; beyond 40 widths there is none."""
    reach = math.pi if kappa < 200 else 40 / math.sqrt(kappa)
    # u^4 of the distance to the far end: a Power Spherical density is not smooth at -mu
    rest = (1 - NODES) / 2
    angle = reach * (1 - rest**4)
    ring = math.exp(log_area(dim - 1))  # the two points of a line, at d = 2
    mass = np.exp(log_kernel(family, kappa, angle)) * np.sin(angle) ** (dim - 2)
    return angle, ring * 2 * reach * rest**3 * WEIGHTS * mass


@pytest.mark.parametrize("family", FAMILIES)
def test_density_entropy_mean_and_divergence_are_their_integrals_to_1e_8(family):
    cosines = np.array([-0.9, -0.3, 0.2, 0.7, 0.99, 1.0])
    checked = 0
    for dim in DIMS:
        p = around(family, dim, CONCENTRATIONS)
        values = p.log_prob_at(torch.from_numpy(cosines)[:, None]).T.numpy()
        entropies, means = p.entropy(), p.mean[:, 0]
        divergences = kl_divergence(p, SphericalUniform(dim, dtype=F64))
        for row, kappa in enumerate(CONCENTRATIONS):
            angle, mass = measure(family, dim, kappa)
            top = -math.log(mass.sum())  # the log density at the mean direction
            want = top + log_kernel(family, kappa, np.arccos(cosines))
            np.testing.assert_allclose(values[row], want, rtol=1e-8, atol=0)
            share = mass / mass.sum()
            cosine = share @ np.cos(angle)
            assert means[row].item() == pytest.approx(cosine, rel=1e-8, abs=1e-9)
            entropy = -(top + share @ log_kernel(family, kappa, angle))
            assert entropies[row].item() == pytest.approx(entropy, rel=1e-8, abs=1e-9)
            distance = log_area(dim) - entropies[row].item()
            assert divergences[row].item() == pytest.approx(distance, rel=1e-8, abs=1e-12)
            checked += 1
    assert checked == 15 * 8


@pytest.mark.parametrize("family", FAMILIES)
def test_entropy_mean_and_divergence_equal_monte_carlo(family):
    for dim, kappa in ((3, 2.0), (16, 40.0), (256, 900.0)):
        p = around(family, dim, kappa)
        z = p.sample((4000,), generator=generator(1, "monte carlo", dim))
        log_p = p.log_prob(z)
        uniform = SphericalUniform(dim, dtype=F64)
        for draws, value in (
            (-log_p, p.entropy()),
            (z[:, 0], p.mean[0]),
            (log_p + log_area(dim), kl_divergence(p, uniform)),
        ):
            error = 4 * draws.std().item() / math.sqrt(len(draws))  # four standard errors
            assert draws.mean().item() == pytest.approx(value.item(), abs=error)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("dim", "kappa"), [(2, 0.0), (2, 4.0), (5, 20.0), (16, 1.0), (16, 1e4), (512, 4600.0)]
)
def test_the_cosine_of_samples_follows_the_marginal(family, dim, kappa):
    p = around(family, dim, kappa)
    t = p.sample((3000,), generator=generator(2, "marginal", dim))[:, 0].numpy()
    if family is PowerSpherical:  # (1 + t)/2 is a Beta variable
        beta = (dim - 1) / 2

        def law(x):
            return betainc(beta + kappa, beta, (1 + x) / 2)
    else:
        reach = math.pi if kappa < 200 else min(math.pi, 40 / math.sqrt(kappa) + math.pi / 2)
        grid = np.linspace(0, reach, 40_001)
        log_mass = log_kernel(family, kappa, grid) + xlogy(dim - 2, np.sin(grid))
        mass = np.exp(log_mass - log_mass.max())
        below = np.concatenate([[0], np.cumsum((mass[1:] + mass[:-1]) / 2)])

        def law(x):
            return 1 - np.interp(np.arccos(x), grid, below / below[-1])

    assert kstest(t, law).pvalue > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [2, 3, 16, 512, 4096])
def test_float32_is_finite_with_finite_gradients_up_to_a_concentration_of_1e7(family, dim):
    kappa = torch.tensor([0.0, 1e-6, 1e-2, 1.0, 1e2, 1e4, 1e6, 1e7], requires_grad=True)
    loc = torch.eye(dim)[0].expand(8, dim).clone().requires_grad_()
    p = family(loc, kappa)
    # At -1 itself a Power Spherical density is 0; the losses keep 1e-6 away.
    cosine = torch.tensor([-1 + 1e-6, -0.5, 0.0, 0.9, 1.0])
    value = torch.zeros(5, 1, dim)
    value[:, 0, 0], value[:, 0, 1] = cosine, (1 - cosine**2).clamp_min(0).sqrt()
    found = {
        "density": p.log_prob(value),
        "entropy": p.entropy(),
        "mean": p.mean,
        "variance": p.variance,
        "divergence": kl_divergence(p, SphericalUniform(dim)),
        "sample": p.rsample(generator=generator(0, "float32", dim)),
    }
    for name, output in found.items():
        assert output.dtype == torch.float32
        assert output.isfinite().all(), name
        slopes = torch.autograd.grad(
            output.sum(), (loc, kappa), allow_unused=True, retain_graph=True
        )
        assert all(slope is None or bool(slope.isfinite().all()) for slope in slopes), name
    assert (found["divergence"].diff() >= 0).all()
    assert (found["sample"].norm(dim=-1) - 1).abs().max() < 1e-5
