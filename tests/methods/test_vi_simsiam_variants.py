"""The variants of VI-SimSiam: what each computes, where its gradients go, what it survives."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from cognates.config import decode, encode
from cognates.distributions import PowerSpherical, SphericalUniform, VonMisesFisher
from cognates.errors import ConfigError
from cognates.methods import Method, MethodConfig
from cognates.methods.simsiam import SimSiamConfig
from cognates.methods.vi_simsiam import ViSimSiamConfig
from cognates.objectives import negative_cosine, vi_simsiam
from cognates.random import generator
from cognates.testing import check_method
from cognates.types import Batch

F64 = torch.float64
SMALL = {"dim": 12, "hidden": 10, "predictor_hidden": 6}
VARIANTS = {
    "cosine": ViSimSiamConfig(**SMALL, coupling="cosine"),
    "cosine, z": ViSimSiamConfig(**SMALL, coupling="cosine", concentration_input="projection"),
    "detached, z": ViSimSiamConfig(**SMALL, coupling="detached", concentration_input="projection"),
    "beta": ViSimSiamConfig(**SMALL, coupling="beta-nll", activation="exp"),
    "sampled": ViSimSiamConfig(**SMALL, coupling="joint", posterior="sampled", kl_weight=0.3),
    "sampled vmf": ViSimSiamConfig(
        **SMALL, posterior="sampled", family="von-mises-fisher", coupling="cosine"
    ),
}
OPTIONS = {
    "cosine": {"coupling": "cosine"},
    "beta": {"coupling": "beta-nll"},
    "sampled": {"posterior": "sampled"},
    "sampled vmf": {"posterior": "sampled", "family": "von-mises-fisher"},
    "all": {"posterior": "sampled", "coupling": "cosine"},
}


def unit(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(x, dim=-1)


def build(config: MethodConfig, *, width: int = 9) -> Method:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 4, width), nn.ReLU())
        return config.build(encoder, width=width)


def batch(step: int = 0, v: int = 2, n: int = 6) -> Batch:
    gen = generator(step, "batch")
    views = tuple(torch.randn(n, 2, 4, 4, generator=gen) for _ in range(v))
    return Batch(views=views, index=torch.arange(n), step=step, seed=0)


def inputs(v: int = 3, n: int = 5, d: int = 7) -> tuple[torch.Tensor, ...]:
    gen = generator(0, "variants")
    p, z = (torch.randn(v, n, d, generator=gen, dtype=F64) for _ in range(2))
    return p, torch.rand(v, n, generator=gen, dtype=F64) * 3 * d + 0.1, z


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_standard_tests_of_a_method_hold_for_every_variant(variant):
    assert len(VARIANTS) == 6
    check_method(VARIANTS[variant], views=3 if variant == "sampled" else 2)


@pytest.mark.parametrize("variant", ["cosine", "cosine, z", "sampled vmf"])
def test_with_the_cosine_every_weight_but_the_heads_moves_exactly_as_simsiams(variant):
    config, weights = VARIANTS[variant], []
    for method in (build(SimSiamConfig(**SMALL)), build(config)):
        optimiser = torch.optim.SGD(method.train().parameters(), lr=0.1, momentum=0.9)
        for step in range(4):
            optimiser.zero_grad()
            method(batch(step)).total.backward()
            optimiser.step()
        weights.append(method.state_dict())
    start = build(SimSiamConfig(**SMALL)).state_dict()
    assert len(weights[0]) >= 20
    for name, value in weights[0].items():
        assert torch.equal(weights[1][name], value), name
    assert not torch.equal(weights[0]["encoder.1.weight"], start["encoder.1.weight"])
    # and the head, which is all there is more, learns
    more = {name for name in weights[1] if name not in weights[0]}
    assert all(name.startswith("concentration.") for name in more)
    moved = build(config).state_dict()["concentration.last.weight"]
    assert not torch.equal(weights[1]["concentration.last.weight"], moved)


def test_with_the_cosine_the_head_learns_as_if_detached():
    grads = []
    for coupling in ("detached", "cosine"):
        method = build(ViSimSiamConfig(**SMALL, coupling=coupling)).eval()
        method(batch()).total.backward()
        grads.append({name: p.grad for name, p in method.named_parameters()})
    for name in ("concentration.first.weight", "concentration.last.weight"):
        assert torch.equal(grads[0][name], grads[1][name])
    assert not torch.allclose(grads[0]["encoder.1.weight"], grads[1]["encoder.1.weight"])


def test_the_cosine_terms_are_simsiams_and_the_density_of_stopped_directions():
    p, kappa, z = (x.requires_grad_() for x in inputs())
    terms = vi_simsiam(p, kappa, z, coupling="cosine")
    assert list(terms) == ["alignment", "concentration"]
    assert torch.equal(terms["alignment"], negative_cosine(p, z)["alignment"])
    assert torch.equal(terms["concentration"], vi_simsiam(p, kappa, z)["alignment"])
    assert torch.autograd.grad(terms["concentration"], p, allow_unused=True)[0] is None
    assert torch.autograd.grad(terms["alignment"], kappa, allow_unused=True)[0] is None
    assert torch.autograd.gradcheck(
        lambda kappa: vi_simsiam(p, kappa, z, coupling="cosine")["concentration"], [kappa]
    )
    sum(vi_simsiam(p, kappa, z, coupling="cosine").values()).backward()
    assert z.grad is None


@pytest.mark.parametrize("per_dimension", [True, False])
def test_beta_weights_each_pair_by_a_power_of_its_stopped_concentration(per_dimension):
    p, kappa, z = (x.requires_grad_() for x in inputs())
    found = vi_simsiam(p, kappa, z, coupling="beta-nll", beta=0.5, per_dimension=per_dimension)
    scale = 6.0 if per_dimension else 1.0
    slow, pairs = torch.zeros((), dtype=F64), 0
    for i in range(3):
        for j in range(3):
            if i != j:
                log_p = PowerSpherical(unit(p[i]), kappa[i]).log_prob(unit(z[j]).detach())
                slow = slow - ((kappa[i].detach() / scale) ** -0.5 * log_p).mean() / scale
                pairs += 1
    assert pairs == 6
    torch.testing.assert_close(found["alignment"], slow / pairs, rtol=1e-12, atol=0)
    fast = torch.autograd.grad(found["alignment"], (p, kappa))
    for one, two in zip(fast, torch.autograd.grad(slow / pairs, (p, kappa)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-14)
    none = vi_simsiam(p, kappa, z, coupling="beta-nll", beta=0.0)["alignment"]
    torch.testing.assert_close(none, vi_simsiam(p, kappa, z)["alignment"], rtol=1e-12, atol=0)


def test_at_beta_one_the_pull_on_a_prediction_is_free_of_its_concentration():
    p, kappa, z = inputs()
    pulls = []
    for factor in (1.0, 30.0):
        leaf = p.clone().requires_grad_()
        vi_simsiam(leaf, factor * kappa, z, coupling="beta-nll", beta=1.0)["alignment"].backward()
        pulls.append(leaf.grad)
    torch.testing.assert_close(pulls[0], pulls[1], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("family", ["power-spherical", "von-mises-fisher"])
def test_a_sampled_posterior_gives_the_expectation_and_the_divergence(family):
    # Of a von Mises-Fisher density the expected logarithm is known: linear in the mean of z.
    n, d, kind = 4000, 6, {"power-spherical": PowerSpherical, "von-mises-fisher": VonMisesFisher}
    p, kappa, z = (x[:2, :1] for x in inputs(3, 5, d))
    q = kind[family](unit(z), kappa)
    wide = [x.expand(2, n, *x.shape[2:]) for x in (p, kappa, z)]
    terms = vi_simsiam(
        *wide, family=family, posterior="sampled", kl_weight=0.25, per_dimension=False,
        generator=generator(1, "objective"),
    )  # fmt: skip
    assert list(terms) == ["alignment", "divergence"]
    divergence = kl_divergence(q, SphericalUniform(d)).mean()
    torch.testing.assert_close(terms["divergence"], 0.25 * divergence, rtol=1e-12, atol=0)
    each = terms["alignment"]
    draws = q.sample((n,), generator=generator(2, "reference"))[:, [1, 0], 0]
    log_p = kind[family](unit(p[:, 0]), kappa[:, 0]).log_prob(draws).mean(1)
    values = -log_p
    # two means of n draws each: four standard errors of their difference
    error = 4 * (2 * values.var() / n).sqrt().item()
    assert each.item() == pytest.approx(values.mean().item(), abs=error)
    if family == "von-mises-fisher":
        c = (q.mean * unit(z)).sum(-1)[[1, 0]]
        s = (unit(p) * unit(z)[[1, 0]]).sum(-1)
        zero = VonMisesFisher(unit(p), kappa).log_prob(unit(p)) - kappa
        exact = -(zero + kappa * c * s).mean().item()
        assert each.item() == pytest.approx(exact, abs=error)


def test_a_sampled_posterior_sends_gradients_to_both_concentrations_and_none_to_the_target():
    p, kappa, z = (x.requires_grad_() for x in inputs(2, 2, 3))

    def loss(p, kappa):
        terms = vi_simsiam(
            p, kappa, z, family="von-mises-fisher", posterior="sampled", kl_weight=0.5,
            generator=generator(0, "held"),
        )  # fmt: skip
        return terms["alignment"] + terms["divergence"]

    assert torch.autograd.gradcheck(lambda p: loss(p, kappa.detach()), [p])
    loss(p, kappa).backward()
    assert z.grad is None
    # view 1 as posterior only: its concentration enters the draw that view 0 predicts
    only = torch.autograd.grad(loss(p.detach(), kappa), kappa)[0]
    assert (only != 0).all()
    assert only.isfinite().all()


def test_at_a_divergence_weight_of_one_concentrations_run_to_zero_and_below_they_do_not():
    n, d = 128, 8
    mu = unit(torch.randn(1, n, d, generator=generator(0, "mu"), dtype=F64)).expand(2, n, d)
    z = unit(mu + 0.15 * torch.randn(2, n, d, generator=generator(0, "noise"), dtype=F64))
    ends = {}
    for weight in (0.1, 1.0):
        log_kappa = torch.tensor(2.5, dtype=F64, requires_grad=True)
        optimiser = torch.optim.Adam([log_kappa], lr=0.25)
        for step in range(25):
            kappa = log_kappa.exp().expand(2, n)
            terms = vi_simsiam(
                mu, kappa, z, posterior="sampled", kl_weight=weight,
                generator=generator(step, "steps"),
            )  # fmt: skip
            optimiser.zero_grad()
            sum(terms.values()).backward()
            optimiser.step()
        ends[weight] = log_kappa.exp().item()
    assert ends[1.0] < 1 < 10 < ends[0.1]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("case", ["zero", "identical", "opposite", "bfloat16"])
def test_every_variant_is_finite_at_the_edges(options, case):
    p, kappa, z = (x.float() for x in inputs(2, 8, 33))
    if case == "zero":
        p, z, kappa = 0 * p, 0 * z, 0 * kappa
    elif case == "identical":
        p = z = z[:1].expand(2, 8, 33).clone()
    elif case == "opposite":
        p = -z.flip(0)
    else:
        p, kappa, z = p.bfloat16(), kappa.bfloat16(), z.bfloat16()
    p, kappa = p.clone().requires_grad_(), kappa.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = vi_simsiam(p, kappa, z, **OPTIONS[options], generator=generator(0, "edge"))
    sum(terms.values()).backward()
    for term in terms.values():
        assert term.isfinite()
        assert term.dtype == torch.float32
    for x in (p, kappa):
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_three_views_of_a_variant_give_the_mean_over_their_pairs():
    p, kappa, z = inputs(3)
    for options in ({"coupling": "cosine"}, {"coupling": "beta-nll"}):
        whole = vi_simsiam(p, kappa, z, **options)
        rows = [[0, 1], [0, 2], [1, 2]]
        each = [vi_simsiam(p[r], kappa[r], z[r], **options) for r in rows]
        for name, value in whole.items():
            mean = torch.stack([terms[name] for terms in each]).mean()
            torch.testing.assert_close(value, mean, rtol=1e-12, atol=0)


def test_the_concentration_can_be_read_from_the_projection():
    method = build(VARIANTS["detached, z"]).eval()
    images = batch().views[0]
    u = method.embed(images).uncertainty
    kappa = method.concentration(method.projector(method.encoder(images)))  # pyright: ignore
    assert u is not None
    torch.testing.assert_close(u, 11 / (kappa + 11))
    hidden = method.concentration.first.weight.shape  # pyright: ignore
    assert hidden == (3, 12)  # a quarter of the projection's width


def test_records_with_the_old_field_of_the_coupling_are_still_read():
    record = encode(ViSimSiamConfig(**SMALL))
    new = ("coupling", "beta", "posterior", "kl_weight", "activation", "concentration_input")
    old = {name: value for name, value in record.items() if name not in new}
    assert len(old) == len(record) - 6
    for value, coupling in ((False, "joint"), (True, "detached")):
        text = json.dumps({**old, "detach_concentration": value})
        found = decode(MethodConfig, json.loads(text), "method")
        assert found == ViSimSiamConfig(**SMALL, coupling=coupling)
    with pytest.raises(ConfigError, match="Unknown field 'detach_concentration'"):
        decode(MethodConfig, {**record, "detach_concentration": True}, "method")
    with pytest.raises(ConfigError, match="Unknown field 'detach_concentration'"):
        decode(MethodConfig, {**old, "detach_concentration": "yes"}, "method")
