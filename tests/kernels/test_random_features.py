"""Random features: the spectrum that they draw from and the kernel that they stand for."""

from __future__ import annotations

import inspect
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import gammaln, kve

from cognates.errors import ConfigError
from cognates.kernels import RandomFeatures, imq, linear, rbf
from cognates.random import generator

F64 = torch.float64


def radii(d, count, kernel=None):
    gen = generator(d, "radii")
    drawn = RandomFeatures.draw(kernel or imq(), d, count, generator=gen, dtype=F64)
    return drawn.weight.norm(dim=1)


@pytest.mark.parametrize("d", [1, 3, 8, 256, 2048])
def test_the_amplitudes_have_the_stated_moments(d):
    count = 4000
    r = radii(d, count)
    # r = |s| chi_d: mean square d; fourth moment 3 d (d + 2)
    error = math.sqrt((3 * d * (d + 2) - d**2) / count)
    assert r.square().mean().item() == pytest.approx(d, abs=4 * error)
    mean = 2 / math.sqrt(math.pi) * math.exp(gammaln((d + 1) / 2) - gammaln(d / 2))
    assert r.mean().item() == pytest.approx(mean, abs=4 * math.sqrt((d - mean**2) / count))


@pytest.mark.parametrize("d", [3, 5, 8])
def test_the_amplitudes_follow_the_bessel_density(d):
    r = np.linspace(1e-9, 60, 200_001)
    order = (d - 1) / 2
    density = r**order * kve(order, r) * np.exp(-r)
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    cumulative /= cumulative[-1]
    found = stats.kstest(radii(d, 20_000).numpy(), lambda x: np.interp(x, r, cumulative))
    assert found.pvalue > 1e-4


@pytest.mark.parametrize("d", [3, 5, 8, 64, 256, 2048])
def test_the_amplitudes_have_the_quantiles_of_the_released_table(shared, d):
    tables = json.loads((shared / "golden" / "ssl_hsic.json").read_text())
    tables = tables["imq_amplitude_table_stats"]
    assert set(tables) == {"3", "5", "8", "64", "256", "2048"}
    stored = tables[str(d)]
    r, count = radii(d, 20_000), 20_000
    exact = stored["exact_continuous"]
    assert exact["E_r2"] == d
    assert exact["E_r"] == pytest.approx(
        2 / math.sqrt(math.pi) * math.exp(gammaln((d + 1) / 2) - gammaln(d / 2)), rel=1e-12
    )
    # the table's quantiles lie on a grid of 0.01; the true levels there are stored beside them
    key = "cdf_at_quantiles(+half step)"
    levels = zip(stored["quantiles"], exact[key], strict=True)
    checked = 0
    for quantile, level in levels:
        share = (r <= quantile + 0.005).double().mean().item()
        assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / count))
        checked += 1
    assert checked == 6


def test_the_quantiles_at_256_dimensions_are_those_of_the_specification():
    r = radii(256, 40_000)
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95, 0.99], dtype=F64)
    found = torch.quantile(r, levels)
    want = [1.000, 5.081, 10.761, 18.372, 31.383, 41.354]
    for value, expected, level in zip(found.tolist(), want, levels.tolist(), strict=True):
        share = (r <= expected).double().mean().item()
        assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 40_000))
        assert value == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("d", [2, 8, 256, 2048])
@pytest.mark.parametrize("kernel", [imq(0.6), rbf(0.7)], ids=["imq", "rbf"])
def test_inner_products_are_unbiased_for_the_kernel(d, kernel):
    gen = generator(d, "points")
    x = torch.nn.functional.normalize(torch.randn(4, d, generator=gen, dtype=F64), dim=1)
    x[3] = x[0]
    draws = torch.stack(
        [
            phi(x) @ phi(x).T
            for phi in (
                RandomFeatures.draw(kernel, d, 64, generator=gen, dtype=F64) for _ in range(200)
            )
        ]
    )
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - kernel(x, x)).abs() <= 4 * error).all()
    assert (error < 0.03).all()


def test_weights_and_phases_are_independent_and_a_seed_names_a_draw():
    one = RandomFeatures.draw(imq(), 4, 5000, generator=generator(0, "draw"), dtype=F64)
    same = RandomFeatures.draw(imq(), 4, 5000, generator=generator(0, "draw"), dtype=F64)
    other = RandomFeatures.draw(imq(), 4, 5000, generator=generator(1, "draw"), dtype=F64)
    assert torch.equal(one.weight, same.weight)
    assert torch.equal(one.phase, same.phase)
    assert not torch.equal(one.weight, other.weight)
    assert ((one.phase >= 0) & (one.phase < 2 * math.pi)).all()
    for column in one.weight.T:
        found = stats.spearmanr(column.numpy(), one.phase.numpy())
        assert abs(found.statistic) < 4 / math.sqrt(5000)


def test_features_are_a_map_of_each_point_in_float32_or_better():
    phi = RandomFeatures.draw(imq(0.5), 3, 6, generator=generator(0, "map"))
    x = torch.randn(2, 4, 3)
    assert phi(x).shape == (2, 4, 6)
    torch.testing.assert_close(phi(x)[1, 2], phi(x[1, 2]))
    manual = math.sqrt(2 / 6) * torch.cos((x / 0.5) @ phi.weight.T + phi.phase)
    torch.testing.assert_close(phi(x), manual)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert phi(x.bfloat16()).dtype == torch.float32
    assert phi(x.double()).dtype == F64


def test_what_cannot_be_drawn_or_mapped_is_refused():
    gen = generator(0, "refused")
    with pytest.raises(ConfigError, match="the exact form"):
        RandomFeatures.draw(linear(), 3, 4, generator=gen)
    with pytest.raises(ConfigError, match="at least 1"):
        RandomFeatures.draw(imq(), 3, 0, generator=gen)
    with pytest.raises(ConfigError, match="phases"):
        RandomFeatures(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ConfigError, match="at least one"):
        RandomFeatures(torch.zeros(0, 2), torch.zeros(0))
    phi = RandomFeatures(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(ConfigError, match="dimension 2, got 5"):
        inspect.unwrap(type(phi).__call__)(phi, torch.zeros(1, 5))
