"""VICReg's objective: its definition, its minima, its symmetries and its edges."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cognates.errors import ConfigError
from cognates.objectives import redundancy, vicreg
from cognates.random import generator

F64 = torch.float64


def views(v: int = 2, n: int = 6, d: int = 4, *, seed: int = 0, scale: float = 0.7):
    return scale * torch.randn(v, n, d, generator=generator(seed, "views"), dtype=F64)


def slow(z, *, invariance=25.0, variance=25.0, covariance=1.0):
    """VICReg's equations 1 to 6 by loops, with the released code's scale."""
    (v, n, d), z = z.shape, z.tolist()
    distance, lack, off = [], [], []
    for p in range(v):
        for other in range(v):
            if p < other:
                total = sum((z[p][i][j] - z[other][i][j]) ** 2 for i in range(n) for j in range(d))
                distance.append(total / (n * d))
        means = [sum(z[p][i][j] for i in range(n)) / n for j in range(d)]
        matrix = [
            [
                sum((z[p][i][j] - means[j]) * (z[p][i][k] - means[k]) for i in range(n)) / (n - 1)
                for k in range(d)
            ]
            for j in range(d)
        ]
        lack.append(sum(max(0.0, 1 - math.sqrt(matrix[j][j] + 1e-4)) for j in range(d)) / d)
        off.append(sum(matrix[j][k] ** 2 for j in range(d) for k in range(d) if j != k) / d)
    return {
        "invariance": invariance * sum(distance) / len(distance),
        "variance": variance * sum(lack) / v,
        "covariance": covariance * 2 * sum(off) / v,
    }


def numbers(terms):
    return {name: term.item() for name, term in terms.items()}


@pytest.mark.parametrize(("v", "n", "d"), [(2, 6, 4), (3, 4, 7), (4, 5, 5)])  # n < d and n >= d
def test_vicreg_is_its_definition_term_by_term(v, n, d):
    z = views(v, n, d)
    weights = {"invariance": 2.0, "variance": 3.0, "covariance": 5.0}
    for given_ in ({}, weights):
        found = numbers(vicreg(z, **given_))
        assert found == pytest.approx(slow(z, **given_), rel=1e-12)
        assert list(found) == ["invariance", "variance", "covariance"]


@pytest.mark.parametrize(("n", "d"), [(4, 3), (3, 5)])
def test_vicreg_passes_gradcheck(n, d):
    z = views(3, n, d).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: tuple(vicreg(z).values()), [z])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), n=st.integers(2, 9), d=st.integers(1, 6))
def test_vicreg_does_not_see_the_order_of_images_views_and_features_nor_a_shift(seed, n, d):
    z = views(3, n, d, seed=seed)
    expected = numbers(vicreg(z))
    gen = generator(seed, "order")
    shift = torch.randn(1, 1, d, generator=gen, dtype=F64)
    for other in (
        z[:, torch.randperm(n, generator=gen)],
        z[torch.randperm(3, generator=gen)],
        z[:, :, torch.randperm(d, generator=gen)],
        z + shift,
        -z,
    ):
        assert numbers(vicreg(other)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_a_rotation_of_the_features_leaves_the_invariance_and_moves_the_covariance(seed):
    z = views(2, 8, 3, seed=seed) * torch.tensor([3.0, 1.0, 0.2], dtype=F64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator(seed, "rotation"), dtype=F64)).Q
    before, after = numbers(vicreg(z)), numbers(vicreg(z @ turn))
    assert after["invariance"] == pytest.approx(before["invariance"], rel=1e-9)
    assert after["covariance"] != pytest.approx(before["covariance"], rel=1e-3)


def test_equal_views_with_uncorrelated_features_of_unit_variance_cost_nothing():
    gen = generator(0, "minimum")
    x = torch.randn(32, 5, generator=gen, dtype=F64)
    x = torch.linalg.qr(x - x.mean(0)).Q * math.sqrt(31)
    assert numbers(vicreg(x.expand(3, 32, 5))) == pytest.approx(
        {"invariance": 0, "variance": 0, "covariance": 0}, abs=1e-12
    )
    # one feature twice, of variance 1: a covariance of 1 in both directions
    same = x[:, :1].expand(2, 32, 2)
    assert numbers(vicreg(same)) == pytest.approx(
        {"invariance": 0, "variance": 0, "covariance": 2.0}, rel=1e-12, abs=1e-12
    )


@pytest.mark.parametrize("z", [torch.zeros(2, 4, 3), torch.ones(2, 4, 3), torch.randn(2, 1, 3)])
def test_a_collapse_and_a_single_image_cost_the_whole_variance_and_have_finite_gradients(z):
    z = z.clone().requires_grad_()
    terms = vicreg(z)
    sum(terms.values()).backward()
    assert terms["variance"].item() == pytest.approx(25 * 0.99, rel=1e-6)  # 1 - sqrt(1e-4)
    assert terms["covariance"].item() == pytest.approx(0, abs=1e-12)
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_bfloat16_inputs_and_autocast_are_computed_in_float32():
    z = views(2, 16, 8).bfloat16()
    expected = numbers(vicreg(z.double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = vicreg(z.requires_grad_())
    assert all(term.dtype == torch.float32 for term in terms.values())
    assert numbers(terms) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 4), (2, 0, 4)])
def test_shapes_that_do_not_fit_are_refused(shape):
    with pytest.raises(ConfigError, match="at least two views and one image"):
        inspect.unwrap(redundancy.vicreg)(torch.zeros(shape))


@pytest.mark.parametrize("name", ["invariance", "variance", "covariance"])
def test_weights_that_are_negative_or_infinite_are_refused_by_name(name):
    for value in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=name):
            vicreg(views(), **{name: value})
