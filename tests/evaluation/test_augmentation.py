from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cognates.data import augment
from cognates.data.images import Images
from cognates.data.views import ViewSpec, crop_and_flip
from cognates.errors import ConfigError, DataError
from cognates.evaluation.augmentation import (
    augmentation,
    feature_name,
    parameters,
    reference,
    view,
)
from cognates.evaluation.suite import evaluate
from cognates.types import Features


@pytest.fixture
def quick(monkeypatch) -> None:
    from cognates.evaluation import mlp

    monkeypatch.setattr(mlp, "EPOCHS", (1, 2))


def drawn(spec: ViewSpec, *, n: int = 400, channels: int = 3) -> tuple:
    found = augment.draw(spec, n, height=20, width=30, generator=torch.Generator().manual_seed(0))
    return found, parameters(found, spec, channels=channels, height=20, width=30)


def test_parameters_are_what_was_drawn_in_the_units_stated() -> None:
    box, found = drawn(reference(16))
    assert set(found) == {
        f"view/{name}" for name in (
            "x", "y", "log-area", "brightness", "contrast", "saturation", "hue", "sigma", "flip",
            "grey", "solarise",
        )
    }  # fmt: skip
    assert np.allclose(found["view/x"], ((box.left + box.width / 2) / 30).numpy())
    assert np.allclose(found["view/y"], ((box.top + box.height / 2) / 20).numpy())
    assert np.allclose(np.exp(found["view/log-area"]), (box.height * box.width / 600).numpy())
    assert np.array_equal(found["view/flip"], box.flip.numpy())
    still, grey = ~box.jitter.numpy(), box.grey.numpy()
    assert set(found["view/brightness"][still]) == {1.0}
    assert np.array_equal(found["view/brightness"][~still], box.brightness.numpy()[~still])
    assert set(found["view/hue"][still & ~grey]) == {0.0}
    assert np.array_equal(np.isnan(found["view/hue"]), grey)
    assert np.array_equal(np.isnan(found["view/saturation"]), grey)
    assert set(found["view/sigma"][~box.blur.numpy()]) == {0.0}


def test_what_a_recipe_or_a_channel_does_not_vary_is_absent() -> None:
    assert set(drawn(crop_and_flip(16))[1]) == {
        "view/x", "view/y", "view/log-area", "view/flip"
    }  # fmt: skip
    grey = set(drawn(reference(16), channels=1)[1])
    assert {"view/brightness", "view/contrast", "view/solarise"} < grey
    assert not grey & {"view/hue", "view/saturation", "view/grey"}
    whole = ViewSpec(size=16, scale=(1.0, 1.0), flip=1.0, jitter=0.0, grey=0.0)
    assert drawn(whole)[1] == {}


def test_every_encoder_and_the_pixels_see_the_very_same_views(
    method, untrained, images, spec
) -> None:
    train, test = images
    kind = {"spec": spec, "seed": 3}
    made = [view(owner, train, **kind) for owner in (method, untrained, None)]
    for other in made[1:]:
        for name in ("view/x", "view/log-area", "view/flip"):
            assert np.array_equal(made[0].targets[name], other.targets[name])
    box = made[2].targets
    pixels = torch.from_numpy(made[2].representation).view(-1, 1, 16, 16)
    assert float(pixels.min()) >= 0
    assert float(pixels.max()) <= 1
    with torch.no_grad():
        assert np.allclose(
            method.embed(pixels).representation.numpy(), made[0].representation, atol=1e-6
        )
    small = view(method, train, batch_size=7, **kind)
    assert np.allclose(small.representation, made[0].representation, atol=1e-6)
    assert not np.array_equal(view(method, test, **kind).targets["view/x"], box["view/x"][:40])
    with pytest.raises(ConfigError, match="eval mode"):
        view(method.train(), train, **kind)


def synthetic(n: int, seed: int, *, known: bool) -> Features:
    generator = np.random.default_rng(seed)
    x, hue = generator.random((2, n))
    hue[::4] = np.nan
    flip, label = generator.integers(0, 2, (2, n))
    signal = np.stack([x, np.nan_to_num(hue), flip, label], axis=1)
    h = signal @ np.linalg.qr(np.random.default_rng(9).normal(size=(4, 4)))[0]
    return Features(
        representation=(h if known else generator.normal(size=(n, 4))).astype(np.float32),
        index=np.arange(n),
        targets={"view/x": x, "view/hue": hue, "view/flip": flip, "label": label},
    )


