"""Decoders, the encoders that they are the counterparts of, and the posterior's head."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from cognates.distributions import DiagonalNormal, GroupNormal, TemperedBernoulliImage
from cognates.errors import ConfigError
from cognates.networks import build_decoder, build_encoder, decoder_names
from cognates.networks.heads import LOG_VARIANCES, PosteriorHead
from cognates.objectives import group_elbo

# encoder, decoder, channels, size, d -> parameters of both, the head included
PAIRS = {
    ("vae-mlp", "mlp", 1, 28, 10): (2_831_020, 2_826_784),
    ("vae-resnet", "resnet", 3, 32, 64): (969_920, 8_984_387),
    ("vae-resnet", "resnet", 3, 64, 64): (1_757_632, 9_383_747),
    ("vae-convnet", "convnet", 3, 32, 64): (557_088, 298_691),
}


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize(("pair", "expected"), PAIRS.items(), ids=str)
def test_the_pairs_have_the_stated_numbers_of_parameters(pair, expected):
    encoder_name, decoder_name, channels, size, dim = pair
    encoder, width = build_encoder(encoder_name, channels=channels, image_size=size)
    head = PosteriorHead(width, dim)
    decoder = build_decoder(decoder_name, channels=channels, image_size=size, latent_dim=dim)
    assert (count(encoder, head), count(decoder)) == expected
    images = torch.rand(2, channels, size, size)
    assert decoder(head(encoder(images))[0]).shape == images.shape


def test_the_released_networks_have_the_same_parameters_but_for_six(shared):
    stored = json.loads((shared / "golden" / "simve.json").read_text())["param_counts"]
    released = [stored[key] for key in ("mnist_mlp", "cifar10_r18", "celeba_r18")]
    ours = list(PAIRS.values())[:3]
    assert [pair["encoder"] for pair in released] == [pair[0] for pair in ours]
    more = [pair["decoder"] - own[1] for pair, own in zip(released, ours, strict=True)]
    assert more == [0, 6, 6]


def test_there_are_three_decoders_and_an_unknown_one_is_refused_with_the_nearest_name():
    assert decoder_names() == ["convnet", "mlp", "resnet"]
    with pytest.raises(ConfigError, match="did you mean 'resnet'"):
        build_decoder("resnet18", channels=3, image_size=32, latent_dim=2)
    with pytest.raises(ConfigError, match="multiple of 16"):
        build_decoder("resnet", channels=1, image_size=28, latent_dim=2)
    with pytest.raises(ConfigError, match="1 latent"):
        build_decoder("mlp", channels=1, image_size=28, latent_dim=0)


@pytest.mark.parametrize("size", [1, 7, 16, 28, 33])
@pytest.mark.parametrize("name", ["convnet", "mlp"])
def test_decoders_draw_any_size(name, size):
    decoder = build_decoder(name, channels=2, image_size=size, latent_dim=3)
    drawn = decoder(torch.randn(4, 3))
    assert drawn.shape == (4, 2, size, size)
    drawn.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


@pytest.mark.parametrize("name", ["vae-convnet", "vae-mlp", "vae-resnet"])
def test_spatial_encoders_tell_where_things_are_and_refuse_other_sizes(name):
    encoder, width = build_encoder(name, channels=1, image_size=32)
    encoder.eval()
    here = torch.zeros(1, 1, 32, 32)
    here[..., 4:10, 4:10] = 1
    there = here.roll((16, 16), dims=(2, 3))
    with torch.no_grad():
        one, other = encoder(here), encoder(there)
    assert one.shape == (1, width)
    assert (one - other).norm() > 0.1 * one.norm()
    with pytest.raises(ConfigError, match=r"\(1, 32, 32\).*\(1, 16, 16\)"):
        encoder(torch.zeros(2, 1, 16, 16))


def test_sizes_that_the_spatial_encoders_cannot_take_are_refused():
    for name, size in (("vae-mlp", 224), ("vae-resnet", 4)):
        with pytest.raises(ConfigError, match=name):
            build_encoder(name, channels=3, image_size=size)
    with pytest.raises(ConfigError, match="no 'width'"):
        build_encoder("vae-mlp", channels=3, image_size=8, width=5)


def test_the_released_networks_start_gives_the_released_terms(shared):
    stored = json.loads((shared / "golden" / "simve.json").read_text())["mlp_init_eval_mode"]
    for part in ("manual_seed(1234)", "default_rng(11).random((128,784))>0.8", "J=2"):
        assert part in stored["rule"]
    torch.manual_seed(1234)
    encoder, _ = build_encoder("vae-mlp", channels=1, image_size=28)
    head = PosteriorHead(500, 10)
    torch.manual_seed(1234)
    decoder = build_decoder("mlp", channels=1, image_size=28, latent_dim=10)
    pixels = np.random.default_rng(11).random((128, 784)) > 0.8
    # its rows are group-major: (n, v) to (v, n)
    x = torch.from_numpy(pixels).float().view(64, 2, 1, 28, 28).transpose(0, 1).contiguous()
    with torch.no_grad():
        mean, log_variance = (y.view(2, 64, 10) for y in head(encoder(x.flatten(0, 1))))
        logits = decoder(mean.flatten(0, 1)).unflatten(0, (2, 64))
    terms = group_elbo(
        x,
        TemperedBernoulliImage(logits, math.exp(-4.6)),
        DiagonalNormal(mean, log_variance),
        mean,
        prior=GroupNormal(2, 10, within=0.15, between=1 - 0.15 / 2),
        parity="head",
    )
    # float32, as the released code
    assert mean.sum().item() == pytest.approx(stored["mu_sum"], rel=1e-5)
    assert mean[0, 0, :4].tolist() == pytest.approx(stored["mu_0"], rel=1e-5)
    assert log_variance.sum().item() == pytest.approx(stored["logvar_sum"], rel=1e-5)
    assert logits.sigmoid().mean().item() == pytest.approx(stored["xhat_mean"], rel=1e-5)
    assert terms["reconstruction"].item() == pytest.approx(stored["recon"], rel=1e-5)
    assert terms["entropy"].item() == pytest.approx(stored["entropy_loss"], rel=1e-5)
    assert terms["prior"].item() == pytest.approx(stored["prior_loss"], rel=1e-5)


def test_the_heads_log_variance_is_held_in_its_range_but_keeps_its_gradient():
    head = PosteriorHead(2, 1).double()
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        head.linear.bias.zero_()
    h = torch.tensor([[3.0, -50.0], [3.0, 0.5], [3.0, 50.0]], dtype=torch.float64)
    h.requires_grad_()
    mean, log_variance = head(h)
    low, high = LOG_VARIANCES
    torch.testing.assert_close(log_variance[:, 0].tolist(), [low, 0.5, high])
    assert mean[:, 0].tolist() == [3.0] * 3
    log_variance.sum().backward()
    assert h.grad[:, 1].tolist() == [1.0] * 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(h.float())[0].dtype == torch.float64
