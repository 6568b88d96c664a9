"""What is known of VI-SimSiam's loss as a function of one cosine and one concentration."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import brentq

from cognates.distributions import concentration_score, log_area, von_mises_fisher
from cognates.objectives import vi_simsiam

F64 = torch.float64
COSINES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99)
# The best concentration by dimension, (d-1) s/(1-s) + 1/2 to one decimal.
BEST = {
    128: (14.6, 54.9, 127.5, 296.8, 1143.5, 2413.5, 12573.5),
    512: (57.3, 219.5, 511.5, 1192.8, 4599.5, 9709.5, 50589.5),
    2048: (227.9, 877.8, 2047.5, 4776.8, 18423.5, 38893.5, 202653.5),
}
WEIGHT = (0.10, 0.33, 0.67, 1.37, 4.74, 9.74, 49.7)


def pair(d: int, s: float) -> tuple[torch.Tensor, torch.Tensor]:
    mu, t = torch.zeros(2, 1, d, dtype=F64).unbind(0)
    mu[0, 0], t[0, 0], t[0, 1] = 1, s, math.sqrt(1 - s * s)
    return mu.expand(2, 1, d), t.expand(2, 1, d)


def loss(d: int, s: float, kappa: torch.Tensor, family: str = "power-spherical") -> torch.Tensor:
    mu, t = pair(d, s)
    terms = vi_simsiam(mu, kappa.expand(2, 1), t, family=family, per_dimension=False)
    return terms["alignment"]


def slope(kappa: float, d: int, s: float, family: str = "power-spherical") -> float:
    k = torch.tensor(kappa, dtype=F64, requires_grad=True)
    loss(d, s, k, family).backward()
    assert k.grad is not None
    return k.grad.item()


def minimiser(d: int, s: float, family: str = "power-spherical") -> float:
    guess = (d - 1) * s / (1 - s) + 1
    return brentq(slope, guess / 4, 4 * guess, args=(d, s, family), xtol=1e-9, rtol=1e-14)


@pytest.mark.parametrize(("d", "bound"), [(8, 0.02), (128, 1e-3), (512, 1e-3), (2048, 1e-3)])
@pytest.mark.parametrize("s", COSINES)
def test_the_best_concentration_is_the_odds_of_the_cosine_times_d_minus_one(d, bound, s):
    best = minimiser(d, s)
    assert best == pytest.approx((d - 1) * s / (1 - s) + 0.5, abs=bound)
    if d in BEST:
        assert best == pytest.approx(BEST[d][COSINES.index(s)], abs=0.0501 + bound)
    # There the expected cosine is the cosine, up to O(1/d).
    c = 1 - concentration_score(torch.tensor(best, dtype=F64), dim=d).item()
    assert c == pytest.approx(s, abs=1 / d)


@pytest.mark.parametrize("d", [8, 128, 2048])
@pytest.mark.parametrize("s", COSINES)
def test_the_loss_at_the_best_concentration_is_the_stated_profile(d, s):
    value = loss(d, s, torch.tensor(minimiser(d, s), dtype=F64)).item() - log_area(d)
    assert value == pytest.approx((d - 1) / 2 * math.log(1 - s * s) - math.log1p(s) / 2, abs=0.02)


def test_the_profile_at_d_2048_and_a_cosine_of_nine_tenths_has_its_value():
    value = loss(2048, 0.9, torch.tensor(minimiser(2048, 0.9), dtype=F64)).item()
    assert value - log_area(2048) == pytest.approx(-1700.08, abs=0.005)
    assert 2047 / 2 * math.log(1 - 0.81) == pytest.approx(-1699.76, abs=0.005)


@pytest.mark.parametrize("d", [8, 128, 2048])
def test_the_best_concentration_is_zero_below_the_threshold(d):
    threshold = -1 / (2 * (d - 1))
    # 1.3 and 0.7: the threshold is a leading order in 1/d.
    above, below = 0.7 * threshold, 1.3 * threshold
    assert slope(0.0, d, above) < 0
    # The loss is a mean over images: one image per concentration gives all slopes at once.
    grid = torch.cat([torch.zeros(1), torch.logspace(-3, math.log10(20 * d), 40)]).to(F64)
    assert len(grid) == 41
    k = grid.requires_grad_()
    mu, t = (x.expand(2, 41, d) for x in pair(d, below))
    vi_simsiam(mu, k.expand(2, 41), t)["alignment"].backward()
    assert k.grad is not None
    assert (k.grad > 0).all()
    # So a concentration that may not be negative runs to 0 by gradient steps.
    kappa = 1.0
    for _ in range(40):
        kappa = max(0.0, kappa - d * slope(kappa, d, -0.5))
    assert kappa == 0.0


@pytest.mark.parametrize(("s", "weight"), list(zip(COSINES, WEIGHT, strict=True)))
def test_an_adapted_concentration_weights_pairs_by_s_over_1_minus_s_squared(s, weight):
    d = 2048
    p = torch.zeros(2, 1, d, dtype=F64)
    p[:, 0, 0] = 1
    p.requires_grad_()
    _, t = pair(d, s)
    best = torch.full((2, 1), minimiser(d, s), dtype=F64)
    vi_simsiam(p, best, t)["alignment"].backward()
    assert p.grad is not None
    # Both directions together; the tangent part of t has length sqrt(1 - s^2).
    felt = p.grad.norm(dim=-1).sum().item() / math.sqrt(1 - s * s)
    assert felt == pytest.approx(s / (1 - s * s), rel=5e-3)
    assert felt == pytest.approx(weight, rel=8e-3, abs=6e-3)


def test_von_mises_fisher_is_locally_power_spherical_with_kappa_over_one_plus_s():
    best = brentq(
        lambda k: von_mises_fisher.mean_cosine(torch.tensor(k, dtype=F64), dim=2048).item() - 0.9,
        1e3,
        1e5,
    )
    assert best == pytest.approx(9697, abs=1)
    assert minimiser(2048, 0.9) / 1.9 == pytest.approx(9697, abs=1)
    assert slope(best, 2048, 0.9, "von-mises-fisher") == pytest.approx(0, abs=1e-9)


def test_the_slope_near_concentration_zero_is_almost_free_of_the_dimension():
    for s in (0.3, 0.7):
        for d in (128, 2048):
            assert slope(0.0, d, s) == pytest.approx(-math.log1p(s), abs=0.005)


def test_the_loss_falls_without_limit_as_views_collapse():
    values = []
    for gap in (1e-2, 1e-4, 1e-6):
        best = torch.tensor(127 * (1 - gap) / gap + 0.5, dtype=F64)
        values.append(loss(128, 1 - gap, best).item())
    assert values[0] > values[1] > values[2]
    # Each hundredth of the gap is worth (d-1)/2 log 100.
    assert values[1] - values[2] == pytest.approx(127 / 2 * math.log(100), rel=1e-3)
