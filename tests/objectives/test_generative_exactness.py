"""Where the bound can be known: a linear decoder with orthogonal columns and normal noise.

x^j = W z^j + b + e with W'W diagonal: given its image each latent has independent coordinates, but
the v latents of a group stay correlated through their common mean. So the best posterior of an
encoder is exact for one view and not for more, and both cases have closed forms.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from cognates.distributions import DiagonalNormal, GroupNormal, NormalImage
from cognates.objectives import elbo, group_elbo, importance_weighted_bound
from cognates.random import generator

F64 = torch.float64
D, SHAPE, PIXELS = 3, (1, 2, 4), 8
NOISE = 0.004  # variance of a pixel


class Linear:
    """A decoder x = W z + b whose columns are orthogonal and of different lengths."""

    def __init__(self, views: int, within: float, between: float) -> None:
        gen = generator(0, "linear")
        columns = torch.linalg.qr(torch.randn(PIXELS, D, generator=gen, dtype=F64)).Q
        self.weight = columns * torch.tensor([0.08, 0.05, 0.02], dtype=F64)
        self.prior = GroupNormal(views, D, within=within, between=between)
        self.views = views
        # of the v d coordinates, views first
        one = within * np.eye(views) + between * np.ones((views, views))
        self.covariance = np.kron(one, np.eye(D))
        self.wide = np.kron(np.eye(views), self.weight.numpy())

    def images(self) -> torch.Tensor:
        """(v, PIXELS): one group."""
        z = torch.randn(self.views, D, generator=generator(1, "z"), dtype=F64)
        noise = torch.randn(self.views, PIXELS, generator=generator(2, "e"), dtype=F64)
        return z @ self.weight.T + 0.5 + math.sqrt(NOISE) * noise

    def log_likelihood(self, x: torch.Tensor) -> float:
        covariance = self.wide @ self.covariance @ self.wide.T + NOISE * np.eye(len(self.wide))
        middle = np.full(len(self.wide), 0.5)
        return float(multivariate_normal(middle, covariance).logpdf(x.numpy().reshape(-1)))

    def exact_posterior(self, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Mean (v d) and precision of p(z | x)."""
        precision = np.linalg.inv(self.covariance) + self.wide.T @ self.wide / NOISE
        shifted = self.wide.T @ (x.numpy().reshape(-1) - 0.5) / NOISE
        return np.linalg.solve(precision, shifted), precision

    def likelihood(self, z: torch.Tensor) -> NormalImage:
        drawn = z @ self.weight.T + 0.5
        assert bool(((drawn > 0) & (drawn < 1)).all())  # else the sigmoid could not draw it
        return NormalImage(drawn.logit().unflatten(-1, SHAPE), NOISE)

    def loss(self, x: torch.Tensor, mean: torch.Tensor, s: torch.Tensor) -> float:
        """The objective's expectation over the posterior (v, d) of one group, exactly.

        The integrand is quadratic in z, so its mean over the 2 v d points m +- sqrt(v d) sigma_k
        e_k is its expectation: each point is one group of a batch.
        """
        size = self.views * D
        steps = math.sqrt(size) * torch.diag((s / 2).exp().reshape(-1))
        z = mean.reshape(-1) + torch.cat([steps, -steps])
        z = z.reshape(2 * size, self.views, D).transpose(0, 1)
        rows = {"mean": mean, "s": s}
        wide = [part[:, None].expand(self.views, 2 * size, D) for part in rows.values()]
        images = x[:, None].expand(self.views, 2 * size, PIXELS).unflatten(-1, SHAPE)
        terms = group_elbo(
            images, self.likelihood(z), DiagonalNormal(*wide), z.contiguous(), prior=self.prior
        )
        closed = group_elbo(
            images, self.likelihood(z), DiagonalNormal(*wide), None, prior=self.prior
        )
        torch.testing.assert_close(closed["prior"], terms["prior"], rtol=1e-11, atol=1e-11)
        return sum(value.item() for value in terms.values())


def divergence(mean: np.ndarray, variance: np.ndarray, m: np.ndarray, k: np.ndarray) -> float:
    """KL(N(mean, diag variance) || N(m, inverse of k))."""
    moved = (mean - m) @ k @ (mean - m)
    log_ratio = -np.linalg.slogdet(k)[1] - np.log(variance).sum()
    return 0.5 * float((np.diag(k) * variance).sum() + moved - len(mean) + log_ratio)


@pytest.mark.parametrize(("within", "between"), [(0.15, 0.85), (0.4, 2.0)])
def test_one_view_with_its_exact_posterior_reaches_the_likelihood(within, between):
    model = Linear(1, within, between)
    x = model.images()
    mean, precision = model.exact_posterior(x)
    assert np.abs(precision - np.diag(np.diag(precision))).max() < 1e-10  # orthogonal columns
    s = torch.from_numpy(-np.log(np.diag(precision))).view(1, D)
    loss = model.loss(x, torch.from_numpy(mean).view(1, D), s)
    assert -loss == pytest.approx(model.log_likelihood(x), abs=1e-6)


