from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from cognates.errors import ConfigError
from cognates.evaluation import few_labels as module
from cognates.evaluation.few_labels import few_labels, student_interval
from cognates.evaluation.linear import linear
from cognates.evaluation.logistic import Problem, Scaling, side_by_side


def test_the_interval_is_students() -> None:
    values = np.random.default_rng(0).normal(size=20)
    expected = stats.t.interval(0.95, 19, loc=values.mean(), scale=stats.sem(values))
    assert student_interval(values) == pytest.approx(expected, rel=1e-12)


def test_good_features_need_few_labels_and_the_difference_is_paired_over_draws(
    make_features,
) -> None:
    train, test = (make_features(300, separation=3, seed=s) for s in (0, 1))
    others = {
        "untrained-train": make_features(300, separation=0.3, seed=2),
        "untrained-test": make_features(300, separation=0.3, seed=3),
        "pixels-train": train,
        "pixels-test": test,
    }
    results = few_labels(train, test, seed=0, others=others, grid=4, draws=6)
    found = {(r.metric, r.subject): r for r in results}
    assert len(found) == len(results) == 5
    assert found["accuracy", "trained"].value > 0.95
    assert found["accuracy", "untrained"].value < 0.7
    gap = found["accuracy-minus-untrained", "trained"]
    assert gap.value == pytest.approx(
        found["accuracy", "trained"].value - found["accuracy", "untrained"].value
    )
    assert 0 < gap.low < gap.value < gap.high
    same = found["accuracy-minus-pixels", "trained"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert all(r.interval == "student-t-draws" and r.n == 300 for r in results)
    assert results[0].settings == {"per_class": 10, "draws": 6, "grid": 4}


def test_one_draw_equals_the_protocol_written_with_scikit_learn(make_features) -> None:
    from sklearn.linear_model import LogisticRegression

    from cognates.evaluation.linear import penalties
    from cognates.evaluation.splits import folds

    train, test = (make_features(300, separation=1.0, seed=s) for s in (0, 1))
    rows = np.arange(30)
    x, y = train.representation[rows].astype(float), train.targets["label"][rows]
    fold = folds(y, count=5)
    accuracies = []
    for inverse in penalties(6):
        right = 0
        for f in range(5):
            scaling = Scaling.of(x[fold != f])
            model = LogisticRegression(C=1 / inverse, tol=1e-9, max_iter=10_000)
            model.fit(scaling(x[fold != f]), y[fold != f])
            right += model.score(scaling(x[fold == f]), y[fold == f]) * (fold == f).sum()
        accuracies.append(right / 30)
    best = int(np.argmax(np.round(accuracies, 9)))
    scaling = Scaling.of(x)
    model = LogisticRegression(C=1 / penalties(6)[best], tol=1e-9, max_iter=10_000)
    model.fit(scaling(x), y)
    expected = model.score(scaling(test.representation), test.targets["label"])
    assert module._accuracy(train, test, rows, grid=6) == pytest.approx(expected, abs=1e-9)


def test_two_problems_are_worked_on_at_once() -> None:
    meeting, before = threading.Barrier(2), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        # each waits for the other one
        found = side_by_side(lambda n: meeting.wait(timeout=60) >= 0 and n, [3, 5], entries=0)
    finally:
        torch.set_num_threads(before)
    assert found == [3, 5]


def test_threads_change_the_time_and_not_the_figures(make_features) -> None:
    train, test = (make_features(120, separation=1.0, seed=s) for s in (0, 1))
    others = {"pixels-train": make_features(120, separation=0.5, seed=2), "pixels-test": test}
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(
                [
                    [r.value for r in few_labels(train, test, seed=0, others=others, draws=4)],
                    [r.value for r in linear(train, test, seed=0, others=others, grid=3)],
                ]
            )
    finally:
        torch.set_num_threads(before)
    assert [len(values) for values in found[0]] == [3, 11]
    assert found[0] == found[1]


def test_draws_follow_the_seed_and_never_the_test_labels(make_features) -> None:
    train, test = (make_features(120, separation=1.0, seed=s) for s in (0, 1))
    kind = {"grid": 3, "draws": 3}
    first, again = (few_labels(train, test, seed=0, **kind)[0].value for _ in range(2))
    assert first == again
    assert few_labels(train, test, seed=1, **kind)[0].value != first


def test_a_class_with_few_images_gives_all_it_has_and_says_so(make_features) -> None:
    train, test = make_features(120), make_features(30, seed=1)
    label = np.where(np.arange(120) < 116, train.targets["label"], 5)
    small = few_labels(replace(train, targets={"label": label}), test, seed=0, grid=2, draws=2)
    assert small[0].flags == ("small-classes",)
    assert few_labels(train, test, seed=0, grid=2, draws=2)[0].flags == ()


def test_one_image_per_class_cannot_be_cross_validated(make_features) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        few_labels(make_features(), make_features(seed=1), seed=0, per_class_count=1)


def test_the_problem_is_solved_in_the_span_of_the_rows() -> None:
    x = np.random.default_rng(0).normal(size=(1, 12, 400))
    problem = Problem(x, np.arange(12)[None] % 3, classes=3)
    assert problem.reduce(x).shape == (1, 12, 12)
    assert np.allclose(problem.reduce(x) @ problem.reduce(x).swapaxes(1, 2), x @ x.swapaxes(1, 2))
