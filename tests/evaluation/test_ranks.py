from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cognates.errors import DataError
from cognates.evaluation.ranks import auroc, mid_ranks, order, require_finite, spearman

few_values = st.lists(st.integers(-3, 3), min_size=3, max_size=30)


@settings(deadline=None)
@given(few_values)
def test_mid_ranks_are_scipys_average_ranks(values: list[int]) -> None:
    assert mid_ranks(np.array(values)).tolist() == stats.rankdata(values).tolist()


@settings(deadline=None)
@given(few_values, st.integers(0, 1000))
def test_auroc_is_the_share_of_pairs_in_the_right_order_with_ties_half(
    values: list[int], seed: int
) -> None:
    u = np.array(values, dtype=float)
    positive = np.random.default_rng(seed).random(u.size) < 0.5
    positive[0], positive[1] = True, False
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, b in itertools.product(u[positive], u[~positive])
    ]
    assert auroc(u, positive) == pytest.approx(np.mean(pairs), abs=1e-12)


@settings(deadline=None)
@given(few_values)
def test_auroc_of_the_negated_score_is_the_complement_and_depends_on_ranks_alone(
    values: list[int],
) -> None:
    u = np.array(values, dtype=float)
    positive = np.arange(u.size) % 2 == 0
    assert auroc(-u, positive) == pytest.approx(1 - auroc(u, positive), abs=1e-12)
    assert auroc(np.exp(u) + 5, positive) == auroc(u, positive)


def test_a_constant_score_has_an_auroc_of_one_half_and_no_correlation() -> None:
    positive = np.array([True, False, True, False])
    assert auroc(np.ones(4), positive) == 0.5
    assert spearman(np.ones(4), positive.astype(float)) == 0.0


def test_spearman_is_scipys_with_ties() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 5, 100), generator.integers(0, 7, 100)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_auroc_without_both_classes_is_an_error() -> None:
    with pytest.raises(DataError, match="right and wrong"):
        auroc(np.arange(3.0), np.ones(3, dtype=bool))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_an_error_everywhere(bad: float) -> None:
    values = np.array([0.0, bad, 1.0])
    with pytest.raises(DataError, match="1 that are NaN"):
        require_finite("the score", values)
    with pytest.raises(DataError):
        auroc(values, np.array([True, False, True]))
    with pytest.raises(DataError):
        spearman(values, np.arange(3.0))


def test_an_order_sorts_and_breaks_ties_by_one_fixed_permutation() -> None:
    values = np.repeat([2.0, 1.0], 50)
    first = order(values, seed=0)
    assert np.all(np.diff(values[first]) >= 0)
    assert sorted(first.tolist()) == list(range(100))
    assert np.array_equal(first, order(values, seed=0))
    assert not np.array_equal(first, order(values, seed=1))
    # within the tied half the order is not that of the data set
    assert not np.array_equal(first[:50], np.arange(50, 100))
