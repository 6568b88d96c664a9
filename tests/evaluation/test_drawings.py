"""Pictures of generative methods: shapes, ends of mixtures, spread of views and of samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cognates.distributions import DiagonalNormal, GroupNormal
from cognates.errors import ConfigError
from cognates.evaluation.drawings import draw_all, view_latents
from cognates.methods import get
from cognates.networks.image_model import ImageModelConfig

PRIOR = GroupNormal(1, 3, 0.15, 0.925)


@pytest.fixture
def method():
    model = ImageModelConfig(latent_dim=3, decoder="mlp", channels=1, image_size=4)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU())
    return get("vae")(model=model).build(encoder, width=6).double().eval()


def latents_drawn(method, images, *, count):
    """The latents behind the pictures: a decoder that returns them as logits."""
    seen = []
    decoder = method.model.decoder
    method.model.decoder = nn.Module().eval()
    method.model.decoder.forward = lambda z: (seen.append(z), decoder(z))[1]
    draw_all(method, images, PRIOR, count=count, seed=0)
    return seen


def test_every_row_has_its_shape_and_range_and_a_seed_means_the_same_pictures(method):
    images = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    found = draw_all(method, images, PRIOR, count=5, seed=0)
    shapes = [tuple(part.shape[:-3]) for part in found]
    assert shapes == [(3,), (3,), (3, 5), (5,), (2, 5)]
    for part in found:
        assert part.shape[-3:] == (1, 4, 4)
        assert ((part >= 0) & (part <= 1)).all()
    again, other = (draw_all(method, images, PRIOR, count=5, seed=s) for s in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert not torch.equal(found.views, other.views)
    assert not torch.equal(found.samples, other.samples)


def test_mixtures_begin_and_end_with_the_reconstructions_of_their_images(method):
    images = torch.rand(4, 1, 4, 4, dtype=torch.float64)
    found = draw_all(method, images, PRIOR, count=3, seed=0)
    torch.testing.assert_close(found.mixtures[:, 0], found.reconstructions[:-1])
    torch.testing.assert_close(found.mixtures[:, -1], found.reconstructions[1:])


def test_views_scatter_around_one_psi_of_their_image_and_samples_around_zero(method):
    images, count = torch.rand(2, 1, 4, 4, dtype=torch.float64), 4_000
    told = PRIOR.common_mean(method.embed(images).representation.detach()[:, None])
    drawn = torch.cat(latents_drawn(method, images, count=count))
    samples, _, views, _ = drawn.split([count, 2, 2 * count, count])
    views = views.view(2, count, 3)
    error = 4.5 / count**0.5
    # all views of an image are around one psi, which lies where the image says
    assert ((views.var(1) / 0.15 - 1).abs() < error * 2**0.5).all()
    away = (views.mean(1) - told.mean) / told.variance.sqrt()
    assert away.abs().max() < 4.5
    assert away.abs().min() > error  # psi is drawn, not put at its mean
    assert samples.shape == (count, 3)
    assert samples.mean(0).abs().max() < error * (0.15 + 0.925) ** 0.5
    assert (samples.var(0) / (0.15 + 0.925) - 1).abs().max() < error * 2**0.5


def test_psi_of_many_images_has_the_moments_of_its_posterior():
    n = 20_000
    centre = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64).expand(n, 3)
    q = DiagonalNormal(centre, torch.zeros_like(centre))
    z = view_latents(q, PRIOR, torch.arange(n), count=2, seed=0)
    told = PRIOR.common_mean(centre[:1, None])
    error, spread = 4.5 / n**0.5, told.variance[0] + 0.15
    assert ((z[:, 0].mean(0) - told.mean[0]).abs() < error * spread.sqrt()).all()
    assert ((z[:, 0].var(0) / spread - 1).abs() < error * 2**0.5).all()
    shared = ((z[:, 0] - told.mean) * (z[:, 1] - told.mean)).mean(0)
    assert ((shared - told.variance[0]).abs() < error * spread).all()
    parts = [
        view_latents(DiagonalNormal(q.loc[r], q.log_variance[r]), PRIOR, r, count=2, seed=0)
        for r in torch.arange(n).split(7000)
    ]
    assert torch.equal(torch.cat(parts), z)  # whatever the batch


def test_views_without_a_common_latent_are_draws_of_the_posterior():
    n = 20_000
    centre = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64).expand(n, 3)
    q = DiagonalNormal(centre, torch.full_like(centre, -1.0))
    z = view_latents(q, GroupNormal(1, 3, 1.0, 0.0), torch.arange(n), count=2, seed=0)
    error = 4.5 / n**0.5
    assert ((z.mean(0) - q.mean[0]).abs() < error * math.exp(-0.5)).all()
    assert ((z.var(0) / math.exp(-1) - 1).abs() < error * 2**0.5).all()


def test_a_flat_prior_has_views_and_no_samples(method):
    images = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    flat = GroupNormal(1, 3, 0.15, float("inf"))
    found = draw_all(method, images, flat, count=5, seed=0)
    assert found.samples.shape == (0, 1, 4, 4)
    assert found.views.shape == (3, 5, 1, 4, 4)


def test_methods_without_a_decoder_and_bad_arguments_are_refused(method):
    images = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    other = get("simsiam")(dim=4, hidden=4, predictor_hidden=2).build(nn.Flatten(), width=16)
    with pytest.raises(ConfigError, match="a method that draws images, got SimSiam"):
        draw_all(other.eval(), images, PRIOR, count=3, seed=0)
    for bad in (
        {"images": images[:1]},
        {"count": 1},
        {"prior": GroupNormal(2, 3)},
    ):
        arguments = {"images": images, "prior": PRIOR, "count": 3, "seed": 0, **bad}
        with pytest.raises(ConfigError, match="at least two images"):
            draw_all(method, **arguments)
    with pytest.raises(ConfigError, match="eval mode"):
        draw_all(method.train(), images, PRIOR, count=3, seed=0)
    with pytest.raises(ConfigError, match=r"in \[0, 1\]"):
        draw_all(method.eval(), 3 * images, PRIOR, count=3, seed=0)
