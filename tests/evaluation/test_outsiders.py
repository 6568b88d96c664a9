from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cognates.data.images import Images
from cognates.errors import ConfigError, DataError
from cognates.evaluation import bootstrap
from cognates.evaluation.outsiders import false_acceptance, mahalanobis, ood, require_others
from cognates.evaluation.ranks import auroc
from cognates.evaluation.suite import evaluate, run_protocols
from cognates.random import fold_in


@pytest.fixture
def sets(make_features):
    """A test set, and outsiders that lie far off and have the larger score `relative`."""
    train, test = make_features(120), make_features(60, seed=1, split="test")
    outside = make_features(45, seed=2, separation=6, split="test")
    generator = np.random.default_rng(0)

    def scored(features, shift):
        n = len(features.index)
        scores = {"relative": generator.normal(size=n) + shift, "norm": generator.normal(size=n)}
        return replace(features, scores=scores, default_score="relative")

    outside = replace(scored(outside, 2), targets={}, dataset="letters")
    return train, scored(test, 0), outside


def slow_fpr(inside, outside, weights_in, weights_out) -> float:
    """The smallest threshold that accepts 95 %, value by value."""
    for threshold in np.unique(inside):
        if 100 * (weights_in * (inside <= threshold)).sum() >= 95 * weights_in.sum():
            return float((weights_out * (outside <= threshold)).sum() / weights_out.sum())
    raise AssertionError


def test_fpr95_is_the_share_of_outsiders_accepted_with_95_percent_of_the_images() -> None:
    generator = np.random.default_rng(0)
    for n in (7, 20, 100, 101):
        inside, outside = generator.normal(size=n).round(1), generator.normal(size=50).round(1)
        expected = slow_fpr(inside, outside, np.ones(n), np.ones(50))
        assert false_acceptance(inside, outside) == pytest.approx(expected)
    assert false_acceptance(np.arange(100.0), np.full(9, 94.0)) == 1
    assert false_acceptance(np.arange(100.0), np.full(9, 94.5)) == 0
    assert false_acceptance(np.zeros(30), np.zeros(9)) == 1


def test_both_sets_are_resampled_each_by_its_own_counts() -> None:
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(size=40).round(1), generator.normal(size=40).round(1) + 1
    aurocs, shares = bootstrap.separation(inside, outside, accepted=95, seed=0)
    counts = bootstrap.counts(40, seed=0), bootstrap.counts(40, seed=fold_in(0, "outside"))
    assert not np.array_equal(*counts)
    assert len(aurocs) == len(shares) == 2000
    for row in range(0, 2000, 97):
        first, second = (of[row].astype(float) for of in counts)
        drawn = np.repeat(inside, first.astype(int)), np.repeat(outside, second.astype(int))
        positive = np.repeat([False, True], [40, 40])
        assert aurocs[row] == pytest.approx(auroc(np.concatenate(drawn), positive))
        assert shares[row] == pytest.approx(slow_fpr(inside, outside, first, second))


def test_mahalanobis_is_the_distance_to_one_gaussian_whatever_the_rotation(make_features) -> None:
    train, test = make_features(200, d=5), make_features(30, d=5, seed=1)
    x = train.representation.astype(float)
    inverse = np.linalg.inv(np.cov(x.T, bias=True))
    gaps = test.representation - x.mean(axis=0)
    expected = np.einsum("ni,ij,nj->n", gaps, inverse, gaps)
    found = mahalanobis(train, test)
    assert np.allclose(found, expected, rtol=1e-4)  # the shrinkage is 1e-6 of the mean variance
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0].astype(np.float32)
    turned = (replace(f, representation=f.representation @ turn) for f in (train, test))
    assert np.allclose(mahalanobis(*turned), found, rtol=1e-3)


def test_directions_that_training_images_lack_are_far_off_and_finite() -> None:
    from cognates.types import Features

    flat = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    flat[:, 2] = 0
    train = Features(representation=flat, index=np.arange(50))
    off = Features(representation=np.array([[0, 0, 1.0]], dtype=np.float32), index=np.arange(1))
    assert 1e5 < mahalanobis(train, off)[0] < 1e7
    equal = replace(train, representation=np.ones((50, 3), dtype=np.float32))
    assert mahalanobis(equal, off) == pytest.approx([2.0])


