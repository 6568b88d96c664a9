"""The squared error of drawn images: a slow reference, gradients, symmetries, edges."""

from __future__ import annotations

import inspect

import pytest
import torch

from cognates.distributions import NormalImage
from cognates.errors import ConfigError
from cognates.objectives import squared_error

F64 = torch.float64


def pair(v=2, n=3, *, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, v, n, 2, 3, 4, dtype=F64, generator=draw).unbind(0)


def test_it_is_what_a_loop_over_pixels_gives():
    x, drawn = pair()
    total = sum(
        (a - b) ** 2 for a, b in zip(x.flatten().tolist(), drawn.flatten().tolist(), strict=True)
    )
    value = squared_error(x, drawn)["reconstruction"]
    assert value.item() == pytest.approx(total / x.numel(), rel=1e-12)


def test_it_differs_from_a_normal_log_likelihood_by_a_factor_and_a_constant():
    x, drawn = (image.clamp(0.1, 0.9) for image in pair())
    shifted = (drawn + 0.05).clamp(0.1, 0.9)
    likelihoods = [-NormalImage(y.logit(), 0.3).log_prob(x).mean() for y in (drawn, shifted)]
    errors = [squared_error(x, y)["reconstruction"] for y in (drawn, shifted)]
    slope = x[0, 0].numel() / (2 * 0.3)
    expected = slope * (errors[1] - errors[0])
    torch.testing.assert_close(likelihoods[1] - likelihoods[0], expected, rtol=1e-10, atol=0)


def test_gradients_pass_gradcheck():
    x, drawn = (image.requires_grad_() for image in pair(n=2))
    assert torch.autograd.gradcheck(
        lambda *given: squared_error(*given)["reconstruction"], [x, drawn]
    )


def test_the_order_of_views_and_images_does_not_matter_and_its_minimum_is_0():
    x, drawn = pair(3, 4)
    value = squared_error(x, drawn)["reconstruction"]
    mixed = squared_error(x[[2, 0, 1]][:, [3, 1, 0, 2]], drawn[[2, 0, 1]][:, [3, 1, 0, 2]])
    torch.testing.assert_close(mixed["reconstruction"], value, rtol=1e-12, atol=0)
    assert squared_error(x, x)["reconstruction"] == 0


def test_it_is_computed_in_float32_under_autocast():
    x, drawn = (image.float() for image in pair())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = squared_error(x, drawn)["reconstruction"]
        half = squared_error(x, drawn.bfloat16())["reconstruction"]
    assert torch.equal(value, squared_error(x, drawn)["reconstruction"])
    assert half.dtype == torch.float32


def test_images_of_another_shape_are_refused():
    x, drawn = pair()
    with pytest.raises(ConfigError, match="one shape"):
        inspect.unwrap(squared_error)(x, drawn[:1])  # behind the check of shapes
