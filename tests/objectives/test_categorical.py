"""DINO's objective: its definition, its minimum, the limits of temperature and its edges."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cognates.errors import ConfigError
from cognates.objectives import categorical, dino
from cognates.objectives.categorical import assignment_entropy
from cognates.random import generator

F64 = torch.float64


def logits(v: int = 3, g: int = 2, n: int = 4, k: int = 5, *, seed: int = 0):
    gen = generator(seed, "logits")
    parts = [
        torch.randn(*shape, generator=gen, dtype=F64) for shape in ((v, n, k), (g, n, k), (k,))
    ]
    return 0.3 * parts[0], 0.3 * parts[1], 0.1 * parts[2]


def softmax(row):
    most = max(row)
    powers = [math.exp(x - most) for x in row]
    return [power / sum(powers) for power in powers]


def slow(s, t, c, *, student_temperature=0.1, teacher_temperature=0.04):
    """Equations 1 to 4 by loops: the cross-entropy, and the entropy of the targets in it."""
    crosses, entropies = [], []
    s, t, c = s.tolist(), t.tolist(), c.tolist()
    for i in range(len(t)):
        for j in range(len(s)):
            if i == j:
                continue
            for image in range(len(t[i])):
                shifted = [
                    (x - m) / teacher_temperature for x, m in zip(t[i][image], c, strict=True)
                ]
                p = softmax(shifted)
                q = softmax([x / student_temperature for x in s[j][image]])
                crosses.append(-sum(a * math.log(b) for a, b in zip(p, q, strict=True)))
                entropies.append(-sum(a * math.log(a) for a in p if a > 0))
    return sum(crosses) / len(crosses), sum(entropies) / len(entropies)


def numbers(terms):
    return {name: term.item() for name, term in terms.items()}


@pytest.mark.parametrize(("v", "g"), [(2, 2), (3, 2), (4, 1), (3, 3)])
def test_dino_is_the_mean_cross_entropy_over_pairs_of_a_global_and_another_view(v, g):
    s, t, c = logits(v, g)
    for given_ in ({}, {"student_temperature": 0.3, "teacher_temperature": 0.5}):
        cross, entropy = slow(s, t, c, **given_)
        terms = numbers(dino(s, t, c, **given_))
        assert list(terms) == ["alignment", "entropy"]
        assert sum(terms.values()) == pytest.approx(cross, rel=1e-12)
        assert terms["entropy"] == pytest.approx(entropy, rel=1e-12)


def test_a_list_of_logits_is_as_good_as_a_stack():
    s, t, c = logits()
    assert numbers(dino(list(s), list(t), c)) == numbers(dino(s, t, c))


def test_dino_passes_gradcheck_and_sends_no_gradient_to_teacher_and_centre():
    s, t, c = (x.requires_grad_() for x in logits(3, 2, 2, 3))
    sum(dino(s, t, c).values()).backward()
    assert t.grad is None
    assert c.grad is None
    assert torch.autograd.gradcheck(lambda s: sum(dino(s, t, c).values()), [s])
    # of one pair: (Q - P)/tau_s over the images
    s, t, c = logits(2, 1, 3, 4)
    s.requires_grad_()
    (slope,) = torch.autograd.grad(dino(s, t, c)["alignment"], s)
    q, p = (s[1] / 0.1).softmax(-1), ((t[0] - c) / 0.04).softmax(-1)
    torch.testing.assert_close(slope[1], (q - p) / 0.1 / 3, rtol=1e-10, atol=1e-12)
    assert not slope[0].any()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_dino_does_not_see_the_order_of_images_views_and_prototypes_nor_shifts(seed):
    s, t, c = logits(3, 3, seed=seed)
    expected = numbers(dino(s, t, c))
    gen = generator(seed, "order")
    images, views, kinds = (torch.randperm(k, generator=gen) for k in (4, 3, 5))
    shift = torch.randn(4, 1, generator=gen, dtype=F64)
    common = torch.randn(5, generator=gen, dtype=F64)
    for other in (
        dino(s[:, images], t[:, images], c),
        dino(s[views], t[views], c),  # all views are global ones here
        dino(s[..., kinds], t[..., kinds], c[kinds]),
        dino(s + shift, t - shift, c),
        dino(s, t + common, c + common),
    ):
        assert numbers(other) == pytest.approx(expected, rel=1e-8, abs=1e-10)
    assert expected["alignment"] >= 0
    assert 0 <= expected["entropy"] <= math.log(5)


def test_the_least_alignment_is_that_of_a_student_with_the_teachers_distribution():
    _, t, c = logits(1, 1)
    same = (t[0] - c) * (0.1 / 0.04)
    terms = numbers(dino(torch.stack([same, same]), torch.stack([t[0], t[0]]), c))
    assert terms["alignment"] == pytest.approx(0, abs=1e-12)


def test_the_limits_of_the_teachers_temperature_are_one_prototype_and_all_alike():
    s, t, c = logits(2, 1)
    sharp = numbers(dino(s, t, c, teacher_temperature=1e-4))
    best = (t[0] - c).argmax(-1)
    expected = -(s[1] / 0.1).log_softmax(-1)[torch.arange(4), best].mean()
    assert sharp["entropy"] == pytest.approx(0, abs=1e-12)
    assert sharp["alignment"] == pytest.approx(expected.item(), rel=1e-9)
    flat = numbers(dino(s, t, c, teacher_temperature=1e9))
    assert flat["entropy"] == pytest.approx(math.log(5), rel=1e-9)
    blind = numbers(dino(s, t, c, student_temperature=1e9))
    assert sum(blind.values()) == pytest.approx(math.log(5), rel=1e-8)


def test_equal_and_extreme_logits_give_finite_values_and_gradients():
    for size in (0.0, 1e4):
        s = (size * torch.eye(3).expand(2, 3, 3)).clone().requires_grad_()
        terms = dino(s, -s.detach(), torch.zeros(3), teacher_temperature=1e-3)
        sum(terms.values()).backward()
        assert all(term.isfinite() for term in terms.values())
        assert s.grad is not None
        assert s.grad.isfinite().all()


def test_bfloat16_inputs_and_autocast_are_computed_in_float32():
    s, t, c = (x.bfloat16() for x in logits(2, 2, 16, 32))
    expected = numbers(dino(s.double(), t.double(), c.double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = dino(s.requires_grad_(), t, c)
    assert all(term.dtype == torch.float32 for term in terms.values())
    assert numbers(terms) == pytest.approx(expected, rel=1e-4)


def test_the_entropy_of_an_image_lies_between_none_and_log_k():
    _, t, c = logits()
    found = assignment_entropy(t[0], c, temperature=0.04)
    p = ((t[0] - c) / 0.04).softmax(-1)
    torch.testing.assert_close(found, torch.distributions.Categorical(p).entropy())
    flat = assignment_entropy(torch.zeros(2, 7), torch.zeros(7), temperature=0.01)
    assert flat.tolist() == pytest.approx([math.log(7)] * 2, rel=1e-6)


@pytest.mark.parametrize(
    ("student", "teacher", "centre"),
    [
        ((1, 3, 4), (1, 3, 4), (4,)),
        ((2, 3, 4), (3, 3, 4), (4,)),
        ((2, 3, 4), (0, 3, 4), (4,)),
        ((2, 3, 4), (2, 3, 5), (4,)),
        ((2, 3, 4), (2, 3, 4), (5,)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(student, teacher, centre):
    with pytest.raises(ConfigError, match="Expected"):
        inspect.unwrap(categorical.dino)(*map(torch.zeros, (student, teacher, centre)))


@pytest.mark.parametrize("name", ["student_temperature", "teacher_temperature"])
def test_a_temperature_of_zero_is_refused(name):
    with pytest.raises(ConfigError, match="above 0"):
        dino(*logits(), **{name: 0.0})
