from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cognates.errors import DataError
from cognates.evaluation.effects import (
    AUGMENTATIONS,
    augmentation_uncertainty,
    augmented,
    changes,
)
from cognates.evaluation.features import Transform, score_views
from cognates.evaluation.suite import evaluate
from cognates.evaluation.sweeps import sweep
from cognates.types import Features

GREY = ["crop", "flip", "brightness", "contrast", "blur", "solarise"]


def swept(table: np.ndarray, score: str, index: np.ndarray | None = None) -> Features:
    n = len(table)
    return Features(
        representation=np.empty((n, 0), dtype=np.float32),
        index=np.arange(n) if index is None else index,
        scores={f"{level:.2f}": table[:, level] for level in range(table.shape[1])},
        default_score=score,
    )


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def at(pictures: torch.Tensor, name: str, strength: float, index=None, seed: int = 0):
    index = torch.arange(len(pictures)) if index is None else index
    return augmented(pictures, name, strength, index=index, seed=seed)


def test_each_augmentation_alone_is_what_its_name_says(pictures) -> None:
    assert torch.equal(at(pictures, "flip", 1.0), pictures.flip(-1))
    mirrored = torch.where(pictures >= 0.5, 1 - pictures, pictures)
    assert torch.allclose(at(pictures, "solarise", 1.0), mirrored, atol=1e-6)
    dark = at(pictures, "brightness", 0.2)
    assert torch.allclose(dark, 0.2 * pictures, atol=1e-6)
    bright = at(pictures, "brightness", 1.8)
    assert torch.allclose(bright, (1.8 * pictures).clamp(max=1), atol=1e-6)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    grey = (luma * pictures).sum(dim=1, keepdim=True).expand_as(pictures)
    assert torch.allclose(at(pictures, "grey", 1.0), grey, atol=1e-6)
    faint = at(pictures, "saturation", 0.2)
    assert torch.allclose(faint, 0.2 * pictures + 0.8 * grey, atol=1e-6)
    mean = grey.mean(dim=(1, 2, 3), keepdim=True)
    assert torch.allclose(at(pictures, "contrast", 0.2), 0.2 * pictures + 0.8 * mean, atol=1e-6)
    soft, softer = (at(pictures, "blur", sigma).std() for sigma in (0.5, 2.0))
    assert pictures.std() > soft > softer


@pytest.mark.parametrize("name", [name for name, a in AUGMENTATIONS.items() if name != "blur"])
def test_the_neutral_strength_changes_nothing(name, pictures) -> None:
    made = at(pictures, name, AUGMENTATIONS[name].neutral)
    assert torch.allclose(made, pictures, atol=1e-6)


def test_a_crop_belongs_to_the_image_and_a_smaller_one_lies_in_it() -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    ramps = torch.cat([ramp, ramp, ramp.transpose(2, 3)])
    index = torch.tensor([4, 9, 4])
    large, small = (at(ramps, "crop", share, index) for share in (0.4, 0.08))
    # the antialiased filter keeps a ramp's ends to half a pixel of the crop
    for outer, inner in zip(large, small, strict=True):
        assert inner.min() >= outer.min() - 1 / 64
        assert inner.max() <= outer.max() + 1 / 64
        assert inner.max() - inner.min() < 0.08**0.5 + 2 / 64
        assert outer.max() - outer.min() > 0.4**0.5 - 2 / 64
    assert not torch.equal(large[0], large[1])
    alone = at(ramps[1:2], "crop", 0.4, index[1:2])
    assert torch.allclose(alone[0], large[1], atol=1e-6)
    assert not torch.equal(at(ramps, "crop", 0.4, index, seed=1), large)


