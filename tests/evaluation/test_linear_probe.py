from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from cognates.errors import DataError
from cognates.evaluation.linear import (
    exhausted,
    expected_calibration_error,
    fit,
    linear,
    penalties,
    predict,
)
from cognates.evaluation.logistic import Problem, Scaling
from cognates.evaluation.splits import folds, holdout, per_class


def gaussian(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    target = np.arange(n) % 3
    x = generator.normal(size=(n, d)) * np.linspace(3, 0.1, d)
    x[:, :3] += np.eye(3)[target]
    return Scaling.of(x)(x), target


@pytest.mark.parametrize(("n", "d"), [(150, 6), (30, 50)])
@pytest.mark.parametrize("c", [1e-3, 1.0, 30.0])
def test_the_minimiser_is_scikit_learns_at_the_same_c(n: int, d: int, c: float) -> None:
    x, target = gaussian(n, d)
    problem = Problem(x[None], target[None], classes=3)
    fit = problem.solve(1 / (c * n), tolerance=1e-9, iterations=5000)
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=20_000).fit(x, target)
    assert fit.converged
    # both stop at a gradient near 1e-9; the weakest penalty divides it by 2e-4
    assert np.allclose(problem.expand(fit)[0].T, theirs.coef_, atol=2e-5)
    ours = fit.log_probabilities(problem.reduce(x[None]))[0]
    assert np.allclose(ours, theirs.predict_log_proba(x), atol=2e-5)


def test_regressions_solved_together_equal_those_solved_alone() -> None:
    x, target = gaussian(60, 5)
    rows = np.arange(60) % 4 != np.arange(3)[:, None]
    parts = np.where(rows[:, :, None], x, 0.0)
    together = Problem(parts, np.tile(target, (3, 1)), classes=3, rows=rows)
    strengths = np.array([0.5, 0.01, 2.0])
    fits = together.solve(strengths, tolerance=1e-10, iterations=5000)
    for i, keep in enumerate(rows):
        alone = Problem(x[None, keep], target[None, keep], classes=3)
        fit = alone.solve(strengths[i], tolerance=1e-10, iterations=5000)
        assert np.allclose(fits.weight[i], fit.weight[0], atol=1e-7)
        # b may move by a constant, which the softmax does not see
        centred = fits.bias[i] - fits.bias[i].mean(), fit.bias[0] - fit.bias[0].mean()
        assert np.allclose(*centred, atol=1e-7)


def test_a_warm_start_changes_the_way_and_not_the_end() -> None:
    x, target = gaussian(40, 90)
    problem = Problem(x[None], target[None], classes=3)
    strong = problem.solve(1.0)
    cold = problem.solve(0.5, tolerance=1e-9, iterations=5000)
    warm = problem.solve(0.5, start=strong, tolerance=1e-9, iterations=5000)
    assert np.allclose(cold.weight, warm.weight, atol=1e-6)


def test_too_few_iterations_are_recorded() -> None:
    x, target = gaussian(150, 6)
    fit = Problem(x[None], target[None], classes=3).solve(1e-4, iterations=2)
    assert not fit.converged
    assert fit.iterations == 2


def test_scaling_gives_zero_mean_and_a_mean_squared_norm_of_d_by_one_scalar() -> None:
    raw = np.random.default_rng(0).normal(3, 5, size=(50, 7))
    x = Scaling.of(raw)(raw)
    assert np.allclose(x.mean(axis=0), 0)
    assert (x**2).sum(axis=1).mean() == pytest.approx(7)
    assert np.allclose(x / (raw - raw.mean(axis=0)), x[0, 0] / (raw - raw.mean(axis=0))[0, 0])
    assert np.all(Scaling.of(np.ones((5, 3)))(np.ones((5, 3))) == 0)


def test_the_probe_is_invariant_to_rotation_shift_and_scale_of_the_features(
    make_features,
) -> None:
    train, test = (make_features(300, separation=0.7, seed=s) for s in (0, 1))
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))

    def turned(features):
        x = 5 * features.representation.astype(float) @ rotation + 3
        return replace(features, representation=x.astype(np.float32))

    plain, moved = predict(train, test), predict(turned(train), turned(test))
    assert plain.selected["C"] == moved.selected["C"]
    # features are float32, and the solver stops at a gradient of 1e-4
    assert np.allclose(plain.log_probabilities, moved.log_probabilities, atol=5e-3)


