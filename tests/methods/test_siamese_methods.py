"""SimSiam and VI-SimSiam as modules: what they compute, where gradients go, what they embed."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from cognates.config import decode, encode
from cognates.errors import ConfigError
from cognates.methods import Method, MethodConfig, get, names
from cognates.methods.simsiam import SimSiamConfig
from cognates.methods.vi_simsiam import ViSimSiamConfig
from cognates.objectives import negative_cosine, vi_simsiam
from cognates.random import generator
from cognates.testing import check_method
from cognates.types import Batch

SMALL = {"dim": 12, "hidden": 10, "predictor_hidden": 6}
CONFIGS = [
    SimSiamConfig(**SMALL),
    SimSiamConfig(**SMALL, layers=2),
    ViSimSiamConfig(**SMALL, coupling="joint"),
    ViSimSiamConfig(**SMALL, coupling="joint", family="von-mises-fisher", per_dimension=False),
    ViSimSiamConfig(**SMALL, coupling="detached", start=0.4, concentration_hidden=5),
]


def build(config: MethodConfig, *, width: int = 9) -> Method:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 4, width), nn.ReLU())
        return config.build(encoder, width=width)


def batch(v: int = 2, n: int = 6, dtype: torch.dtype = torch.float32) -> Batch:
    gen = generator(0, "batch")
    views = tuple(torch.randn(n, 2, 4, 4, generator=gen, dtype=dtype) for _ in range(v))
    return Batch(views=views, index=torch.arange(n), step=0, seed=0)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
@pytest.mark.parametrize("views", [2, 3])
def test_the_standard_tests_of_a_method_hold(config, views):
    check_method(config, views=views)


def test_both_methods_are_registered_under_their_names_with_their_papers():
    found = {name: get(name) for name in ("simsiam", "vi-simsiam")}
    assert found == {"simsiam": SimSiamConfig, "vi-simsiam": ViSimSiamConfig}
    assert set(found) <= set(names())
    for config in found.values():
        assert "https://arxiv.org/abs/" in config.paper


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_configurations_survive_json(config):
    assert decode(MethodConfig, json.loads(json.dumps(encode(config))), "method") == config


def test_default_sizes_are_simsiams_for_imagenet():
    for config in (SimSiamConfig(), ViSimSiamConfig()):
        sizes = (config.dim, config.hidden, config.layers, config.predictor_hidden)
        assert sizes == (2048, 2048, 3, 512)
    head = build(ViSimSiamConfig(**SMALL), width=64).concentration
    assert isinstance(head, nn.Module)
    assert any(p.shape == (16, 64) for p in head.parameters())  # a quarter of the width


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (SimSiamConfig, "dim", 0),
        (SimSiamConfig, "layers", 0),
        (ViSimSiamConfig, "dim", 1),
        (ViSimSiamConfig, "start", 1.0),
        (ViSimSiamConfig, "start", 0.0),
        (ViSimSiamConfig, "concentration_hidden", 0),
        (ViSimSiamConfig, "family", "gaussian"),
        (ViSimSiamConfig, "coupling", "loose"),
        (ViSimSiamConfig, "posterior", "laplace"),
        (ViSimSiamConfig, "activation", "relu"),
        (ViSimSiamConfig, "concentration_input", "pixels"),
        (ViSimSiamConfig, "beta", 1.5),
        (ViSimSiamConfig, "kl_weight", -1.0),
        (ViSimSiamConfig, "kl_weight", float("inf")),
    ],
)
def test_bad_hyperparameters_are_refused_by_name(kind, field, value):
    with pytest.raises(ConfigError, match=field):
        kind(**{field: value})


@pytest.mark.parametrize("v", [2, 3])
def test_the_methods_compute_their_objectives_view_by_view(v):
    data = batch(v, dtype=torch.float64)
    for config in (CONFIGS[0], CONFIGS[2]):
        method = build(config).double().eval()
        h = [method.encoder(x) for x in data.views]
        z = torch.stack([method.projector(x) for x in h])  # pyright: ignore
        p = torch.stack([method.predictor(x) for x in z])  # pyright: ignore
        loss = method(data)
        if isinstance(config, ViSimSiamConfig):
            kappa = torch.stack([method.concentration(x) for x in h])  # pyright: ignore
            expected = vi_simsiam(p, kappa, z)
        else:
            expected = negative_cosine(p, z)
        assert loss.terms.keys() == expected.keys()
        torch.testing.assert_close(loss.total, expected["alignment"], rtol=1e-12, atol=1e-12)
        assert torch.equal(loss.monitored, z[0])


def test_batch_statistics_are_those_of_one_view():
    method = build(CONFIGS[0]).train()
    data = batch()
    # A view that is shifted and scaled as a whole is normalised away by its own statistics.
    moved = data._replace(views=(data.views[0], 3 * data.views[1]))
    method.encoder = nn.Sequential(nn.Flatten(), nn.Linear(32, 9, bias=False))
    before, after = method(data).total, method(moved).total
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_no_gradient_reaches_the_target_branch(config):
    # Only view 0 predicts when the predictions of view 1 are cut off: then view 1, which is only a
    # target, gets no gradient although the loss depends on it.
    method = build(config).eval()
    data = batch()
    first, second = (x.clone().requires_grad_() for x in data.views)
    predictor, calls = method.predictor, []

    def cut(z: torch.Tensor) -> torch.Tensor:
        calls.append(z)
        p = predictor(z)  # pyright: ignore
        return p if len(calls) == 1 else p.detach()

    method.predictor = None  # pyright: ignore
    object.__setattr__(method, "predictor", cut)
    del method._modules["predictor"]
    if isinstance(config, ViSimSiamConfig):
        head, seen = method.concentration, []

        def cut_head(h: torch.Tensor) -> torch.Tensor:
            seen.append(h)
            return head(h) if len(seen) == 1 else head(h).detach()  # pyright: ignore

        del method._modules["concentration"]
        object.__setattr__(method, "concentration", cut_head)
    total = method(data._replace(views=(first, second))).total
    total.backward()
    assert len(calls) == 2
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
    assert second.grad is None or second.grad.abs().sum() == 0
    other = method(data._replace(views=(first, -second))).total
    assert other != total


def test_detaching_the_concentration_stops_its_gradient_at_the_encoder_only():
    config = ViSimSiamConfig(**SMALL)
    grads = {}
    for coupling in ("joint", "detached"):
        method = build(dataclasses.replace(config, coupling=coupling)).eval()
        method(batch()).total.backward()
        grads[coupling == "detached"] = {name: p.grad for name, p in method.named_parameters()}
    for name in ("concentration.last.weight", "predictor.0.weight", "projector.0.weight"):
        assert torch.equal(grads[True][name], grads[False][name])
    assert not torch.allclose(grads[True]["encoder.1.weight"], grads[False]["encoder.1.weight"])


def test_vi_simsiam_starts_at_the_stated_expected_cosine():
    for start in (0.1, 0.25, 0.5):
        method = build(ViSimSiamConfig(**SMALL, start=start)).eval()
        u = method.embed(batch(n=64).views[0]).uncertainty
        assert u is not None
        assert (1 - u).mean().item() == pytest.approx(start, abs=0.03)


def test_vi_simsiam_embeds_the_uncertainty_of_its_concentration():
    method = build(ViSimSiamConfig(**SMALL)).eval()
    images = batch().views[0]
    h, u = method.embed(images)
    kappa = method.concentration(method.encoder(images))  # pyright: ignore
    assert u is not None
    torch.testing.assert_close(u, 11 / (kappa + 11))
    torch.testing.assert_close(h, method.encoder(images))
    assert ((u > 0) & (u <= 1)).all()
    assert torch.equal(u.argsort(), (-kappa).argsort())  # larger is less certain


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[2]], ids=["simsiam", "vi-simsiam"])
def test_embeddings_in_bfloat16_autocast_are_float32_and_finite(config):
    method = build(config).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        h, u = method.embed(1e3 * batch().views[0])
    assert h.dtype == torch.float32
    assert h.isfinite().all()
    if isinstance(config, ViSimSiamConfig):
        assert u is not None
        assert u.dtype == torch.float32
        assert ((u > 0) & (u <= 1)).all()
    else:
        assert u is None
        assert method.default_score == "view-disagreement"


def test_a_batch_has_no_field_for_a_label():
    assert Batch._fields == ("views", "index", "step", "seed", "text")


def test_simsiam_needs_at_least_two_views():
    for config in (CONFIGS[0], CONFIGS[2]):
        with pytest.raises(ConfigError, match="at least two views"):
            build(config)(batch(1))


def test_a_few_steps_align_the_views_without_collapse():
    for config in (CONFIGS[0], CONFIGS[2]):
        method = build(config).train()
        optimiser = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
        gen = generator(0, "steps")
        values = []
        for step in range(30):
            x = torch.randn(32, 2, 4, 4, generator=gen)
            views = tuple(x + 0.3 * torch.randn(x.shape, generator=gen) for _ in range(2))
            loss = method(Batch(views=views, index=torch.arange(32), step=step, seed=0))
            optimiser.zero_grad()
            loss.total.backward()
            optimiser.step()
            values.append(loss.total.item())
        assert sum(values[-5:]) < sum(values[:5])
