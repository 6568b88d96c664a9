from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cognates.data.corrupt import blur
from cognates.errors import DataError
from cognates.evaluation.features import Transform, extract, score_views
from cognates.evaluation.knn import knn_distance
from cognates.evaluation.ranks import spearman
from cognates.evaluation.retrieval import retrieved, view_retrieval
from cognates.evaluation.sensitivity import per_image_spearman, sensitivity
from cognates.evaluation.spread import (
    effective_rank,
    representation_spread,
    spread,
    spread_interval,
)
from cognates.evaluation.sweeps import (
    BLURS,
    CROPS,
    crop,
    sweep,
)


def test_the_other_view_is_found_where_it_is_the_nearest(make_features) -> None:
    first = make_features(50)
    assert retrieved(first, first).mean() == 1
    swapped = first.representation.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    hits = retrieved(first, replace(first, representation=swapped))
    assert hits.tolist() == [0.0, 0.0] + [1.0] * 48


def test_retrieval_equals_loops_and_does_not_depend_on_chunks(make_features, monkeypatch) -> None:
    a, b = make_features(60, separation=1), make_features(60, separation=1, seed=1)
    b = replace(b, representation=a.representation + b.representation)
    x, y = (
        f.representation / np.linalg.norm(f.representation, axis=1, keepdims=True) for f in (a, b)
    )
    expected = [float((y @ x[i]).argmax() == i) for i in range(60)]
    assert retrieved(a, b).tolist() == expected
    assert 0 < sum(expected) < 60
    monkeypatch.setattr("cognates.evaluation.retrieval._ELEMENTS", 60 * 7)
    assert retrieved(a, b).tolist() == expected


def test_constant_features_retrieve_at_chance(make_features) -> None:
    flat = replace(make_features(20), representation=np.ones((20, 4), dtype=np.float32))
    assert retrieved(flat, flat).tolist() == pytest.approx([1 / 20] * 20)


def test_view_retrieval_stands_beside_pixels_and_untrained(make_features) -> None:
    first = make_features(80, separation=0)
    noise = np.random.default_rng(7).normal(size=(80, 8)).astype(np.float32)

    def moved(by: float):
        return replace(first, representation=first.representation + by * noise)

    others = {
        "view1-test": first, "view2-test": moved(0.1),
        "untrained-view1-test": first, "untrained-view2-test": moved(5.0),
        "pixels-view1-test": first, "pixels-view2-test": moved(0.1),
    }  # fmt: skip
    found = view_retrieval(first, first, seed=0, others=others)
    results = {(r.metric, r.subject): r for r in found}
    assert len(results) == 5
    assert results["r-at-1", "trained"].value > 0.9
    assert results["r-at-1", "untrained"].value < 0.3
    assert results["r-at-1-minus-untrained", "trained"].low > 0.5
    assert results["r-at-1-minus-pixels", "trained"].value == 0
    assert results["r-at-1", "trained"].settings == {"candidates": 80}


def test_view_retrieval_without_views_or_with_other_images_is_an_error(make_features) -> None:
    features = make_features(10)
    with pytest.raises(DataError, match="view1-test"):
        view_retrieval(features, features, seed=0)
    with pytest.raises(DataError, match="same images"):
        retrieved(features, replace(features, index=features.index[::-1]))


def test_effective_rank_counts_equal_directions() -> None:
    for k in (1, 2, 5):
        basis = np.zeros((2 * k, 8))
        basis[:k, :k], basis[k:, :k] = np.eye(k), -np.eye(k)
        assert effective_rank(basis + 7) == pytest.approx(k, rel=1e-6)


def test_effective_rank_is_the_entropy_of_singular_values_whatever_the_shape() -> None:
    generator = np.random.default_rng(0)
    for shape in ((50, 8), (8, 50)):
        x = generator.normal(size=shape) * np.linspace(1, 3, shape[1])
        s = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
        s = s[s > 1e-9]
        p = s / s.sum()
        assert effective_rank(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)
        assert effective_rank(x) == pytest.approx(effective_rank(1e-30 * x), rel=1e-6)


def test_a_collapsed_representation_has_rank_one_and_no_spread() -> None:
    constant = np.full((100, 16), 0.3, dtype=np.float32)
    assert effective_rank(constant) == 1
    assert effective_rank(np.zeros((5, 3))) == 1
    assert spread(constant) == pytest.approx(0, abs=1e-6)
    line = np.outer(np.random.default_rng(0).normal(size=100), np.ones(16)) + 3
    assert effective_rank(line) == pytest.approx(1)


