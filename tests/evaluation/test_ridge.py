from __future__ import annotations

import numpy as np
import pytest

from cognates.errors import DataError
from cognates.evaluation import ridge
from cognates.evaluation.measures import Answer, measure


def explained(found: ridge.Prediction, truth: np.ndarray) -> float:
    answer = Answer(truth.reshape(len(truth), -1), found.values, reference=found.reference)
    return measure("r2", answer, seed=0).value


def test_a_hidden_linear_factor_is_found_and_noise_is_not() -> None:
    generator = np.random.default_rng(0)
    factor, noise = generator.normal(size=(2, 1500))
    x = generator.normal(size=(1500, 30))
    x += np.outer(factor, generator.normal(size=30))
    x = x @ np.linalg.qr(generator.normal(size=(30, 30)))[0]
    assert explained(ridge.fit(x[:1000], factor[:1000], x[1000:]), factor[1000:]) > 0.9
    # 500 images: R^2 of noise has a standard error of about .002 at the strong penalties chosen
    assert explained(ridge.fit(x[:1000], noise[:1000], x[1000:]), noise[1000:]) < 0.02


def test_the_closed_form_solves_the_normal_equations_of_its_penalty() -> None:
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(80, 5)), generator.normal(size=(80, 2))
    unseen = generator.normal(size=(7, 5))
    found = ridge.fit(x, y, unseen)
    centred = x - x.mean(axis=0)
    factor = np.sqrt(80 * 5 / (centred**2).sum())
    scaled = centred * factor
    penalty = found.selected["penalty"] * 80
    weight = np.linalg.solve(scaled.T @ scaled + penalty * np.eye(5), scaled.T @ (y - y.mean(0)))
    expected = (unseen - x.mean(axis=0)) * factor @ weight + y.mean(axis=0)
    assert np.allclose(found.values, expected, rtol=1e-9)


def test_rotations_shifts_and_scales_of_the_features_change_nothing() -> None:
    generator = np.random.default_rng(2)
    x = generator.normal(size=(200, 6)) * [5, 3, 1, 1, 0.2, 0.1]
    y = x[:, 4] + 0.01 * generator.normal(size=200)
    turn = np.linalg.qr(generator.normal(size=(6, 6)))[0]
    first = ridge.fit(x[:150], y[:150], x[150:])
    second = ridge.fit(3 * x[:150] @ turn + 2, y[:150], 3 * x[150:] @ turn + 2)
    assert np.allclose(first.values, second.values, rtol=1e-8)
    assert first.selected["penalty"] == second.selected["penalty"]


def test_noise_chooses_a_strong_penalty_and_a_clean_factor_a_weak_one() -> None:
    generator = np.random.default_rng(3)
    x = generator.normal(size=(300, 20))
    strong = ridge.fit(x, generator.normal(size=300), x)
    weak = ridge.fit(x, x @ generator.normal(size=20), x)
    assert strong.selected["penalty"] >= 0.1
    assert weak.selected["penalty"] == pytest.approx(1e-6)
    assert weak.flags == ("edge",)


def test_a_target_that_does_not_vary_is_an_error() -> None:
    x = np.random.default_rng(0).normal(size=(30, 3))
    with pytest.raises(DataError, match="vary"):
        ridge.fit(x, np.ones(30), x)
    with pytest.raises(DataError, match="at least 5 images, got 3"):
        ridge.fit(x[:3], np.arange(3.0), x)
