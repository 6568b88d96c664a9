from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cognates.errors import ConfigError, DataError
from cognates.evaluation import knn as module
from cognates.evaluation.knn import (
    knn,
    knn_200,
    knn_distance,
    neighbours,
    predict,
    with_bank_scores,
)


def vote(train, test, k: int, temperature: float) -> list[int]:
    """The definition, image by image, in Python floats."""
    a = train.representation.astype(float)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    found = []
    for h in test.representation.astype(float):
        cosines = a @ (h / np.linalg.norm(h))
        nearest = sorted(range(len(a)), key=lambda j: -cosines[j])[:k]
        votes: dict[int, float] = {}
        for j in nearest:
            label = int(train.targets["label"][j])
            votes[label] = votes.get(label, 0.0) + math.exp(cosines[j] / temperature)
        found.append(max(sorted(votes), key=lambda label: votes[label]))
    return found


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (50, 0.5)])
def test_predictions_equal_the_definition_written_as_loops(
    make_features, monkeypatch, k: int, temperature: float
) -> None:
    monkeypatch.setattr(module, "_ELEMENTS", 120 * 7)  # chunks of seven test images
    train, test = make_features(120, separation=0.5), make_features(60, separation=0.5, seed=1)
    found = predict(train, test, k=k, temperature=temperature)
    assert found.tolist() == vote(train, test, k, temperature)
    assert len(set(found.tolist())) == 3


def test_features_are_normalised_inside_and_labels_need_not_be_consecutive(make_features) -> None:
    train, test = make_features(90), make_features(30, seed=1)
    scale = np.random.default_rng(0).uniform(0.1, 10, (90, 1)).astype(np.float32)
    scaled = replace(train, representation=train.representation * scale)
    assert np.array_equal(predict(scaled, test), predict(train, test))
    names = np.array([40, 7, 1000])
    renamed = replace(train, targets={"label": names[train.targets["label"]]})
    assert np.array_equal(predict(renamed, test), names[predict(train, test)])


def test_a_small_temperature_does_not_overflow(make_features) -> None:
    train, test = make_features(90), make_features(30, seed=1)
    assert np.array_equal(
        predict(train, test, k=5, temperature=1e-4), predict(train, test, k=1, temperature=1.0)
    )


def test_separated_classes_are_found_and_an_untrained_subject_stands_beside(
    make_features,
) -> None:
    train, test = make_features(300, separation=6), make_features(100, separation=6, seed=1)
    others = {
        "untrained-train": make_features(300, separation=0, seed=2),
        "untrained-test": make_features(100, separation=0, seed=3),
        "pixels-train": make_features(300, separation=6, seed=4),
        "pixels-test": make_features(100, separation=6, seed=5),
    }
    results = {(r.metric, r.subject): r for r in knn(train, test, seed=0, others=others)}
    assert len(results) == 5
    assert results["accuracy", "trained"].value == 1.0
    untrained = results["accuracy", "untrained"]
    assert untrained.value == pytest.approx(1 / 3, abs=0.2)  # 4 standard errors of .047
    assert untrained.low < untrained.value < untrained.high
    difference = results["accuracy-minus-untrained", "trained"]
    assert difference.value == pytest.approx(1 - untrained.value)
    assert difference.low > 0.3
    assert results["accuracy-minus-pixels", "trained"].value == 0
    assert all(
        r.n == 100 and r.settings == {"k": 20, "temperature": 0.07} for r in results.values()
    )


def test_k_beyond_the_training_images_is_an_error(make_features) -> None:
    with pytest.raises(ConfigError, match="k = 200"):
        knn_200(make_features(199), make_features(9, seed=1), seed=0)
    assert knn_200(make_features(200), make_features(9, seed=1), seed=0)[0].protocol == "knn-200"


def test_features_without_labels_are_an_error_of_the_protocol(make_features) -> None:
    bare = replace(make_features(40), targets={})
    with pytest.raises(DataError, match="needs labels"):
        knn(bare, make_features(9, seed=1), seed=0)


def test_knn_distance_is_one_minus_the_mean_cosine_to_the_twenty_nearest(make_features) -> None:
    train, test = make_features(50), make_features(30, seed=1)
    a, b = (
        f.representation.astype(float) / np.linalg.norm(f.representation, axis=1, keepdims=True)
        for f in (train, test)
    )
    expected = 1 - np.sort(b @ a.T, axis=1)[:, -20:].mean(axis=1)
    assert np.allclose(knn_distance(train, test), expected, atol=1e-6)  # float32 cosines
    own = a @ a.T
    np.fill_diagonal(own, -np.inf)
    expected = 1 - np.sort(own, axis=1)[:, -20:].mean(axis=1)
    assert np.allclose(knn_distance(train, train), expected, atol=1e-6)


def test_bank_scores_are_added_and_the_far_image_is_the_uncertain_one(make_features) -> None:
    train = make_features(60, d=4, scores={"norm": np.zeros(60)}, default_score="norm")
    test = make_features(10, d=4, seed=1)
    far = test.representation.copy()
    far[3] = -train.representation.mean(axis=0) * 10
    test = replace(test, representation=far)
    with_train, with_test = with_bank_scores(train, test)
    assert set(with_train.scores) == {"norm", "knn-distance"}
    assert with_train.default_score == "norm"
    assert with_test.scores["knn-distance"].argmax() == 3
    assert train.scores.keys() == {"norm"}


def test_neighbours_are_searched_once_per_pair_of_features(make_features) -> None:
    train, test = make_features(60), make_features(10, seed=1)
    assert neighbours(train, test, k=5) is neighbours(train, test, k=5)
    assert neighbours(train, test, k=5) is not neighbours(train, test, k=6)
    assert neighbours(replace(train), test, k=5) is not neighbours(train, test, k=5)