def test_permuting_the_test_labels_changes_no_choice_and_no_prediction(make_features) -> None:
    train, test = (make_features(300, separation=0.5, seed=s) for s in (0, 1))
    shuffled = np.random.default_rng(0).permutation(test.targets["label"])
    a, b = predict(train, test), predict(train, replace(test, targets={"label": shuffled}))
    bare = predict(train, replace(test, targets={}))
    assert a.selected == b.selected == bare.selected
    assert np.array_equal(a.log_probabilities, b.log_probabilities)
    assert np.array_equal(a.log_probabilities, bare.log_probabilities)
    # and the values that do depend on them change
    values = [
        linear(train, t, seed=0)[0].value
        for t in (test, replace(test, targets={"label": shuffled}))
    ]
    assert values[0] > values[1] + 0.1


def test_the_penalty_is_the_best_on_the_held_out_part_and_refitted_with_the_same_c(
    make_features,
) -> None:
    train, test = (make_features(200, d=30, separation=0.3, seed=s) for s in (0, 1))
    held = holdout(train.targets["label"])
    x, target = train.representation, train.targets["label"]
    scaling = Scaling.of(x[~held])
    accuracies = []
    for inverse in penalties(12):
        model = LogisticRegression(C=1 / inverse, tol=1e-6, max_iter=5000)
        model.fit(scaling(x[~held]), target[~held])
        accuracies.append(model.score(scaling(x[held]), target[held]))
    found = predict(train, test)
    best = int(np.argmax(accuracies))
    assert found.selected["C"] == pytest.approx(1 / penalties(12)[best])
    assert found.selected["heldout_accuracy"] == pytest.approx(accuracies[best])
    assert found.selected["converged"] is True
    scaling = Scaling.of(x)
    refit = LogisticRegression(C=found.selected["C"], tol=1e-6, max_iter=5000)
    refit.fit(scaling(x), target)
    expected = refit.predict_proba(scaling(test.representation))
    # the gradient at which the solver stops, 1e-4, in probabilities
    assert np.allclose(np.exp(found.log_probabilities), expected, atol=2e-3)


@pytest.mark.parametrize(
    ("accuracies", "strengths", "stops"),
    [
        ([0.5], [1.0], False),
        ([0.5, 0.4, 0.4], [1.0, 0.1, 0.01], False),
        ([0.5, 0.4, 0.4, 0.4], [1.0, 0.1, 0.01, 0.001], True),
        ([0.5, 0.5, 0.5, 0.5], [1.0, 0.1, 0.01, 0.001], True),  # a tie is no improvement
        ([0.5, 0.4, 0.4, 0.6], [1.0, 0.1, 0.01, 0.001], False),
        ([0.3, 0.3, 0.3, 0.3], [400.0, 90.0, 20.0, 5.0], False),  # nothing is fitted yet
        ([0.3, 0.3, 0.3, 0.3, 0.3], [20.0, 5.0, 1.0, 0.2, 0.05], True),
    ],
)
def test_the_path_stops_after_three_values_without_improvement_once_something_is_fitted(
    accuracies: list[float], strengths: list[float], stops: bool
) -> None:
    assert exhausted(accuracies, strengths) is stops


def test_the_grid_runs_from_strong_to_weak_between_its_borders() -> None:
    assert len(penalties(12)) == 12
    assert np.all(np.diff(penalties(12)) < 0)
    assert penalties(6)[[0, -1]] == pytest.approx([1e5, 1e-2])


def test_a_choice_at_the_border_of_the_grid_is_flagged(make_features) -> None:
    # labels that have nothing to do with the features: the strongest penalty is as good as any
    train = make_features(200, separation=0)
    label = np.zeros(200, dtype=int)
    label[:40] = 1
    train = replace(train, targets={"label": label})
    assert "edge" in predict(train, make_features(20, seed=1)).flags
    # classes hidden below dimensions of noise, which the strongest penalty does not see through
    clear = make_features(300, separation=1)
    loud = 30 * np.random.default_rng(5).normal(size=(300, 8))
    hidden = np.concatenate([clear.representation, loud.astype(np.float32)], axis=1)
    assert predict(replace(clear, representation=hidden), make_features(9, d=16)).flags == ()


