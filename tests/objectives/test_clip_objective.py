"""CLIP's objective: a slow reference, gradcheck, symmetries, limits of the temperature."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cognates.errors import ConfigError
from cognates.objectives import clip

F64 = torch.float64


def pairs(n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, d, dtype=F64, generator=generator)


def slow(image, text, temperature):
    """Loop over pairs with the formula of the docstring."""

    def cosine(a, b):
        return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))

    n = len(image)
    s = [[cosine(image[i], text[j]) / temperature for j in range(n)] for i in range(n)]
    rows = columns = 0.0
    for i in range(n):
        rows -= s[i][i] - math.log(sum(math.exp(s[i][j]) for j in range(n)))
        columns -= s[i][i] - math.log(sum(math.exp(s[j][i]) for j in range(n)))
    return {"image_to_text": rows / (2 * n), "text_to_image": columns / (2 * n)}


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 6), d=st.integers(1, 5), seed=st.integers(0, 99), t=st.floats(0.05, 5.0))
def test_clip_is_the_mean_of_two_cross_entropies(n, d, seed, t):
    image, text = pairs(n, d, seed)
    found, expected = clip(image, text, temperature=t), slow(image, text, t)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-11, abs=1e-11)


def test_clips_gradient_is_its_derivative_in_features_and_temperature():
    image, text = pairs(4, 3)
    scale = torch.tensor(0.5, dtype=F64, requires_grad=True)

    def total(a, b, t):
        terms = clip(a, b, temperature=t)
        return terms["image_to_text"], terms["text_to_image"]

    assert torch.autograd.gradcheck(
        total, (image.requires_grad_(), text.clone().requires_grad_(), scale)
    )


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_clip_knows_neither_the_order_of_pairs_nor_a_common_rotation(seed):
    image, text = pairs(5, 4, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    order = torch.randperm(5, generator=generator)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=F64, generator=generator))[0]
    base = clip(image, text, temperature=0.3)
    moved = clip(3 * image[order] @ turn, text[order] @ turn / 2, temperature=0.3)
    swapped = clip(text, image, temperature=0.3)
    for name in base:
        torch.testing.assert_close(moved[name], base[name], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(swapped["image_to_text"], base["text_to_image"])
    assert not torch.isclose(base["image_to_text"], base["text_to_image"])


def test_clip_goes_from_log_n_for_equal_features_to_0_for_pairs_apart():
    equal = clip(torch.ones(8, 3, dtype=F64), torch.ones(8, 3, dtype=F64), temperature=0.07)
    assert sum(equal.values()).item() == pytest.approx(math.log(8), rel=1e-12)
    apart = clip(torch.eye(8, dtype=F64), torch.eye(8, dtype=F64), temperature=0.01)
    assert 0 <= sum(apart.values()).item() < 1e-40
    hot = clip(*pairs(8, 3), temperature=1e9)
    assert sum(hot.values()).item() == pytest.approx(math.log(8), rel=1e-8)
    opposite = torch.tensor([[1.0], [-1.0]], dtype=F64)
    lowest = clip(opposite, opposite, temperature=0.5)["image_to_text"].item()
    assert lowest == pytest.approx(math.log(1 + math.exp(-4)) / 2, rel=1e-12)


def test_clip_in_half_precision_is_finite_and_in_float32():
    image, text = pairs(4, 3).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = clip(image, text, temperature=0.01)
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())


@pytest.mark.parametrize(
    ("image", "text", "temperature", "message"),
    [
        ((3, 2), (3, 4), 0.1, "one shape"),
        ((0, 2), (0, 2), 0.1, "at least one pair"),
        ((3, 2), (3, 2), 0.0, "temperature above 0"),
    ],
)
def test_what_clip_cannot_compare_is_refused(image, text, temperature, message):
    with pytest.raises((ConfigError, TypeError)) as error:
        clip(torch.zeros(image), torch.zeros(text), temperature=temperature)
    if isinstance(error.value, ConfigError):
        assert message in str(error.value)