def test_directions_uniform_on_the_sphere_have_spread_one(make_features) -> None:
    x = np.random.default_rng(0).normal(size=(4000, 32))
    assert spread(x) == pytest.approx(1, abs=0.01)
    results = representation_spread(
        make_features(300), make_features(300, seed=1), seed=0,
        others={"untrained-test": replace(make_features(300), representation=np.ones((300, 8)))},
    )  # fmt: skip
    found = {(r.metric, r.subject): r for r in results}
    assert len(found) == 4
    trained = found["spread", "trained"]
    assert trained.low <= trained.value <= trained.high
    assert found["spread", "untrained"].value == pytest.approx(0, abs=1e-6)
    assert found["effective-rank", "untrained"].value == 1
    assert found["effective-rank", "trained"].interval == "none"
    assert found["effective-rank", "trained"].low is None


@pytest.mark.parametrize("n", [10, 40])
def test_the_interval_of_the_spread_holds_its_value_and_that_of_the_population(n) -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        x = generator.normal(size=(n, 64))
        low, high = spread_interval(x)
        assert 0 <= low <= spread(x) <= high <= 1
        covered += low <= 1 <= high  # the directions are uniform on the sphere: spread 1
    assert covered >= 90  # of 100; a covering of .95 gives fewer than 90 with probability .01


def test_the_interval_of_the_spread_is_the_jackknife_written_out(monkeypatch) -> None:
    x = np.random.default_rng(1).normal(size=(12, 5)) + 1.0
    left_out = np.array([spread(np.delete(x, i, axis=0)) for i in range(12)])
    corrected = 12 * spread(x) - 11 * left_out.mean()
    error = np.sqrt(11 * left_out.var())
    half = 2.200985 * error  # t(.975, 11)
    expected = (min(spread(x), corrected - half), min(1.0, corrected + half))
    assert spread_interval(x) == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr("cognates.evaluation.spread._ELEMENTS", 15)
    assert spread_interval(x) == pytest.approx(expected, rel=1e-6)
    assert expected[0] < spread(x) < corrected  # the value is biased downwards


def test_the_spread_of_fewer_than_ten_images_has_no_interval(make_features) -> None:
    nine, ten = (
        representation_spread(make_features(n), make_features(n, seed=1), seed=0)[0]
        for n in (9, 10)
    )
    assert (nine.low, nine.high, nine.interval) == (None, None, "none")
    assert (ten.interval, ten.metric) == ("jackknife-images", "spread")
    assert 0 <= ten.low <= ten.value <= ten.high <= 1
    assert ten.low < ten.high


def test_a_crop_is_the_resized_centre_and_a_blur_keeps_the_mean_of_flat_images() -> None:
    images = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    images[..., 4:12, 4:12] = 1
    assert torch.equal(crop(images, 0.0), images)
    assert torch.allclose(crop(images, 0.5), torch.ones_like(images))
    assert crop(images, 0.99).shape == images.shape
    assert torch.equal(blur(images, 0.0), images)
    flat = torch.full((2, 3, 16, 16), 0.7, dtype=torch.float64)
    assert torch.allclose(blur(flat, 0.2), flat, rtol=1e-12)


def test_a_blur_is_scipys_gaussian_filter() -> None:
    from scipy.ndimage import gaussian_filter

    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    expected = gaussian_filter(
        images.numpy(), sigma=(0, 0, 1.6, 1.6), mode="nearest", truncate=5 / 1.6
    )
    assert np.allclose(blur(images, 0.1).numpy(), expected, atol=1e-12)


def test_the_sweep_is_the_methods_score_of_the_changed_test_view(method, images, spec) -> None:
    kind = {"views": [spec], "size": 16, "mean": (0.3,), "std": (0.2,)}
    swept = sweep(method, images[1], batch_size=7, limit=25, **kind)
    assert set(swept) == {
        *("crop-test", "crop-norm-test", "crop-view-disagreement-test"),
        *("blur-test", "blur-norm-test", "blur-view-disagreement-test"),
        *("random-crop-test", "random-crop-norm-test", "random-crop-view-disagreement-test"),
    }
    crops = swept["crop-test"]
    assert list(crops.scores) == [f"{level:.2f}" for level in CROPS]
    assert len(swept["blur-test"].scores) == len(BLURS)
    assert len(crops.index) == 25
    raw = torch.from_numpy(images[1].pixels[crops.index]).float() / 255
    with torch.no_grad():
        expected = method.embed((crop(raw, 0.45) - 0.3) / 0.2).uncertainty
    assert np.allclose(crops.scores["0.45"], expected, atol=1e-5)
    whole = sweep(method, images[1], batch_size=40, limit=25, **kind)
    assert np.allclose(whole["crop-test"].scores["0.45"], crops.scores["0.45"], atol=1e-6)