def test_means_rises_and_shares_are_those_of_their_definitions() -> None:
    generator = np.random.default_rng(0)
    table = generator.uniform(0.1, 0.9, size=(30, 2))
    table[:4, 1] = table[:4, 0]  # ties are failures
    concentration = generator.uniform(0.1, 0.9, size=(30, 2))
    few = np.arange(5, 15)
    others = {
        "augmented-flip-test": swept(table, "relative"),
        "augmented-flip-norm-test": swept(-table, "norm"),
        "augmented-flip-concentration-test": swept(concentration, "concentration"),
        "augmented-flip-view-disagreement-test": swept(-table[few], "view-disagreement", few),
    }
    blank = swept(table, "relative")
    found = augmentation_uncertainty(blank, blank, seed=0, others=others)
    results = {r.metric: r for r in found}
    assert len(found) == len(results) == 2 + 3 + 5 + 3
    assert results["unchanged/uncertainty"].value == pytest.approx(table[:, 0].mean())
    assert results["flip/uncertainty-1"].value == pytest.approx(table[:, 1].mean())
    rise = results["flip/rise-1"]
    assert rise.value == pytest.approx((table[:, 1] - table[:, 0]).mean())
    spread = np.std(table[:, 1] - table[:, 0]) / 30**0.5
    assert rise.high - rise.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    kappa = results["flip/kappa-1"]
    assert kappa.value == pytest.approx((1 / concentration[:, 1] - 1).mean())
    assert kappa.settings["score"] == "concentration"
    more, less = table[:, 1] > table[:, 0], table[:, 1] < table[:, 0]
    assert results["flip/less-certain-1/relative"].value == pytest.approx(more.mean())
    assert results["flip/less-certain-1/norm"].value == pytest.approx(less.mean())
    gap = results["flip/less-certain-1/default-minus-norm"]
    assert gap.value == pytest.approx(more.mean() - less.mean())
    some = results["flip/less-certain-1/default-minus-view-disagreement"]
    assert some.value == pytest.approx(more[few].mean() - less[few].mean())
    assert (gap.n, some.n) == (30, 10)
    assert rise.settings == {
        "strength": 1.0, "neutral": 0.0, "unit": "no or yes", "score": "relative"
    }  # fmt: skip
    for r in found:
        assert r.low <= r.value <= r.high


def test_kappa_is_that_of_a_concentration() -> None:
    kappa, d = np.array([[3.0, 7.0], [5.0, 1.0]]), 9
    own = swept((d - 1) / (kappa + d - 1), "concentration")
    found = augmentation_uncertainty(own, own, seed=0, others={"augmented-flip-test": own})
    values = {r.metric: r.value for r in found}
    assert values["unchanged/kappa"] == pytest.approx(4 / 8)
    assert values["flip/kappa-1"] == pytest.approx(4 / 8)


def test_there_is_nothing_to_say_without_a_sweep() -> None:
    blank = swept(np.zeros((3, 2)), "norm")
    with pytest.raises(DataError, match="sweep over augmentations"):
        augmentation_uncertainty(blank, blank, seed=0)


def test_the_sweep_scores_the_augmented_test_views(method, images, spec) -> None:
    kind = {"views": [spec], "size": 16, "mean": (0.3,), "std": (0.2,)}
    made = changes(1)
    assert [name.removeprefix("augmented-") for name in made] == GREY
    found = sweep(method, images[1], changes=made, limit=8, batch_size=5, seed=4, **kind)
    own = found["augmented-crop-test"]
    raw = torch.from_numpy(images[1].pixels[own.index]).float() / 255
    view = augmented(raw, "crop", 0.4, index=torch.from_numpy(own.index), seed=4)
    transform = Transform.of(16, (0.3,), (0.2,))
    scores = score_views(method, view, spec=None, transform=transform)[1]
    assert np.allclose(own.scores["3.00"], scores["concentration"], atol=1e-5)


def test_the_suite_leaves_out_colours_of_grey_images_and_keeps_its_sweep(
    method, images, spec, tmp_path
) -> None:
    kind = {"views": [spec], "size": 16, "mean": None, "std": None, "out": tmp_path, "images": 12}
    lines: list[str] = []
    run = {"only": ["augmentation-uncertainty"], "progress": lines.append, **kind}
    results = evaluate(method, *images, **run)
    assert not [r for r in results if r.error]
    marks = {r.flags for r in results if r.metric.endswith("/max-softmax")}
    assert marks == {("needs-labels",)}
    names = {r.metric.partition("/")[0] for r in results}
    assert names == {"unchanged", *GREY}
    assert any("augmented-crop" in line for line in lines)
    lines.clear()
    again = evaluate(method, *images, **run)
    assert not any("augmented" in line and line.startswith("Features") for line in lines)
    strip = [replace(r, seconds=0.0) for r in results]
    assert [replace(r, seconds=0.0) for r in again] == strip


def test_images_in_colour_have_every_augmentation() -> None:
    assert [name.removeprefix("augmented-") for name in changes(3)] == [*AUGMENTATIONS]
    assert len(AUGMENTATIONS) == 9
