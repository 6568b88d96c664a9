"""The protocol `theory`: known values, the fitted concentration, a method's own posteriors."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from cognates.distributions import VonMisesFisher
from cognates.errors import DataError, NonFiniteError
from cognates.evaluation import theory
from cognates.evaluation.features import view_pair
from cognates.evaluation.suite import PROTOCOLS, evaluate, resolve, run_protocols
from cognates.evaluation.theory import fitted_concentration, has_latents, view_terms
from cognates.methods.simsiam import SimSiamConfig
from cognates.methods.vi_simsiam import ViSimSiamConfig
from cognates.objectives import vi_simsiam
from cognates.types import Features

SMALL = {"dim": 6, "hidden": 8, "predictor_hidden": 4}
F64 = torch.float64


def pair(n=30, d=5, noise=0.4, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((1, n, d)) + noise * rng.standard_normal((2, n, d))
    return z.astype(np.float32)


def features(z, **more):
    return Features(representation=z, index=np.arange(len(z)), **more)


def given(test, train):
    found = {"train": features(train[0]), "test": features(test[0])}
    for prefix in ("", "untrained-", "pixels-"):
        for split, z in (("test", test), ("train", train)):
            found |= {f"{prefix}view{k + 1}-{split}": features(z[k]) for k in (0, 1)}
    return found


def build(config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(256, 9), nn.ReLU())
        return config.build(encoder, width=9).eval()


def test_the_concentration_is_the_most_likely_one_of_the_training_views():
    z = torch.from_numpy(pair()).double()
    first, second = (x / x.norm(dim=1, keepdim=True) for x in z)

    def loss(log_kappa):
        kappa = torch.full((30,), math.exp(log_kappa), dtype=F64)
        return -VonMisesFisher(first, kappa).log_prob(second).mean().item()

    best = minimize_scalar(loss, bounds=(-2, 8), method="bounded", options={"xatol": 1e-10}).x
    assert fitted_concentration(z) == pytest.approx(math.exp(best), rel=1e-5)
    assert fitted_concentration(torch.stack([z[0], z[0]])) == theory.LARGEST
    assert fitted_concentration(torch.stack([z[0], -z[0]])) == 0.0


def test_the_terms_are_loops_over_images_and_never_above_log_n():
    z, kappa = torch.from_numpy(pair(n=7)).double(), 9.0
    found = view_terms(3.0 * z, kappa)
    z = z / z.norm(dim=-1, keepdim=True)
    align, uniform = [], []
    for i, j in ((0, 1), (1, 0)):
        for x in range(7):
            at = [VonMisesFisher(z[j, k], kappa).log_prob(z[i, x]).item() for k in range(7)]
            align.append(at[x])
            uniform.append(-math.log(sum(map(math.exp, at)) / 7))
    assert found["j-align"] == pytest.approx(np.mean(align), rel=1e-12)
    assert found["j-uniform"] == pytest.approx(np.mean(uniform), rel=1e-12)
    assert found["j"] == pytest.approx(np.mean(align) + np.mean(uniform), abs=1e-12)
    assert found["j"] <= math.log(7)
    collapsed = view_terms(torch.ones(2, 7, 4), theory.LARGEST)
    assert collapsed["j"] == pytest.approx(0, abs=1e-6)  # 1e-6: a value of about 1e1 with k = 1e7


def test_the_protocol_gives_the_terms_of_every_subject_and_only_when_named(monkeypatch):
    assert not PROTOCOLS["theory"].standard
    assert "theory" not in [protocol.name for protocol in resolve(None)]
    test, train = pair(), pair(n=50, seed=1)
    found = run_protocols(given(test, train), only=["theory"])
    assert [r.error for r in found] == [None] * 12
    assert {r.subject for r in found} == {"trained", "untrained", "pixels"}
    kappa = fitted_concentration(torch.from_numpy(train))
    want = view_terms(torch.from_numpy(test), kappa) | {"concentration": kappa}
    assert {r.metric: r.value for r in found if r.subject == "pixels"} == want
    assert {(r.n, r.low, r.interval, r.flags) for r in found} == {(30, None, "none", ())}
    assert found[0].settings == {"images": 50}
    monkeypatch.setattr(theory, "MOST", 7)
    assert {r.n for r in run_protocols(given(test, train), only=["theory"])} == {6}  # every fifth
    same = np.stack([train[0], train[0]])
    flags = {r.flags for r in run_protocols(given(test, same), only=["theory"])}
    assert flags == {("coincident",)}


def test_what_it_cannot_measure_is_refused():
    test, train = pair(), pair(seed=1)
    known = given(test, train)
    with pytest.raises(DataError, match="two views of training and of test images"):
        theory.theory(known["train"], known["test"], seed=0)
    other = dataclasses.replace(known["view2-test"], index=np.arange(30)[::-1])
    with pytest.raises(DataError, match="same images"):
        theory.theory(known["train"], known["test"], seed=0, others=known | {"view2-test": other})
    bad = known["view1-train"].representation.copy()
    bad[3, 2] = np.nan
    with pytest.raises(NonFiniteError, match="finite features"):
        theory.theory(
            known["train"], known["test"], seed=0, others=known | {"view1-train": features(bad)}
        )


@pytest.mark.parametrize("family", ["power-spherical", "von-mises-fisher"])
def test_a_method_with_posteriors_is_measured_with_its_own(family, images, spec):
    train, test = images
    method = build(ViSimSiamConfig(**SMALL, family=family))
    assert has_latents(method)
    kind = {"views": (spec, spec), "size": 16, "mean": None, "std": None}
    found = evaluate(method, train, test, only=["theory"], **kind)
    own = {r.metric: r for r in found if r.metric.startswith("own-")}
    assert set(own) == {"own-j-align", "own-j-uniform", "own-j", "own-concentration"}
    assert own["own-j"].settings == {"family": family}
    # its alignment is what it minimises, on the views that `view_pair` draws
    seen = []

    def read(view):
        latents = method.latents(view)
        seen.append(latents)
        return latents.target

    view_pair(method, test, read=read, **kind)
    p, z, kappa = (
        torch.stack([getattr(side, name) for side in seen]).double()
        for name in ("prediction", "target", "concentration")
    )
    loss = vi_simsiam(p, kappa, z, family=family, per_dimension=False)["alignment"].item()
    assert own["own-j-align"].value == pytest.approx(-loss, rel=1e-6)  # features are float32
    assert own["own-concentration"].value == pytest.approx(kappa.mean().item(), rel=1e-6)
    assert own["own-j"].value <= math.log(len(test)) + 1e-9
    assert {r.subject for r in found} == {"trained", "pixels"}


def test_a_method_without_posteriors_is_measured_with_the_fitted_concentration(images, spec):
    train, test = images
    method = build(SimSiamConfig(**SMALL))
    assert not has_latents(method)
    found = evaluate(
        method, train, test, views=(spec, spec), size=16, mean=None, std=None, only=["theory"]
    )
    assert [r.error for r in found] == [None] * 8
    assert {r.metric for r in found} == {"j-align", "j-uniform", "j", "concentration"}
