import numpy as np
import pytest

from cognates.errors import ConfigError, DataError
from cognates.evaluation.decisions import least_certain_first, threshold_of


def test_a_threshold_keeps_exactly_the_share_where_nothing_ties():
    u = np.random.default_rng(0).permutation(10) / 7
    for share, kept in [(0.1, 1), (0.9, 9), (0.3, 3), (0.31, 4), (1.0, 10), (1e-9, 1)]:
        assert (u <= threshold_of(u, share)).sum() == kept


def test_equals_are_kept_together():
    u = np.array([0.1, 0.5, 0.5, 0.5, 0.9])
    assert (u <= threshold_of(u, 0.4)).tolist() == [True, True, True, True, False]
    assert threshold_of(np.full(4, 2.0), 0.5) == 2.0


def test_the_least_certain_come_first_and_nothing_else_is_accepted():
    assert least_certain_first(np.array([2.0, 3.0, 3.0])).tolist() == [1, 2, 0]
    for share in (0.0, 1.1, -1.0):
        with pytest.raises(ConfigError, match="coverage"):
            threshold_of(np.ones(3), share)
    with pytest.raises(DataError):
        least_certain_first(np.array([1.0, np.inf]))
