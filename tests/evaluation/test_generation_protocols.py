"""Distances of samples against closed forms and slow loops; agreement of views of one psi."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from cognates.errors import ConfigError, DataError
from cognates.evaluation import generation as module
from cognates.evaluation.drawn import random_reference
from cognates.evaluation.generation import (
    agreement,
    frechet_distance,
    frechet_of_moments,
    generated_views,
    generation,
    kernel_distance,
)
from cognates.types import Features


def spd(d, seed):
    a = np.random.default_rng(seed).normal(size=(d, 2 * d))
    return a @ a.T / d


def test_the_frechet_distance_has_the_closed_form_of_one_dimension():
    # (m1 - m2)^2 + (s1 - s2)^2
    x, y = np.random.default_rng(0).normal(size=(2, 500, 1)) * [[[2.0]], [[0.5]]] + [[[1.0]], [[4]]]
    expected = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-12)


def test_the_frechet_distance_has_the_closed_form_of_commuting_covariances():
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    a, b = np.array([0.0, 1, 2, 3, 4]), np.array([4.0, 1, 0, 2, 9])
    s1, s2 = (q * a) @ q.T, (q * b) @ q.T  # singular, too
    found = frechet_of_moments(np.zeros(5), s1, np.full(5, 2.0), s2)
    assert found == pytest.approx(20 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rel=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_the_frechet_distance_is_that_of_scipys_matrix_root(seed):
    s1, s2 = spd(6, seed), spd(6, seed + 10)
    m1, m2 = np.random.default_rng(seed).normal(size=(2, 6))
    slow = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * np.real(sqrtm(s1 @ s2)))
    assert frechet_of_moments(m1, s1, m2, s2) == pytest.approx(slow, rel=1e-9)
    assert frechet_of_moments(m2, s2, m1, s1) == pytest.approx(slow, rel=1e-9)
    assert frechet_of_moments(m1, s1, m1, s1) == pytest.approx(0, abs=1e-10)


def test_the_frechet_distance_of_equal_distributions_falls_with_the_sample():
    draw = np.random.default_rng(3).normal
    few, many = (np.mean([frechet_distance(*draw(size=(2, n, 4))) for _ in range(20)])
                 for n in (50, 500))  # fmt: skip
    assert 0 < 5 * many < few  # the bias that makes n part of the name


def slow_kid(x, y):
    n, d = x.shape

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / d + 1) ** 3

    inside = sum(k(s[i], s[j]) for s in (x, y) for i in range(n) for j in range(n) if i != j)
    return inside / (n * (n - 1)) - 2 * sum(k(a, b) for a in x for b in y) / n**2


def test_the_kernel_distance_is_the_slow_loop_and_without_bias():
    draw = np.random.default_rng(4).normal
    x, y = draw(size=(2, 12, 3))
    assert kernel_distance(x, y, seed=0) == pytest.approx(slow_kid(x, y), rel=1e-10)
    values = [kernel_distance(*draw(size=(2, 20, 3)), seed=0) for _ in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20
    assert min(values) < 0


def test_the_kernel_distance_averages_subsets_of_a_large_sample(monkeypatch):
    monkeypatch.setattr(module, "SUBSET", 40)
    draw = np.random.default_rng(5).normal
    x, y = draw(size=(200, 3)), draw(size=(200, 3)) + 0.5
    found = kernel_distance(x, y, seed=0)
    assert found == kernel_distance(x, y, seed=0) != kernel_distance(x, y, seed=1)
    monkeypatch.setattr(module, "SUBSET", 200)
    assert found == pytest.approx(kernel_distance(x, y, seed=0), rel=0.25)


def features(rows, layer="some-encoder", index=None):
    index = np.arange(len(rows)) if index is None else index
    return Features(representation=rows.astype(np.float32), index=index, layer=layer)


def test_generation_names_encoder_and_number_and_has_training_images_beside_it():
    draw = np.random.default_rng(6).normal
    others = {"reference-test": features(draw(size=(300, 4))),
              "reference-train": features(draw(size=(400, 4)))}  # fmt: skip
    others |= {f"generated-{i}": features(draw(size=(300, 4)) + 1) for i in range(3)}
    test = others["reference-test"]
    found = {r.metric: r for r in generation(test, test, seed=0, others=others)}
    names = [f"{kind}-some-encoder-300" for kind in ("fid", "kid")]
    assert sorted(found) == sorted([*names, *(f"{name}-of-train-images" for name in names)])
    fid = found["fid-some-encoder-300"]
    assert fid.low < fid.value < fid.high
    assert fid.value == pytest.approx(4, rel=0.2)  # |1|^2 in four dimensions
    assert fid.interval == "generation-draws"
    values = [frechet_distance(others[f"generated-{i}"].representation, test.representation)
              for i in range(3)]  # fmt: skip
    assert fid.value == pytest.approx(np.mean(values))
    # 4.302653: the quantile of Student's t with two degrees of freedom
    half = 4.302653 * np.std(values, ddof=1) / math.sqrt(3)
    assert fid.high - fid.value == pytest.approx(half, rel=1e-6)
    floor = found["fid-some-encoder-300-of-train-images"]
    assert (floor.low, floor.interval) == (None, "none")
    assert floor.value < fid.value / 10
    with pytest.raises(DataError, match="two draws of samples"):
        generation(test, test, seed=0, others={"reference-test": test})


def test_the_training_images_beside_generation_do_not_depend_on_the_order_of_the_classes():
    draw = np.random.default_rng(11)
    label = np.repeat(np.arange(4), 200)  # sorted, as folders are
    train = draw.normal(size=(800, 3)) + 5 * np.eye(4)[label][:, :3]
    test = draw.normal(size=(200, 3)) + 5 * np.eye(4)[label[::4]][:, :3]
    others = {"reference-test": features(test), "reference-train": features(train)}
    others |= {f"generated-{i}": features(test + i) for i in range(2)}
    any_ = others["reference-test"]  # neither argument is read
    found = {r.metric: r for r in generation(any_, any_, seed=0, others=others)}
    alike = np.mean([frechet_distance(train[draw.permutation(800)[:200]], test) for _ in range(20)])
    assert found["fid-some-encoder-200-of-train-images"].value < 3 * alike
    assert frechet_distance(train[:200], test) > 20 * alike  # the first class alone
    again = {r.metric: r for r in generation(any_, any_, seed=0, others=others)}
    assert again == found


def slow_agreement(table):
    n, k = table.shape
    within = [np.mean([a == b for i, a in enumerate(row) for j, b in enumerate(row) if i != j])
              for row in table]  # fmt: skip
    unrelated = [
        np.mean([a == b for a in table[i] for j in range(n) if j != i for b in table[j]])
        for i in range(n)
    ]
    assert k > 1
    return within, unrelated


def test_agreement_is_the_slow_count_of_pairs():
    table = np.random.default_rng(7).integers(0, 4, (9, 5))
    found = agreement(table)
    within, unrelated = slow_agreement(table)
    np.testing.assert_allclose(found["agreement"], within, rtol=1e-12)
    np.testing.assert_allclose(found["agreement-unrelated"], unrelated, rtol=1e-12)
    with pytest.raises(ConfigError, match="two psi and two views"):
        agreement(table[:, :1])


def test_views_of_one_psi_agree_where_they_keep_the_class_and_not_where_they_are_unrelated(
    make_features,
):
    train, test = make_features(300), make_features(90, split="test", seed=1)
    generator = np.random.default_rng(8)
    rows = np.arange(0, 90, 2)
    noise = generator.normal(size=(len(rows), 4, 8))
    kept = (test.representation[rows][:, None] + 0.1 * noise).reshape(-1, 8)
    lost = test.representation[generator.integers(0, 90, len(rows) * 4)]
    index = np.repeat(rows, 4)
    others = {"views-of-images": features(kept, index=index),
              "views-of-prior": features(lost, index=index // 2)}  # fmt: skip
    found = {r.metric: r for r in generated_views(train, test, seed=0, others=others, grid=3)}
    assert len(found) == 3 + 1 + 3
    gap = found["image/agreement-minus-unrelated"]
    assert 0.4 < gap.low < gap.value < gap.high
    assert gap.n == 45
    assert found["image/class-kept"].value > 0.8
    chance = found["prior/agreement-minus-unrelated"]
    assert chance.low < 0 < chance.high
    difference = found["image/agreement"].value - found["image/agreement-unrelated"].value
    assert gap.value == pytest.approx(difference, abs=1e-12)


def test_a_probe_on_pixels_judges_drawn_views_whatever_the_model_says_of_them(make_features):
    train, test = make_features(300), make_features(90, split="test", seed=1)
    generator = np.random.default_rng(9)
    rows = np.arange(0, 90, 2)
    index = np.repeat(rows, 4)
    # To the model all views of one psi are one point; as pictures they are unrelated.
    same = np.repeat(test.representation[rows], 4, axis=0)
    lost = test.representation[generator.integers(0, 90, len(rows) * 4)]
    own = {"views-of-images": features(same, index=index),
           "views-of-prior": features(same, index=index)}  # fmt: skip
    seen = {f"{name}-pixels": features(lost, index=index) for name in own}
    of_pixels = {"pixels-train": replace(train, targets={}), **seen}
    found = {
        r.metric: r
        for r in generated_views(train, test, seed=0, others={**own, **of_pixels}, grid=3)
    }
    assert len(found) == 2 * (4 + 3)
    for source in ("image", "prior"):
        assert found[f"{source}/agreement"].value == 1
        judged = found[f"{source}/agreement-minus-unrelated/pixels"]
        assert judged.low < 0 < judged.high
        assert judged.settings["judge"] == "pixels"
    assert found["image/class-kept/pixels"].value < 0.6 < found["image/class-kept"].value
    alone = generated_views(train, test, seed=0, others=own, grid=3)
    assert {r.metric for r in alone} == {name for name in found if "pixels" not in name}


def test_the_random_reference_is_the_same_everywhere_and_sees_each_image_alone():
    one, other = random_reference(1), random_reference(1)
    assert one.name == "random-convnet"
    assert one.digest == other.digest != random_reference(3).digest
    torch.manual_seed(5)
    images = torch.rand(4, 1, 16, 16)
    with torch.no_grad():
        found = one.encode(images)
        torch.testing.assert_close(one.encode(images[2:3]), found[2:3])
    assert found.shape == (4, 256)
    assert found.std(0).max() > 0.01
