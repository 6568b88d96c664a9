from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cognates.errors import DataError
from cognates.evaluation import knn, linear
from cognates.evaluation.ranks import auroc
from cognates.evaluation.uncertainty import all_scores, auroc_error, decile_accuracies, deciles


@pytest.fixture
def pair(make_features):
    """Test images whose score `oracle` is the probe's error plus noise, with baselines."""
    train = make_features(300, separation=0.6)
    test = make_features(400, separation=0.6, seed=1)
    wrong = linear.predict(train, test, grid=4).labels != test.targets["label"]
    generator = np.random.default_rng(0)
    scores = {
        "norm": generator.random(400),
        "oracle": wrong + 0.5 * generator.normal(size=400),
        "view-disagreement": np.full(400, 0.25),
    }
    return train, replace(test, scores=scores, default_score="oracle")


def test_auroc_of_every_score_for_the_errors_of_both_probes(pair) -> None:
    train, test = pair
    results = {r.metric: r for r in auroc_error(train, test, seed=0, grid=4)}
    scores = ("oracle", "norm", "knn-distance", "view-disagreement", "max-softmax", "random")
    expected = {f"{probe}/{name}" for probe in ("linear", "knn") for name in scores}
    rivals = ("norm", "knn-distance", "view-disagreement", "best")
    expected |= {f"{p}/default-minus-{r}" for p in ("linear", "knn") for r in rivals}
    assert set(results) == expected
    truth = test.targets["label"]
    wrong = {
        "linear": linear.predict(train, test, grid=4).labels != truth,
        "knn": knn.predict(train, test) != truth,
    }
    for probe, errors in wrong.items():
        value = results[f"{probe}/oracle"].value
        assert value == pytest.approx(auroc(test.scores["oracle"], errors))
        assert results[f"{probe}/oracle"].settings["error_rate"] == errors.mean()
    assert results["linear/oracle"].value > 0.85
    assert results["linear/max-softmax"].value > 0.6
    constant = results["linear/view-disagreement"]
    assert (constant.value, constant.low, constant.high) == (0.5, 0.5, 0.5)
    assert results["linear/random"].low < 0.5 < results["linear/random"].high
    for result in results.values():
        assert result.low <= result.value <= result.high
        assert result.n == 400


def test_scores_are_marked_by_what_they_cost(pair) -> None:
    results = {r.metric: r for r in auroc_error(*pair, seed=0, grid=4)}
    assert results["linear/oracle"].flags == ("default",)
    assert results["linear/max-softmax"].flags == ("needs-labels",)
    assert results["linear/view-disagreement"].flags == ("eight-passes",)
    assert results["linear/random"].flags == ("sanity",)
    assert results["linear/norm"].flags == ()


def test_the_default_score_is_compared_with_the_best_label_free_baseline(pair) -> None:
    train, test = pair
    results = {r.metric: r for r in auroc_error(train, test, seed=0, grid=4)}
    names = ("norm", "knn-distance", "view-disagreement")
    best = max(names, key=lambda name: results[f"linear/{name}"].value)
    difference = results["linear/default-minus-best"]
    assert difference.selected == {"baseline": best}
    assert difference.flags == ("baseline-chosen-on-test",)
    assert difference.value == pytest.approx(
        results["linear/oracle"].value - results[f"linear/{best}"].value
    )
    assert 0 < difference.low < difference.value < difference.high
    assert difference.value == results[f"linear/default-minus-{best}"].value


def test_a_method_whose_score_is_a_baseline_skips_the_comparison_with_itself(pair) -> None:
    train, test = pair
    test = replace(test, default_score="view-disagreement")
    metrics = {r.metric for r in auroc_error(train, test, seed=0, grid=4)}
    assert "linear/default-minus-view-disagreement" not in metrics
    assert {"linear/default-minus-norm", "linear/default-minus-best"} <= metrics
    without = replace(test, default_score=None)
    assert not any("minus" in r.metric for r in auroc_error(train, without, seed=0, grid=4))


