from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cognates.errors import DataError
from cognates.evaluation import linear
from cognates.evaluation.crops import crop
from cognates.evaluation.features import Transform, extract, score_views
from cognates.evaluation.ranks import spearman
from cognates.evaluation.sweeps import crop as centre_crop
from cognates.evaluation.sweeps import fractions, random_crop, sweep
from cognates.types import Features


def swept(whole, part, score, index=None, share=None) -> Features:
    n = len(whole)
    return Features(
        representation=np.empty((n, 0), dtype=np.float32),
        index=np.arange(n) if index is None else index,
        scores={"0.00": np.asarray(whole, float), "1.00": np.asarray(part, float)},
        targets={"fraction": np.linspace(0.1, 0.75, n) if share is None else share},
        default_score=score,
    )


def test_the_share_of_larger_uncertainties_counts_ties_as_failures() -> None:
    own = swept([1, 2, 3, 4], [2, 2, 4, 3], "relative")
    found = crop(own, own, seed=0, others={"random-crop-test": own})
    results = {r.metric: r for r in found}
    both = ("relative", "random")
    assert set(results) == {f"{m}/{score}" for m in ("bigger", "spearman") for score in both}
    assert results["bigger/relative"].value == 0.5
    less = -own.targets["fraction"]
    assert results["spearman/relative"].value == pytest.approx(
        spearman(np.array([2.0, 2, 4, 3]), less)
    )
    constant = swept(np.zeros(9), np.zeros(9), "relative")
    found = crop(own, own, seed=0, others={"random-crop-test": constant})
    assert [r.value for r in found if "random" not in r.metric] == [0, 0]


def test_baselines_are_compared_on_the_images_that_both_saw() -> None:
    generator = np.random.default_rng(0)
    whole, part = generator.random(50), generator.random(50) + 0.3
    own = swept(whole, part, "relative")
    few = np.arange(20, 30)
    others = {
        "random-crop-test": own,
        "random-crop-norm-test": swept(part, whole, "norm"),
        "random-crop-view-disagreement-test": swept(
            part[few], whole[few], "view-disagreement", few, own.targets["fraction"][few]
        ),
    }
    found = crop(own, own, seed=0, others=others)
    results = {r.metric: r for r in found}
    assert len(found) == len(results) == 2 * (4 + 2)
    larger = (part > whole).mean()
    assert results["bigger/relative"].value == pytest.approx(larger)
    assert results["bigger/default-minus-norm"].value == pytest.approx(2 * larger - 1)
    some = results["bigger/default-minus-view-disagreement"]
    assert some.value == pytest.approx(2 * (part > whole)[few].mean() - 1)
    assert (results["bigger/relative"].n, some.n) == (50, 10)
    for r in found:
        assert r.low <= r.value <= r.high


def test_there_is_no_crop_test_without_a_sweep() -> None:
    own = swept([1], [2], "relative")
    with pytest.raises(DataError, match="random crops"):
        crop(own, own, seed=0)


def test_sides_are_uniform_and_belong_to_the_image() -> None:
    share = fractions(np.arange(4000), 3)
    assert 0.1 < share.min() < 0.102
    assert 0.748 < share.max() < 0.75
    assert share.mean() == pytest.approx(0.425, abs=4 * 0.65 / 12**0.5 / 4000**0.5)
    assert np.array_equal(fractions(np.array([9, 2]), 3), share[[9, 2]])
    assert not np.array_equal(fractions(np.arange(4000), 4), share)


def test_a_random_crop_is_the_centre_of_its_side_and_is_what_the_sweep_scores(
    method, images, spec
) -> None:
    kind = {"views": [spec], "size": 16, "mean": (0.3,), "std": (0.2,)}
    found = sweep(method, images[1], limit=20, batch_size=7, seed=2, **kind)
    own = found["random-crop-test"]
    share = fractions(own.index, 2)
    assert np.array_equal(own.targets["fraction"], share)
    raw = torch.from_numpy(images[1].pixels[own.index]).float() / 255
    made = random_crop(raw, torch.from_numpy(own.index), 2)
    for i, f in enumerate(share):
        side = max(1, round(float(f) * 16))
        assert torch.allclose(
            made[i : i + 1], centre_crop(raw[i : i + 1], 1 - side / 16), atol=1e-6
        )
    at = Transform.of(16, (0.3,), (0.2,))
    scores = score_views(method, made, spec=None, transform=at)[1]
    assert np.allclose(own.scores["1.00"], scores["concentration"], atol=1e-5)
    assert np.array_equal(own.scores["0.00"], found["crop-test"].scores["0.00"])
    results = crop(own, own, seed=0, others=found)
    assert not [r for r in results if r.error]
    assert own.default_score == "concentration"


def test_max_softmax_of_the_crops_stands_beside_and_is_compared_with_nothing(
    method, images, spec
) -> None:
    kind = {"views": [spec], "size": 16, "mean": (0.3,), "std": (0.2,)}
    train, test = (extract(method, some, **kind) for some in images)
    probe = linear.predict(train, test, grid=3)
    assert np.allclose(probe.confidence_of(test.representation), probe.confidence, rtol=1e-9)
    found = sweep(method, images[1], limit=20, batch_size=7, seed=2, probe=probe, **kind)
    swept = found["random-crop-max-softmax-test"]
    raw = torch.from_numpy(images[1].pixels[swept.index]).float() / 255
    made = random_crop(raw, torch.from_numpy(swept.index), 2)
    seen = score_views(method, made, spec=None, transform=Transform.of(16, (0.3,), (0.2,)))[0]
    crops = replace(test, representation=seen, index=swept.index, scores={}, targets={}, path=None)
    expected = 1 - linear.predict(train, crops, grid=3).confidence
    assert np.allclose(swept.scores["1.00"], expected, atol=1e-6)
    results = {r.metric: r for r in crop(swept, swept, seed=0, others=found)}
    assert results["bigger/max-softmax"].flags == ("needs-labels",)
    assert results["bigger/random"].flags == ("sanity",)
    assert "bigger/default-minus-norm" in results
    assert not {"bigger/default-minus-max-softmax", "bigger/default-minus-random"} & set(results)


def test_a_score_that_knows_nothing_is_as_often_larger_as_not() -> None:
    own = swept(np.zeros(900), np.ones(900), "relative")
    found = crop(own, own, seed=0, others={"random-crop-test": own})
    values = {r.metric: r.value for r in found}
    assert abs(values["bigger/random"] - 0.5) < 4 * 0.5 / 30  # four standard errors
    assert abs(values["spearman/random"]) < 4 / 30


def test_a_probe_needs_two_classes(make_features) -> None:
    known = make_features(30)
    assert linear.learnable(known)
    assert not linear.learnable(replace(known, targets={"label": np.zeros(30, dtype=int)}))
    assert not linear.learnable(replace(known, targets={}))
