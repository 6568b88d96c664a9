"""SimSiam's objective: its definition, its stop-gradient and its edges."""

from __future__ import annotations

import inspect
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cognates.errors import ConfigError
from cognates.objectives import byol, negative_cosine, siamese
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
def test_negative_cosine_is_invariant_to_scale_rotation_and_order_of_images_and_views(seed, scale):
    p, z = random_views(3, seed=seed)
    expected = negative_cosine(p, z)["alignment"].item()
    rotation = torch.linalg.qr(
        torch.randn(7, 7, generator=generator(seed, "rotation"), dtype=F64)
    ).Q
    order = torch.randperm(5, generator=generator(seed, "order"))
    views = torch.randperm(3, generator=generator(seed, "views' order"))
    for other in (
        negative_cosine(scale * p, z / scale),
        negative_cosine(p @ rotation, z @ rotation),
        negative_cosine(p[:, order], z[:, order]),
        negative_cosine(p[views], z[views]),
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


def distances(p, z):
    """BYOL's equation 2, both directions, by loops over pairs and images."""
    total, v, n = 0.0, len(p), len(p[0])
    for i, j in permutations(range(v), 2):
        for image in range(n):
            one, two = p[i][image], z[j][image]
            total += ((one / one.norm() - two / two.norm()) ** 2).sum().item()
    return 2 * total / (v * (v - 1) * n)


@pytest.mark.parametrize("v", [2, 3, 4])
def test_byol_is_twice_the_mean_squared_distance_of_unit_vectors_over_ordered_pairs(v):
    p, z = random_views(v)
    assert byol(p, z)["alignment"].item() == pytest.approx(distances(p, z), rel=1e-12)


def test_byol_for_two_views_is_the_sum_of_both_directions():
    p, z = random_views()
    unit = torch.nn.functional.normalize
    each = [(unit(p[i], dim=-1) - unit(z[1 - i], dim=-1)).square().sum(-1).mean() for i in (0, 1)]
    assert byol(p, z)["alignment"].item() == pytest.approx(sum(each).item(), rel=1e-12)


def test_byol_sends_no_gradient_to_the_target_and_passes_gradcheck():
    p, z = (x.requires_grad_() for x in random_views(3, 3, 4))
    byol(p, z)["alignment"].backward()
    assert z.grad is None
    assert torch.autograd.gradcheck(lambda p: byol(p, z.detach())["alignment"], [p])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-4, 1e4))
def test_byol_is_invariant_to_scale_rotation_and_the_order_of_images_and_views(seed, scale):
    p, z = random_views(3, seed=seed)
    expected = byol(p, z)["alignment"].item()
    gen = generator(seed, "order")
    turn = torch.linalg.qr(torch.randn(7, 7, generator=gen, dtype=F64)).Q
    images, views = torch.randperm(5, generator=gen), torch.randperm(3, generator=gen)
    for other in (
        byol(scale * p, z / scale),
        byol(p @ turn, z @ turn),
        byol(p[:, images], z[:, images]),
        byol(p[views], z[views]),
    ):
        assert other["alignment"].item() == pytest.approx(expected, abs=1e-11)
    assert 0 <= expected <= 8


def test_byol_is_zero_for_agreement_eight_for_opposites_and_finite_for_zeros():
    p, _ = random_views(2, 4, 3)
    same = torch.stack([p[0], p[0]])
    assert byol(same, 3 * same)["alignment"].item() == pytest.approx(0, abs=1e-14)
    assert byol(same, -same)["alignment"].item() == pytest.approx(8, abs=1e-14)
    nothing = torch.zeros(2, 3, 4, requires_grad=True)
    value = byol(nothing, torch.zeros(2, 3, 4))["alignment"]
    value.backward()
    assert value.item() == 4  # the cosine of nothing is 0
    assert nothing.grad is not None
    assert nothing.grad.isfinite().all()


def test_byol_of_bfloat16_inputs_in_autocast_is_computed_in_float32():
    p, z = (x.bfloat16() for x in random_views(2, 16, 64))
    expected = byol(p.double(), z.double())["alignment"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = byol(p, z)["alignment"]
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), abs=1e-5)
