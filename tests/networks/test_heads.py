"""Projector, predictor and concentration head."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from cognates.errors import ConfigError
from cognates.networks.heads import ConcentrationHead, hidden_mlp, prediction_mlp, projection_mlp


def _kinds(module):
    return [type(part).__name__ for part in module]


def test_the_projector_is_the_papers():
    head = projection_mlp(6, 10, 4, layers=3)
    hidden = ["Linear", "BatchNorm1d", "ReLU"]
    assert _kinds(head) == hidden + hidden + ["Linear", "BatchNorm1d"]
    assert [head[i].weight.shape for i in (0, 3, 6)] == [(10, 6), (10, 10), (4, 10)]
    assert all(head[i].bias is None for i in (0, 3, 6))
    assert [head[i].affine for i in (1, 4, 7)] == [True, True, False]
    assert projection_mlp(6, 10, 4, layers=2, last_affine=True)[4].affine
    assert _kinds(projection_mlp(6, 10, 4, layers=1)) == ["Linear", "BatchNorm1d"]


def test_a_projection_is_standardised_and_keeps_its_sign():
    z = projection_mlp(6, 10, 4, layers=2)(torch.randn(64, 6))
    torch.testing.assert_close(z.mean(0), torch.zeros(4), rtol=0, atol=1e-5)
    # 1e-3: the variance is regularised by eps = 1e-5 and is about 0.05 here.
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(4), rtol=1e-3, atol=0)
    assert (z < 0).any()


def test_the_predictor_is_the_papers():
    head = prediction_mlp(8, 2)
    assert _kinds(head) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert head[0].weight.shape == (2, 8)
    assert head[0].bias is None
    assert head[3].weight.shape == (8, 2)
    assert head[3].bias is not None


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_byols_and_vicregs_head_normalises_before_each_relu_and_not_at_the_end(layers):
    head = hidden_mlp(6, 10, 4, layers=layers)
    assert _kinds(head) == ["Linear", "BatchNorm1d", "ReLU"] * (layers - 1) + ["Linear"]
    maps = [part for part in head if isinstance(part, nn.Linear)]
    sizes = [6, *[10] * (layers - 1), 4]
    assert [(m.in_features, m.out_features) for m in maps] == list(pairwise(sizes))
    assert [m.bias is None for m in maps] == [False] * (layers - 1) + [True]


@pytest.mark.parametrize("dim", [3, 128, 2048])
@pytest.mark.parametrize("start", [0.1, 0.25, 0.5, 0.999])
def test_kappa_starts_at_the_expected_cosine(dim, start):
    kappa = ConcentrationHead(32, 8, dim, start)(torch.randn(256, 32))
    assert kappa.shape == (256,)
    assert kappa.std() > 0
    cosine = kappa / (kappa + dim - 1)
    # 0.02 of 1 - c: the last weights leave a spread of 0.01 around the bias, and the floor of
    # kappa is 1e-3, which at d = 3 and c = 0.1 is worth 4e-4.
    assert ((cosine - start).abs() < 0.02 * (1 - start)).all()


def test_kappa_is_softplus_of_a_two_layer_network_times_dim_minus_one():
    head = ConcentrationHead(5, 4, 9).double().eval()
    h = torch.randn(7, 5, dtype=torch.float64)
    hidden = (h @ head.first.weight.T + head.first.bias) / (1 + head.norm.eps) ** 0.5
    a = hidden.clamp(min=0) @ head.last.weight[0] + head.last.bias
    expected = 8 * torch.log1p(a.exp()) + 1e-3
    torch.testing.assert_close(head(h), expected, rtol=1e-12, atol=0)


def test_exp_starts_at_the_expected_cosine_and_is_held_where_float32_ends():
    head = ConcentrationHead(5, 4, 9, 0.4, activation="exp").double().eval()
    h = torch.randn(7, 5, dtype=torch.float64)
    start = head(torch.zeros(1, 5, dtype=torch.float64)).detach()
    assert (start / (start + 8)).item() == pytest.approx(0.4, abs=0.01)
    logit = head.last(head.norm(head.first(h)).clamp(min=0)).squeeze(-1)
    torch.testing.assert_close(head(h), 8 * logit.exp() + 1e-3, rtol=1e-12, atol=0)
    # 15 is where the logarithm is held; its gradient still leads back
    nn.init.constant_(head.last.bias, 100.0)
    kappa = head(h)
    kappa.sum().backward()
    torch.testing.assert_close(kappa, torch.full_like(kappa, 8 * math.exp(15) + 1e-3))
    assert head.last.bias.grad.item() > 0
    with pytest.raises(ConfigError, match="softplus or exp"):
        ConcentrationHead(5, 4, 9, activation="relu")


def test_kappa_is_float32_under_autocast_and_float64_for_a_float64_head():
    head = ConcentrationHead(5, 4, 2048).eval()
    h = torch.randn(7, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = head(h.bfloat16())
    assert low.dtype == torch.float32
    assert torch.equal(low, head(h.bfloat16().float()))
    assert head.double()(h).dtype == torch.float64
    assert head.bfloat16()(h.bfloat16()).dtype == torch.float32


def test_every_weight_of_the_concentration_head_learns():
    head = ConcentrationHead(5, 4, 9)
    head(torch.randn(16, 5)).square().sum().backward()
    gradients = {name: p.grad for name, p in head.named_parameters()}
    assert len(gradients) == 6
    # A bias before batch normalisation has no effect and hence no gradient.
    assert all(g.abs().max() > 1e-6 for name, g in gradients.items() if name != "first.bias")


@pytest.mark.parametrize(
    "make",
    [
        lambda: projection_mlp(0, 1, 1, layers=2),
        lambda: projection_mlp(1, 1, 1, layers=0),
        lambda: prediction_mlp(4, 0),
        lambda: hidden_mlp(4, 0, 2),
        lambda: hidden_mlp(4, 3, 2, layers=0),
        lambda: ConcentrationHead(4, 2, 1),
        lambda: ConcentrationHead(4, 2, 8, start=1.0),
        lambda: ConcentrationHead(4, 0, 8),
    ],
)
def test_impossible_sizes_are_refused(make):
    with pytest.raises(ConfigError, match="Expected"):
        make()


def test_heads_are_modules_without_surprises():
    assert all(
        isinstance(head, nn.Module)
        for head in (projection_mlp(2, 2, 2), prediction_mlp(2, 2), ConcentrationHead(2, 2, 2))
    )