def test_records_give_accuracy_nll_brier_and_ece_of_the_probabilities(make_features) -> None:
    train, test = (make_features(300, separation=0.6, seed=s) for s in (0, 1))
    prediction = predict(train, test)
    p, y = np.exp(prediction.log_probabilities), test.targets["label"]
    results = {r.metric: r for r in linear(train, test, seed=0)}
    assert set(results) == {"accuracy", "nll", "brier", "ece"}
    assert results["accuracy"].value == pytest.approx((p.argmax(axis=1) == y).mean())
    assert results["nll"].value == pytest.approx(-np.log(p[np.arange(300), y]).mean())
    assert results["brier"].value == pytest.approx(((p - np.eye(3)[y]) ** 2).sum(axis=1).mean())
    ece = 0.0
    for b in range(15):
        inside = (p.max(axis=1) > b / 15) & (p.max(axis=1) <= (b + 1) / 15)
        if inside.any():
            right = (p.argmax(axis=1) == y)[inside].mean()
            ece += inside.mean() * abs(right - p.max(axis=1)[inside].mean())
    assert results["ece"].value == pytest.approx(ece)
    for result in results.values():
        assert result.low < result.high
        assert result.selected["C"] == prediction.selected["C"]
    assert results["accuracy"].low < results["accuracy"].value < results["accuracy"].high


def test_differences_are_recorded_with_paired_intervals(make_features) -> None:
    train, test = (make_features(300, separation=0.8, seed=s) for s in (0, 1))
    others = {"pixels-train": train, "pixels-test": test}
    results = {(r.metric, r.subject): r for r in linear(train, test, seed=0, others=others)}
    assert len(results) == 4 + 4 + 3
    for metric in ("accuracy", "nll", "brier"):
        same = results[f"{metric}-minus-pixels", "trained"]
        assert (same.value, same.low, same.high) == (0, 0, 0)


def test_ece_of_a_perfectly_calibrated_and_of_an_overconfident_probe() -> None:
    confidence = np.full(1000, 0.8)
    correct = np.arange(1000) < 800
    assert expected_calibration_error(confidence, correct)[0] == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error(np.ones(1000), correct)[0] == pytest.approx(0.2)


def test_a_test_class_that_training_lacks_fails_the_nll_and_nothing_else(make_features) -> None:
    train, test = make_features(200), make_features(40, seed=1)
    label = test.targets["label"].copy()
    label[:4] = 9
    results = {r.metric: r for r in linear(train, replace(test, targets={"label": label}), seed=0)}
    assert np.isnan(results["nll"].value)
    assert "every class" in (results["nll"].error or "")
    assert results["accuracy"].value <= 0.9
    assert results["brier"].error is None


def test_one_class_or_single_images_cannot_be_probed(make_features) -> None:
    test = make_features(9, seed=1)
    for label in (np.zeros(30, dtype=int), np.arange(30)):
        with pytest.raises(DataError, match="two classes"):
            predict(replace(make_features(30), targets={"label": label}), test)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=6, max_size=60))
def test_splits_are_stratified_and_complete(values: list[int]) -> None:
    labels = np.array(values)
    held = holdout(labels)
    fold = folds(labels, count=5)
    chosen = per_class(labels, count=3, seed=1)
    assert np.array_equal(held, holdout(labels))
    assert np.ptp(np.bincount(fold, minlength=5)) <= 1
    for value in np.unique(labels):
        size = int((labels == value).sum())
        if size > 2:
            assert held[labels == value].sum() == round(0.2 * size)
        assert held[labels == value].sum() < size
        assert np.ptp(np.bincount(fold[labels == value], minlength=5)) <= 1
        assert (labels[chosen] == value).sum() == min(3, size)
    assert len(set(chosen.tolist())) == len(chosen)


def test_what_the_penalty_was_chosen_by_is_recorded_under_its_own_name() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 5))
    rare = (generator.random(400) < 0.05).astype(int)  # not to be read from the features
    plain, balanced = (fit(x, rare, x, grid=4, balanced=b).selected for b in (False, True))
    assert plain["heldout_accuracy"] > 0.9
    assert "heldout_balanced_accuracy" not in plain
    assert balanced["heldout_balanced_accuracy"] == pytest.approx(0.5, abs=0.1)
    assert "heldout_accuracy" not in balanced
