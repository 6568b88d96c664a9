from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax

from cognates.evaluation import bootstrap, linear
from cognates.evaluation.calibration import calibration, fit_temperature
from cognates.evaluation.linear import expected_calibration_error
from cognates.evaluation.splits import holdout


def test_the_temperature_is_the_one_that_logits_were_multiplied_by() -> None:
    generator = np.random.default_rng(0)
    truth = log_softmax(2 * generator.normal(size=(40_000, 3)), axis=1)
    target = (generator.random((40_000, 1)) > np.exp(truth).cumsum(axis=1)).sum(axis=1)
    for factor in (0.5, 1.0, 3.0):
        fitted = fit_temperature(factor * truth, target)
        assert fitted.value == pytest.approx(factor, rel=0.03)  # 40,000 images: 1 % standard error
        assert not fitted.edge
        around = [
            -log_softmax(factor * truth / t, axis=1)[np.arange(40_000), target].mean()
            for t in (fitted.value, 0.99 * fitted.value, 1.01 * fitted.value)
        ]
        assert fitted.nll == pytest.approx(around[0])
        assert around[0] < min(around[1:])


def test_held_out_images_that_are_all_right_leave_the_temperature_at_its_border() -> None:
    z = np.log(np.array([[0.9, 0.1]] * 5))
    fitted = fit_temperature(z, np.zeros(5, dtype=int))
    assert fitted.edge
    assert fitted.value == pytest.approx(0.05)


def test_bins_of_equal_mass_hold_equally_many_images() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.random(157) ** 3
    correct = generator.random(157) < confidence
    order = np.argsort(confidence)
    bins = [order[[i * 15 // 157 == b for i in range(157)]] for b in range(15)]
    assert {len(b) for b in bins} == {10, 11}
    expected = sum(len(b) / 157 * abs(correct[b].mean() - confidence[b].mean()) for b in bins)
    found = expected_calibration_error(confidence, correct, equal_mass=True)
    assert found == pytest.approx([expected])
    weights = bootstrap.counts(157, seed=0)[:3]
    resampled = expected_calibration_error(confidence, correct, weights=weights, equal_mass=True)
    for value, row in zip(resampled, weights, strict=True):
        gaps = [abs((row[b] * (correct[b] - confidence[b])).sum()) for b in bins]
        assert value == pytest.approx(sum(gaps) / 157)


def test_calibration_before_is_that_of_the_probe_and_after_that_of_the_scaled_one(
    make_features,
) -> None:
    train, test = make_features(150, separation=0.5), make_features(90, separation=0.5, seed=1)
    results = {r.metric: r for r in calibration(train, test, seed=0, grid=4)}
    names = ("ece", "ece-mass", "nll", "brier")
    assert set(results) == {f"{k}/{m}" for k in ("before", "after", "after-minus-before")
                            for m in names}  # fmt: skip
    plain = {r.metric: r for r in linear.linear(train, test, seed=0, grid=4)}
    for name in ("ece", "nll", "brier"):
        assert results[f"before/{name}"].value == pytest.approx(plain[name].value)
        assert results[f"before/{name}"].low == pytest.approx(plain[name].low)
    temperature = results["after/nll"].selected["temperature"]
    probe = linear.predict(train, test, grid=4)
    scaled = log_softmax(probe.log_probabilities / temperature, axis=1)
    rows = np.arange(90)
    assert results["after/nll"].value == pytest.approx(-scaled[rows, test.targets["label"]].mean())
    one_hot = np.eye(3)[test.targets["label"]]
    assert results["after/brier"].value == pytest.approx(
        ((np.exp(scaled) - one_hot) ** 2).sum(axis=1).mean()
    )
    gap = results["after-minus-before/nll"]
    assert gap.value == pytest.approx(results["after/nll"].value - results["before/nll"].value)
    assert gap.low <= gap.value <= gap.high


def test_the_temperature_is_fitted_on_held_out_training_images_alone(make_features) -> None:
    train, test = make_features(150, separation=0.5), make_features(90, separation=0.5, seed=1)
    first = calibration(train, test, seed=0, grid=3)[0].selected["temperature"]
    other = replace(test, targets={"label": test.targets["label"][::-1].copy()})
    assert calibration(train, other, seed=0, grid=3)[0].selected["temperature"] == first
    probe = linear.predict(train, test, grid=3)
    log_probabilities, target = probe.held_out
    held = holdout(train.targets["label"])
    assert np.array_equal(target, train.targets["label"][held])
    assert log_probabilities.shape == (held.sum(), 3)
    right = (log_probabilities.argmax(axis=1) == target).mean()
    assert right == pytest.approx(probe.selected["heldout_accuracy"])


def test_an_unknown_class_has_no_nll(make_features) -> None:
    train, test = make_features(90), make_features(60, classes=4, seed=1)
    results = calibration(train, test, seed=0, grid=2)
    failed = [r for r in results if r.error]
    assert [r.metric for r in failed] == ["before/nll"]
    assert len(results) == 9 + 1
