"""Samples of the three distributions: on the sphere, with the right law and the right gradient."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import kstest

from cognates.distributions import PowerSpherical, SphericalUniform, VonMisesFisher
from cognates.errors import ConfigError
from cognates.random import generator

F64 = torch.float64
FAMILIES = (PowerSpherical, VonMisesFisher)
# From nearly uniform to narrow, at the size d that concentrations have.
CASES = ((2, 0.0), (2, 3.0), (3, 0.5), (8, 5.0), (64, 300.0), (512, 4600.0))


def unit(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def direction(dim: int, *name: int | str) -> torch.Tensor:
    return unit(torch.randn(dim, generator=generator(3, dim, *name), dtype=F64))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dim", "kappa"), CASES)
def test_samples_have_unit_norm_and_the_stated_moments_and_entropy(family, dim, kappa):
    loc = direction(dim)
    p = family(loc, torch.tensor(kappa, dtype=F64))
    n = 10_000 if dim < 100 else 1_000
    z = p.sample((n,), generator=generator(0, "sample", dim))
    assert z.shape == (n, dim)
    assert (z.norm(dim=-1) - 1).abs().max() < 1e-12
    t = z @ loc
    cosine = (p.mean @ loc).item()
    second = (p.variance.sum() + p.mean.square().sum()).item()
    assert second == pytest.approx(1, abs=1e-9)  # E|z|^2
    along = p._second_moment().item()
    # Four standard errors each.
    for draws, expected in (
        (t, cosine),
        (t * t, along),
        (-p.log_prob(z), p.entropy().item()),
        (z @ direction(dim, "other"), (p.mean @ direction(dim, "other")).item()),
    ):
        error = 4 * draws.std().item() / math.sqrt(n)
        assert draws.mean().item() == pytest.approx(expected, abs=error + 1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_coordinate_has_the_stated_variance(family):
    p = family(direction(5), torch.tensor(6.0, dtype=F64))
    z = p.sample((40_000,), generator=generator(0, "variance"))
    square = (z - p.mean).square()
    error = 4 * square.std(0) / math.sqrt(len(z))
    assert ((square.mean(0) - p.variance).abs() < error).all()


@pytest.mark.parametrize("k", [0.5, 30.0])
def test_the_cosine_on_the_ordinary_sphere_follows_its_law(k):
    loc = direction(3)
    t = VonMisesFisher(loc, k).sample((5_000,), generator=generator(0, "ks")) @ loc

    def law(x):
        return (np.exp(k * (x - 1)) - np.exp(-2 * k)) / (1 - np.exp(-2 * k))

    assert kstest(t.numpy(), law).pvalue > 1e-3
    t = PowerSpherical(loc, k).sample((5_000,), generator=generator(0, "ks")) @ loc
    assert kstest(t.numpy(), lambda x: ((1 + x) / 2) ** (k + 1)).pvalue > 1e-3


@pytest.mark.parametrize("dim", [2, 3, 50])
def test_uniform_samples_have_unit_norm_and_no_preferred_direction(dim):
    p = SphericalUniform(dim, dtype=F64)
    z = p.sample((20_000,), generator=generator(0, "uniform", dim))
    assert (z.norm(dim=-1) - 1).abs().max() < 1e-12
    assert (z.mean(0).abs() < 4 / math.sqrt(dim * len(z)) * 1.1).all()
    torch.testing.assert_close(z.square().mean(0), p.variance, rtol=0.05, atol=0)
    assert (p.log_prob(z) == -p.entropy()).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("dim", [2, 3, 16])
def test_the_poles_of_the_reflection_are_ordinary_directions(family, sign, dim):
    loc = (sign * torch.eye(dim, dtype=F64)[0]).requires_grad_()
    kappa = torch.tensor(50.0, dtype=F64, requires_grad=True)
    z = family(loc, kappa).rsample((400,), generator=generator(0, "pole"))
    assert (z.norm(dim=-1) - 1).abs().max() < 1e-12
    assert (z @ loc).mean() > 0.7
    weights = torch.randn(z.shape, generator=generator(0, "weights"), dtype=F64)
    gradients = torch.autograd.grad((z * weights).sum(), (loc, kappa))
    assert all(g.isfinite().all() for g in gradients)
    # No gradient is huge: per draw it is of the order of the weight.
    assert gradients[0].norm() < 400 * dim


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_in_the_direction_passes_gradcheck_with_the_noise_held(family):
    for row in (torch.eye(4, dtype=F64)[0], direction(4), -direction(4, "b")):
        kappa = torch.tensor(4.0, dtype=F64)

        def draw(v, kappa=kappa):
            return family(unit(v), kappa).rsample((3,), generator=generator(5, "held"))

        assert torch.autograd.gradcheck(draw, [row.clone().requires_grad_()])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dim", "kappa"), [(2, 1.5), (3, 6.0), (8, 5.0), (64, 100.0)])
def test_gradients_of_expectations_in_the_concentration_are_right(family, dim, kappa):
    n, loc = 10_000, direction(dim)
    each = torch.full((n,), kappa, dtype=F64, requires_grad=True)
    t = family(loc, each).rsample(generator=generator(2, "expectation", dim)) @ loc
    k = torch.tensor(kappa, dtype=F64, requires_grad=True)
    p = family(loc, k)
    for draws, value in ((t, p._first_moment()), (t * t, p._second_moment())):
        (slopes,) = torch.autograd.grad(draws.sum(), each, retain_graph=True)
        (expected,) = torch.autograd.grad(value, k, retain_graph=True)
        error = 4 * slopes.std().item() / math.sqrt(n)
        assert slopes.mean().item() == pytest.approx(expected.item(), abs=error)


@pytest.mark.parametrize(("dim", "k"), [(2, 0.0), (2, 2.0), (3, 1e4), (9, 7.0), (300, 250.0)])
def test_the_von_mises_fisher_gradient_is_the_implicit_one(dim, k):
    loc = torch.eye(dim, dtype=F64)[0]
    each = torch.full((4,), k, dtype=F64, requires_grad=True)
    z = VonMisesFisher(loc, each).rsample(generator=generator(4, "implicit", dim))
    cosines = z[:, 0].detach()
    (slopes,) = torch.autograd.grad(z[:, 0].sum(), each)
    with mpmath.workdps(16):
        for t, slope in zip(cosines.tolist(), slopes.tolist(), strict=True):
            # dt/dk = -(dF/dk) / p(t) with F the distribution function, in the angle a.
            top = math.acos(t)
            width = 15 / math.sqrt(max(k, dim - 2, 1))
            grid = [max(0.0, top - width), top, min(math.pi, top + width)]

            def density(a, t=t):
                weight = mpmath.sin(a) ** (dim - 2) / mpmath.mpf(1 - t * t) ** ((dim - 2) / 2)
                return weight * mpmath.exp(k * (mpmath.cos(a) - t))

            def moment(a):
                return density(a) * mpmath.cos(a)

            mass, first = mpmath.quad(density, grid), mpmath.quad(moment, grid)
            tail = mpmath.quad(lambda a, q=first / mass: density(a) * (mpmath.cos(a) - q), grid[:2])
            assert slope == pytest.approx(float(tail) * math.sin(top), rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_generator_makes_draws_repeatable_and_leaves_the_global_state_alone(family):
    p = family(direction(6), torch.tensor(3.0, dtype=F64))
    state = torch.get_rng_state()
    one = p.rsample((4,), generator=generator(7, "a"))
    assert torch.equal(one, p.rsample((4,), generator=generator(7, "a")))
    assert not torch.equal(one, p.rsample((4,), generator=generator(7, "b")))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("family", FAMILIES)
def test_sample_has_no_gradient_and_rsample_has(family):
    kappa = torch.tensor(3.0, requires_grad=True)
    p = family(torch.eye(4)[0], kappa)
    assert p.has_rsample
    assert not p.sample().requires_grad
    assert p.rsample().requires_grad
    assert p.rsample().dtype == torch.float32


def test_a_not_a_number_concentration_shows_in_the_sample_and_does_not_hang():
    kappa = torch.tensor([2.0, math.nan])
    z = VonMisesFisher(torch.eye(3)[:2], kappa, validate_args=False).rsample()
    assert z[0].isfinite().all()
    assert z[1].isnan().all()


def test_extreme_concentrations_stay_on_the_sphere():
    loc = direction(16)
    for kappa in (1e-12, 1e7):
        for family in FAMILIES:
            z = family(loc, torch.tensor(kappa, dtype=F64)).sample((500,))
            assert (z.norm(dim=-1) - 1).abs().max() < 1e-12
            if kappa > 1:  # E[1 - t] = (d-1)/(2 kappa) for vMF, (d-1)/kappa for PS
                assert (1 - z @ loc).mean() < 16 / kappa * 1.5


def test_the_uniform_distribution_expands_and_refuses_a_line():
    p = SphericalUniform(3).expand((2,))
    assert p.rsample((4,)).shape == (4, 2, 3)
    assert p.entropy().shape == (2,)
    assert repr(p) == "SphericalUniform(dim: 3, batch_shape: (2,))"
    with pytest.raises(ConfigError, match="at least 2"):
        SphericalUniform(1)