def test_the_sweep_scores_the_baselines_of_the_changed_test_view(
    method, images, spec, monkeypatch
) -> None:
    kind = {"views": [spec], "size": 16, "mean": (0.3,), "std": (0.2,)}
    monkeypatch.setattr("cognates.evaluation.sweeps.FEW", 9)
    bank = extract(method, images[0], **kind)
    swept = sweep(method, images[1], bank=bank, batch_size=7, limit=25, **kind)
    assert len(swept) == 12
    rows = swept["blur-test"].index
    pixels = torch.from_numpy(images[1].pixels[rows]).float() / 255
    changed = replace(images[1], pixels=(pixels * 255).byte().numpy(), path=None, targets={})
    at = Transform.of(16, (0.3,), (0.2,))
    with torch.no_grad():
        representation, scores = score_views(method, blur(pixels, 0.04), spec=spec, transform=at)
    assert np.allclose(swept["blur-norm-test"].scores["0.04"], scores["norm"], atol=1e-5)
    seen = replace(bank, representation=representation, index=rows, path=None, targets={})
    distance = swept["blur-knn-distance-test"].scores["0.04"]
    assert np.allclose(distance, knn_distance(bank, seen), atol=1e-6)
    few = swept["blur-view-disagreement-test"]
    assert len(few.index) == 9
    assert set(few.index) <= set(rows)
    expected = scores["view-disagreement"][np.isin(rows, few.index)]
    assert np.allclose(few.scores["0.04"], expected, atol=1e-6)
    # severity 0 is the plain test view
    plain = extract(method, changed, **kind)
    assert np.allclose(swept["crop-norm-test"].scores["0.00"], plain.scores["norm"], atol=1e-5)


def test_sensitivity_stands_beside_the_baselines_with_paired_differences(make_features) -> None:
    blank = replace(make_features(30), representation=np.empty((30, 0), dtype=np.float32))
    noise = np.random.default_rng(0).normal(size=(30, 6))
    rising = {f"{s:.2f}": s + 0.05 * noise[:, i] for i, s in enumerate(CROPS)}
    falling = {level: -values for level, values in rising.items()}
    few = replace(
        blank, representation=blank.representation[:7], index=np.arange(3, 10), targets={}
    )
    others = {
        "crop-test": replace(blank, scores=rising, default_score="concentration"),
        "blur-test": replace(blank, scores=rising, default_score="concentration"),
        "crop-norm-test": replace(blank, scores=falling, default_score="norm"),
        "crop-view-disagreement-test": replace(
            few, scores={k: v[3:10] for k, v in falling.items()}, default_score="view-disagreement"
        ),
    }
    found = sensitivity(blank, blank, seed=0, others=others)
    results = {r.metric: r for r in found}
    assert len(found) == len(results) == 4 + 3 + 3
    own = results["crop-per-image"]
    assert own.flags == ("default",)
    assert results["crop-per-image/norm"].value == pytest.approx(-own.value)
    gap = results["crop-per-image/default-minus-norm"]
    assert gap.value == pytest.approx(2 * own.value)
    assert 0 < gap.low <= gap.value <= gap.high <= 2
    some = results["crop-per-image/default-minus-view-disagreement"]
    table = np.stack([rising[level][3:10] for level in rising], axis=1)
    assert some.value == pytest.approx(2 * per_image_spearman(table, np.array(CROPS)).mean())
    assert (some.n, gap.n, own.n) == (7, 30, 30)
    assert results["crop-overall/view-disagreement"].flags == ("eight-passes",)


def test_the_sweep_works_for_a_method_whose_score_is_derived(
    without_own_score, images, spec
) -> None:
    kind = {"views": [spec], "size": 16, "mean": None, "std": None}
    swept = sweep(without_own_score, images[1], limit=5, **kind)
    assert swept["blur-test"].default_score == "view-disagreement"
    assert all(len(score) == 5 for score in swept["blur-test"].scores.values())


def test_sensitivity_is_plus_or_minus_one_for_a_score_that_follows_the_severity(
    make_features,
) -> None:
    blank = replace(make_features(30), representation=np.empty((30, 0), dtype=np.float32))
    offset = np.random.default_rng(0).normal(size=30)
    rising = replace(blank, scores={f"{s:.2f}": offset + s for s in CROPS})
    falling = replace(blank, scores={f"{s:.2f}": -s * np.ones(30) for s in BLURS})
    others = {"crop-test": rising, "blur-test": falling}
    results = {r.metric: r for r in sensitivity(blank, blank, seed=0, others=others)}
    assert len(results) == 4
    assert results["crop-per-image"].value == pytest.approx(1)
    # differences between images hide the severity in the overall correlation
    assert 0 < results["crop-overall"].value < 0.6
    assert results["crop-overall"].low < results["crop-overall"].high
    assert results["blur-per-image"].value == pytest.approx(-1)
    assert results["blur-overall"].value == pytest.approx(-1)
    with pytest.raises(DataError, match="sweep"):
        sensitivity(blank, blank, seed=0)


def test_per_image_correlations_equal_spearman_row_by_row() -> None:
    table = np.random.default_rng(0).integers(0, 4, size=(20, 6)).astype(float)
    table[0] = 1
    severity = np.array(CROPS)
    expected = [spearman(row, severity) for row in table]
    assert np.allclose(per_image_spearman(table, severity), expected, atol=1e-12)
    assert expected[0] == 0
