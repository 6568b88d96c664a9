"""Diagonal and group normals against scipy, quadrature, samples and the released code's values."""

from __future__ import annotations

import inspect
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm
from torch.distributions import Independent, Normal, kl_divergence

from cognates.distributions import DiagonalNormal, GroupNormal
from cognates.errors import ConfigError
from cognates.random import generator

F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed, "normal"), dtype=F64)


def dense(views: int, dim: int, within: float, between: float) -> np.ndarray:
    """The covariance of the v d coordinates, views first."""
    one = within * np.eye(views) + between * np.ones((views, views))
    return np.kron(one, np.eye(dim))


def test_a_diagonal_normal_is_torchs_independent_normal():
    loc, log_variance, z = drawn(3, 4, 5).unbind(0)
    q, other = (DiagonalNormal(m, s) for m, s in ((loc, log_variance), (z, 0.5 * loc)))
    ours, theirs = (Independent(Normal(p.mean, (p.log_variance / 2).exp()), 1) for p in (q, other))
    kind = {"rtol": 1e-13, "atol": 1e-13}
    torch.testing.assert_close(q.log_prob(z), ours.log_prob(z), **kind)
    torch.testing.assert_close(q.entropy(), ours.entropy(), **kind)
    torch.testing.assert_close(q.variance, ours.variance, **kind)
    torch.testing.assert_close(kl_divergence(q, other), kl_divergence(ours, theirs), **kind)
    assert (q.batch_shape, q.event_shape) == ((4,), (5,))
    wide = q.expand((2, 4))
    assert isinstance(wide, DiagonalNormal)
    torch.testing.assert_close(wide.log_prob(z)[1], q.log_prob(z), **kind)


def test_the_divergence_of_nearly_equal_normals_keeps_its_digits():
    loc = drawn(6)
    p = DiagonalNormal(loc, torch.zeros(6, dtype=F64))
    q = DiagonalNormal(loc, torch.full((6,), 1e-7, dtype=F64))
    # t^2/4 per coordinate for t -> 0, and the next term is t/3 of it
    assert kl_divergence(p, q).item() == pytest.approx(6 * 1e-14 / 4, rel=1e-6)
    assert kl_divergence(p, p).item() == 0
    with pytest.raises(ConfigError, match="one dimension, got 6 and 5"):
        kl_divergence(p, DiagonalNormal(loc[:5], loc[:5]))


