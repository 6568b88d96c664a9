from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cognates.errors import ConfigError, DataError
from cognates.evaluation import vote as module
from cognates.evaluation.splits import holdout
from cognates.evaluation.vote import knn_vote, predict


def winners(train, labels: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """The definition, image by image."""
    found = []
    for query in queries:
        nearest = np.argsort(((train - query) ** 2).sum(axis=1), kind="stable")[:k]
        found.append(np.bincount(labels[nearest]).argmax())
    return np.array(found)


def test_k_is_the_best_on_held_out_training_images_and_votes_equal_the_definition(
    make_features, monkeypatch
) -> None:
    monkeypatch.setattr(module, "_ELEMENTS", 150 * 7)  # chunks of seven images
    train, test = make_features(150, separation=0.4), make_features(60, separation=0.4, seed=1)
    x, y = train.representation.astype(float), train.targets["label"]
    held = holdout(y)
    accuracies = [(winners(x[~held], y[~held], x[held], k) == y[held]).mean() for k in range(1, 21)]
    found = predict(train, test)
    assert found.k == int(np.argmax(accuracies)) + 1
    assert found.heldout_accuracy == max(accuracies)
    assert np.array_equal(found.labels, winners(x, y, test.representation, found.k))


def test_labels_of_test_images_do_not_take_part_in_the_choice(make_features) -> None:
    """Every permutation of the test labels leaves k and the votes as they are, and the best k on
    the test images is another one."""
    train, test = make_features(150, separation=0.4), make_features(60, separation=0.4, seed=1)
    found = predict(train, test)
    for seed in range(5):
        label = np.random.default_rng(seed).permutation(test.targets["label"])
        again = predict(train, replace(test, targets={"label": label}))
        assert again.k == found.k
        assert np.array_equal(again.labels, found.labels)
    x, y = train.representation.astype(float), train.targets["label"]
    on_test = [
        (winners(x, y, test.representation, k) == test.targets["label"]).mean()
        for k in range(1, 21)
    ]
    accuracy = knn_vote(train, test, seed=0)[0]
    assert accuracy.value < max(on_test)
    assert accuracy.selected["k"] == found.k


def test_features_are_not_normalised(make_features) -> None:
    train, test = make_features(90), make_features(30, seed=1)
    scale = np.random.default_rng(0).uniform(0.1, 10, (90, 1)).astype(np.float32)
    scaled = replace(train, representation=train.representation * scale)
    assert not np.array_equal(predict(scaled, test).labels, predict(train, test).labels)


def test_k_above_the_images_one_class_and_no_labels_are_errors(make_features) -> None:
    train, test = make_features(24), make_features(9, seed=1)
    with pytest.raises(ConfigError, match=r"1 <= k <= 18 .* got k = 20"):
        knn_vote(train, test, seed=0, most=20)
    assert knn_vote(train, test, seed=0, most=18)[0].protocol == "knn-vote"
    with pytest.raises(DataError, match="at least two classes"):
        predict(replace(train, targets={"label": np.ones(24, int)}), test, most=3)
    with pytest.raises(DataError, match="needs labels"):
        knn_vote(replace(train, targets={}), test, seed=0)


def test_fewer_training_images_than_twenty_are_tried_up_to_their_number(make_features) -> None:
    train, test = make_features(24), make_features(9, seed=1)
    found = knn_vote(train, test, seed=0)
    assert [r.settings["k"] for r in found] == [[1, 18]]  # 6 of 24 are held out
    assert found == knn_vote(train, test, seed=0, most=18)
    enough = knn_vote(make_features(90), test, seed=0)
    assert [r.settings["k"] for r in enough] == [[1, 20]]
