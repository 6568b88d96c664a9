from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cognates.evaluation import bootstrap, knn, linear
from cognates.evaluation.ranks import auroc, order
from cognates.evaluation.selective import COVERAGES, augrc, aurc, oracle, risk, statistics


@pytest.fixture
def pair(make_features):
    """Test images with a score that follows the errors of kNN, ties included, and baselines."""
    train, test = make_features(120, separation=0.5), make_features(90, separation=0.5, seed=1)
    wrong = knn.predict(train, test) != test.targets["label"]
    generator = np.random.default_rng(0)
    scores = {
        "oracle": wrong.astype(float),
        "norm": generator.random(90).round(1),
        "relative": wrong + generator.normal(size=90),
        "view-disagreement": np.full(90, 0.25),
    }
    return train, replace(test, scores=scores, default_score="relative")


def slow(errors: np.ndarray) -> dict[str, float]:
    """The definitions, image by image."""
    n, wrong = len(errors), int(errors.sum())
    risks = [sum(errors[:k]) / k for k in range(1, n + 1)]
    best = [0.0] * (n - wrong) + [1.0] * wrong
    star = sum(sum(best[:k]) / k for k in range(1, n + 1)) / n
    area = sum(risks) / n
    found = {
        "aurc": area,
        "augrc": sum(k / n * risks[k - 1] for k in range(1, n + 1)) / n,
        "oracle": star,
        "error-rate": wrong / n,
        "e-aurc": area - star,
        "normalised": (area - star) / (wrong / n - star) if 0 < wrong < n else 0.0,
    }
    for c in COVERAGES:
        k = next(k for k in range(1, n + 1) if 100 * k >= c * n)
        found[f"risk-at-{c}"] = risks[k - 1]
    for r in (1, 5):
        found[f"coverage-at-{r}"] = max(
            [k / n for k in range(1, n + 1) if 100 * sum(errors[:k]) <= r * k], default=0.0
        )
    return found


def test_statistics_are_those_of_their_definitions() -> None:
    generator = np.random.default_rng(0)
    rows = (generator.random((12, 101)) < np.linspace(0, 1, 12)[:, None]).astype(float)
    rows[3] = np.sort(rows[3])
    found = statistics(rows)
    expected = [slow(row) for row in rows]
    assert set(found) == set(expected[0])
    assert len(found) == 6 + 11 + 2
    for name, values in found.items():
        assert values == pytest.approx([e[name] for e in expected], abs=1e-12), name
    assert found["normalised"][3] == pytest.approx(0, abs=1e-12)
    assert 0 < found["coverage-at-5"][3] < 1
    assert not rows[0].any()
    assert rows[11].all()


def test_the_oracle_is_exact_and_tends_to_its_limit() -> None:
    assert oracle(np.array([0, 3]), 3).tolist() == [0.0, 1.0]
    r, n = 0.3, 200_000
    assert oracle(np.array([int(r * n)]), n)[0] == pytest.approx(
        r + (1 - r) * np.log(1 - r), abs=1e-5
    )


def test_a_random_order_has_the_error_rate_as_its_aurc() -> None:
    errors = np.arange(400) % 5 == 0
    generator = np.random.default_rng(0)
    rows = np.stack([generator.permutation(errors) for _ in range(4000)]).astype(float)
    found = statistics(rows)
    error = found["aurc"].std() / 4000**0.5
    assert found["aurc"].mean() == pytest.approx(0.2, abs=4 * error)
    assert found["normalised"].mean() == pytest.approx(1, abs=0.05)


def test_augrc_follows_from_auroc_and_error_rate() -> None:
    generator = np.random.default_rng(0)
    errors = generator.random(20_000) < 0.2
    score = errors + generator.normal(size=20_000)
    r, area = errors.mean(), auroc(score, errors)
    found = statistics(errors[np.argsort(score)][None].astype(float))["augrc"][0]
    # terms of order 1/n are left out of the formula
    assert found == pytest.approx(r**2 / 2 + (1 - area) * r * (1 - r), abs=1e-4)


def test_resamples_are_sorted_with_every_image_as_often_as_it_was_drawn() -> None:
    values, sorting = np.arange(6) * 10, np.array([3, 1, 0, 5, 4, 2])
    rows = np.concatenate(list(bootstrap.sequences(values, sorting, seed=0)))
    counts = bootstrap.counts(6, seed=0)
    assert rows.shape == counts.shape == (2000, 6)
    for row, weights in zip(rows[:50], counts[:50], strict=True):
        assert row.tolist() == [values[i] for i in sorting for _ in range(weights[i])]