def test_draws_of_a_diagonal_normal_have_its_moments_and_carry_its_gradient():
    q = DiagonalNormal(*drawn(2, 3).requires_grad_().unbind(0))
    z = q.sample((40_000,), generator=generator(0, "draws"))
    assert not z.requires_grad
    error = 4 / math.sqrt(40_000)
    assert ((z.mean(0) - q.mean).abs() < error * q.variance.sqrt()).all()
    assert ((z.var(0) / q.variance - 1).abs() < error * math.sqrt(2)).all()
    noise = drawn(7, 3)
    placed = q.place(noise)
    torch.testing.assert_close(placed, q.mean + q.variance.sqrt() * noise)
    assert q.rsample((2,)).requires_grad


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    views=st.integers(1, 8),
    dim=st.integers(1, 5),
    within=st.floats(1e-3, 1e2),
    between=st.one_of(st.just(0.0), st.floats(1e-3, 1e3)),
    scale=st.floats(0.01, 10),
)
def test_the_closed_form_is_scipys_multivariate_normal(seed, views, dim, within, between, scale):
    z = scale * drawn(2, views, dim, seed=seed)
    p = GroupNormal(views, dim, within=within, between=between)
    expected = multivariate_normal(cov=dense(views, dim, within, between)).logpdf(
        z.reshape(2, -1).numpy()
    )
    torch.testing.assert_close(
        p.log_prob(z), torch.from_numpy(np.atleast_1d(expected)), rtol=1e-8, atol=1e-8
    )
    entropy = multivariate_normal(cov=dense(views, dim, within, between)).entropy()
    assert p.entropy().item() == pytest.approx(float(entropy), rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("views", [1, 2, 3, 6])
@pytest.mark.parametrize("within", [0.15, 1.0, 3.0])
def test_the_flat_prior_is_the_integral_over_the_common_mean(views, within):
    z = drawn(views, 1, seed=views)
    found = GroupNormal(views, 1, within=within, between=math.inf).log_prob(z).item()
    middle, deviation = z.mean().item(), math.sqrt(within)

    def joint(psi: float) -> float:
        return float(np.prod(norm.pdf(z.numpy(), loc=psi, scale=deviation)))

    integral, _ = quad(joint, middle - 12 * deviation, middle + 12 * deviation, epsabs=1e-14)
    assert found == pytest.approx(math.log(integral), abs=1e-9)


def test_the_normal_prior_is_the_integral_over_the_common_mean():
    z = drawn(3, 1)
    found = GroupNormal(3, 1, within=0.4, between=0.7).log_prob(z).item()

    def joint(psi: float) -> float:
        density = float(np.prod(norm.pdf(z.numpy(), loc=psi, scale=math.sqrt(0.4))))
        return density * float(norm.pdf(psi, scale=math.sqrt(0.7)))

    integral, _ = quad(joint, -12, 12, epsabs=1e-14)
    assert found == pytest.approx(math.log(integral), abs=1e-9)


@pytest.mark.parametrize("views", [1, 2, 5])
def test_the_flat_prior_is_the_limit_of_a_wide_one(views):
    z, dim = drawn(4, views, 3), 3
    flat = GroupNormal(views, dim, within=0.3, between=math.inf).log_prob(z)
    for between, error in ((1e4, 1e-2), (1e8, 1e-6)):
        wide = GroupNormal(views, dim, within=0.3, between=between).log_prob(z)
        volume = dim / 2 * math.log(2 * math.pi * between)
        torch.testing.assert_close(wide + volume, flat, rtol=0, atol=error)


def test_one_view_with_variances_that_add_to_one_is_the_standard_normal():
    z = drawn(6, 1, 4)
    p = GroupNormal(1, 4, within=0.15, between=0.85)
    standard = DiagonalNormal(torch.zeros(4, dtype=F64), torch.zeros(4, dtype=F64))
    torch.testing.assert_close(p.log_prob(z), standard.log_prob(z[:, 0]), rtol=1e-13, atol=0)
    flat = GroupNormal(1, 4, within=0.15, between=math.inf)
    assert (flat.log_prob(z) == 0).all()


def test_two_views_are_pulled_by_their_squared_distance_over_four_variances():
    z = drawn(2, 5)
    pull = GroupNormal(2, 5, within=0.3, between=math.inf)
    same = z.mean(0).expand(2, 5)
    found = pull.log_prob(z) - pull.log_prob(same)
    torch.testing.assert_close(found, -(z[0] - z[1]).square().sum() / (4 * 0.3))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    views=st.integers(2, 10),
    between=st.sampled_from([0.0, 0.925, math.inf]),
)
def test_the_density_forgets_the_order_of_views_and_a_flat_prior_a_common_shift(
    seed, views, between
):
    z = drawn(3, views, 4, seed=seed)
    p = GroupNormal(views, 4, within=0.15, between=between)
    order = torch.randperm(views, generator=generator(seed, "order"))
    torch.testing.assert_close(p.log_prob(z[:, order]), p.log_prob(z), rtol=1e-12, atol=1e-12)
    rotation = torch.linalg.qr(drawn(4, 4, seed=seed)).Q
    torch.testing.assert_close(p.log_prob(z @ rotation), p.log_prob(z), rtol=1e-11, atol=1e-11)
    moved = p.log_prob(z + drawn(3, 1, 4, seed=seed + 1))
    same = torch.allclose(moved, p.log_prob(z), rtol=1e-10, atol=1e-10)
    assert same == p.flat


@pytest.mark.parametrize("between", [0.0, 0.925, 4.0, math.inf])
def test_autograd_gives_the_stated_gradient_and_gradcheck_passes(between):
    v, within = 3, 0.15
    z = drawn(2, v, 4).requires_grad_()
    p = GroupNormal(v, 4, within=within, between=between)
    (slope,) = torch.autograd.grad(-p.log_prob(z).sum(), z)
    centre = z.detach().mean(1, keepdim=True)
    expected = (z.detach() - centre) / within
    if not p.flat:
        expected = expected + centre / (within + v * between)
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(p.log_prob, [z])
    assert torch.autograd.gradgradcheck(p.log_prob, [z])


@pytest.mark.parametrize("between", [0.0, 0.925, math.inf])
def test_the_expected_log_density_is_the_mean_over_draws_of_the_posterior(between):
    q = DiagonalNormal(*drawn(2, 3, 2, seed=3).unbind(0))  # three views, two coordinates
    p = GroupNormal(3, 2, within=0.5, between=between)
    values = p.log_prob(q.sample((60_000,), generator=generator(1, "draws")))
    error = 4 * values.std().item() / math.sqrt(60_000)
    assert p.expected_log_prob(q).item() == pytest.approx(values.mean().item(), abs=error)
    sharp = DiagonalNormal(q.mean, torch.full((3, 2), -60.0, dtype=F64))
    torch.testing.assert_close(p.expected_log_prob(sharp), p.log_prob(q.mean), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("views", "between"), [(1, 0.5), (3, 0.7), (3, 4.0)])
