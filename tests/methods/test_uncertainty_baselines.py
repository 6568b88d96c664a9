"""MCInfoNCE and loss prediction as modules: what they compute, draw, learn and embed."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from torch import nn

from cognates.distributions import VonMisesFisher
from cognates.errors import ConfigError
from cognates.methods import Method, MethodConfig, get
from cognates.methods.loss_prediction import LossPredictionConfig
from cognates.methods.mc_info_nce import McInfoNceConfig
from cognates.methods.simsiam import SimSiamConfig
from cognates.networks.positive_head import PositiveHead
from cognates.objectives import loss_prediction, mc_info_nce, negative_cosine
from cognates.objectives.dependence import unit_rows
from cognates.random import generator
from cognates.testing import check_method
from cognates.types import Batch

F64 = torch.float64
MC = McInfoNceConfig(dim=12, hidden=10, samples=4)
LP = LossPredictionConfig(dim=12, hidden=10, predictor_hidden=6)
SIMSIAM = SimSiamConfig(dim=12, hidden=10, predictor_hidden=6)


def build(config: MethodConfig, *, width: int = 9) -> Method:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 4, width), nn.ReLU())
        return config.build(encoder, width=width)


def batch(v: int = 2, n: int = 6, *, step: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    gen = generator(0, "batch", step)
    views = tuple(torch.randn(n, 2, 4, 4, generator=gen, dtype=dtype) for _ in range(v))
    return Batch(views=views, index=torch.arange(n), step=step, seed=0)


@pytest.mark.parametrize(
    ("config", "views"),
    [
        (MC, 2),
        (dataclasses.replace(MC, family="power-spherical", negatives="cross", samples=1), 3),
        (dataclasses.replace(LP, layers=2, head_hidden=3, weight=0.5), 3),
    ],
    ids=repr,
)
def test_the_standard_tests_of_a_method_hold(config, views):
    check_method(config, views=views)


def test_both_methods_are_registered_under_their_names_with_paper_and_score():
    assert get("mc-info-nce") is McInfoNceConfig
    assert get("loss-prediction") is LossPredictionConfig
    assert "2302.02865" in McInfoNceConfig.paper
    assert "2402.16569" in LossPredictionConfig.paper
    assert (build(MC).default_score, build(LP).default_score) == (
        "concentration",
        "predicted-loss",
    )
    assert {build(MC).score_cost, build(LP).score_cost} == {"free"}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (McInfoNceConfig, "dim", 1),
        (McInfoNceConfig, "samples", 0),
        (McInfoNceConfig, "temperature", 0.0),
        (McInfoNceConfig, "start_concentration", 0.0),
        (LossPredictionConfig, "dim", 0),
        (LossPredictionConfig, "head_hidden", 0),
        (LossPredictionConfig, "weight", -1.0),
    ],
)
def test_bad_hyperparameters_are_refused_by_name(kind, field, value):
    with pytest.raises(ConfigError, match=field):
        kind(**{field: value})


@pytest.mark.parametrize("v", [2, 3])
def test_mc_info_nce_computes_its_objective_with_draws_of_seed_and_step(v):
    data = batch(v, step=3, dtype=F64)
    method = build(MC).double().eval()
    h = [method.encoder(x) for x in data.views]
    z = torch.stack([method.projector(x) for x in h])  # pyright: ignore
    kappa = torch.stack([method.concentration(x) for x in h])  # pyright: ignore
    expected = mc_info_nce(
        VonMisesFisher(unit_rows(z), kappa),
        samples=4,
        generator=generator(0, "mc-info-nce", "latents", 3),
    )
    loss = method(data)
    assert loss.terms.keys() == expected.keys()
    for name, term in expected.items():
        torch.testing.assert_close(loss.terms[name], term, rtol=1e-12, atol=1e-12)
    assert torch.equal(loss.monitored, z[0])
    assert method(data._replace(step=4)).total != loss.total
    assert method(data._replace(seed=1)).total != loss.total


def test_concentrations_of_mc_info_nce_start_at_sixteen_in_any_dimension():
    assert McInfoNceConfig().start_concentration == 16.0
    for dim in (4, 64, 512):
        method = build(dataclasses.replace(MC, dim=dim)).eval()
        h = method.encoder(batch(n=64).views[0])
        kappa = method.concentration(h)  # pyright: ignore
        # The last layer's weights give deviations of about a percent.
        assert kappa.mean().item() == pytest.approx(16, rel=0.05)


def test_mc_info_nce_embeds_the_uncertainty_of_its_concentration():
    method = build(MC).eval()
    h, u = method.embed(batch().views[0])
    kappa = method.concentration(h)  # pyright: ignore
    assert u is not None
    torch.testing.assert_close(u, 11 / (kappa + 11))
    assert ((u > 0) & (u <= 1)).all()


def test_mc_info_nce_teaches_the_encoder_through_directions_and_concentrations():
    method = build(MC).train()
    method(batch()).total.backward()
    grads = {name: p.grad for name, p in method.named_parameters()}
    for name in ("encoder.1.weight", "projector.0.weight", "concentration.last.weight"):
        grad = grads[name]
        assert grad is not None
        assert grad.abs().sum() > 0


@pytest.mark.parametrize("v", [2, 3])
def test_loss_prediction_adds_the_squared_error_of_each_views_own_loss(v):
    data = batch(v, dtype=F64)
    method = build(dataclasses.replace(LP, weight=0.3)).double().eval()
    h = [method.encoder(x) for x in data.views]
    z = torch.stack([method.projector(x) for x in h])  # pyright: ignore
    p = torch.stack([method.predictor(x) for x in z])  # pyright: ignore
    u = torch.stack([method.head(x) for x in h])  # pyright: ignore
    own = torch.stack([
        1 - sum(torch.cosine_similarity(p[i], z[j], dim=-1) for j in range(v) if j != i) / (v - 1)
        for i in range(v)
    ])  # fmt: skip
    loss = method(data)
    assert list(loss.terms) == ["alignment", "loss_prediction"]
    assert loss.terms["alignment"].item() == pytest.approx(own.mean().item() - 1, abs=1e-12)
    expected = negative_cosine(p, z)["alignment"]
    torch.testing.assert_close(loss.terms["alignment"], expected, rtol=1e-12, atol=1e-12)
    error = 0.3 * (u - own).square().mean().item()
    assert loss.terms["loss_prediction"].item() == pytest.approx(error, rel=1e-12)


def test_encoder_and_projections_of_loss_prediction_are_simsiams_to_the_bit():
    ours, theirs = build(LP).train(), build(SIMSIAM).train()
    for method in (ours, theirs):
        optimiser = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        for step in range(3):
            optimiser.zero_grad()
            method(batch(step=step)).total.backward()
            optimiser.step()
    state = theirs.state_dict()
    assert len(state) > 10
    for name, value in state.items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_the_head_learns_the_expected_loss_of_each_kind_of_image():
    # Even images have views that agree, odd ones views that have nothing in common.
    method = build(LP).eval()
    method.predictor = nn.Identity()
    kind = torch.arange(64) % 2 == 1
    x, y = batch(n=64).views
    x[kind] += 3  # what the head can see
    data = batch(n=64)._replace(views=(x, torch.where(kind[:, None, None, None], y, x)))
    method.head.train()  # pyright: ignore
    optimiser = torch.optim.Adam(method.head.parameters(), lr=0.02)  # pyright: ignore
    for _ in range(100):
        optimiser.zero_grad()
        method(data).terms["loss_prediction"].backward()
        optimiser.step()
    method.eval()
    z = [method.projector(method.encoder(view)) for view in data.views]  # pyright: ignore
    own = 1 - torch.cosine_similarity(z[0], z[1], dim=-1)
    _, u = method.embed(x)
    assert u is not None
    gap, learnt = (value[kind].mean() - value[~kind].mean() for value in (own, u))
    assert abs(gap) > 0.1
    assert learnt.item() == pytest.approx(gap.item(), rel=0.25)  # after 100 steps


def test_the_positive_head_starts_where_it_is_told_and_stays_positive():
    for start in (1e-3, 0.5, 40.0):
        head = PositiveHead(6, 4, start=start).eval()
        u = head(torch.zeros(3, 6))
        assert u.tolist() == pytest.approx([start] * 3, rel=0.02)  # the last layer's weights
        assert (head(1e4 * torch.randn(50, 6)) >= 0).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert PositiveHead(6, 4, start=0.5)(torch.randn(4, 6)).dtype == torch.float32
    for sizes, start in (((0, 4), 0.5), ((6, 0), 0.5), ((6, 4), 0.0)):
        with pytest.raises(ConfigError):
            PositiveHead(*sizes, start=start)


def test_the_best_prediction_is_the_mean_loss_and_no_gradient_reaches_the_losses():
    losses = torch.rand(2, 8, dtype=F64, requires_grad=True)
    guess = losses.detach().mean().expand(2, 8).clone().requires_grad_()
    value = loss_prediction(guess, losses)["loss_prediction"]
    assert value.item() == pytest.approx(losses.var(correction=0).item(), rel=1e-12)
    (slope,) = torch.autograd.grad(value, guess)
    assert slope.sum().item() == pytest.approx(0, abs=1e-15)
    assert losses.grad is None
    for shift in (-0.1, 0.1):
        assert loss_prediction(guess.detach() + shift, losses)["loss_prediction"] > value
    assert torch.autograd.gradcheck(
        lambda u: loss_prediction(u, losses.detach(), weight=0.7)["loss_prediction"], [guess]
    )
    with pytest.raises(ConfigError, match="one prediction per loss"):
        # `make test` checks annotations, which would refuse the shapes before the function does.
        inspect.unwrap(loss_prediction)(torch.zeros(2, 3), torch.zeros(2, 4))
