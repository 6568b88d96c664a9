"""Reconstruction errors and bounds: against slow forms, and a model whose likelihood is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

from cognates.data.images import Images
from cognates.data.views import crop_and_flip
from cognates.errors import ConfigError, DataError
from cognates.evaluation.features import Transform
from cognates.evaluation.likelihood import (
    bound_pass,
    elbo,
    log_weights,
    reconstruction,
    reconstruction_pass,
)
from cognates.methods import get
from cognates.networks.image_model import ImageModelConfig
from cognates.types import Features

D, SIZE = 3, 4
PIXELS = SIZE**2
NOISE = 0.004


class LinearDecoder(nn.Module):
    """Logits of W z + b with orthogonal columns."""

    def __init__(self):
        super().__init__()
        columns = torch.linalg.qr(
            torch.randn(PIXELS, D, generator=torch.Generator().manual_seed(0)).double()
        ).Q
        self.weight = nn.Parameter(columns * torch.tensor([0.08, 0.05, 0.02]))

    def forward(self, z):
        return (z @ self.weight.T + 0.5).logit().view(-1, 1, SIZE, SIZE)


class ExactHead(nn.Module):
    """The posterior of the linear model with a prior of variance `prior`."""

    def __init__(self, decoder, prior):
        super().__init__()
        self.decoder, self.prior = decoder, prior

    def forward(self, x):
        precision = 1 / self.prior + self.decoder.weight.square().sum(0) / NOISE
        mean = (x.flatten(1) - 0.5) @ self.decoder.weight / NOISE / precision
        return mean, -precision.log().expand_as(mean)


def linear_model(name, prior, *, widen=0.0, **options):
    config = ImageModelConfig(
        latent_dim=D, decoder="mlp", channels=1, image_size=SIZE, variance=NOISE
    )
    method = get(name)(model=config, **options).build(nn.Flatten(), width=PIXELS).double()
    decoder = LinearDecoder().double()
    method.model.decoder = decoder
    method.model.head = ExactHead(decoder, prior)
    if widen:
        exact = method.model.head.forward
        method.model.head.forward = lambda x: (exact(x)[0], exact(x)[1] + widen)
    return method.eval()


def pictures(n=40, seed=0):
    generator = np.random.default_rng(seed)
    pixels = generator.normal(128, 25, (n, 1, SIZE, SIZE)).clip(0, 255).astype(np.uint8)
    return Images(pixels=pixels, dataset="grey", split="test")


class Double(Transform):
    """Test views in float64, where exactness is claimed."""

    def view(self, images):
        return super().view(images).double()

    def augmented(self, images, parameters):
        return super().augmented(images, parameters).double()


DOUBLE = Double(size=SIZE)
WHOLE = replace(crop_and_flip(SIZE, scale=(1.0, 1.0)), flip=0.0, ratio=(1.0, 1.0))


def exact_nats(images, method, covariance):
    w = method.model.decoder.weight.detach().numpy()
    x = DOUBLE.view(torch.from_numpy(images.pixels)).flatten(1).numpy()
    density = multivariate_normal(np.full(PIXELS, 0.5), covariance(w))
    return -density.logpdf(x)


@pytest.mark.parametrize(("name", "prior"), [("vae", 1.0), ("simve", 0.4 + 0.7)])
def test_the_bound_of_a_linear_model_with_its_exact_posterior_is_its_likelihood(name, prior):
    options = {"within": 0.4, "between": 0.7} if name == "simve" else {}
    method, images = linear_model(name, prior, **options), pictures()
    found = bound_pass(method, images, views=[WHOLE], transform=DOUBLE, samples=5)
    exact = exact_nats(images, method, lambda w: prior * w @ w.T + NOISE * np.eye(PIXELS))
    for score in ("image/elbo", "image/iw-5"):
        np.testing.assert_allclose(found.scores[score], exact, rtol=1e-9)
    # one view: the whole image, resampled in float32
    np.testing.assert_allclose(found.scores["views/elbo"], exact, rtol=1e-5, atol=1e-5)
    records = {r.metric: r for r in elbo(found, found, seed=0, others={"bound-test": found})}
    assert records["image/negative-elbo"].value == pytest.approx(exact.mean(), rel=1e-9)
    bits = records["image/negative-elbo/bits"].value
    assert bits == pytest.approx(exact.mean() / PIXELS / math.log(2), rel=1e-9)
    assert records["image/gap"].value == pytest.approx(0, abs=1e-9)
    assert records["image/negative-elbo"].settings == {"samples": 5, "dimensions": PIXELS}
    assert records["image/negative-elbo"].flags == ()
    assert len(records) == 2 * (2 * 2 + 1)


def test_two_views_share_what_the_prior_says():
    """Two whole images are two equal views, whose joint density is known."""
    method, images = linear_model("simve", 1.1, within=0.4, between=0.7), pictures(20)
    found = bound_pass(method, images, views=[WHOLE, WHOLE], transform=DOUBLE, samples=4096)
    w = method.model.decoder.weight.detach().numpy()
    one = np.array([[1.1, 0.7], [0.7, 1.1]])
    covariance = np.kron(one, w @ w.T) + NOISE * np.eye(2 * PIXELS)
    x = DOUBLE.view(torch.from_numpy(images.pixels)).flatten(1).numpy()
    density = multivariate_normal(np.full(2 * PIXELS, 0.5), covariance)
    exact = -density.logpdf(np.concatenate([x, x], axis=1)) / 2
    assert (found.scores["views/elbo"] > exact).all()  # a factorised posterior falls short
    np.testing.assert_allclose(found.scores["views/iw-4096"], exact, atol=0.03)
    assert np.abs(found.scores["views/elbo"] - exact).mean() > 0.05


def test_the_importance_weighted_bound_rises_with_nested_samples_towards_the_likelihood():
    method, images = linear_model("vae", 1.0, widen=1.0), pictures(40)
    found = bound_pass(method, images, views=[WHOLE], transform=DOUBLE, samples=256)
    exact = exact_nats(images, method, lambda w: w @ w.T + NOISE * np.eye(PIXELS))
    one, few, many = (found.scores[f"image/{s}"] for s in ("elbo", "iw-8", "iw-256"))
    # Widened by e per variance: KL(q, posterior) = (d/2)(e - 1 - 1), the exact gap
    gap = D / 2 * (math.e - 2)
    error = 4 * np.std(one - exact) / len(exact) ** 0.5
    assert (one - exact).mean() == pytest.approx(gap, abs=error)
    assert (one >= many).all()  # Jensen, for each image
    assert (one - few).mean() > 4 * np.std(one - few) / len(exact) ** 0.5
    assert (few - many).mean() > 0
    assert abs((many - exact).mean()) < gap / 20


def test_bounds_depend_on_the_seed_and_not_on_the_batch():
    method, images = linear_model("simve", 1.1, within=0.4, between=0.7, widen=0.5), pictures(30)
    kind = {"views": [WHOLE, WHOLE], "transform": DOUBLE, "samples": 8, "limit": 12}
    found = bound_pass(method, images, **kind)
    assert len(found.index) == 12
    other = bound_pass(method, images, batch_size=8, **kind)
    for name, values in found.scores.items():
        np.testing.assert_allclose(other.scores[name], values, rtol=1e-12)
    reseeded = bound_pass(method, images, seed=1, **kind)
    assert not np.array_equal(reseeded.index, found.index)


def test_weights_of_training_terms_do_not_enter_and_what_is_no_likelihood_is_flagged():
    def build(likelihood, **options):
        config = ImageModelConfig(
            latent_dim=D, decoder="mlp", channels=1, image_size=SIZE, likelihood=likelihood
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = get(options.pop("name", "vae"))(model=config, **options)
            return made.build(nn.Flatten(), width=PIXELS).double().eval()

    images, x = pictures(6), DOUBLE.view(torch.from_numpy(pictures(6).pixels))[None]
    kind = {"samples": 4, "seed": 0}
    weights = [
        log_weights(build(*a, **o), x, torch.arange(6), **kind)
        for a, o in (
            (("bernoulli",), {}),
            (("tempered-bernoulli",), {}),
            (("bernoulli",), {"name": "beta-vae", "beta": 9.0}),
        )
    ]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    for likelihood, name, options, flags in (
        ("normal", "vae", {}, ()),
        ("continuous-bernoulli", "vae", {}, ()),
        ("tempered-bernoulli", "vae", {}, ("no-likelihood",)),
        ("bernoulli", "simve", {"prior": "flat", "between": 1.0},
         ("no-likelihood", "improper-prior")),
    ):  # fmt: skip
        method = build(likelihood, name=name, **options)
        found = bound_pass(method, images, views=[WHOLE], transform=DOUBLE, samples=2)
        records = elbo(found, found, seed=0, others={"bound-test": found})
        assert {r.flags for r in records} == {flags}, likelihood
    black = Images(pixels=255 * (images.pixels > 128), dataset="binary", split="test")
    black = replace(black, pixels=black.pixels.astype(np.uint8))
    found = bound_pass(build("bernoulli"), black, views=[WHOLE], transform=DOUBLE, samples=2)
    assert not any(r.flags for r in elbo(found, found, seed=0, others={"bound-test": found}))


def test_reconstruction_is_the_slow_form_and_the_mean_image_stands_beside_it():
    method, images = linear_model("vae", 1.0, widen=0.5), pictures(30)
    found = reconstruction_pass(method, images, transform=DOUBLE, batch_size=7)
    same = reconstruction_pass(method, images, transform=DOUBLE)
    for name, values in found.scores.items():
        np.testing.assert_allclose(same.scores[name], values, rtol=1e-12)
    x = DOUBLE.view(torch.from_numpy(images.pixels))
    mean = method.embed(x).representation.detach()
    mu = (mean @ method.model.decoder.weight.detach().T + 0.5).numpy()
    x = x.flatten(1).numpy()
    flat = Features(representation=x, index=np.arange(30))
    train = Features(representation=x[:20], index=np.arange(20))
    others = {"reconstruction-test": found, "pixels-test": flat, "pixels-train": train}
    records = {r.metric: r.value for r in reconstruction(flat, flat, seed=0, others=others)}
    assert len(records) == 2 * 4 + 2 * 2
    mse = ((x - mu) ** 2).mean()
    bce = -(x * np.log(mu) + (1 - x) * np.log(1 - mu)).sum(1).mean()
    assert records["mean/mse"] == pytest.approx(mse, rel=1e-9)
    assert records["mean/sse"] == pytest.approx(mse * PIXELS, rel=1e-9)
    assert records["mean/bce"] == pytest.approx(bce, rel=1e-9)
    assert records["mean/bce-bits"] == pytest.approx(bce / PIXELS / math.log(2), rel=1e-9)
    assert records["sample/mse"] > records["mean/mse"]
    centre = x[:20].mean(0)
    assert records["mean-image/mse"] == pytest.approx(((x - centre) ** 2).mean(), rel=1e-9)
    gap = records["mean/mse"] - records["mean-image/mse"]
    assert records["mean/mse-minus-mean-image"] == pytest.approx(gap, rel=1e-9)


def test_a_constant_half_costs_log_two_per_pixel():
    method = linear_model("vae", 1.0)
    with torch.no_grad():
        method.model.decoder.weight.mul_(1e-9)
    found = reconstruction_pass(method, pictures(5), transform=DOUBLE)
    np.testing.assert_allclose(found.scores["mean/bce"], PIXELS * math.log(2), rtol=1e-6)


def test_other_methods_and_missing_passes_are_refused(method, images):
    with pytest.raises(ConfigError, match="draws images, got TinyMethod"):
        reconstruction_pass(method, images[1], transform=DOUBLE)
    nothing = Features(representation=np.zeros((3, 0)), index=np.arange(3))
    for protocol in (reconstruction, elbo):
        with pytest.raises(DataError, match="what the model makes of the test images"):
            protocol(nothing, nothing, seed=0)