def test_the_common_mean_given_its_views_is_what_conditioning_gives(views, between):
    within, z = 0.3, drawn(views, 2)
    found = GroupNormal(views, 2, within, between).common_mean(z)
    whole = within * np.eye(views) + between * np.ones((views, views))  # of the views
    across = between * np.ones(views)  # of psi with the views
    mean = across @ np.linalg.solve(whole, z.numpy())
    variance = between - across @ np.linalg.solve(whole, across)
    np.testing.assert_allclose(found.mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(found.variance.numpy(), np.full(2, variance), rtol=1e-12)
    flat = GroupNormal(views, 2, within, math.inf).common_mean(z)
    wide = GroupNormal(views, 2, within, 1e9).common_mean(z)
    torch.testing.assert_close(flat.mean, wide.mean, rtol=1e-8, atol=0)
    torch.testing.assert_close(flat.variance, wide.variance, rtol=1e-8, atol=0)
    with pytest.raises(ConfigError, match="above 0, got 0"):
        GroupNormal(views, 2, within, 0.0).common_mean(z)


def test_draws_of_a_group_have_its_covariance():
    p = GroupNormal(3, 2, within=0.3, between=0.7)
    z = p.rsample((50_000,), generator=generator(2, "draws"))
    assert z.shape == (50_000, 3, 2)
    found = np.cov(z.reshape(50_000, -1).numpy().T)
    # four standard errors of a covariance between unit-variance variables
    np.testing.assert_allclose(found, dense(3, 2, 0.3, 0.7), atol=4 * math.sqrt(2 / 50_000))
    with pytest.raises(ConfigError, match="flat prior"):
        GroupNormal(3, 2, between=math.inf).rsample()
    assert GroupNormal(3, 2, between=math.inf).entropy() == math.inf


def test_an_expanded_group_density_draws_and_measures_one_group_for_each_of_its_batch():
    one = GroupNormal(2, 3, 0.15, 0.925)
    wide = one.expand((5,))
    assert (wide.batch_shape, wide.event_shape) == ((5,), (2, 3))
    for draw in (wide.sample, wide.rsample):
        z = draw((4,))
        assert draw().shape == (5, 2, 3)
        assert z.shape == (4, 5, 2, 3)
        assert len(z.unique()) == z.numel()  # every group has numbers of its own
    assert torch.equal(wide.log_prob(z), one.log_prob(z))
    assert wide.log_prob(z).shape == (4, 5)
    assert torch.equal(wide.entropy(), one.entropy().expand(5))
    assert one.entropy().shape == ()
    assert torch.equal(
        GroupNormal(2, 3, 0.15, math.inf).expand((5,)).entropy(), torch.full((5,), math.inf)
    )


def test_numbers_out_of_range_and_views_on_another_axis_are_refused():
    for settings_, sentence in (
        ({"views": 0, "dim": 2}, "at least one view"),
        ({"views": 2, "dim": 0}, "and one dimension"),
        ({"views": 2, "dim": 2, "within": 0.0}, "'within' above 0"),
        ({"views": 2, "dim": 2, "within": math.inf}, "'within' above 0"),
        ({"views": 2, "dim": 2, "between": -1.0}, "'between' of at least 0"),
        ({"views": 2, "dim": 2, "between": math.nan}, "'between' of at least 0"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            GroupNormal(**settings_)
    log_prob = inspect.unwrap(GroupNormal.log_prob)
    with pytest.raises(ConfigError, match="last axis but one"):
        log_prob(GroupNormal(2, 4), drawn(2, 6, 4))  # view-major where n is not v
    with pytest.raises(ConfigError, match=r"\(\.\.\., 2, 4\)"):
        log_prob(GroupNormal(2, 4), drawn(2, 5))
    with pytest.raises(ConfigError, match="got a scalar"):
        DiagonalNormal(torch.zeros(()), torch.zeros(()))
    with pytest.raises(ValueError, match="log_variance"):
        DiagonalNormal(torch.zeros(2), torch.tensor([0.0, math.nan]))


def test_half_precision_is_computed_in_float32():
    assert GroupNormal(2, 3).log_prob(torch.ones(2, 3).bfloat16()).dtype == torch.float32
    assert GroupNormal(2, 3).log_prob(torch.ones(2, 3, dtype=F64)).dtype == F64
    assert DiagonalNormal(torch.zeros(3).bfloat16(), torch.zeros(3)).entropy().dtype == (
        torch.float32
    )


def test_identical_views_far_from_the_origin_lose_no_digits_in_float32():
    z = torch.full((2, 3), 1000.0)
    flat = GroupNormal(2, 3, within=1e-3, between=math.inf)
    # sum z^2 - v zbar^2 would be wrong by about one here: 3e6 times 6e-8, over 2e-3
    assert flat.log_prob(z) == flat.log_prob(torch.zeros(2, 3))


def test_the_released_codes_exact_densities_are_reproduced(shared):
    cases = json.loads((shared / "golden" / "simve.json").read_text())["cases"]
    assert [case["seed"] for case in cases] == [0, 1, 3]
    for case in cases:
        n, v, d, within = (case[key] for key in ("G", "J", "D", "var_z_y"))
        z = torch.from_numpy(np.random.default_rng(case["seed"]).standard_normal((n * v, d)))
        assert z[0, :3].tolist() == pytest.approx(case["z_row0_first3"], rel=1e-14)
        for key, between in (
            ("exact_logp_scipy_gamma2eq", 1 - within / v),
            ("exact_logp_gamma2_1", 1.0),
            ("exact_logp_gamma2_4", 4.0),
            ("exact_logp_flat_prior", math.inf),
        ):
            found = GroupNormal(v, d, within=within, between=between).log_prob(z.view(n, v, d))
            assert found.sum().item() == pytest.approx(case[key], rel=1e-10)
