"""SSL-HSIC on batches that have nothing to tell apart: identical, zero, one or two images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cognates.errors import ConfigError
from cognates.methods.ssl_hsic import SslHsic, SslHsicConfig
from cognates.random import generator
from cognates.types import Batch

SMALL = {"dim": 12, "hidden": 10}
CONFIGS = [SslHsicConfig(**SMALL), SslHsicConfig(**SMALL, target=False)]
F64 = torch.float64


def build(config: SslHsicConfig, *, width: int = 9) -> SslHsic:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(32, width), nn.BatchNorm1d(width))
        return config.build(encoder, width=width)


def batch(v: int = 2, n: int = 6, *, step: int = 0, dtype: torch.dtype = F64) -> Batch:
    gen = generator(0, "batch", step)
    x = torch.randn(n, 2, 4, 4, generator=gen, dtype=dtype)
    views = tuple(x + 0.5 * torch.randn(x.shape, generator=gen, dtype=dtype) for _ in range(v))
    return Batch(views=views, index=torch.arange(n), step=step, seed=0)


def _few(name):
    """Return a batch of float32 images: identical, zero, or only two."""
    data = batch(n=2 if name == "two images" else 6, dtype=torch.float32)
    if name == "identical":
        return data._replace(views=tuple(data.views[0][:1].expand_as(x) for x in data.views))
    if name == "zero":
        return data._replace(views=tuple(torch.zeros_like(x) for x in data.views))
    return data


@pytest.mark.parametrize("name", ["identical", "zero", "two images"])
@pytest.mark.parametrize("exact_up_to", [8192, 0])
@pytest.mark.parametrize("target", [True, False])
@pytest.mark.parametrize("kernel", ["imq", "rbf", "linear"])
def test_degenerate_images_have_a_finite_loss_gradient_and_scale(name, exact_up_to, target, kernel):
    kind = {"exact_up_to": exact_up_to, "features": 16, "target": target, "kernel": kernel}
    method = build(SslHsicConfig(**SMALL, **kind)).train()
    for step in range(2):
        method.zero_grad()
        loss = method(_few(name)).total
        loss.backward()
        assert loss.isfinite()
        found = {n: p.grad for n, p in method.named_parameters() if p.requires_grad}
        assert len(found) >= 8
        for key, gradient in found.items():
            assert gradient is not None, key
            assert gradient.isfinite().all(), key
        method.after_step(step)
        assert method.log_scale.isfinite()


@pytest.mark.parametrize("config", CONFIGS[:2], ids=repr)
def test_one_image_is_refused_in_training_in_one_sentence(config):
    method = build(config).double().train()
    with pytest.raises(ConfigError, match="at least two images to train on, got 1"):
        method(batch(n=1))
    assert method.eval()(batch(n=1)).total.isfinite()