def test_aurc_of_every_score_with_paired_differences(pair) -> None:
    train, test = pair
    results = {r.metric: r for r in aurc(train, test, seed=0, grid=3)}
    scores = ("relative", "norm", "view-disagreement", "oracle", "knn-distance", "max-softmax",
              "random")  # fmt: skip
    rivals = ("norm", "knn-distance", "view-disagreement", "best")
    assert len(results) == 2 * (3 * 7 + 4 + 2)
    wrong = {
        "linear": linear.predict(train, test, grid=3).labels != test.targets["label"],
        "knn": knn.predict(train, test) != test.targets["label"],
    }
    for probe, errors in wrong.items():
        assert {f"{probe}/{m}/{s}" for m in ("aurc", "e-aurc", "normalised") for s in scores} | {
            f"{probe}/aurc/default-minus-{r}" for r in rivals
        } | {f"{probe}/oracle", f"{probe}/error-rate"} == {
            m for m in results if m.startswith(f"{probe}/")
        }
        for score in ("relative", "norm"):
            expected = slow(errors[order(test.scores[score], seed=0)])
            for measure in ("aurc", "e-aurc", "normalised"):
                found = results[f"{probe}/{measure}/{score}"]
                assert found.value == pytest.approx(expected[measure])
                assert found.low <= found.value <= found.high
                assert found.n == 90
        assert results[f"{probe}/error-rate"].value == pytest.approx(errors.mean())
    assert results["knn/e-aurc/oracle"].value == pytest.approx(0, abs=1e-12)
    assert results["knn/oracle"].value == pytest.approx(results["knn/aurc/oracle"].value)
    gap = results["knn/aurc/default-minus-best"]
    named = {r: results[f"knn/aurc/{r}"].value for r in rivals[:-1]}
    assert gap.selected == {"baseline": min(named, key=named.get)}
    assert gap.value == pytest.approx(results["knn/aurc/relative"].value - min(named.values()))
    assert gap.low <= gap.value <= gap.high < 0
    assert results["knn/aurc/relative"].flags == ("default",)
    assert results["knn/aurc/max-softmax"].flags == ("needs-labels",)
    assert results["knn/aurc/view-disagreement"].flags == ("eight-passes",)
    assert results["knn/aurc/random"].flags == ("sanity",)


def test_intervals_are_those_of_resampled_images(pair) -> None:
    train, test = pair
    result = {r.metric: r for r in augrc(train, test, seed=0, grid=3)}["knn/augrc/relative"]
    wrong = (knn.predict(train, test) != test.targets["label"]).astype(float)
    sorting = order(test.scores["relative"], seed=0)
    samples = [
        slow(np.repeat(wrong[sorting], weights[sorting]))["augrc"]
        for weights in bootstrap.counts(90, seed=0)[:300]
    ]
    every = np.concatenate(
        [statistics(rows)["augrc"] for rows in bootstrap.sequences(wrong, sorting, seed=0)]
    )
    assert every[:300] == pytest.approx(samples)
    assert (result.low, result.high) == pytest.approx(bootstrap.interval(every), abs=1e-6)


def test_risk_is_compared_at_the_stated_coverages_and_risks(pair) -> None:
    train, test = pair
    results = {r.metric: r for r in risk(train, test, seed=0, grid=3)}
    assert len(results) == 2 * (13 * 7 + 4 * 4)
    wrong = knn.predict(train, test) != test.targets["label"]
    expected = slow(wrong[order(test.scores["relative"], seed=0)])
    for measure in ("risk-at-80", "risk-at-95", "risk-at-30", "coverage-at-1", "coverage-at-5"):
        assert results[f"knn/{measure}/relative"].value == pytest.approx(expected[measure])
    best = results["knn/coverage-at-5/oracle"].value
    right = 1 - wrong.mean()
    assert right < best <= right / 0.95 + 1e-9
    assert "knn/risk-at-80/default-minus-best" in results
    assert "knn/risk-at-30/default-minus-best" not in results
    differences = [results[f"knn/coverage-at-5/default-minus-{r}"] for r in ("norm", "best")]
    assert differences[0].value >= differences[1].value


@pytest.mark.parametrize("protocol", [aurc, augrc, risk])
def test_a_probe_without_errors_has_no_selective_risk(make_features, protocol) -> None:
    train, test = (make_features(60, separation=9, seed=s) for s in (0, 1))
    results = protocol(train, test, seed=0, grid=2)
    assert [r.metric for r in results] == ["linear/failed", "knn/failed"]
    assert all(r.protocol == protocol.__name__ and "error rate of 0" in r.error for r in results)
