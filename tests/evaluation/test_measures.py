from __future__ import annotations

import numpy as np
import pytest

from cognates.errors import DataError
from cognates.evaluation import bootstrap
from cognates.evaluation.measures import Answer, Estimate, mean, measure


def test_r2_is_one_for_the_truth_zero_for_the_training_mean_and_negative_beyond() -> None:
    truth = np.random.default_rng(0).normal(size=(50, 2))
    reference = np.array([0.3, -0.2])
    at = {"reference": reference}
    assert measure("r2", Answer(truth, truth, **at), seed=0).value == 1
    constant = np.broadcast_to(reference, truth.shape)
    assert measure("r2", Answer(truth, constant, **at), seed=0).value == pytest.approx(0)
    assert measure("r2", Answer(truth, -3 * truth, **at), seed=0).value < -5


def test_r2_of_a_resample_is_that_of_its_images() -> None:
    generator = np.random.default_rng(1)
    truth, given = generator.normal(size=(2, 30, 1))
    found = measure("r2", Answer(truth, given, reference=np.array([0.5])), seed=4)
    rows = np.repeat(np.arange(30), bootstrap.counts(30, seed=4)[7])
    errors = ((truth - given)[rows] ** 2).sum()
    assert found.samples[7] == pytest.approx(1 - errors / ((truth[rows] - 0.5) ** 2).sum())


def test_balanced_accuracy_is_the_mean_recall_and_half_for_one_answer() -> None:
    truth = np.array([0] * 90 + [1] * 10)
    always = np.zeros(100, int)
    assert measure("accuracy", Answer(truth, always), seed=0).value == 0.9
    found = measure("balanced-accuracy", Answer(truth, always), seed=0)
    assert found.value == 0.5
    assert np.allclose(found.samples, 0.5)
    some = always.copy()
    some[90:95] = 1
    assert measure("balanced-accuracy", Answer(truth, some), seed=0).value == 0.75


def test_average_precision_agrees_with_scikit_learn_with_ties_and_in_resamples() -> None:
    from sklearn.metrics import average_precision_score

    generator = np.random.default_rng(2)
    truth = (generator.random(200) < 0.3).astype(int)
    score = np.round(truth + generator.normal(size=200), 1)
    found = measure("average-precision", Answer(truth, truth, score), seed=0)
    assert found.value == pytest.approx(average_precision_score(truth, score))
    weights = bootstrap.counts(200, seed=0)
    for row in (0, 1999):
        expected = average_precision_score(truth, score, sample_weight=weights[row])
        assert found.samples[row] == pytest.approx(expected)


def test_what_is_not_defined_on_the_test_images_is_an_error_and_in_a_resample_is_not() -> None:
    ones = np.ones(20, int)
    for name in ("balanced-accuracy", "average-precision"):
        with pytest.raises(DataError, match="varies"):
            measure(name, Answer(ones, ones, np.zeros(20)), seed=0)
    rare = np.array([1] + [0] * 19)  # missing in a third of the resamples
    found = measure("average-precision", Answer(rare, rare, np.arange(20.0)), seed=0)
    assert np.isfinite(found.samples).all()


def test_an_interval_of_which_many_resamples_are_undefined_is_flagged() -> None:
    for ones, share in ((1, np.exp(-1)), (2, np.exp(-2)), (5, np.exp(-5))):
        truth = (np.arange(400) < ones).astype(int)
        for name in ("balanced-accuracy", "average-precision"):
            found = measure(name, Answer(truth, truth, np.arange(400.0)), seed=0)
            assert found.undefined == pytest.approx(share, abs=0.03)  # 2,000 resamples: 3 sigma
            assert found.flags == (("rare-class",) if ones < 5 else ())
    common = measure("accuracy", Answer(truth, truth), seed=0)
    assert (common.undefined, common.flags) == (0, ())
    rare = Estimate(0.5, np.array([0.5, 0.5]), 0.3)
    assert common._replace(samples=rare.samples).minus(rare).flags == ("rare-class",)
    assert mean([rare, Estimate(0.5, rare.samples)]).undefined == pytest.approx(0.15)


def test_differences_and_means_are_taken_resample_by_resample() -> None:
    a, b = Estimate(0.5, np.array([0.4, 0.6])), Estimate(0.2, np.array([0.1, 0.3]))
    assert a.minus(b).samples == pytest.approx([0.3, 0.3])
    assert mean([a, b]).value == pytest.approx(0.35)
    assert mean([a, b]).samples == pytest.approx([0.25, 0.45])
