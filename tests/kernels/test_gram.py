"""Kernels: their values, their limits, their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cognates.errors import ConfigError
from cognates.kernels import Kernel, imq, linear, rbf, squared_distances
from cognates.random import generator

F64 = torch.float64


def points(n, d, *, seed=0, dtype=F64):
    return torch.randn(n, d, generator=generator(seed, "points"), dtype=dtype)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.05, 20))
def test_kernels_equal_their_definitions_entry_by_entry(seed, scale):
    x, y = points(4, 3, seed=seed), points(5, 3, seed=seed + 1)
    grams = {k.name: k(x, y) for k in (linear(), rbf(scale), imq(scale))}
    assert len(grams) == 3
    for i in range(4):
        for j in range(5):
            r2 = float((x[i] - y[j]) @ (x[i] - y[j]))
            want = {
                "linear": float(x[i] @ y[j]),
                "rbf": math.exp(-r2 / (2 * scale**2)),
                "imq": scale / math.sqrt(scale**2 + r2),
            }
            for name, value in want.items():
                # rbf: the rounding of r2 (about 1e-14) is divided by 2 scale^2
                assert grams[name][i, j].item() == pytest.approx(value, rel=1e-11, abs=1e-13)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 10))
def test_grams_are_symmetric_positive_and_one_on_the_diagonal(seed, scale):
    x = points(6, 4, seed=seed)
    for k in (rbf(scale), imq(scale)):
        gram = k(x, x)
        torch.testing.assert_close(gram, gram.T, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gram.diagonal(), torch.ones(6, dtype=F64), rtol=0, atol=1e-10)
        assert torch.linalg.eigvalsh(gram).min() > -1e-10
        assert ((gram > 0) & (gram <= 1)).all() or k.name == "rbf"  # which may underflow


def test_equal_points_have_no_distance_in_float32_and_no_nan_in_the_gradient():
    x = torch.nn.functional.normalize(points(64, 256, dtype=torch.float32)).requires_grad_()
    squared = squared_distances(x, x)
    assert (squared >= 0).all()
    assert squared.diagonal().max() < 1e-6
    (squared.sqrt().detach().sum() + imq(0.1)(x, x).sum()).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("kernel", [linear(), rbf(0.6), imq(0.6)], ids=lambda k: k.name)
def test_gradients_in_points_and_scale_are_those_of_finite_differences(kernel):
    x, y = points(3, 2).requires_grad_(), points(4, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: kernel(x, y), [x, y])
    if kernel.name != "linear":
        scale = torch.tensor(0.8, dtype=F64, requires_grad=True)
        made = {"rbf": rbf, "imq": imq}[kernel.name]
        assert torch.autograd.gradcheck(lambda s: made(s)(x.detach(), y.detach()), [scale])


def test_half_precision_and_autocast_are_computed_in_float32():
    x = points(8, 16).bfloat16()
    for kernel in (linear(), rbf(1.5), imq(1.5)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            gram = kernel(x, x)
        assert gram.dtype == torch.float32
        torch.testing.assert_close(
            gram.double(), kernel(x.double(), x.double()), rtol=1e-5, atol=1e-5
        )


def test_what_is_no_kernel_is_refused():
    for bad in (0.0, -1.0, math.nan, math.inf):
        for make in (rbf, imq):
            with pytest.raises(ConfigError, match="scale above 0"):
                make(bad)
    with pytest.raises(ConfigError, match="scalar scale"):
        imq(torch.ones(2))
    with pytest.raises(ConfigError, match="linear, rbf or imq"):
        Kernel("laplace")
    with pytest.raises(ConfigError, match="of the distance"):
        linear().of_squared(torch.zeros(1))