def test_a_probe_without_errors_has_no_auroc(make_features) -> None:
    train, test = (make_features(200, separation=9, seed=s) for s in (0, 1))
    results = auroc_error(train, test, seed=0, grid=4)
    assert [r.metric for r in results] == ["linear/failed", "knn/failed"]
    assert all("error rate of 0" in (r.error or "") and np.isnan(r.value) for r in results)


def test_nan_in_a_score_is_an_error(pair) -> None:
    train, test = pair
    bad = np.full(400, np.nan)
    with pytest.raises(DataError, match="oracle"):
        all_scores(train, replace(test, scores={"oracle": bad}), seed=0, grid=4)


def test_deciles_of_a_score_that_sorts_the_errors_last(pair) -> None:
    train, test = pair
    wrong = linear.predict(train, test, grid=4).labels != test.targets["label"]
    test = replace(
        test, scores={"perfect": wrong + np.linspace(0, 0.5, 400)}, default_score="perfect"
    )
    results = {r.metric: r for r in deciles(train, test, seed=0, grid=4)}
    assert len(results) == 4 * 13  # perfect, knn-distance, max-softmax, random
    values = [results[f"perfect/decile-{i}"].value for i in range(1, 11)]
    errors = int(wrong.sum())
    full, rest = divmod(errors, 40)
    expected = [1.0] * (9 - full) + [1 - rest / 40] + [0.0] * full
    assert values == pytest.approx(expected)
    assert np.mean(values) == pytest.approx(1 - wrong.mean())
    assert results["perfect/first-minus-last"].value == 1.0
    assert results["perfect/spearman-groups"].value < -0.7
    assert results["perfect/spearman-images"].value > 0.7
    random = results["random/first-minus-last"]
    assert random.low < 0 < random.high


def test_decile_accuracies_are_those_of_the_groups_even_if_ten_does_not_divide_n() -> None:
    correct = np.array([True] * 10 + [False] * 10)
    assert decile_accuracies(correct, np.arange(20)).tolist() == [1.0] * 5 + [0.0] * 5
    generator = np.random.default_rng(0)
    correct = generator.random(37) < 0.5
    found = decile_accuracies(correct, np.arange(37))
    # every image split into ten equal parts: 370 parts, 37 in each group
    assert np.allclose(found, np.repeat(correct, 10).reshape(10, 37).mean(axis=1))


def test_a_constant_score_gives_deciles_of_chance(make_features) -> None:
    train, test = make_features(300, separation=0.6), make_features(1000, separation=0.6, seed=1)
    # errors gathered at the front of the data set: only the tie-breaking permutation spreads them
    wrong = linear.predict(train, test, grid=4).labels != test.targets["label"]
    rows = np.argsort(~wrong, kind="stable")
    test = replace(
        test,
        representation=test.representation[rows],
        targets={"label": test.targets["label"][rows]},
        scores={"constant": np.zeros(1000)},
        default_score="constant",
    )
    results = {r.metric: r for r in deciles(train, test, seed=0, grid=4)}
    # groups of 100: a difference of accuracies has a standard error of at most .071
    assert abs(results["constant/first-minus-last"].value) < 4 * 0.071
    assert results["constant/spearman-images"].value == 0


def test_fewer_than_ten_images_have_no_deciles(pair, make_features) -> None:
    with pytest.raises(DataError, match="at least 10"):
        deciles(pair[0], make_features(9, seed=1), seed=0, grid=4)


@pytest.mark.parametrize("protocol", [auroc_error, deciles])
def test_the_grid_of_the_probe_whose_errors_are_ranked_is_recorded(make_features, protocol) -> None:
    train, test = make_features(90, separation=0.5), make_features(60, separation=0.5, seed=1)
    results = protocol(train, test, seed=0, grid=3)
    assert len(results) > 5
    assert {r.settings["grid"] for r in results} == {3}
