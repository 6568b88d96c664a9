"""Likelihoods of images against torch, scipy, quadrature and the released code's values."""

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
from torch.distributions import Bernoulli, ContinuousBernoulli, Independent, Normal

from cognates.distributions import (
    BernoulliImage,
    ContinuousBernoulliImage,
    ImageLikelihood,
    NormalImage,
    TemperedBernoulliImage,
)
from cognates.errors import ConfigError
from cognates.random import generator

F64 = torch.float64
KINDS = {
    "bernoulli": BernoulliImage,
    "tempered": lambda logits: TemperedBernoulliImage(logits, 0.3),
    "continuous": ContinuousBernoulliImage,
    "normal": lambda logits: NormalImage(logits, 0.02),
}


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    gen = generator(seed, "images")
    logits = 2 * torch.randn(2, 5, 3, 4, 4, generator=gen, dtype=F64)
    return logits, torch.rand(2, 5, 3, 4, 4, generator=gen, dtype=F64)


def test_bernoulli_and_normal_are_torchs():
    logits, x = inputs()
    binary = (x > 0.5).to(F64)
    bernoulli = Independent(Bernoulli(logits=logits), 3)
    normal = Independent(Normal(logits.sigmoid(), math.sqrt(0.02)), 3)
    kind = {"rtol": 1e-13, "atol": 0.0}
    found = BernoulliImage(logits).log_prob(binary)
    assert found.shape == (2, 5)
    torch.testing.assert_close(found, bernoulli.log_prob(binary), **kind)
    torch.testing.assert_close(NormalImage(logits, 0.02).log_prob(x), normal.log_prob(x), **kind)
    assert (NormalImage(logits, 0.02).variance == 0.02).all()
    torch.testing.assert_close(BernoulliImage(logits).mean, logits.sigmoid())


def test_the_continuous_bernoulli_is_torchs_away_from_one_half():
    logits, x = inputs()
    logits = torch.where(logits.abs() < 0.2, torch.full_like(logits, 0.7), logits)
    theirs = ContinuousBernoulli(logits=logits)  # a Taylor series of two terms near one half
    ours = ContinuousBernoulliImage(logits)
    torch.testing.assert_close(
        ours.log_prob(x), theirs.log_prob(x).sum((-3, -2, -1)), rtol=1e-11, atol=0
    )
    torch.testing.assert_close(ours.mean, theirs.mean, rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    "logit", [-40.0, -3.0, -0.1, -0.0999, -1e-3, 0.0, 1e-8, 0.05, 0.1001, 2.0, 60.0]
)
def test_the_continuous_bernoulli_integrates_to_one_and_has_its_mean(logit):
    p = ContinuousBernoulliImage(torch.full((1, 1, 1), logit, dtype=F64))

    def density(x: float) -> float:
        return math.exp(p.log_prob(torch.full((1, 1, 1), x, dtype=F64)).item())

    points = [1 / (1 + abs(logit)), 1 - 1 / (1 + abs(logit))]
    total, _ = quad(density, 0, 1, points=points, epsabs=1e-13)
    first, _ = quad(lambda x: x * density(x), 0, 1, points=points, epsabs=1e-13)
    assert total == pytest.approx(1, abs=1e-11)
    assert p.mean.item() == pytest.approx(first, abs=1e-11)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(logit=st.floats(-0.2, 0.2))
def test_the_continuous_normaliser_is_smooth_where_its_series_ends(logit):
    leaf = torch.full((1, 1, 1), logit, dtype=F64, requires_grad=True)
    value = ContinuousBernoulliImage(leaf).log_normaliser()
    (slope,) = torch.autograd.grad(value, leaf)
    # d/dl log(l / tanh(l/2)) = 1/l - 1/sinh(l), here by its series
    expected = -(logit / 6 - 7 * logit**3 / 360 + 31 * logit**5 / 15120)
    assert slope.item() == pytest.approx(expected, abs=1e-8)


def test_the_tempered_form_is_the_bernoulli_divided_by_its_temperature():
    logits, x = inputs()
    plain = BernoulliImage(logits).log_prob(x)
    torch.testing.assert_close(TemperedBernoulliImage(logits, 1.0).log_prob(x), plain)
    torch.testing.assert_close(TemperedBernoulliImage(logits, 0.25).log_prob(x), 4 * plain)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pass_gradcheck_and_are_finite_for_black_white_and_sure_pixels(kind):
    logits, x = inputs()
    leaf = logits[0, :2, :, :2, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda leaf: KINDS[kind](leaf).log_prob(x[0, :2, :, :2, :2]), [leaf]
    )
    for dtype in (torch.float32, torch.bfloat16):
        sure = torch.tensor([-90.0, 0.0, 90.0], dtype=dtype).view(1, 1, 3).requires_grad_()
        for value in (0.0, 1.0):
            found = KINDS[kind](sure).log_prob(torch.full((1, 1, 3), value))
            (slope,) = torch.autograd.grad(found, sure)
            assert found.dtype == torch.float32
            assert found.isfinite()
            assert slope.isfinite().all()


def test_a_learnt_variance_has_its_optimum_at_the_mean_squared_error():
    logits, x = inputs()
    log_variance = torch.zeros((), dtype=F64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_variance], line_search_fn="strong_wolfe", max_iter=50)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = -NormalImage(logits, log_variance.exp()).log_prob(x).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    best = (x - logits.sigmoid()).square().mean().item()
    assert log_variance.exp().item() == pytest.approx(best, rel=1e-6)


def test_sizes_axes_and_ranges_that_do_not_fit_are_refused():
    logits, x = inputs()
    for value in (x[..., :3, :3], x.transpose(0, 1), x[0]):
        with pytest.raises(ConfigError, match="decoder's shape"):
            BernoulliImage(logits).log_prob(value)
    with pytest.raises(ConfigError, match="temperature above 0"):
        TemperedBernoulliImage(logits, 0.0)
    with pytest.raises(ConfigError, match="variance above 0"):
        NormalImage(logits, -1.0)
    with pytest.raises(ConfigError, match=r"\(\.\.\., c, h, w\)"):
        inspect.unwrap(ImageLikelihood.__init__)(BernoulliImage(logits), logits[0, 0, 0])


def test_the_released_codes_reconstruction_terms_are_reproduced(shared):
    cases = json.loads((shared / "golden" / "simve.json").read_text())["cases"]
    assert len(cases) == 3
    for case in cases:
        n, v, d, pixels = (case[key] for key in ("G", "J", "D", "P"))
        random = np.random.default_rng(case["seed"])
        random.standard_normal((2, n * v, d))  # z and the log variances
        x = torch.from_numpy(random.random((n * v, 3, 2, pixels // 6)))
        logits = torch.from_numpy(random.standard_normal((n * v, 3, 2, pixels // 6)))
        binary = torch.from_numpy(random.random((n * v, 3, 2, pixels // 6)) > 0.5).to(F64)
        assert x[0].flatten()[:3].tolist() == pytest.approx(case["x_row0_first3"], rel=1e-14)
        variance = math.exp(case["log_var_x"])
        squared = NormalImage(logits, variance).energy(x).sum().item()
        assert squared == pytest.approx(case["official_head_recon_loss_mse"], rel=1e-10)
        crossed = TemperedBernoulliImage(logits, variance).energy(binary).sum().item()
        assert crossed == pytest.approx(case["official_head_recon_loss_bce"], rel=1e-10)
