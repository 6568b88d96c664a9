"""The objective of a kernel's scale, its slope and where it rests."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cognates.errors import ConfigError
from cognates.kernels import imq, linear, rbf, steepness, steepness_slope
from cognates.random import generator

F64 = torch.float64


def distances(seed=0, high=4.0):
    return high * torch.rand(50, generator=generator(seed, "distances"), dtype=F64)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.2, 5.0))
def test_the_slope_in_closed_form_is_that_of_autograd(seed, scale):
    u = distances(seed)
    for kernel in (imq, rbf):
        log_scale = torch.tensor(scale, dtype=F64).log().requires_grad_()
        (slope,) = torch.autograd.grad(steepness(kernel(log_scale.exp()), u), log_scale)
        found = steepness_slope(kernel(scale), u)
        assert found.item() == pytest.approx(slope.item(), rel=1e-10, abs=1e-12)


def test_the_objective_is_the_mean_log_slope_of_the_kernel():
    u = distances().requires_grad_()
    for kernel in (imq(0.7), rbf(0.7)):
        (slope,) = torch.autograd.grad(kernel.of_squared(u).sum(), u)
        assert steepness(kernel, u).item() == pytest.approx(slope.abs().log().mean().item())


def test_the_scale_rests_where_the_mean_squared_kernel_is_a_third():
    u = distances()
    low, high = 1e-3, 1e3
    for _ in range(200):
        middle = (low * high) ** 0.5
        rising = steepness_slope(imq(middle), u).item() > 0
        low, high = (middle, high) if rising else (low, middle)
    assert imq(low).of_squared(u).square().mean().item() == pytest.approx(1 / 3, rel=1e-10)
    # orthogonal unit vectors: c = 1; Gaussian: s^2 is half the mean squared distance
    assert steepness_slope(imq(1.0), torch.full((4,), 2.0, dtype=F64)).item() == pytest.approx(0)
    s = float((u.mean() / 2).sqrt())
    assert steepness_slope(rbf(s), u).item() == pytest.approx(0, abs=1e-12)


def test_pairs_at_the_floor_do_not_pull():
    # exp(-u / (2 s^2)) / (2 s^2) is below 1e-7 at s = 0.1, u = 4
    u = torch.tensor([4.0, 0.01], dtype=F64)
    kernel = rbf(torch.tensor(0.1, dtype=F64).requires_grad_())
    (slope,) = torch.autograd.grad(steepness(kernel, u), kernel.scale)
    found = steepness_slope(rbf(0.1), u).item()
    assert found == pytest.approx(0.1 * slope.item(), rel=1e-10)
    assert found == pytest.approx((0.01 / 0.01 - 2) / 2)
    assert steepness_slope(imq(1.0), torch.zeros(3)).item() == -2  # equal points: finite


def test_the_linear_kernel_has_no_scale_to_learn():
    for function in (steepness, steepness_slope):
        with pytest.raises(ConfigError, match="kernel with a scale"):
            function(linear(), torch.zeros(2))
