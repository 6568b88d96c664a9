"""The random-feature estimates of HSIC are unbiased, from two draws and not from one."""

from __future__ import annotations

import math

import pytest
import torch

from cognates.kernels import RandomFeatures, imq, rbf
from cognates.objectives import ssl_hsic
from cognates.objectives.dependence import unit_rows
from cognates.random import generator

F64 = torch.float64
DRAWS = 250


def points(d, v=4, n=16):
    gen = generator(d, "estimates")
    base = torch.randn(1, n, d, generator=gen, dtype=F64)
    return unit_rows(base + 0.7 * torch.randn(v, n, d, generator=gen, dtype=F64))


def estimates(z, kernel, count):
    """Return estimates from many pairs of draws: HSIC(Z, Y), distinct and all, and HSIC(Z, Z)."""
    gen = generator(1, "draws", kernel.name)
    found = []
    for _ in range(DRAWS):
        draws = [
            RandomFeatures.draw(kernel, z.shape[-1], count, generator=gen, dtype=F64)
            for _ in range(2)
        ]
        pair = draws[0], draws[1]
        terms = ssl_hsic(z, gamma=1.0, features=pair)
        every = ssl_hsic(z, gamma=1.0, pairs="all", features=pair)
        values = terms["dependence"], every["dependence"], terms["variance"]
        found.append([-values[0].item(), -values[1].item(), values[2].item() ** 2])
    return torch.tensor(found, dtype=F64).T


def within(values, expected, errors=4.0):
    error = values.std().item() / math.sqrt(len(values))
    return abs(values.mean().item() - expected) <= errors * error


@pytest.mark.parametrize(
    ("d", "kernel"),
    [
        *((d, imq(0.7)) for d in (8, 256, 2048)),
        *((d, rbf(0.8)) for d in (8, 256)),
        pytest.param(2048, rbf(0.8), marks=pytest.mark.slow),
    ],
)
def test_two_draws_are_unbiased_for_both_terms(d, kernel):
    z = points(d)
    exact = ssl_hsic(z, kernel=kernel, gamma=1.0)
    distinct, every, zz = estimates(z, kernel, 64)
    zy = -exact["dependence"].item()
    assert within(distinct, zy)
    assert within(every, zy + 1 / 3)  # the stated constant, 1/(v - 1)
    assert within(zz, exact["variance"].item() ** 2)
    assert every.std().item() / math.sqrt(DRAWS) < 1 / 3 / 20  # narrow enough to see it


@pytest.mark.parametrize("d", [8, 256, 2048])
def test_one_draw_for_both_factors_lies_above(d):
    z = points(d)
    exact = ssl_hsic(z, gamma=1.0)["variance"].item() ** 2
    gen, found = generator(2, "one draw"), []
    for _ in range(DRAWS):
        phi = RandomFeatures.draw(imq(), d, 64, generator=gen, dtype=F64)
        # the objective refuses one object; what a copy gives is the biased estimate
        copy = RandomFeatures(phi.weight.clone(), phi.phase)
        found.append(ssl_hsic(z, gamma=1.0, features=(phi, copy))["variance"].item() ** 2)
    values = torch.tensor(found, dtype=F64)
    error = values.std().item() / math.sqrt(DRAWS)
    assert values.mean().item() > exact + 10 * error
