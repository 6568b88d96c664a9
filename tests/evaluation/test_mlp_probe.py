from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cognates.errors import DataError
from cognates.evaluation import mlp as module
from cognates.evaluation.mlp import classify, mlp, predict, regress
from cognates.types import Features


def xor(n: int, seed: int, d: int = 32) -> Features:
    """Two classes by the sign of a product: no plane tells them apart."""
    x = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    label = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    return Features(representation=x, index=np.arange(n), targets={"label": label})


@pytest.fixture
def quick(monkeypatch) -> None:
    """Fewer epochs at a higher rate."""
    monkeypatch.setattr(module, "BATCH", (32, 32))
    monkeypatch.setattr(module, "RATE", 3e-3)
    monkeypatch.setattr(module, "EPOCHS", (2, 12))


@pytest.mark.usefixtures("quick")
def test_the_mlp_finds_what_no_plane_separates_and_says_by_how_much() -> None:
    train, test = xor(3000, 0), xor(600, 1)
    results = {(r.metric, r.subject): r for r in mlp(train, test, seed=0, grid=3)}
    assert len(results) == 2
    assert results["accuracy", "trained"].value > 0.9
    gain = results["accuracy-minus-linear", "trained"]
    assert gain.low is not None
    assert gain.low > 0.3


@pytest.mark.usefixtures("quick")
def test_subjects_stand_beside_each_other_and_each_beside_its_linear_probe(make_features) -> None:
    train, test = make_features(120, separation=4), make_features(60, separation=4, seed=1)
    others = {
        "untrained-train": make_features(120, separation=0, seed=2),
        "untrained-test": make_features(60, separation=0, seed=3),
        "pixels-train": make_features(120, d=300, seed=4),
        "pixels-test": make_features(60, d=300, seed=5),
    }
    results = mlp(train, test, seed=0, others=others, grid=2)
    metrics = [(r.metric, r.subject) for r in results]
    assert len(set(metrics)) == len(metrics) == 3 + 2 + 3
    assert ("accuracy-minus-linear", "pixels") in metrics
    assert all(r.n == 60 and r.low is not None for r in results)


def test_the_answer_is_a_function_of_the_features_and_the_seed_alone() -> None:
    train, test = xor(300, 0), xor(50, 1)
    first = predict(train, test, seed=3)
    torch.manual_seed(99)
    again = predict(replace(train), replace(test), seed=3)
    assert np.array_equal(first.log_probabilities, again.log_probabilities)
    other = predict(train, test, seed=4)
    assert not np.array_equal(first.log_probabilities, other.log_probabilities)
    assert first.selected["epochs"] in (5, 10, 20, 50)


def test_labels_of_test_images_do_not_take_part() -> None:
    train, test = xor(300, 0), xor(50, 1)
    upset = replace(test, targets={"label": 1 - test.targets["label"]})
    assert np.array_equal(predict(train, test).labels, predict(train, upset).labels)


def test_a_shift_and_a_scale_of_all_features_change_nothing_but_rounding() -> None:
    train, test = xor(300, 0), xor(50, 1)
    a, b = (f.representation.astype(np.float64) for f in (train, test))
    first = classify(a, train.targets["label"], b)
    second = classify(100 * a + 7, train.targets["label"], 100 * b + 7)
    # float32 training of up to 50 steps on features that differ by rounding
    assert np.allclose(first.log_probabilities, second.log_probabilities, atol=1e-3)


@pytest.mark.usefixtures("quick")
def test_regression_finds_a_product_and_gives_it_in_the_targets_own_units() -> None:
    x = np.random.default_rng(0).normal(size=(4000, 16))
    y = 1000 + 50 * x[:, 0] * x[:, 1]
    found = regress(x[:3200], y[:3200], x[3200:])
    rest = y[3200:, None]
    share = 1 - ((rest - found.values) ** 2).sum() / ((rest - found.reference) ** 2).sum()
    assert share > 0.8
    assert found.reference == pytest.approx([y[:3200].mean()])


def test_one_class_and_no_labels_are_errors(make_features) -> None:
    train = make_features(40)
    with pytest.raises(DataError, match="at least two classes"):
        predict(replace(train, targets={"label": np.zeros(40, int)}), train)
    with pytest.raises(DataError, match="needs labels"):
        mlp(replace(train, targets={}), train, seed=0)
    columns = np.zeros((40, 3), int)
    with pytest.raises(DataError, match="got 3 columns"):
        mlp(replace(train, targets={"label": columns}), train, seed=0)


def test_threads_of_torch_are_given_back() -> None:
    before = torch.get_num_threads()
    predict(xor(40, 0), xor(10, 1))
    assert torch.get_num_threads() == before


@pytest.mark.usefixtures("quick")
def test_decisions_share_a_hidden_layer_and_each_has_its_own_answer() -> None:
    x = np.random.default_rng(0).normal(size=(4000, 32))
    target = np.stack([x[:, 0] * x[:, 1] > 0, x[:, 2] > 0], axis=1).astype(int)
    found = module.decide(x[:3200], target[:3200], x[3200:])
    assert len(found) == 2
    for one, truth in zip(found, target[3200:].T, strict=True):
        assert (one.labels == truth).mean() > 0.85
        assert np.allclose(np.exp(one.log_probabilities).sum(axis=1), 1)
    with pytest.raises(DataError, match="vary"):
        module.decide(x[:50], np.zeros((50, 2)), x[50:60])


@pytest.mark.usefixtures("quick")
def test_columns_of_other_units_do_not_change_the_choice() -> None:
    x = np.random.default_rng(0).normal(size=(1200, 8))
    y = np.stack([x[:, 0], x[:, 1] ** 2], axis=1)
    small = regress(x[:1000], y[:1000], x[1000:])
    large = regress(x[:1000], y[:1000] * [1, 1e4], x[1000:])
    assert small.selected == pytest.approx(large.selected)
    assert np.allclose(small.values * [1, 1e4], large.values, rtol=1e-3, atol=1e-2)


def test_a_narrow_probe_is_trained_to_the_linear_ones_level() -> None:
    # fifty epochs of ten steps each left it far below
    draws = np.random.default_rng(0)
    x = draws.normal(size=(6000, 8)).astype(np.float32)
    label = (x @ draws.normal(size=(8, 4))).argmax(axis=1)
    parts = [
        Features(representation=x[rows], index=np.arange(len(rows)), targets={"label": label[rows]})
        for rows in (np.arange(4000), np.arange(4000, 6000))
    ]
    found = {r.metric: r.value for r in mlp(*parts, seed=0, grid=4)}
    assert found["accuracy-minus-linear"] > -0.03
    assert [module.batch_size(n) for n in (100, 4000, 50_000, 10**6)] == [64, 64, 512, 1024]
