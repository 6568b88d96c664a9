from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cognates.errors import DataError
from cognates.evaluation.ranks import auroc
from cognates.evaluation.recall import r_auroc


@pytest.fixture
def pair(make_features):
    train, test = make_features(120, separation=0.6), make_features(80, separation=0.6, seed=1)
    generator = np.random.default_rng(0)
    scores = {"norm": generator.random(80), "relative": generator.random(80)}
    return train, replace(test, scores=scores, default_score="relative")


def wrong_neighbours(features) -> np.ndarray:
    """Image by image: is the other image of the largest cosine of another class?"""
    z, label = features.representation.astype(float), features.targets["label"]
    found = []
    for i in range(len(z)):
        cosine = [
            -np.inf if j == i else z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j])
            for j in range(len(z))
        ]
        found.append(label[int(np.argmax(cosine))] != label[i])
    return np.array(found)


def test_r_auroc_and_recall_are_those_of_their_definitions(pair) -> None:
    train, test = pair
    results = {r.metric: r for r in r_auroc(train, test, seed=0, grid=3)}
    wrong = wrong_neighbours(test)
    assert 0.1 < wrong.mean() < 0.9
    assert results["r-at-1"].value == pytest.approx(1 - wrong.mean())
    for score in ("norm", "relative"):
        assert results[score].value == pytest.approx(auroc(test.scores[score], wrong))
    rivals = {"norm", "knn-distance"}
    expected = {"r-at-1", "relative", "max-softmax", "random", *rivals}
    assert set(results) == expected | {f"default-minus-{r}" for r in (*rivals, "best")}
    gap = results["default-minus-norm"]
    assert gap.value == pytest.approx(results["relative"].value - results["norm"].value)
    assert gap.low <= gap.value <= gap.high


def test_a_score_that_knows_the_wrong_neighbours_has_one_and_a_constant_one_half(pair) -> None:
    train, test = pair
    scores = {"knows": wrong_neighbours(test).astype(float), "norm": np.zeros(80)}
    test = replace(test, scores=scores, default_score="knows")
    results = {r.metric: r for r in r_auroc(train, test, seed=0, grid=3)}
    assert results["knows"].value == 1
    assert results["norm"].value == 0.5
    assert results["default-minus-norm"].value == 0.5


def test_recall_stands_beside_the_baselines(pair) -> None:
    train, test = pair
    constant = replace(test, representation=np.ones((80, 3), dtype=np.float32), scores={})
    others = {"pixels-train": replace(train, scores={}), "pixels-test": constant}
    results = r_auroc(train, test, seed=0, others=others, grid=3)
    found = {(r.metric, r.subject): r.value for r in results}
    assert found["r-at-1-minus-pixels", "trained"] == pytest.approx(
        found["r-at-1", "trained"] - found["r-at-1", "pixels"]
    )


def test_one_image_has_no_other_and_neighbours_all_right_no_auroc(make_features) -> None:
    train, test = make_features(60, separation=9), make_features(60, separation=9, seed=1)
    found = r_auroc(train, test, seed=0, grid=2)
    assert [r.metric for r in found] == ["r-at-1", "failed"]
    assert found[0].value == 1
    assert "error rate of 0" in found[1].error
    with pytest.raises(DataError, match="at least 2 images"):
        r_auroc(train, make_features(1, seed=1), seed=0, grid=2)