def test_every_score_that_both_sets_have_stands_beside_the_baselines(sets) -> None:
    train, test, outside = sets
    test = replace(test, scores={**test.scores, "only-here": np.zeros(60)})
    results = {
        r.metric: r for r in ood(train, test, seed=0, others={"ood-letters": outside}, grid=2)
    }
    scores = {"relative", "norm", "knn-distance", "mahalanobis", "max-softmax", "random"}
    rivals = {"norm", "knn-distance", "mahalanobis", "best"}
    assert set(results) == {
        f"letters/{measure}/{name}"
        for measure in ("auroc", "fpr95")
        for name in scores | {f"default-minus-{rival}" for rival in rivals}
    }
    for name in ("relative", "norm"):
        both = np.concatenate([test.scores[name], outside.scores[name]])
        positive = np.arange(105) >= 60
        assert results[f"letters/auroc/{name}"].value == pytest.approx(auroc(both, positive))
        expected = false_acceptance(test.scores[name], outside.scores[name])
        assert results[f"letters/fpr95/{name}"].value == pytest.approx(expected)
    assert results["letters/auroc/relative"].value > 0.85
    assert results["letters/auroc/mahalanobis"].value > 0.95
    for r in results.values():
        assert r.low <= r.value <= r.high
        assert r.n == 105
        assert (r.settings["inside"], r.settings["outside"]) == (60, 45)
    assert results["letters/auroc/relative"].flags == ("default",)
    assert results["letters/auroc/max-softmax"].flags == ("needs-labels",)
    best = results["letters/fpr95/default-minus-best"]
    rates = {r: results[f"letters/fpr95/{r}"].value for r in rivals - {"best"}}
    assert rates[best.selected["baseline"]] == min(rates.values())
    assert results["letters/auroc/random"].value != 0.5


def test_without_labels_max_softmax_is_left_out(sets) -> None:
    train, test, outside = (replace(f, targets={}) for f in sets)
    results = run_protocols({"train": train, "test": test, "ood-letters": outside}, only=["ood"])
    assert not [r for r in results if r.error]
    assert len(results) == 2 * (5 + 4)
    assert not [r for r in results if "max-softmax" in r.metric]


def test_no_other_set_the_own_one_or_one_of_another_shape_are_refused(sets, images) -> None:
    train, test, _ = sets
    with pytest.raises(DataError, match="--ood SOURCE"):
        ood(train, test, seed=0)
    own = images[1]
    with pytest.raises(ConfigError, match=r"Expected images of another set .*--ood SOURCE"):
        require_others({}, own)
    with pytest.raises(ConfigError, match="got its own images"):
        require_others({"same": own}, own)
    other = Images(pixels=np.zeros((3, 3, 16, 16), np.uint8), dataset="colour", split="test")
    with pytest.raises(ConfigError, match=r"1 channels in 'colour'.*got 3"):
        require_others({"colour": other}, own)


def test_the_suite_passes_over_the_other_set_and_takes_a_part_where_it_is_asked(
    method, images, spec, tmp_path, monkeypatch
) -> None:
    bright = np.random.default_rng(0).integers(180, 255, size=(30, 1, 16, 16)).astype(np.uint8)
    other = Images(pixels=bright, dataset="bright", split="test", digest="bright")
    kind = {"views": [spec], "size": 16, "mean": (0.3,), "std": (0.2,), "grid": 2, "out": tmp_path}
    found = evaluate(method, *images, only=["ood"], outside={"bright": other}, **kind)
    results = {r.metric: r for r in found}
    assert not [r for r in found if r.error]
    names = {"concentration", "norm", "knn-distance", "view-disagreement", "mahalanobis"}
    assert names <= {m.rpartition("/")[2] for m in results}
    assert results["bright/auroc/mahalanobis"].value == 1
    assert results["bright/auroc/mahalanobis"].n == 70
    assert list((tmp_path / "features").glob("trained-ood-bright-*.npz"))
    few = evaluate(method, *images, only=["ood"], outside={"bright": other}, images=20, **kind)
    assert {r.n for r in few} == {40}
    with pytest.raises(ConfigError, match="--ood SOURCE"):
        evaluate(method, *images, only=["ood"], **kind)
