"""SimSiam's objective: its definition, its stop-gradient and its edges."""

from __future__ import annotations

import inspect
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cognates.errors import ConfigError
from cognates.objectives import negative_cosine, siamese
from cognates.random import generator

F64 = torch.float64


def random_views(v: int = 2, n: int = 5, d: int = 7, *, seed: int = 0) -> list[torch.Tensor]:
    gen = generator(seed, "views")
    return [torch.randn(v, n, d, generator=gen, dtype=F64) for _ in range(2)]


@pytest.mark.parametrize("v", [2, 3, 4])
def test_negative_cosine_is_the_mean_over_ordered_pairs_of_views(v):
    p, z = random_views(v)
    pairs = list(permutations(range(v), 2))
    assert len(pairs) == v * (v - 1)
    each = [-torch.cosine_similarity(p[i], z[j], dim=-1).mean() for i, j in pairs]
    torch.testing.assert_close(negative_cosine(p, z)["alignment"], torch.stack(each).mean())


def test_two_views_give_half_of_each_direction():
    p, z = random_views()
    one = negative_cosine(torch.stack([p[0], p[0]]), torch.stack([z[1], z[1]]))["alignment"]
    two = negative_cosine(torch.stack([p[1], p[1]]), torch.stack([z[0], z[0]]))["alignment"]
    torch.testing.assert_close(negative_cosine(p, z)["alignment"], (one + two) / 2)


def test_negative_cosine_sends_no_gradient_to_the_target_and_passes_gradcheck():
    p, z = (x.requires_grad_() for x in random_views(3, 3, 4))
    negative_cosine(p, z)["alignment"].backward()
    assert z.grad is None
    assert p.grad is not None
    assert (p.grad.norm(dim=-1) > 0).all()
    assert torch.autograd.gradcheck(lambda p: negative_cosine(p, z.detach())["alignment"], [p])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-4, 1e4))
def test_negative_cosine_is_invariant_to_scale_rotation_and_order_of_images(seed, scale):
    p, z = random_views(seed=seed)
    expected = negative_cosine(p, z)["alignment"].item()
    rotation = torch.linalg.qr(
        torch.randn(7, 7, generator=generator(seed, "rotation"), dtype=F64)
    ).Q
    order = torch.randperm(5, generator=generator(seed, "order"))
    for other in (
        negative_cosine(scale * p, z / scale),
        negative_cosine(p @ rotation, z @ rotation),
        negative_cosine(p[:, order], z[:, order]),
    ):
        assert other["alignment"].item() == pytest.approx(expected, abs=1e-12)
    assert -1 <= expected <= 1


def test_negative_cosine_of_equal_and_opposite_vectors_is_minus_one_and_one():
    p, _ = random_views(2, 4, 3)
    same = torch.stack([p[0], p[0]])
    assert negative_cosine(same, 3 * same)["alignment"].item() == pytest.approx(-1, abs=1e-15)
    assert negative_cosine(same, -same)["alignment"].item() == pytest.approx(1, abs=1e-15)


def test_zero_vectors_give_a_finite_value_and_gradient():
    p = torch.zeros(2, 3, 4, requires_grad=True)
    loss = negative_cosine(p, torch.zeros(2, 3, 4))["alignment"]
    loss.backward()
    assert loss.item() == 0
    assert p.grad is not None
    assert p.grad.isfinite().all()


def test_bfloat16_inputs_and_autocast_are_computed_in_float32():
    p, z = (x.bfloat16() for x in random_views(2, 16, 64))
    expected = negative_cosine(p.double(), z.double())["alignment"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = negative_cosine(p.requires_grad_(), z)["alignment"]
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), abs=1e-6)
    assert p.grad is not None
    assert p.grad.isfinite().all()


@pytest.mark.parametrize(
    ("one", "two"), [((2, 3, 4), (2, 3, 5)), ((1, 3, 4), (1, 3, 4)), ((3, 4), (3, 4))]
)
def test_shapes_that_do_not_fit_are_refused(one, two):
    # `make test` checks annotations, which would refuse the shapes before the function does.
    with pytest.raises(ConfigError, match="at least two views"):
        inspect.unwrap(siamese.pair_cosines)(torch.zeros(one), torch.zeros(two))
