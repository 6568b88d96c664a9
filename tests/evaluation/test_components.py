from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from cognates.evaluation.clustering import gmm, kmeans
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


@pytest.mark.parametrize("d", [300, 1100])  # either solver
def test_constant_pixels_have_components_without_a_warning(make_features, d) -> None:
    train, test = make_features(40, d=d), make_features(20, d=d, seed=1)
    constant = np.full((40, d), 0.3, dtype=np.float32)
    flat = replace(train, representation=constant)
    first, second = reduce(flat, replace(test, representation=constant[:20]), most=10)
    assert first.representation.tolist() == [[0.0] * 10] * 40
    assert second.representation.tolist() == [[0.0] * 10] * 20
    moved = reduce(flat, test, most=10)[1].representation
    np.testing.assert_allclose(moved, test.representation[:, :10] - np.float32(0.3))


def test_clusters_of_constant_pixels_are_measured_without_a_warning(make_features) -> None:
    train, test = make_features(90), make_features(40, seed=1)
    pixels = replace(train, representation=np.full((90, 300), 0.3, dtype=np.float32))
    others = {
        "pixels-train": pixels,
        "pixels-test": replace(test, representation=pixels.representation[:40]),
    }
    for protocol in (gmm, kmeans):
        found = {(r.metric, r.subject): r for r in protocol(train, test, seed=0, others=others)}
        assert found["nmi", "trained"].value > 0.9
        assert found["nmi", "pixels"].value == pytest.approx(0, abs=1e-12)
