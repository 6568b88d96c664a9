"""The protocol `dependence`: values known in advance, subjects, and how it is asked for."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from cognates.errors import ConfigError, DataError, NonFiniteError
from cognates.evaluation import dependence
from cognates.evaluation.dependence import measures
from cognates.evaluation.suite import PROTOCOLS, resolve, run_protocols
from cognates.kernels import hsic, imq
from cognates.objectives import ssl_hsic
from cognates.objectives.dependence import unit_rows
from cognates.types import Features

NAMES = ("hsic-zy", "hsic-zz", "infonce", "infonce-second-order")


def views(v=2, n=20, d=5, noise=0.3):
    rng = np.random.default_rng(0)
    return rng.standard_normal((1, n, d)) + noise * rng.standard_normal((v, n, d))


def features(z):
    return Features(representation=z.astype(np.float32), index=np.arange(len(z)))


@pytest.mark.parametrize("v", [2, 3])
@pytest.mark.parametrize(("critic", "scale"), [("imq", 0.7), ("cosine", 0.5)])
def test_the_measures_equal_the_objective_and_loops(v, critic, scale):
    z = unit_rows(torch.tensor(views(v)))
    found = measures(7.0 * z.numpy(), critic=critic, scale=scale)
    assert tuple(found) == NAMES
    flat = z.reshape(-1, 5)
    cosine = flat @ flat.T
    gram = cosine / scale if critic == "cosine" else imq(scale)(flat, flat)
    n, rows = z.shape[1], gram.tolist()
    same = [
        rows[p * n + i][q * n + i] for i in range(n) for p in range(v) for q in range(v) if p != q
    ]
    positive, everything = sum(same) / len(same), gram.mean().item()
    logs = [math.log(sum(map(math.exp, row)) / len(row)) for row in rows]
    spread = sum(sum(x * x for x in r) / len(r) - (sum(r) / len(r)) ** 2 for r in rows) / len(rows)
    want = {
        "hsic-zy": positive - everything,
        "hsic-zz": hsic(gram, gram).item(),
        "infonce": sum(logs) / len(logs) - positive,
        "infonce-second-order": spread / 2 - positive + everything,
    }
    assert found == pytest.approx(want, rel=1e-10)
    if critic == "imq":
        terms = ssl_hsic(z, kernel=imq(scale), gamma=1.0)
        assert found["hsic-zy"] == pytest.approx(-terms["dependence"].item(), rel=1e-10)


def test_the_values_do_not_depend_on_how_the_points_are_cut(monkeypatch):
    whole = measures(views())
    monkeypatch.setattr(dependence, "_ELEMENTS", 100)
    assert measures(views()) == pytest.approx(whole, rel=1e-12)


def test_a_collapsed_representation_depends_on_nothing_and_is_finite():
    for z in (np.ones((2, 6, 4)), np.zeros((2, 6, 4))):
        found = measures(z)
        assert found == pytest.approx(dict.fromkeys(NAMES, 0.0), abs=1e-14)


def test_what_it_cannot_measure_is_refused():
    with pytest.raises(ConfigError, match="two views"):
        measures(views(1))
    with pytest.raises(ConfigError, match="imq or cosine"):
        measures(views(), critic="rbf")
    for critic in ("imq", "cosine"):
        for scale in (0.0, -1.0, 1e-30, math.inf, math.nan):
            with pytest.raises(ConfigError, match="kernel scale above 0"):
                measures(views(), critic=critic, scale=scale)
    for bad in (math.nan, math.inf):
        z = views()
        z[1, 3, 2] = bad
        with pytest.raises(NonFiniteError, match="Expected finite features"):
            measures(z)


def test_the_protocol_gives_every_measure_for_every_subject_and_only_when_named(monkeypatch):
    assert not PROTOCOLS["dependence"].standard
    assert "dependence" not in [protocol.name for protocol in resolve(None)]
    first, second = views()
    given = {"train": features(first), "test": features(first)}
    for prefix in ("", "untrained-", "pixels-"):
        given |= {f"{prefix}view1-test": features(first), f"{prefix}view2-test": features(second)}
    found = run_protocols(given, only=["dependence"])
    assert [r.error for r in found] == [None] * 18
    assert {r.subject for r in found} == {"trained", "untrained", "pixels"}
    metrics = [r.metric for r in found if r.subject == "trained"]
    assert metrics == [*NAMES, "infonce-cosine", "infonce-second-order-cosine"]
    want = measures(np.stack([first, second]).astype(np.float32))
    for result in found[:4]:
        assert result.value == pytest.approx(want[result.metric], rel=1e-12)
        assert (result.n, result.low, result.interval) == (20, None, "none")
    monkeypatch.setattr(dependence, "MOST", 7)
    assert {r.n for r in run_protocols(given, only=["dependence"])} == {7}


def test_the_views_must_be_there_and_of_the_same_images():
    first, second = views()
    with pytest.raises(DataError, match="two views of the test images"):
        dependence.dependence(features(first), features(first), seed=0)
    other = dataclasses.replace(features(second), index=np.arange(20)[::-1])
    with pytest.raises(DataError, match="same images"):
        dependence.dependence(
            features(first),
            features(first),
            seed=0,
            others={"view1-test": features(first), "view2-test": other},
        )
