"""SimCLR as a method: its promises, its wiring, its defaults, and that it learns."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from cognates.errors import ConfigError
from cognates.methods import get
from cognates.methods.simclr import SimClrConfig
from cognates.objectives import info_nce
from cognates.random import generator
from cognates.testing import check_method
from cognates.types import Batch

F64 = torch.float64
SMALL = SimClrConfig(dim=6, hidden=8)


def made(config, *, width=9):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(32, width), nn.ReLU())
        return config.build(encoder, width=width).double()


def views_of(images, count, gen):
    """Return noisy copies of images."""
    return tuple(
        images + 0.3 * torch.randn(images.shape, generator=gen, dtype=F64) for _ in range(count)
    )


def batch(v=2, n=6, step=0, seed=0):
    gen = generator(seed, "batch")
    images = torch.randn(n, 2, 4, 4, generator=gen, dtype=F64)
    return Batch(views=views_of(images, v, gen), index=torch.arange(n), step=step, seed=0)


@pytest.mark.parametrize(
    ("config", "views"), [(SMALL, 2), (dataclasses.replace(SMALL, decoupled=True, layers=3), 3)]
)
def test_simclr_keeps_every_promise_of_a_method(config, views):
    check_method(config, views=views)


def test_simclr_is_registered_and_its_defaults_are_the_papers():
    assert get("simclr") is SimClrConfig
    assert "https://arxiv.org/abs/2002.05709" in SimClrConfig.paper
    assert dataclasses.astuple(SimClrConfig()) == (128, 2048, 2, 0.1, False)
    kinds = [type(layer) for layer in made(SMALL).projector]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]


@pytest.mark.parametrize("v", [2, 4])
@pytest.mark.parametrize("decoupled", [False, True])
def test_the_loss_is_nt_xent_of_the_projections_of_all_views(v, decoupled):
    config = dataclasses.replace(SMALL, temperature=0.2, decoupled=decoupled)
    method, data = made(config).eval(), batch(v)
    z = torch.stack([method.projector(method.encoder(view)) for view in data.views])
    expected = info_nce(z, temperature=0.2, negatives="all", decoupled=decoupled)
    found = method(data)
    assert list(found.terms) == ["alignment", "uniformity"]
    for name, term in expected.items():
        torch.testing.assert_close(found.terms[name], term, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.monitored, z[0].detach())
    assert not found.monitored.requires_grad


def test_an_image_is_embedded_by_the_encoder_and_has_no_uncertainty_of_its_own():
    method, x = made(SMALL).eval(), batch().views[0]
    found = method.embed(x)
    torch.testing.assert_close(found.representation, method.encoder(x))
    assert found.uncertainty is None
    assert method.default_score == "view-disagreement"


@pytest.mark.parametrize(
    ("field", "value"),
    [("dim", 0), ("layers", 0), ("temperature", 0.0), ("temperature", math.inf)],
)
def test_hyperparameters_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field):
        SimClrConfig(**{field: value})


def test_a_batch_of_one_image_is_refused():
    SMALL.require_images(2)
    with pytest.raises(ConfigError, match="at least two images"):
        SMALL.require_images(1)


@pytest.mark.parametrize("decoupled", [False, True])
def test_descent_brings_views_together_and_below_what_a_collapse_gives(decoupled):
    method = made(dataclasses.replace(SMALL, temperature=0.5, decoupled=decoupled))
    optimiser = torch.optim.SGD(method.parameters(), lr=0.1)
    gen = generator(0, "descent")
    x, n = torch.randn(32, 2, 4, 4, generator=gen, dtype=F64), 32
    for step in range(60):
        loss = method(Batch(views_of(x, 2, gen), torch.arange(n), step, 0))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    assert loss.total.item() < math.log(2 * n - (2 if decoupled else 1)) - 0.5
