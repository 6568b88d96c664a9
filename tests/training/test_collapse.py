"""Methods broken on purpose collapse, and the monitor says so in time; whole ones do not."""

from __future__ import annotations

import types
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from cognates.errors import CollapseWarning
from cognates.methods.byol import ByolConfig
from cognates.methods.simsiam import SimSiamConfig
from cognates.methods.vicreg import VicRegConfig
from cognates.training import monitors
from cognates.types import Batch, Loss

STEPS = 150


def _without_stop_gradient(self, batch):
    z = [self.projector(self.encoder(view)) for view in batch.views]
    p = [self.predictor(x) for x in z]
    cosines = [functional.cosine_similarity(p[i], z[1 - i], dim=-1).mean() for i in (0, 1)]
    return Loss({"alignment": -torch.stack(cosines).mean()}, z[0].detach())


def build(name, *, broken):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))
    if name == "vicreg":
        config = VicRegConfig(dim=16, hidden=32, variance=0.0 if broken else 25.0)
        return config.build(encoder, width=16)
    if name == "byol":
        method = ByolConfig(dim=16, hidden=32, target_decay=0.5).build(encoder, width=16)
        if broken:
            method.predictor = nn.Identity()
        return method
    method = SimSiamConfig(dim=16, hidden=32, predictor_hidden=8).build(encoder, width=16)
    if broken:
        method.forward = types.MethodType(_without_stop_gradient, method)
    return method


RATES = {"vicreg": 0.02, "byol": 0.5, "simsiam": 0.5}
NOISE = {"vicreg": 1.0, "byol": 1.0, "simsiam": 3.0}  # of a view, beside images of variance 1


def watched(name, *, broken):
    """Return the step at which a threshold was first crossed, that of the warning, and its text."""
    method = build(name, broken=broken).train()
    learns = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(learns, lr=RATES[name], momentum=0.9)
    monitor, crossed, draw = monitors.CollapseMonitor(stop=False), None, torch.Generator()
    images = torch.randn(64, 64, generator=draw.manual_seed(1))
    for step in range(STEPS):
        noise = torch.randn(2, 64, 64, generator=draw.manual_seed(2 + step))
        views = tuple(images + NOISE[name] * noise)
        loss = method(Batch(views, torch.arange(64), step, 0))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        method.after_step(step)
        seen = monitors.measure(loss.monitored)
        low = seen["spread"] < 0.1 or seen["effective_rank"] < 2
        crossed = step + 1 if low and crossed is None else crossed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)
            warning = monitor.read(step + 1, loss.monitored.shape, **seen)
        if warning:
            return crossed, step + 1, warning
    return crossed, None, None


@pytest.mark.parametrize("name", sorted(RATES))
def test_without_the_part_that_keeps_images_apart_a_method_collapses_and_is_named(name):
    assert len(RATES) == 3
    crossed, warned, sentence = watched(name, broken=True)
    assert crossed is not None
    assert warned is not None
    assert warned - crossed <= 50
    assert "The representation collapsed: the " in sentence
    assert "spread of the projections" in sentence or "effective rank" in sentence


@pytest.mark.parametrize("name", sorted(RATES))
def test_with_it_the_same_run_stays_above_the_thresholds(name):
    assert watched(name, broken=False) == (None, None, None)
