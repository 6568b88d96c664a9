"""SSL-HSIC on identical, zero, one or two images; what its scale and its target are fed with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cognates.errors import ConfigError
from cognates.kernels import steepness_slope
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


def test_the_slope_compares_two_samples_that_follow_from_seed_and_step(monkeypatch):
    seen = []

    def slope(kernel, squared):
        seen.append(squared)
        return steepness_slope(kernel, squared)

    monkeypatch.setattr("cognates.methods.ssl_hsic.steepness_slope", slope)
    method = build(CONFIGS[0]).double().train()
    for data in (batch(), batch(), batch()._replace(seed=1), batch()._replace(step=1)):
        method(data)
    first, again, other_seed, other_step = seen
    # of one sample twice the distances would be symmetric, with nothing on the diagonal
    assert not torch.equal(first, first.T)
    assert (first.diagonal() > 1e-6).any()
    assert torch.equal(first, again)
    assert not torch.equal(first, other_seed)
    assert not torch.equal(first, other_step)


def test_the_target_keeps_batch_statistics_of_its_own():
    method = build(CONFIGS[0]).double().train()
    with torch.no_grad():
        for weight in method.target.parameters():
            weight.mul_(1.5)
    norm = next(m for m in method.target.modules() if isinstance(m, nn.BatchNorm1d))
    seen = []
    norm.register_forward_hook(lambda _, x, y: seen.append(x[0].mean(0)))
    expected = norm.running_mean.clone()
    for step in range(2):
        method(batch(step=step))
        method.after_step(step)
    assert len(seen) == 4  # two views at each step
    for mean in seen:
        expected.lerp_(mean, norm.momentum)
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-12, atol=0)
