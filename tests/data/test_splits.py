"""Train and test parts: exact sizes, nothing twice, classes alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cognates.data.splits import divide, encode_labels, stratified


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=200))
def test_stratified_parts_cover_all_rows_once_and_keep_class_shares(labels):
    label = np.array(labels)
    rows = np.arange(1000, 1000 + len(label))
    train, test = stratified(rows, label)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), rows)
    assert (np.diff(train) > 0).all()
    assert (np.diff(test) > 0).all()
    assert len(test) == round(len(label) / 5)
    single = {value for value in labels if labels.count(value) == 1}
    for value in set(labels):
        total, in_test = labels.count(value), (label[test - 1000] == value).sum()
        assert total // 5 <= in_test <= -(-total // 5)
        larger_ones_have_given = all(
            (label[test - 1000] == other).sum() == -(-labels.count(other) // 5)
            for other in set(labels) - single
        )
        assert value not in single or in_test == 0 or larger_ones_have_given


@pytest.mark.parametrize("n", [5, 10, 99, 100, 1003])
def test_a_fifth_is_test_without_labels(n):
    train, test = stratified(np.arange(n), None)
    assert len(test) == round(n / 5)
    assert len(train) == n - len(test)


def test_a_fifth_is_test_over_many_small_classes():
    label = np.repeat(np.arange(100), 7)
    _, test = stratified(np.arange(700), label)
    assert len(test) == 140
    assert set(np.bincount(label[test])) == {1, 2}


def test_the_division_is_random_but_always_the_same():
    first, second = stratified(np.arange(1000), None), stratified(np.arange(1000), None)
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[1], np.arange(800, 1000))
    assert 400 < first[1].mean() < 600


def test_one_image_is_a_training_image():
    rows, _ = divide({"": np.array([0])}, None)
    assert list(rows) == ["train"]


def test_given_splits_are_kept_and_val_stands_in_for_test():
    parts = {"train": np.arange(4), "val": np.arange(4, 6), "test": np.arange(6, 9)}
    rows, note = divide(parts, None)
    assert {name: len(index) for name, index in rows.items()} == {"train": 4, "val": 2, "test": 3}
    del parts["test"]
    rows, note = divide(parts, None)
    np.testing.assert_array_equal(rows["test"], [4, 5])
    assert "val is the test set" in note
    assert list(rows) == ["train", "test"]


@pytest.mark.parametrize("names", [["train"], ["test"], ["val", "test"], [""], ["extra", "more"]])
def test_anything_else_is_divided_and_the_note_says_so(names):
    parts = {name: np.arange(10) + 10 * i for i, name in enumerate(names)}
    rows, note = divide(parts, np.zeros(10 * len(names), int))
    assert len(rows["test"]) == 2 * len(names)
    assert "80/20" in note
    assert "stratified" in note
    assert "seed 0" in note


def test_labels_become_consecutive_numbers_with_names():
    label, names = encode_labels(np.array(["b", "a", "b"]))
    assert label.tolist() == [1, 0, 1]
    assert names == ("a", "b")
    label, names = encode_labels(np.array([7, 3, 7]))
    assert label.tolist() == [1, 0, 1]
    assert names == ("3", "7")
