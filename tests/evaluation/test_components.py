from __future__ import annotations

import gc
import weakref

import pytest

from cognates.evaluation.components import reduce


@pytest.mark.parametrize("d", [8, 20])
def test_features_that_were_reduced_are_freed_with_their_last_user(make_features, d) -> None:
    train, test = make_features(40, d=d), make_features(20, d=d, seed=1)
    seen = [weakref.ref(train), weakref.ref(test)]
    reduced = reduce(train, test, most=10)
    assert reduced[0].representation.shape == (40, min(d, 10))
    assert reduce(train, test, most=10)[0] is reduced[0]
    del train, test, reduced
    gc.collect()
    assert [one() for one in seen] == [None, None]