@pytest.mark.usefixtures("quick")
def test_parameters_are_read_where_they_are_held_and_beside_the_baselines() -> None:
    others = {}
    for recipe in ("training", "reference"):
        for split, n in (("train", 800), ("test", 300)):
            seed = len(others)
            others[feature_name(recipe, split)] = synthetic(n, seed, known=True)
            others[feature_name(recipe, split, "pixels")] = synthetic(n, seed, known=False)
    anything = synthetic(10, 0, known=True)
    results = augmentation(anything, anything, seed=0, others=others, grid=4)
    found = {(r.metric, r.subject): r for r in results}
    assert len(found) == len(results) == 2 * 4 * (2 * 3 + 1)
    for recipe in ("training", "reference"):
        for name in ("x/r2/ridge", "flip/balanced-accuracy/linear", "class/accuracy/linear"):
            assert found[f"{recipe}/{name}", "trained"].value > 0.99
            assert found[f"{recipe}/{name}-minus-pixels", "trained"].low > 0.3
        hue = found[f"{recipe}/hue/r2/ridge", "trained"]
        assert hue.value > 0.99
        assert hue.n == 225
        assert found[f"{recipe}/hue/r2/ridge", "pixels"].value < 0.1


def test_without_views_the_protocol_says_how_to_make_them(make_features) -> None:
    with pytest.raises(DataError, match=r"augmentation\.view"):
        augmentation(make_features(9), make_features(9), seed=0)


@pytest.mark.usefixtures("quick")
def test_the_suite_makes_the_views_keeps_them_and_leaves_other_records_alone(
    method, untrained, images, spec, tmp_path, monkeypatch
) -> None:
    kind = {"views": [spec], "size": 16, "mean": (0.3,), "std": (0.2,), "grid": 2}
    kind |= {"out": tmp_path, "untrained": untrained}
    results = evaluate(method, *images, only=["augmentation"], **kind)
    assert not [r.error for r in results if r.error]
    assert {r.subject for r in results} == {"trained", "untrained", "pixels"}
    names = {r.metric for r in results}
    assert "training/x/r2/ridge" in names
    assert "reference/brightness/r2/mlp" in names
    assert "training/brightness/r2/mlp" not in names
    assert "reference/hue/r2/mlp" not in names
    kept = [p.name for p in (tmp_path / "features").glob("*-augmented-*")]
    assert len(kept) == 3 * 2 * 2
    monkeypatch.setattr(type(method), "embed", None)
    again = evaluate(method, *images, only=["augmentation"], **kind)
    assert [r.value for r in again] == [r.value for r in results]


@pytest.mark.parametrize("default", ["concentration", "view-disagreement"])
def test_a_first_view_that_is_the_image_is_passed_over_for_one_that_crops(
    method, without_own_score, images, spec, quick, default
) -> None:
    own = method if default == "concentration" else without_own_score
    whole = replace(spec, scale=(1.0, 1.0), flip=0.0)
    kind = {"size": 16, "mean": None, "std": None, "grid": 2}
    kind |= {"only": ["augmentation", "auroc-error", "sensitivity"]}
    found, expected = (
        {r.metric: r.value for r in evaluate(own, *images, views=views, **kind)}
        for views in ([whole, spec], [spec, whole])
    )
    assert {"training/x/r2/ridge", "linear/view-disagreement"} < found.keys()
    assert sum(name.startswith("crop-per-image") for name in found) > 1
    assert found == expected


def test_a_number_of_images_is_drawn_by_the_seed_and_recorded(
    method, images, spec, tmp_path
) -> None:
    from cognates.evaluation.records import read_results

    kind = {"views": [spec], "size": 16, "mean": None, "std": None, "grid": 2, "out": tmp_path}
    evaluate(method, *images, only=["spread"], **kind)
    few = evaluate(method, *images, only=["knn"], images=30, **kind)
    assert {r.settings["train"] for r in few} == {30}
    assert {r.n for r in few} == {30}
    assert {r.n for r in read_results(tmp_path / "results.json")} == {40, 30}
    again = evaluate(method, *images, only=["knn"], images=30, **{**kind, "out": None})
    assert [r.value for r in again] == [r.value for r in few]
    part = evaluate(method, *images, only=["knn"], images=50, **kind)  # of 60; all 40 test images
    assert {(r.settings["train"], r.n) for r in part} == {(50, 40)}
    assert not any("train" in r.settings for r in evaluate(method, *images, only=["knn"], **kind))
    with pytest.raises(ConfigError, match="at least 1 image"):
        evaluate(method, *images, only=["knn"], images=0, **kind)


@pytest.mark.usefixtures("quick")
def test_attributes_are_measured_where_they_are_and_asked_for_where_they_are_not(
    method, images, spec
) -> None:
    kind = {"views": [spec], "size": 16, "mean": None, "std": None, "grid": 2}

    def add(split: Images) -> Images:
        values = np.random.default_rng(0).integers(0, 2, (len(split), 2))
        names = {**split.target_names, "attributes": ("a", "b")}
        return replace(split, targets={**split.targets, "attributes": values}, target_names=names)

    found = evaluate(method, add(images[0]), add(images[1]), only=["celeba"], **kind)
    assert {r.metric.split("/")[0] for r in found} == {"a", "b", "macro"}
    with pytest.raises(DataError, match="Expected attributes for celeba"):
        evaluate(method, *images, only=["celeba"], **kind)
    lines: list[str] = []
    evaluate(method, *images, only=["celeba", "spread"], progress=lines.append, **kind)
    assert "There are no attributes: celeba not run." in lines
