"""NT-Xent's known minimum, a regular simplex with equal views, and limits of its temperature.

With cosines c, P the mean of positive ones and N of negative ones over all 2n points of two views,
0 <= |sum of points|^2 = 2n + 2n P + 4n (n - 1) N, so N - P >= -n/(n - 1) as P <= 1. log(1 + sum
exp) and log sum exp are convex, so by Jensen's inequality the mean over the points is at least

    NT-Xent     log(1 + 2 (n - 1) exp(-n / ((n - 1) tau)))
    decoupled   log(2 (n - 1)) - n / ((n - 1) tau)

with equality where all positives are 1 and all negatives -1/(n - 1).
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cognates.objectives import info_nce
from cognates.objectives.dependence import unit_rows
from cognates.random import generator

F64 = torch.float64


def least(n: int, temperature: float, *, decoupled: bool) -> float:
    apart = n / ((n - 1) * temperature)
    if decoupled:
        return math.log(2 * (n - 1)) - apart
    return math.log1p(2 * (n - 1) * math.exp(-apart))


def simplex(n: int) -> torch.Tensor:
    return unit_rows(torch.eye(n, dtype=F64) - 1 / n)


def loss(z: torch.Tensor, temperature: float, *, decoupled: bool) -> torch.Tensor:
    terms = info_nce(z, temperature=temperature, decoupled=decoupled)
    return terms["alignment"] + terms["uniformity"]


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize(("v", "n"), [(2, 2), (2, 5), (3, 4)])
def test_equal_views_at_the_corners_of_a_simplex_have_the_least_loss(v, n, decoupled):
    corners = simplex(n).expand(v, n, n)
    for temperature in (0.1, 0.5, 3.0):
        found = loss(corners, temperature, decoupled=decoupled)
        expected = least(n, temperature, decoupled=decoupled)
        assert found.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    z = (5 * corners).clone().requires_grad_()
    loss(z, 0.5, decoupled=decoupled).backward()
    assert z.grad.abs().max() < 1e-12
    moved = corners + 0.1 * torch.randn(v, n, n, generator=generator(0, "move"), dtype=F64)
    assert loss(moved, 0.5, decoupled=decoupled) > least(n, 0.5, decoupled=decoupled) + 1e-4


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    v=st.integers(2, 3),
    n=st.integers(2, 6),
    temperature=st.floats(0.05, 10.0),
    decoupled=st.booleans(),
)
def test_no_points_lie_below_the_least_loss(seed, v, n, temperature, decoupled):
    near = simplex(n) + 0.2 * torch.randn(v, n, n, generator=generator(seed, "near"), dtype=F64)
    far = torch.randn(v, n, 3, generator=generator(seed, "far"), dtype=F64)
    for z in (near, far):
        found = loss(z, temperature, decoupled=decoupled).item()
        assert found >= least(n, temperature, decoupled=decoupled) - 1e-10


@pytest.mark.parametrize("decoupled", [False, True])
def test_descent_from_random_points_arrives_at_the_least_loss(decoupled):
    z = torch.randn(2, 4, 4, generator=generator(0, "start"), dtype=F64).requires_grad_()
    optimiser = torch.optim.SGD([z], lr=0.5, momentum=0.9)
    for _ in range(300):
        optimiser.zero_grad()
        loss(z, 0.5, decoupled=decoupled).backward()
        optimiser.step()
    expected = least(4, 0.5, decoupled=decoupled)
    assert loss(z, 0.5, decoupled=decoupled).item() == pytest.approx(expected, abs=1e-4)


def test_the_decoupled_loss_is_log_of_its_terms_when_hot_and_the_gap_to_the_nearest_when_cold():
    z = torch.randn(2, 5, 3, generator=generator(0, "limits"), dtype=F64)
    z[1] = z[0] + 0.5 * z[1]
    assert loss(z, 1e9, decoupled=True).item() == pytest.approx(math.log(8), abs=1e-8)
    u = unit_rows(z)
    gaps = []
    for p in (0, 1):
        others = torch.cat([u[p] @ u[1 - p].T, u[p] @ u[p].T], 1)
        others[:, range(5)] += torch.diag(torch.full((5,), -9.0, dtype=F64))  # the positive
        others[:, range(5, 10)] += torch.diag(torch.full((5,), -9.0, dtype=F64))  # the anchor
        gaps.append(others.max(1).values - (u[0] * u[1]).sum(-1))
    expected = torch.stack(gaps).mean().item()
    assert torch.stack(gaps).min() < -0.1  # where the coupled loss has nothing left to gain
    # exp(-gap / tau) of the next candidates is below what a float64 holds
    assert 1e-4 * loss(z, 1e-4, decoupled=True).item() == pytest.approx(expected, abs=1e-9)
