"""The protocols of methods that draw images, through the suite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cognates.errors import ConfigError
from cognates.evaluation.drawings import posterior_of
from cognates.evaluation.drawn import (
    GENERATIVE,
    Reference,
    reference_of,
    require_other,
    sample_pass,
    view_pass,
)
from cognates.evaluation.features import Transform
from cognates.evaluation.store import weights_digest
from cognates.evaluation.suite import GROUPS, PROTOCOLS, evaluate, resolve
from cognates.methods import get
from cognates.networks.image_model import ImageModelConfig

KIND = {"size": 16, "mean": None, "std": None, "grid": 3}
TRANSFORM = Transform(size=16)


def build(name="simve", **options):
    model = ImageModelConfig(latent_dim=3, decoder="mlp", channels=1, image_size=16)
    if name == "simve":
        options.setdefault("between", 0.925)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(256, 6), nn.ReLU())
        return get(name)(model=model, **options).build(encoder, width=6).eval()


def test_the_protocols_are_run_by_name_or_for_a_method_that_draws(
    images, method, spec, tmp_path: Path
):
    assert len(GENERATIVE) == 4
    assert GROUPS["generative"] == GENERATIVE
    assert not any(PROTOCOLS[name].standard for name in GENERATIVE)
    assert not {p.name for p in resolve(None)} & set(GENERATIVE)
    drawn = evaluate(build(), *images, views=[spec, spec], out=tmp_path, **KIND)
    assert not [(r.protocol, r.error) for r in drawn if r.error]
    assert {r.protocol for r in drawn} >= set(GENERATIVE)
    assert {r.metric for r in drawn if r.protocol == "generation"} >= {
        "fid-random-convnet-40",
        "kid-random-convnet-40",
    }
    views = {r.metric for r in drawn if r.protocol == "generated-views"}
    assert views > {"prior/agreement", "prior/agreement/pixels", "image/class-kept/pixels"}
    quiet = evaluate(method, *images, views=[spec, spec], **KIND)
    assert not {r.protocol for r in quiet} & set(GENERATIVE)
    with np.load(tmp_path / "drawings.npz") as saved:
        assert saved["images"].shape == (8, 1, 16, 16)
        assert saved["samples"].shape == (64, 1, 16, 16)
        assert saved["views"].dtype == np.uint8
        assert saved["shared"]


def test_all_three_scores_are_scored_and_the_reconstruction_is_a_baseline(images, spec):
    drawn = evaluate(
        build(), *images, views=[spec, spec], only=["uncertainty", "sensitivity"], **KIND
    )
    metrics = {(r.protocol, r.metric) for r in drawn}
    for score in ("posterior-entropy", "negative-elbo", "reconstruction"):
        assert ("auroc-error", f"linear/{score}") in metrics
        assert ("auroc-error", f"knn/{score}") in metrics
        assert ("deciles", f"{score}/decile-10") in metrics
    assert ("sensitivity", "crop-per-image") in metrics
    for score in ("negative-elbo", "reconstruction"):
        assert ("sensitivity", f"crop-per-image/{score}") in metrics
        assert ("sensitivity", f"blur-per-image/default-minus-{score}") in metrics
    assert ("auroc-error", "linear/default-minus-reconstruction") in metrics
    assert ("auroc-error", "linear/default-minus-negative-elbo") not in metrics
    of = {r.metric: r for r in drawn if r.protocol == "auroc-error"}
    rivals = ("norm", "knn-distance", "view-disagreement", "reconstruction")
    best = max(rivals, key=lambda name: of[f"linear/{name}"].value)
    assert of["linear/default-minus-best"].selected == {"baseline": best}


def test_the_values_do_not_depend_on_the_batch_and_come_from_disk_again(
    images, spec, tmp_path: Path, monkeypatch
):
    kind = {"views": [spec, spec], "only": ["generative"], **KIND}
    first = evaluate(build(), *images, out=tmp_path, **kind)
    other = evaluate(build(), *images, batch_size=7, **kind)
    assert len(first) == len(other) > 20
    for one, two in zip(first, other, strict=True):
        assert two.value == pytest.approx(one.value, rel=1e-4, abs=1e-5), one.metric
    from cognates.evaluation import drawn, likelihood

    for module, name in (
        (likelihood, "reconstruction_pass"), (likelihood, "bound_pass"),
        (drawn, "reference_pass"), (drawn, "sample_pass"), (drawn, "view_pass"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, None)
    again = evaluate(build(), *images, out=tmp_path, **kind)
    assert [r.value for r in again] == [r.value for r in first]


@pytest.mark.parametrize(
    ("name", "options", "missing", "sentence"),
    [
        ("vae", {}, "generated-views", "whose views share a latent, got vae"),
        ("cr-vae", {}, "generated-views", "whose views share a latent, got cr-vae"),
        ("simve", {"prior": "flat"}, "generation", "prior that can be drawn from"),
    ],
)
def test_what_a_method_does_not_have_is_left_out_and_refused_by_name(
    images, spec, name, options, missing, sentence
):
    method = build(name, **options)
    kind = {"views": [spec, spec], **KIND}
    found = {r.protocol for r in evaluate(method, *images, only=["generative"], **kind)}
    assert found == set(GENERATIVE) - {missing}
    with pytest.raises(ConfigError, match=sentence):
        evaluate(method, *images, only=[missing], **kind)


def test_a_method_that_draws_nothing_and_a_reference_that_is_the_run_are_refused(
    images, method, spec
):
    kind = {"views": [spec, spec], **KIND}
    for name in (*GENERATIVE, "generative"):
        with pytest.raises(ConfigError, match="draws images, got TinyMethod"):
            evaluate(method, *images, only=[name], **kind)
    own = build()
    options = {"method_name": "simve", "transform": TRANSFORM, "device": "cpu"}
    reference = reference_of(own, **options)
    assert reference.name == f"simve-{weights_digest(own)[:8]}"
    with pytest.raises(ConfigError, match="Expected another run as the reference"):
        evaluate(own, *images, only=["generation"], reference=reference, **kind)
    other = reference_of(method, **{**options, "method_name": "tiny"})
    require_other(other, own)
    found = evaluate(own, *images, only=["generation"], reference=other, **kind)
    assert found[0].metric == f"fid-{other.name}-40"
    assert found[0].settings["encoder"] == other.name


def test_without_labels_the_rest_is_measured(unlabelled, spec):
    lines: list[str] = []
    found = evaluate(build(), *unlabelled, views=[spec, spec], only=["generative"],
                     progress=lines.append, **KIND)  # fmt: skip
    assert {r.protocol for r in found} == set(GENERATIVE) - {"generated-views"}
    assert any("generated-views not run" in line for line in lines)
    assert not any("views-of-images" in line for line in lines)


def test_samples_and_views_come_from_the_prior_as_the_model_says(images):
    method, test = build(), images[1]
    seen: list[torch.Tensor] = []

    def encode(pictures: torch.Tensor) -> torch.Tensor:
        seen.append(pictures)
        return pictures.flatten(1)

    reference = Reference(name="pixels", digest="", encode=encode, device="cpu")
    found = [sample_pass(method, reference, test, number=i) for i in (0, 0, 1)]
    assert np.array_equal(found[0].representation, found[1].representation)
    assert not np.array_equal(found[0].representation, found[2].representation)
    assert found[0].representation.shape == (40, 256)
    grey = torch.cat(seen) * 255
    torch.testing.assert_close(grey, grey.round())  # 8 bits, as real images have
    for source in ("image", "prior"):
        views = view_pass(method, test, source=source, transform=TRANSFORM, limit=10)
        assert views.representation.shape == (40, 3)
        assert len(np.unique(views.index)) == 10
        raw = view_pass(method, test, source=source, transform=TRANSFORM, limit=10, pixels=True)
        again = method.embed(torch.from_numpy(raw.representation).view(-1, 1, 16, 16))
        np.testing.assert_allclose(again.representation.detach(), views.representation, atol=1e-5)
        assert np.array_equal(raw.index, views.index)
        same = view_pass(method, test, source=source, transform=TRANSFORM, limit=10, batch_size=8)
        np.testing.assert_allclose(same.representation, views.representation, atol=1e-5)
    flat = replace(method.config, prior="flat")
    method.config = flat
    with pytest.raises(ConfigError, match="prior that can be drawn from"):
        view_pass(method, test, source="prior", transform=TRANSFORM)


@pytest.mark.parametrize("source", ["image", "prior"])
def test_the_generated_views_of_a_group_scatter_around_one_psi(images, source):
    method, test, runs, within = build(), images[1], 12, 0.15
    prior, seen = method.config.prior_of(1), []
    method.model.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for seed in range(runs):
        view_pass(method, test, source=source, transform=TRANSFORM, seed=seed)
    z = torch.stack(seen).view(runs, len(test), 4, 3).double()
    middle, between = torch.zeros(1, 3), 0.925
    if source == "image":
        mean = posterior_of(method, TRANSFORM.view(torch.from_numpy(np.array(test.pixels)))).mean
        told = prior.common_mean(mean[:, None])
        middle, between = told.mean, 0.15 * 0.925 / (0.15 + 0.925)
    away = (z - middle.detach().double()[:, None]).movedim(-1, 0).flatten(0, 2)  # (3 runs n, 4)
    assert away.shape == (3 * runs * 40, 4)
    expected = within * torch.eye(4) + between * torch.ones(4, 4)
    found = away.T @ away / len(away)
    # 4.5 standard errors of a covariance of normals, of 16 numbers
    error = 4.5 * (within + between) * (2 / len(away)) ** 0.5
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=error)
    scatter = away.var(1).mean().item()
    assert scatter == pytest.approx(within, rel=4.5 * (2 / (3 * len(away))) ** 0.5)
