"""HSIC, CKA and MMD against loops, and in cases whose answer is known."""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cognates.errors import ConfigError
from cognates.kernels import cka, hsic, imq, linear, mmd, rbf
from cognates.kernels.dependence import centred
from cognates.random import generator

F64 = torch.float64


def grams(m=6, *, seed=0):
    gen = generator(seed, "grams")
    x = torch.randn(m, 3, generator=gen, dtype=F64)
    y = x[:, :2] + torch.randn(m, 2, generator=gen, dtype=F64)
    return imq()(x, x), rbf()(y, y)


def unbiased_by_tuples(K, L):
    """Return the U-statistic: the mean over all quadruples of different points."""
    m, values = len(K), []
    for i, j, q, r in itertools.permutations(range(m), 4):
        values.append(K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q]))
    return sum(values) / len(values)


def test_the_unbiased_estimator_is_the_mean_over_quadruples_of_different_points():
    K, L = grams(6)
    want = float(unbiased_by_tuples(K, L))
    assert hsic(K, L, "unbiased").item() == pytest.approx(want, abs=1e-14)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), m=st.integers(2, 8))
def test_the_biased_estimators_are_traces_of_centred_matrices(seed, m):
    K, L = grams(m, seed=seed)
    H = torch.eye(m, dtype=F64) - 1 / m
    trace = (K @ H @ L @ H).trace().item()
    assert hsic(K, L).item() == pytest.approx(trace / m**2, abs=1e-14)
    assert hsic(K, L, "gretton").item() == pytest.approx(trace / (m - 1) ** 2, abs=1e-13)
    assert hsic(K, L).item() == pytest.approx(hsic(L, K).item(), abs=1e-15)
    assert hsic(K, L).item() >= -1e-15
    torch.testing.assert_close(centred(K), H @ K @ H, rtol=1e-12, atol=1e-14)


def test_a_constant_variable_depends_on_nothing():
    K, _ = grams()
    constant = torch.ones_like(K)
    for estimator in ("biased", "gretton", "unbiased"):
        assert hsic(K, constant, estimator).item() == pytest.approx(0, abs=1e-15)
    assert cka(K, constant).item() == 0
    K = K.requires_grad_()
    cka(K, constant).backward()
    assert K.grad is not None
    assert K.grad.isfinite().all()


def test_the_unbiased_estimator_has_mean_zero_for_independent_variables():
    gen, values, biased = generator(0, "independent"), [], []
    for _ in range(400):
        x, y = (torch.randn(8, 2, generator=gen, dtype=F64) for _ in range(2))
        values.append(hsic(imq()(x, x), imq()(y, y), "unbiased"))
        biased.append(hsic(imq()(x, x), imq()(y, y)))
    found = torch.stack(values)
    error = found.std().item() / 20
    assert abs(found.mean().item()) < 4 * error
    assert found.min() < 0
    assert torch.stack(biased).mean().item() > 10 * error


def test_cka_ignores_scale_and_rotation_and_is_one_for_equal_variables():
    gen = generator(0, "cka")
    x = torch.randn(9, 4, generator=gen, dtype=F64)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=gen, dtype=F64)).Q
    K, L = linear()(x, x), linear()(5 * x @ turn + 3, 5 * x @ turn + 3)
    for estimator in ("biased", "gretton", "unbiased"):
        assert cka(K, L, estimator=estimator).item() == pytest.approx(1, abs=1e-12)
    A, B = grams(9)
    assert 0 < cka(A, B).item() < 1
    assert cka(A, B).item() == pytest.approx(cka(A, B, estimator="gretton").item(), rel=1e-12)


def test_mmd_is_the_squared_distance_of_mean_embeddings():
    gen = generator(0, "mmd")
    x, y = torch.randn(5, 3, generator=gen, dtype=F64), torch.randn(7, 3, generator=gen, dtype=F64)
    k = linear()
    found = mmd(k(x, x), k(y, y), k(x, y)).item()
    assert found == pytest.approx(float((x.mean(0) - y.mean(0)).square().sum()), rel=1e-12)
    same = mmd(k(x, x), k(x, x), k(x, x)).item()
    assert same == pytest.approx(0, abs=1e-15)
    off = [float(x[i] @ x[j]) for i in range(5) for j in range(5) if i != j]
    other = [float(y[i] @ y[j]) for i in range(7) for j in range(7) if i != j]
    want = sum(off) / 20 + sum(other) / 42 - 2 * k(x, y).mean().item()
    assert mmd(k(x, x), k(y, y), k(x, y), "unbiased").item() == pytest.approx(want, rel=1e-12)


def test_hsic_is_the_mmd_between_the_joint_and_the_product_of_the_marginals():
    K, L = grams(5)
    m = len(K)
    joint = K * L
    # the product kernel between (x_i, y_j) and (x_k, y_l), for all m^2 pairs
    product = torch.einsum("ik,jl->ijkl", K, L).reshape(m * m, m * m)
    cross = torch.einsum("ik,il->ikl", K, L).reshape(m, m * m)
    assert mmd(joint, product, cross).item() == pytest.approx(hsic(K, L).item(), abs=1e-14)


def test_half_precision_is_computed_in_float32():
    K, L = (gram.bfloat16() for gram in grams(8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for value, want in (
            (hsic(K, L), hsic(K.double(), L.double())),
            (cka(K, L), cka(K.double(), L.double())),
            (mmd(K, L, K), mmd(K.double(), L.double(), K.double())),
        ):
            assert value.dtype == torch.float32
            assert value.item() == pytest.approx(want.item(), abs=1e-6)


def test_matrices_and_names_that_do_not_fit_are_refused():
    K, L = grams(3)
    hsic_, mmd_ = inspect.unwrap(hsic), inspect.unwrap(mmd)
    with pytest.raises(ConfigError, match="of the same points"):
        hsic_(K, L[:2, :2])
    with pytest.raises(ConfigError, match="an estimator of"):
        hsic_(K, L, "best")
    with pytest.raises(ConfigError, match="at least 4 points"):
        hsic_(K, L, "unbiased")
    with pytest.raises(ConfigError, match=r"\(n, m\)"):
        mmd_(K, L[:2, :2], K)
    with pytest.raises(ConfigError, match="biased or unbiased"):
        mmd_(K, L, K, "gretton")
    with pytest.raises(ConfigError, match="at least 2 points"):
        mmd_(K[:1, :1], L, K[:1], "unbiased")
