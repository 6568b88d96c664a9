"""Kind retrieval: known answers, the pass over both encoders, and who may be asked for it."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from cognates.data.images import Images
from cognates.data.views import crop_and_flip
from cognates.errors import ConfigError, DataError
from cognates.evaluation.features import Transform
from cognates.evaluation.kind_retrieval import kind_retrieval
from cognates.evaluation.kinds import encoder_of, kind_features
from cognates.evaluation.suite import evaluate, run_protocols
from cognates.methods.clip import ClipConfig
from cognates.methods.simsiam import SimSiamConfig
from cognates.types import Features

COLOUR = crop_and_flip(16, (0.5, 1.0))
KINDS = (COLOUR, dataclasses.replace(COLOUR, grey=1.0, size=12))
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
TO = Transform.of(16, MEAN, STD)


def features(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return Features(representation=rows, index=np.arange(len(rows)), split="test")


def images(n, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 3, 18, 18), dtype=np.uint8)
    return Images(pixels=pixels, dataset="noise", split="test", digest=f"noise-{n}-{seed}")


def build(config, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Any size of image: the two kinds differ in theirs.
        encoder = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        return config.build(encoder, width=24).eval()


def clip(seed=0):
    return build(ClipConfig(dim=7, second="image"), seed)


def simsiam():
    return build(SimSiamConfig(dim=6, hidden=8, predictor_hidden=4))


def ranks(first, second):
    """Rank with sorted lists, image by image: the definition, without ties."""
    a, b = (
        [row / np.linalg.norm(row) for row in side.astype(np.float64)] for side in (first, second)
    )
    found = []
    for i, query in enumerate(a):
        similarity = [float(query @ candidate) for candidate in b]
        found.append(1 + sorted(similarity, reverse=True).index(similarity[i]))
    return np.array(found)


def test_recalls_and_medians_are_those_of_sorted_lists_in_both_directions():
    random = np.random.default_rng(0)
    first = random.normal(size=(60, 5)).astype(np.float32)
    halves = {
        "trained": (first, first + 0.7 * random.normal(size=(60, 5)).astype(np.float32)),
        "untrained": (first, random.normal(size=(60, 5)).astype(np.float32)),
        "pixels": (first, first),
    }
    others = {}
    for subject, pair in halves.items():
        prefix = "" if subject == "trained" else f"{subject}-"
        names = ("first-kind-test", "second-kind-test")
        others |= {prefix + name: features(z) for name, z in zip(names, pair, strict=True)}
    given = features(first)
    results = kind_retrieval(given, given, seed=0, others=others)
    found = {(r.metric, r.subject): r for r in results}
    assert len(results) == len(found) == 2 * (3 * 5 + 3)
    assert {r.protocol for r in results} == {"kind-retrieval"}
    for direction, turn in (("first-to-second", 1), ("second-to-first", -1)):
        slow = {subject: ranks(*pair[::turn]) for subject, pair in halves.items()}
        for k in (1, 5, 10):
            for subject, where in slow.items():
                record = found[f"{direction}-r-at-{k}", subject]
                assert record.value == pytest.approx((where <= k).mean(), rel=1e-12)
                assert record.settings["chance"] == pytest.approx(k / 60, rel=1e-12)
                assert record.settings["queries"] == record.settings["candidates"] == 60
            record = found[f"{direction}-r-at-{k}", "trained"]
            assert record.low < record.value < record.high
            gap = found[f"{direction}-r-at-{k}-minus-pixels", "trained"]
            assert gap.value == pytest.approx((slow["trained"] <= k).mean() - 1)
        for subject, where in slow.items():
            assert found[f"{direction}-median-rank", subject].value == np.median(where)
    there, back = (
        found[f"{d}-r-at-1", "trained"].value for d in ("first-to-second", "second-to-first")
    )
    assert there != back


@pytest.mark.parametrize("batch_size", [4, 512])
def test_each_kind_is_seen_by_its_own_encoder_as_that_kind(batch_size):
    method, some = clip(), images(9)
    kind = {"views": KINDS, "transform": TO, "batch_size": batch_size}
    first, second = kind_features(method, some, **kind)
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    centre = torch.from_numpy(some.pixels[:, :, 1:17, 1:17]).float() / 255
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # of ITU-R BT.601
    grey = (centre * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    grey = nn.functional.interpolate(grey, size=(12, 12), mode="bilinear", antialias=True)
    with torch.no_grad():
        want = (
            method.image_projection(method.encoder((centre - mean) / std)),
            method.second.projection(method.second.encoder((grey - mean) / std)),
        )
    for got, wanted in zip((first, second), want, strict=True):
        assert got.index.tolist() == [*range(9)]
        np.testing.assert_allclose(got.representation, wanted, rtol=1e-4, atol=1e-5)
    assert (first.layer, second.layer) == ("shared-first", "shared-second")


def test_pixels_of_both_kinds_have_the_size_of_the_smaller():
    first, second = kind_features(None, images(9), views=KINDS, transform=TO)
    assert first.representation.shape == second.representation.shape == (9, 3 * 12 * 12)
    grey = second.representation.reshape(9, 3, -1)
    np.testing.assert_allclose(grey[:, 0], grey[:, 2], atol=1e-6)
    assert np.ptp(first.representation.reshape(9, 3, -1), axis=1).max() > 0.1
    assert first.representation.min() >= 0


def test_a_run_of_two_kinds_is_asked_for_it_unasked_and_keeps_its_features(tmp_path):
    kind = {"views": KINDS, "size": 16, "mean": MEAN, "std": STD, "out": tmp_path}
    kind |= {"untrained": clip(1)}
    given = (clip(), images(20, 1), images(12))
    lines = []
    results = evaluate(*given, **kind)
    here = [r for r in results if r.protocol == "kind-retrieval"]
    assert len(here) == 2 * (3 * 5 + 3)
    assert {r.error for r in results} == {None}
    assert {r.version for r in here} == {1}
    kept = sorted(tmp_path.glob("features/*kind-test*"))
    assert len(kept) == 3 * 2
    again = evaluate(*given, **kind, only=["kind-retrieval"], progress=lines.append)
    assert [(r.metric, r.value, r.low) for r in again] == [(r.metric, r.value, r.low) for r in here]
    assert not any("kind-test" in line for line in lines if line.startswith("Features"))
    # Another second kind: other features.
    blurred = (COLOUR, dataclasses.replace(KINDS[1], blur=1.0))
    evaluate(*given, **(kind | {"views": blurred}), only=["kind-retrieval"])
    assert len([*tmp_path.glob("features/*kind-test*")]) == 2 * len(kept)


def test_a_method_of_one_kind_is_refused_in_one_sentence():
    kind = {"views": KINDS, "size": 16, "mean": MEAN, "std": STD}
    given = (simsiam(), images(20, 1), images(12))
    with pytest.raises(
        ConfigError, match=r"two kinds of image for kind-retrieval, .*one that does"
    ):
        evaluate(*given, **kind, only=["kind-retrieval"])
    lines = []
    found = evaluate(*given, **kind, only=["retrieval"], progress=lines.append)
    assert {r.protocol for r in found} == {"view-retrieval"}
    said = "There are no two kinds of image that the method pairs: kind-retrieval not run."
    assert said in lines
    with pytest.raises(ConfigError, match=r"two kinds of image, got SimSiam: train clip"):
        kind_features(simsiam(), images(2), views=KINDS, transform=TO)
    with pytest.raises(ConfigError, match=r"'first' or 'second', got 'grey'"):
        encoder_of(clip(), "grey", KINDS, TO)


def test_features_that_are_missing_are_named():
    given = features(np.eye(3))
    with pytest.raises(DataError, match="kind_features"):
        kind_retrieval(given, given, seed=0, others={"first-kind-test": given})
    with pytest.raises(ConfigError, match="kind-retrieval"):
        run_protocols({"train": given, "test": given}, only=["kind-retrieval"])
