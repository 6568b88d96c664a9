"""J_align, J_uniform and J_KL: slow forms, closed forms, and the methods that are special cases."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch.distributions import kl_divergence
from torch.nn import functional

from cognates.distributions import PowerSpherical, SphericalUniform, VonMisesFisher, log_area
from cognates.errors import ConfigError
from cognates.objectives import (
    categorical_terms,
    inference,
    j_align,
    j_kl,
    j_uniform,
    log_eta,
    negative_cosine,
    product_of_experts,
    variational_terms,
    vi_simsiam,
)
from cognates.random import generator

F64 = torch.float64
FAMILIES = (PowerSpherical, VonMisesFisher)


def unit(x: torch.Tensor) -> torch.Tensor:
    return functional.normalize(x, dim=-1)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed, "inference"), dtype=F64)


def posterior(family, v: int = 3, n: int = 6, d: int = 5):
    kappa = 0.5 + 9 * torch.rand(v, n, generator=generator(1, "kappa"), dtype=F64)
    return family(unit(drawn(v, n, d)), kappa)


def one(p, j: int, k: int):
    return type(p)(p.loc[j, k], p.concentration[j, k])


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_and_mixtures_are_their_slow_sums(family):
    p, z = posterior(family), unit(drawn(3, 6, 5, seed=2))
    v, n = p.concentration.shape
    align, uniform, mixed, spread = [], [], [], []
    for i in range(v):
        for x in range(n):
            at = [[one(p, j, k).log_prob(z[i, x]).exp().item() for k in range(n)] for j in range(v)]
            for j in range(v):
                if i != j:
                    align.append(math.log(at[j][x]))
                    uniform.append(-math.log(sum(at[j]) / n))
            mixed.append(math.log(sum(row[x] for row in at) / v))
            spread.append(-math.log(sum(map(sum, at)) / (v * n)))
    assert (len(align), len(mixed)) == (v * (v - 1) * n, v * n)
    for found, want in (
        (j_align(p, z), align),
        (j_uniform(p, z), uniform),
        (j_align(p, z, experts="mixture"), mixed),
        (j_uniform(p, z, experts="mixture"), spread),
    ):
        assert found.item() == pytest.approx(sum(want) / len(want), rel=1e-12)


def test_the_product_of_experts_is_the_sum_of_log_densities_and_log_eta():
    p, z = posterior(VonMisesFisher), unit(drawn(4, 6, 5, seed=3))
    whole, eta = product_of_experts(p), log_eta(p)
    for k in range(6):
        for x in z:
            parts = sum(one(p, j, k).log_prob(x[k]) for j in range(3))
            density = VonMisesFisher(whole.loc[k], whole.concentration[k]).log_prob(x[k])
            assert density.item() == pytest.approx((parts + eta[k]).item(), abs=1e-12)
    # which is what the definition of the mixture of experts' J_align asks for
    q = unit(drawn(3, 6, 5, seed=4))
    every = torch.stack([torch.stack([p.log_prob(q[i])[j] for j in range(3)]) for i in range(3)])
    want = every.sum(1).mean(0) + eta
    torch.testing.assert_close(j_align(p, q, experts="product"), want.mean(), rtol=1e-12, atol=0)
    at = torch.stack([whole.log_prob(x[:, None]) for x in q])
    spread = -(at.logsumexp(2) - math.log(6)).mean()
    torch.testing.assert_close(j_uniform(p, q, experts="product"), spread, rtol=1e-12, atol=0)


def test_log_eta_is_constant_for_a_fixed_concentration_and_agreement_only():
    mu = unit(drawn(1, 4, 5)).expand(2, 4, 5)
    fixed = log_eta(VonMisesFisher(mu, torch.full((2, 4), 3.0, dtype=F64)))
    torch.testing.assert_close(fixed, fixed[:1].expand(4), rtol=1e-12, atol=0)
    learned = log_eta(VonMisesFisher(mu, torch.tensor([[1.0, 3, 9, 27]] * 2, dtype=F64)))
    assert (learned.diff() < 0).all()
    against = torch.stack([mu[0], -mu[0]])
    nothing = product_of_experts(VonMisesFisher(against, torch.full((2, 4), 3.0, dtype=F64)))
    assert (nothing.concentration == 0).all()
    z = unit(drawn(2, 4, 5))
    assert (nothing.log_prob(z) == -log_area(5)).all()


@pytest.mark.parametrize("kappa", [0.3, 12.0, 900.0])
def test_simsiam_is_the_alignment_of_a_von_mises_fisher_density_with_one_concentration(kappa):
    p, z = drawn(3, 5, 7).requires_grad_(), drawn(3, 5, 7, seed=1)
    k = torch.tensor(kappa, dtype=F64)
    density = VonMisesFisher(unit(p), k.expand(3, 5), validate_args=False)
    align = j_align(density, unit(z))
    log_c = VonMisesFisher(torch.eye(7, dtype=F64)[0], k).log_prob(torch.eye(7, dtype=F64)[0]) - k
    loss = negative_cosine(p, z)["alignment"]
    torch.testing.assert_close(align, log_c - kappa * loss, rtol=1e-12, atol=1e-12)
    (one,) = torch.autograd.grad(align, p, retain_graph=True)
    (two,) = torch.autograd.grad(loss, p)
    torch.testing.assert_close(one, -kappa * two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("family", "name"),
    [(PowerSpherical, "power-spherical"), (VonMisesFisher, "von-mises-fisher")],
)
def test_vi_simsiam_is_minus_the_alignment_with_a_delta_and_has_no_divergence(family, name):
    p, z = posterior(family), unit(drawn(3, 6, 5, seed=2))
    terms = variational_terms(p, z)
    loss = vi_simsiam(p.loc, p.concentration, z, family=name, per_dimension=False)["alignment"]
    assert terms["align"].item() == pytest.approx(-loss.item(), rel=1e-12)
    assert terms["kl"] is None
    assert j_kl(None) is None


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_simclr_is_log_n_less_infonce(temperature):
    n, d = 9, 6
    z = unit(drawn(2, n, d))
    p = VonMisesFisher(z, torch.full((2, n), 1 / temperature, dtype=F64))
    total = (j_align(p, z) + j_uniform(p, z)).item()
    each = []
    for i, j in ((0, 1), (1, 0)):
        for x in range(n):
            logits = [(z[i, x] @ z[j, k]).item() / temperature for k in range(n)]
            top = max(logits)
            log_sum = top + math.log(sum(math.exp(a - top) for a in logits))
            each.append(log_sum - logits[x])
    info_nce = sum(each) / len(each)
    assert total == pytest.approx(math.log(n) - info_nce, abs=1e-12)
    assert total <= math.log(n)


def test_dino_is_the_alignment_of_a_categorical_latent():
    v, n, k, centre = 3, 5, 4, drawn(4, seed=5)
    student, teacher = drawn(v, n, k), drawn(v, n, k, seed=1)
    log_p, log_q = (student / 0.1).log_softmax(-1), ((teacher - centre) / 0.04).log_softmax(-1)
    terms = categorical_terms(log_p, log_q)
    loss, pairs, divergence = 0.0, 0, 0.0
    for i in range(v):
        for j in range(v):
            if i != j:
                target = functional.softmax((teacher[i] - centre) / 0.04, dim=-1)
                loss += functional.cross_entropy(student[j] / 0.1, target).item()
                divergence += functional.kl_div(
                    log_p[j], log_q[i], log_target=True, reduction="batchmean"
                ).item()
                pairs += 1
    assert terms["align"].item() == pytest.approx(-loss / pairs, rel=1e-12)
    entropy = torch.distributions.Categorical(logits=log_q).entropy().mean().item()
    assert terms["kl"].item() == pytest.approx(math.log(k) - entropy, rel=1e-12)
    both = (terms["align"] - terms["kl"]).item()
    assert both == pytest.approx(-divergence / pairs - math.log(k), rel=1e-12)
    # exact centring: with an even marginal J_uniform is log k whatever the teacher says
    classes = torch.eye(k, dtype=F64).expand(2, k, k).clamp_min(1e-30).log()
    even = categorical_terms(classes, log_q[:2, :1].expand(2, k, k))
    assert even["uniform"].item() == pytest.approx(math.log(k), rel=1e-12)
    certain = categorical_terms(classes, torch.eye(k, dtype=F64).expand(2, k, k).log())
    assert certain["kl"].item() == pytest.approx(math.log(k), rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sampled_posterior_has_the_expectation_and_the_closed_divergence(family):
    p, q = posterior(VonMisesFisher, 2, 3), posterior(family, 2, 3)
    draws = 3000
    terms = variational_terms(p, q, draws=draws, generator=generator(0, "draws"))
    uniform = SphericalUniform(5, dtype=F64)
    assert terms["kl"].item() == pytest.approx(kl_divergence(q, uniform).mean().item(), rel=1e-12)
    # E_q log vMF is linear in z: its value at the mean of q
    mean = q.mean.flip(0)
    zero = p.log_prob(p.loc) - p.concentration
    exact = (zero + p.concentration * (p.loc * mean).sum(-1)).mean()
    # at most kappa per draw; four standard errors
    error = 4 * p.concentration.max().item() / math.sqrt(draws * 6)
    assert terms["align"].item() == pytest.approx(exact.item(), abs=error)
    slow = q.rsample((draws,), generator=generator(0, "draws"))
    assert torch.equal(terms["align"], j_align(p, slow))
    each = torch.stack([j_uniform(p, x) for x in slow[:20]]).mean()
    torch.testing.assert_close(j_uniform(p, slow[:20]), each, rtol=1e-12, atol=0)


@pytest.mark.parametrize("experts", ["pairs", "mixture", "product"])
def test_the_values_do_not_depend_on_how_the_bank_is_cut(monkeypatch, experts):
    p, z = posterior(VonMisesFisher), unit(drawn(3, 6, 5, seed=2))
    bank = posterior(VonMisesFisher, 3, 11)
    whole = j_uniform(p, z, bank=bank, experts=experts)
    monkeypatch.setattr(inference, "_ELEMENTS", 7)
    cut = j_uniform(p, z, bank=bank, experts=experts)
    torch.testing.assert_close(cut, whole, rtol=1e-12, atol=0)
    assert j_uniform(p, z, experts=experts) != whole


@pytest.mark.parametrize("family", FAMILIES)
def test_the_terms_pass_gradcheck_also_through_the_draws_of_the_posterior(family):
    loc, kappa = drawn(2, 2, 3).requires_grad_(), torch.rand(2, 2, dtype=F64) + 1
    kappa.requires_grad_()
    z = drawn(2, 2, 3, seed=1).requires_grad_()

    def total(loc, kappa, z):
        p = family(unit(loc), kappa, validate_args=False)
        q = VonMisesFisher(unit(z), torch.tensor(4.0, dtype=F64), validate_args=False)
        terms = variational_terms(p, q, generator=generator(0, "held"))
        return terms["align"] + terms["uniform"] - terms["kl"]

    assert torch.autograd.gradcheck(total, [loc, kappa, z])
    assert torch.autograd.gradcheck(
        lambda z: j_align(family(unit(loc), 2.0, validate_args=False), unit(z), experts="mixture"),
        [z],
    )


def test_bfloat16_autocast_changes_nothing_and_identical_views_are_finite():
    z = unit(drawn(1, 6, 33)).expand(2, 6, 33).float()
    narrow = VonMisesFisher(z, torch.full((2, 6), 1e7))
    assert all(x is None or x.isfinite() for x in variational_terms(narrow, z).values())
    against = PowerSpherical(-z, torch.full((2, 6), 9.0)).expand((2, 6))
    against.loc = against.loc.clone().requires_grad_()
    for experts in ("pairs", "mixture"):
        terms = variational_terms(against, z, experts=experts)
        (slope,) = torch.autograd.grad(terms["align"] + terms["uniform"], against.loc)
        assert slope.isfinite().all()
    p = VonMisesFisher(z, torch.full((2, 6), 1e3))
    plain = variational_terms(p, z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = variational_terms(p, z)
        product = j_align(p, z, experts="product")
    assert plain["align"] == cast["align"]
    assert plain["uniform"] == cast["uniform"]
    assert product.isfinite()
    total = plain["align"] + plain["uniform"]
    assert total.item() == pytest.approx(math.log(6), abs=1e-3)  # 1e3 times the cosines' rounding


def test_what_cannot_be_computed_is_refused():
    p, z = posterior(PowerSpherical), unit(drawn(3, 6, 5))
    with pytest.raises(ConfigError, match="no closed form"):
        j_align(p, z, experts="product")
    with pytest.raises(ConfigError, match="'experts'"):
        inspect.unwrap(j_align)(p, z, experts="all")
    with pytest.raises(ConfigError, match="stack views"):
        j_align(p, z[:2])
    with pytest.raises(ConfigError, match="at least two views"):
        j_uniform(posterior(PowerSpherical, 1), z[:1])
    with pytest.raises(ConfigError, match="bank of 3 views"):
        j_uniform(p, z, bank=posterior(PowerSpherical, 2))
    with pytest.raises(ConfigError, match="at least one draw"):
        variational_terms(p, p, draws=0)
    with pytest.raises(ConfigError, match="log probabilities"):
        inspect.unwrap(categorical_terms)(z, z[:2])