@pytest.mark.parametrize("views", [2, 3, 5])
@pytest.mark.parametrize(("within", "between"), [(0.15, 0.9), (1.0, 0.5)])
def test_more_views_fall_short_by_the_divergence_from_the_exact_posterior(views, within, between):
    model = Linear(views, within, between)
    x = model.images()
    mean, precision = model.exact_posterior(x)
    variance = 1 / np.diag(precision)  # the factorised normal nearest to the exact posterior
    gap = divergence(mean, variance, mean, precision)
    assert gap > 1e-2
    s = torch.from_numpy(np.log(variance)).view(views, D)
    loss = model.loss(x, torch.from_numpy(mean).view(views, D), s)
    assert loss + model.log_likelihood(x) == pytest.approx(gap, abs=1e-9)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), views=st.integers(1, 4))
def test_any_posterior_falls_short_by_its_divergence(seed, views):
    model = Linear(views, 0.3, 0.7)
    x = model.images()
    gen = generator(seed, "posterior")
    mean = 0.5 * torch.randn(views, D, generator=gen, dtype=F64)
    s = 0.5 * torch.randn(views, D, generator=gen, dtype=F64) - 2
    gap = divergence(
        mean.numpy().reshape(-1), s.exp().numpy().reshape(-1), *model.exact_posterior(x)
    )
    assert model.loss(x, mean, s) + model.log_likelihood(x) == pytest.approx(gap, rel=1e-9)


def log_weights(model, x, z, q):
    drawn = z @ model.weight.T + 0.5
    pixels = torch.distributions.Normal(drawn, math.sqrt(NOISE)).log_prob(x[:, None, None])
    return pixels.sum((0, -1)) + model.prior.log_prob(z.movedim(0, -2)) - q.log_prob(z).sum(0)


def test_the_importance_weighted_bound_rises_towards_the_likelihood():
    views, draws, repeats = 2, 64, 4000
    model = Linear(views, 0.3, 0.7)
    x = model.images()
    mean, precision = model.exact_posterior(x)
    s = torch.from_numpy(-np.log(np.diag(precision))).view(views, 1, 1, D)
    q = DiagonalNormal(torch.from_numpy(mean).view(views, 1, 1, D), s).expand(
        (views, draws, repeats)
    )
    z = q.rsample(generator=generator(5, "draws"))
    weights = log_weights(model, x, z, q)
    bounds = importance_weighted_bound(weights)
    assert bounds.shape == (draws, repeats)
    exact = model.log_likelihood(x)
    previous, gaps = None, []
    for k in (1, 2, 4, 8, 16, 32, 64):
        bound = bounds[k - 1]
        gaps.append(exact - bound.mean().item())
        if previous is not None:
            rise = bound - previous  # paired: the first draws are the same
            assert rise.mean() > -4 * rise.std() / math.sqrt(repeats)
        previous = bound
    error = 4 * bounds[0].std().item() / math.sqrt(repeats)
    expected = divergence(mean, 1 / np.diag(precision), mean, precision)
    assert gaps[0] == pytest.approx(expected, abs=error)
    assert gaps[-1] < gaps[0] / 8
    whole = weights.logsumexp(0) - math.log(draws)
    torch.testing.assert_close(bounds[-1], whole)


@pytest.mark.parametrize("views", [2, 6, 10])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("parity", [None, "head"])
def test_a_dimension_that_the_decoder_ignores_gets_the_stated_variance(views, flat, parity):
    within = 0.15
    between = math.inf if flat else 1 - within / views
    weight = 1.0 if parity is None else 2 * math.pi  # of the entropy, in the released head
    pull = (views - 1) / within + (0.0 if flat else 1 / (within + views * between))
    expected = weight * views / pull
    if not flat:  # the specification's table
        table = {2: (0.279, 1.753), 6: (0.179, 1.125), 10: (0.166, 1.045)}
        assert expected == pytest.approx(table[views][parity is not None], abs=6e-4)
    s = torch.full((views, 1, 1), math.log(expected), dtype=F64, requires_grad=True)
    blank = torch.zeros(views, 1, 1, 1, 1, dtype=F64)

    def slope(shift: float) -> torch.Tensor:
        terms = group_elbo(
            blank,
            NormalImage(blank, 1.0),
            DiagonalNormal(torch.zeros_like(s), s + shift),
            None,
            prior=GroupNormal(views, 1, within=within, between=between),
            parity=parity,
        )
        return torch.autograd.grad(sum(terms.values()), s)[0]

    torch.testing.assert_close(slope(0.0), torch.zeros_like(s), rtol=0, atol=1e-12)
    assert (slope(-0.1) < 0).all()
    assert (slope(0.1) > 0).all()


def test_the_vaes_bound_with_one_coordinate_is_reached_by_its_exact_posterior():
    model = Linear(1, 0.15, 0.85)  # variances that add to one: the standard normal
    x = model.images()
    mean, precision = model.exact_posterior(x)
    s = torch.from_numpy(-np.log(np.diag(precision))).view(1, D)
    centre = torch.from_numpy(mean).view(1, D)
    steps = math.sqrt(D) * torch.diag((s / 2).exp().reshape(-1))
    z = (centre + torch.cat([steps, -steps]))[None]
    q = DiagonalNormal(centre[:, None].expand(1, 6, D), s[:, None].expand(1, 6, D))
    images = x[:, None].expand(1, 6, PIXELS).unflatten(-1, SHAPE)
    for given_z in (z, None):
        terms = elbo(images, model.likelihood(z), q, given_z)
        loss = sum(value.item() for value in terms.values())
        assert -loss == pytest.approx(model.log_likelihood(x), abs=1e-6)
