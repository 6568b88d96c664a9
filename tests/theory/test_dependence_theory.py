"""The statements of docs/theory/dependence.md, each on a population whose answer can be summed.

The population: 7 images with 3 equally likely views each, on the sphere of R^4; where the shared
golden values are at hand, they are those of `theory_checks_float64`.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cognates.evaluation.dependence import measures
from cognates.kernels import hsic, imq, linear, mmd
from cognates.objectives import ssl_hsic
from cognates.objectives.dependence import unit_rows
from cognates.random import generator

F64 = torch.float64
IMAGES, VIEWS = 7, 3
K = imq(1.0)
PAGE = Path(__file__).parents[2] / "docs" / "theory" / "dependence.md"


@pytest.fixture
def population():
    """Return z (views, images, d), by the rule of the shared golden/README.md."""
    rng = np.random.default_rng(77)
    base = rng.standard_normal((IMAGES, 1, 4))
    z = base + 0.5 * rng.standard_normal((IMAGES, VIEWS, 4))
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    return torch.tensor(z).transpose(0, 1)


@pytest.fixture
def golden(shared):
    path = shared / "golden" / "ssl_hsic.json"
    return json.loads(path.read_text())["theory_checks_float64"]


def flat(z):
    return z.reshape(-1, z.shape[-1])


def labels(z, same=1.0, other=0.0):
    one_hot = torch.eye(z.shape[1], dtype=F64).repeat(len(z), len(z))
    return other + (same - other) * one_hot


def means(z, kernel=K):
    """Return E_pos (two independent views, which may be the same), E_neg and E of the kernel."""
    v, n, _ = z.shape
    gram = kernel(flat(z), flat(z)).view(v, n, v, n).mean((0, 2))
    positive = gram.diagonal().mean().item()
    negative = (gram.sum().item() - n * positive) / (n * (n - 1))
    return positive, negative, gram.mean().item()


def test_hsic_with_the_identity_is_positives_minus_all(population):
    gram = K(flat(population), flat(population))
    positive, _, everything = means(population)
    for same, other in ((1.0, 0.0), (3.0, -2.0)):
        found = hsic(gram, labels(population, same, other)).item()
        assert found == pytest.approx((same - other) / IMAGES * (positive - everything), rel=1e-12)


def test_the_population_values_are_the_stored_ones(population, golden):
    stored = golden["population"]
    gram = K(flat(population), flat(population))
    positive, _, everything = means(population)
    rows = gram.mean(1)
    got = {
        "HSIC_zy_pop": hsic(gram, labels(population)).item(),
        "(1/N)(Epos-E)": (positive - everything) / IMAGES,
        "mmd_sum/(2N^2)": _mean_mmd(population) / 2,
        "N*HSIC": positive - everything,
        "HSIC_zz_pop": hsic(gram, gram).item(),
        "E_var": gram.var(1, correction=0).mean().item(),
        "var_of_mean": rows.var(correction=0).item(),
        "E_var-var_of_mean": hsic(gram, gram).item(),
    }
    for name, value in got.items():
        assert value == pytest.approx(stored[name], rel=1e-12), name
    other = hsic(gram, labels(population, 3.0, -2.0)).item()
    assert [other] * 2 == pytest.approx(stored["l1=3.0,l0=-2.0"], rel=1e-12)


def _mean_mmd(z):
    """Return the mean over pairs of images of the squared MMD between their views."""
    total = 0.0
    for i in range(z.shape[1]):
        for j in range(z.shape[1]):
            a, b = z[:, i], z[:, j]
            total += mmd(K(a, a), K(b, b), K(a, b)).item()
    return total / z.shape[1] ** 2


def test_hsic_with_the_identity_is_half_the_mean_mmd_between_images(population):
    positive, _, everything = means(population)
    assert _mean_mmd(population) / 2 == pytest.approx(positive - everything, rel=1e-12)


def test_the_textbook_estimator_weighs_positives_and_all_differently(population):
    v, n, _ = population.shape
    gram = K(flat(population), flat(population))
    every = -ssl_hsic(population, pairs="all")["dependence"].item()
    mean = gram.mean().item()
    want = ((v - 1) / v * (every + mean) - mean) / n
    assert hsic(gram, labels(population)).item() == pytest.approx(want, rel=1e-12)


def test_hsic_of_z_with_itself_is_conditional_variance_less_variance_of_means(population):
    gram = K(flat(population), flat(population))
    rows = gram.mean(1)
    spread = gram.var(1, correction=0).mean()
    zz = hsic(gram, gram)
    torch.testing.assert_close(zz, spread - rows.var(correction=0), rtol=1e-12, atol=0)
    assert zz <= spread
    # and it is the squared norm of the covariance of any features of the kernel
    features = torch.linalg.cholesky(gram + 1e-13 * torch.eye(len(gram), dtype=F64))
    centred = features - features.mean(0)
    covariance = centred.T @ centred / len(gram)
    torch.testing.assert_close(zz, covariance.square().sum(), rtol=1e-9, atol=0)


def test_the_root_makes_both_terms_scale_with_the_kernel():
    z = unit_rows(torch.randn(2, 6, 3, generator=generator(0, "z"), dtype=F64))
    once, twice = ssl_hsic(z, kernel=linear()), ssl_hsic(math.sqrt(2) * z, kernel=linear())
    for name in once:
        assert twice[name].item() == pytest.approx(2 * once[name].item(), rel=1e-12)


def test_the_variance_is_small_for_many_images_large_for_clusters_and_zero_at_collapse():
    def root(images, clusters):
        z = torch.eye(clusters, dtype=F64).repeat(images // clusters, 1).expand(2, images, -1)
        return ssl_hsic(z, gamma=1.0)["variance"].item()

    away = 1 - 1 / math.sqrt(3)
    for clusters in (2, 4, 16, 64):  # (1 - kbar)/sqrt(clusters), kbar with the diagonal's share
        exact = away * math.sqrt(clusters - 1) / clusters
        assert root(64, clusters) == pytest.approx(exact, rel=1e-12)
        assert exact == pytest.approx(away / math.sqrt(clusters), rel=0.6 / clusters + 0.02)
    assert root(64, 1) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("gamma", [2.0, 3.0])
def test_spread_views_beat_a_collapse_only_with_more_than_gamma_squared_plus_one_images(gamma):
    for n in range(2, 16):
        z = torch.eye(n, dtype=F64).expand(2, n, n)
        total = sum(term.item() for term in ssl_hsic(z, gamma=gamma).values())
        assert (total < -1e-12) == (n > gamma**2 + 1)  # a collapsed batch has 0


def test_equal_mutual_information_does_not_mean_an_equal_representation():
    """Two inputs go to random even and random odd integers: always one bit, ever harder to read."""
    gaps, errors = [], []
    for half in (1, 4, 16):
        numbers = torch.arange(2 * half, dtype=F64)
        parity = numbers % 2
        # the two images' sets are disjoint: the mutual information is log 2 whatever `half` is
        assert set(numbers[parity == 0].tolist()).isdisjoint(numbers[parity == 1].tolist())
        x = (numbers / numbers.max())[:, None]
        gaps.append(hsic(K(x, x), 1.0 * (parity[:, None] == parity[None])).item())
        best = torch.linalg.lstsq(torch.cat([x, torch.ones_like(x)], 1), 2 * parity - 1).solution
        guess = torch.cat([x, torch.ones_like(x)], 1) @ best
        errors.append(((guess > 0) != (parity == 1)).double().mean().item())
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < gaps[0] / 100
    assert errors[0] == 0
    assert errors[-1] > 0.4


def _infonce(z, critic):
    """Return InfoNCE, its expansion and the bound with HSIC(Z, Z), with E_pos over all views."""
    gram = critic(flat(z), flat(z))
    positive, _, everything = means(z, critic)
    log = torch.logsumexp(gram, 1).mean().item() - math.log(len(gram))
    spread = gram.var(1, correction=0).mean().item()
    gap = positive - everything
    return log - positive, spread / 2 - gap, hsic(gram, gram).item() / 2 - gap


@pytest.mark.parametrize("tau", [10.0, 2.0, 1.0, 0.5, 0.1])
def test_infonce_and_its_expansion_have_the_stored_values(population, golden, tau):
    stored = golden[f"infonce tau={tau}"]
    value, second, bound = _infonce(population, lambda x, y: x @ y.T / tau)
    assert value == pytest.approx(stored["InfoNCE"], rel=1e-10)
    assert second == pytest.approx(stored["taylor: -N*HSIC+Evar/2"], rel=1e-10)
    assert bound == pytest.approx(stored["-N*HSIC+HSIC_zz/2"], rel=1e-10)
    assert bound <= second

    # the protocol pairs different views only; the stored values pair a view with itself as well
    found = measures(population, critic="cosine", scale=tau)
    gram = (flat(population) @ flat(population).T / tau).view(VIEWS, IMAGES, VIEWS, IMAGES)
    same = gram.diagonal(dim1=1, dim2=3)
    shift = same.mean().item() - same[~torch.eye(VIEWS, dtype=torch.bool)].mean().item()
    assert found["infonce"] - shift == pytest.approx(stored["InfoNCE"], rel=1e-10)
    assert found["infonce-second-order"] - shift == pytest.approx(
        stored["taylor: -N*HSIC+Evar/2"], rel=1e-10
    )
    assert found["hsic-zz"] == pytest.approx(stored["HSIC_zz"], rel=1e-10)


def test_the_expansion_of_infonce_is_of_third_order_and_fails_at_the_temperatures_in_use(
    population,
):
    gaps = []
    for tau in (8.0, 4.0, 2.0):
        value, second, _ = _infonce(population, lambda x, y, tau=tau: x @ y.T / tau)
        gaps.append(abs(value - second))
    for small, large in itertools.pairwise(gaps):
        assert large / small > 4  # more than the four of a second-order remainder
    value, second, _ = _infonce(population, lambda x, y: x @ y.T / 0.1)
    assert value < 0 < 5 < second


def test_a_linear_kernel_makes_hsic_the_scatter_within_images(population):
    z = population - flat(population).mean(0)  # the statement assumes centred features
    z = unit_rows(z)
    z = z - flat(z).mean(0)
    v = len(z)
    scatter = (z - z.mean(0)).square().sum(-1).mean().item()
    lengths = z.square().sum(-1).mean().item()
    every = -ssl_hsic(z, kernel=linear(), pairs="all")["dependence"].item()
    # the mean over all p, l of k is |z|^2 less the scatter; (v - 1)/v gives those weights
    assert every * (v - 1) / v == pytest.approx(lengths - scatter, rel=1e-12)
    positive, _, _ = means(population, linear())
    within = (population - population.mean(0)).square().sum(-1).mean().item()
    assert positive == pytest.approx(1 - within, rel=1e-12)  # unit features
    assert linear()(flat(z), flat(z)).mean().item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("n", "v"), [(4, 2), (6, 2)])
def test_the_estimate_from_a_batch_has_the_stated_bias(population, n, v):
    positive, negative, _ = means(population)
    want = (1 - (v - 1) / (n * v)) * positive - (1 - 1 / n) * negative - 1 / (n * v)
    gen, found = generator(n, "bias"), []
    for _ in range(3000):
        images = torch.randperm(IMAGES, generator=gen)[:n]
        views = torch.randint(VIEWS, (v, n), generator=gen)
        found.append(-ssl_hsic(population[views, images])["dependence"].item())
    values = torch.tensor(found, dtype=F64)
    error = values.std().item() / math.sqrt(len(values))
    assert values.mean().item() == pytest.approx(want, abs=4 * error)
    # of the order 1/n: below E_pos - E_neg (1 - 1/n) by about (positive + 1)/(n v)
    assert want < positive - (1 - 1 / n) * negative


def test_the_bias_formula_has_the_stored_values(population, golden):
    positive, negative, _ = means(population)
    for n in (4, 6):
        stored = golden[f"bias B={n},M=2 (without replacement)"]
        want = (1 - 1 / (2 * n)) * positive - (1 - 1 / n) * negative - 1 / (2 * n)
        assert want == pytest.approx(stored["predicted"], rel=1e-12)
        assert want == pytest.approx(stored["mc_mean"], abs=4 * stored["se"])


def test_the_diagnostic_gives_the_quantities_of_the_page(population):
    found = measures(population)
    terms = ssl_hsic(population, gamma=1.0)
    assert found["hsic-zy"] == pytest.approx(-terms["dependence"].item(), rel=1e-12)
    assert found["hsic-zz"] == pytest.approx(terms["variance"].item() ** 2, rel=1e-10)


def test_every_test_that_the_page_names_exists():
    text = PAGE.read_text(encoding="utf8")
    named = set(re.findall(r"`(test_\w+)`", text))
    folder = Path(__file__).parents[1]
    written = "".join(path.read_text(encoding="utf8") for path in folder.rglob("test_*.py"))
    assert len(named) == 22
    assert sorted(name for name in named if f"def {name}(" not in written) == []
