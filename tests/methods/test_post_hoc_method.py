"""The post-hoc head: what is frozen, what is measured, what it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cognates.errors import ConfigError
from cognates.methods import get
from cognates.methods.post_hoc import PostHoc, PostHocConfig
from cognates.objectives import vi_simsiam
from cognates.random import generator
from cognates.testing import check_method
from cognates.types import Batch

F64 = torch.float64


def build(config: PostHocConfig | None = None, *, width: int = 9) -> PostHoc:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(2 * 4 * 4, width), nn.BatchNorm1d(width), nn.ReLU()
        )
        return (config or PostHocConfig(components=5)).build(encoder, width=width)


def batch(v: int = 2, n: int = 16, *, step: int = 0) -> Batch:
    gen = generator(0, "batch", step)
    views = tuple(torch.randn(n, 2, 4, 4, generator=gen) for _ in range(v))
    return Batch(views=views, index=torch.arange(n), step=step, seed=0)


def test_the_standard_tests_of_a_method_hold():
    check_method(PostHocConfig(components=5))
    check_method(PostHocConfig(family="von-mises-fisher", head_hidden=3), views=3)
    assert get("post-hoc") is PostHocConfig


def test_nothing_but_the_head_learns_and_the_encoder_stays_as_it_was():
    method = build().train()
    before = {name: value.clone() for name, value in method.encoder.state_dict().items()}
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=0.01)
    for step in range(5):
        optimiser.zero_grad()
        method(batch(step=step)).total.backward()
        optimiser.step()
    assert not any(part.training for part in method.encoder.modules())
    assert method.concentration.training
    learnt = {name for name, p in method.named_parameters() if p.requires_grad}
    assert len(learnt) == 6
    assert all(name.startswith("concentration.") for name in learnt)
    for name, value in method.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_features_are_whitened_by_the_first_batch_and_never_again():
    method = build(PostHocConfig(components=4)).train()
    h = torch.randn(2, 50, 9, dtype=F64) @ torch.randn(9, 9, dtype=F64) + 3
    method = method.double()
    loss = method.loss_of(h)
    z = (h - method.centre) @ method.basis
    flat = z.flatten(0, 1)
    torch.testing.assert_close(flat.mean(0), torch.zeros(4, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        torch.cov(flat.T, correction=0), torch.eye(4, dtype=F64), rtol=0, atol=1e-12
    )
    variances = torch.linalg.eigvalsh(torch.cov(h.flatten(0, 1).T, correction=0)).flip(0)
    # The rows of the map have length 1 / sqrt(variance) of the largest components.
    torch.testing.assert_close(method.basis.norm(dim=0), variances[:4].rsqrt())
    assert torch.equal(loss.monitored, z[0])
    kept = method.basis.clone()
    method.loss_of(7 * h)
    assert torch.equal(method.basis, kept)


def test_the_loss_is_vi_simsiams_of_the_whitened_views():
    method = build().double()
    h = torch.randn(3, 20, 9, dtype=F64)
    method.measure(h.flatten(0, 1))
    method.eval()
    z = (h - method.centre) @ method.basis
    kappa = torch.stack(
        [method.concentration((view - method.centre) / method.deviation) for view in h]
    )
    assert torch.equal(method.loss_of(h).total, vi_simsiam(z, kappa, z)["alignment"])


def test_the_head_finds_out_which_images_have_views_that_fall_apart():
    # The size of the noise between views is a function of the first coordinate.
    method = build(PostHocConfig(components=8), width=8)
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=0.01)

    def views(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        gen = generator(0, "noise", step)
        x = torch.randn(256, 8, generator=gen)
        noise = torch.randn(2, 256, 8, generator=gen) * torch.sigmoid(2 * x[:, :1])
        noise[..., 0] = 0
        return x[:, 0], x + noise

    method.train()
    for step in range(80):
        optimiser.zero_grad()
        method.loss_of(views(step)[1]).total.backward()
        optimiser.step()
    method.eval()
    level, h = views(1000)
    method.encoder = nn.Identity()
    u = method.embed(h[0]).uncertainty
    assert u is not None
    ranks = torch.stack([level.argsort().argsort(), u.argsort().argsort()]).double()
    assert torch.corrcoef(ranks)[0, 1] > 0.8


def test_degenerate_encoders_have_finite_losses_or_are_refused():
    for h in (
        torch.zeros(2, 8, 9),
        torch.ones(2, 8, 9),
        1e4 * torch.randn(2, 8, 1).expand(2, 8, 9),
    ):
        method = build().train()
        loss = method.loss_of(h).total
        loss.backward()
        assert loss.isfinite()
        for parameter in method.concentration.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
    with pytest.raises(ConfigError, match="at least 2 features"):
        build(width=1)
    assert build(PostHocConfig(components=64), width=9).dim == 9


@pytest.mark.parametrize(
    ("field", "value"), [("components", 1), ("head_hidden", 0), ("start", 1.0)]
)
def test_bad_hyperparameters_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=field):
        PostHocConfig(**{field: value})
