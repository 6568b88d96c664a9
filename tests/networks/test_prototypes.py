"""DINO's head: cosines with prototypes, free of their lengths; frozen and in half precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from cognates.errors import ConfigError
from cognates.networks.prototypes import PrototypeHead


def head(**settings):
    torch.manual_seed(0)
    return PrototypeHead(6, **{"hidden": 7, "bottleneck": 4, "prototypes": 5, **settings})


def test_logits_are_the_cosines_of_the_papers_mlp_with_each_prototype():
    made, h = head().double(), torch.randn(3, 6, dtype=torch.float64)
    first, second, last = (made.projector[i] for i in (0, 2, 4))
    b = last(functional.gelu(second(functional.gelu(first(h)))))
    expected = functional.cosine_similarity(b[:, None], made.prototypes[None], dim=-1)
    torch.testing.assert_close(made(h), expected, rtol=1e-12, atol=1e-14)


def test_the_length_of_a_prototype_has_no_effect():
    made, h = head().double(), torch.randn(3, 6, dtype=torch.float64)
    before = made(h)
    with torch.no_grad():
        made.prototypes.mul_(torch.tensor([[0.1], [1.0], [2.0], [5.0], [30.0]]))
    torch.testing.assert_close(made(h), before, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("bottleneck", [16, 256])
def test_prototypes_are_as_long_as_rows_of_a_linear_layer_and_turn_as_fast(bottleneck):
    made = head(bottleneck=bottleneck, prototypes=400)
    linear = nn.Linear(bottleneck, 400, bias=False)
    nn.init.kaiming_uniform_(linear.weight, a=5**0.5)  # torch's default
    lengths = made.prototypes.norm(dim=1), linear.weight.norm(dim=1)
    # standard errors of the means of 400 lengths: below 1 %
    assert lengths[0].mean().item() == pytest.approx(lengths[1].mean().item(), rel=0.05)
    h = torch.randn(3, 6)
    made(h).square().sum().backward()
    short = made.prototypes.grad.clone()
    with torch.no_grad():
        made.prototypes.mul_(2)
    made.prototypes.grad = None
    made(h).square().sum().backward()
    torch.testing.assert_close(made.prototypes.grad, short / 2, rtol=1e-4, atol=1e-7)


def test_projections_have_unit_length_in_float32_under_autocast():
    made, h = head(), torch.randn(50, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        b = made.project(h)
    assert b.dtype == torch.float32
    # bfloat16 would be off by up to 4e-3
    torch.testing.assert_close(b.norm(dim=1), torch.ones(50), rtol=1e-6, atol=0)


def test_frozen_prototypes_have_the_same_logits_and_a_gradient_of_zero():
    made, h = head(), torch.randn(3, 6)
    b = made.project(h)
    frozen = made.compare(b, frozen=True)
    assert torch.equal(frozen, made.compare(b))
    frozen.square().sum().backward()
    assert torch.equal(made.prototypes.grad, torch.zeros(5, 4))
    assert all(parameter.grad.any() for parameter in made.projector.parameters())


def test_batch_norm_stands_before_each_gelu_where_it_is_asked_for():
    kinds = [type(module).__name__ for module in head(batch_norm=True).projector]
    assert kinds == ["Linear", "BatchNorm1d", "GELU"] * 2 + ["Linear"]


@pytest.mark.parametrize("name", ["hidden", "bottleneck", "prototypes"])
def test_a_size_of_0_is_refused(name):
    with pytest.raises(ConfigError, match=f"Expected '{name}' of at least 1, got 0"):
        head(**{name: 0})
