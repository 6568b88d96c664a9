"""Runs of a method that draws images: pixels in [0, 1], draws that resume and share out."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cognates.config import EncoderConfig, OptimiserConfig
from cognates.data.augment import make_views
from cognates.data.views import crop_and_flip
from cognates.errors import ConfigError, Interrupted
from cognates.evaluation.features import extract
from cognates.methods.registry import get
from cognates.model import Model
from cognates.networks.image_model import ImageModelConfig
from cognates.recipes import RECIPES, resolve
from cognates.recipes.generative import METHODS
from cognates.training import prepare
from cognates.training.loop import fit

SIZE = 8


@pytest.fixture
def drawing(config, changed):
    """Return a function that makes a run of a generative method without batch norm."""

    def make(name="simve", views=2, **fields):
        return changed(
            config,
            method=get(name)(model=ImageModelConfig(latent_dim=3, decoder="mlp")),
            encoder=EncoderConfig(name="vae-mlp"),
            views=(crop_and_flip(SIZE),) * views,
            optimiser=OptimiserConfig(name="adamw", learning_rate=1e-3, weight_decay=0.0),
            training__epochs=1,
            **fields,
        )

    return make


@pytest.mark.parametrize("name", METHODS)
def test_a_run_sees_pixels_and_its_model_embeds_with_the_posteriors_entropy(
    name, drawing, tmp_path
):
    recorded = fit(drawing(name), tmp_path / "run", progress=False)
    assert (recorded.data.mean, recorded.data.std) == ((0.0,), (1.0,))
    model = Model.read(tmp_path / "run", device="cpu")
    assert model.default_score == "posterior-entropy"
    h, u = model.embed(torch.zeros(3, 1, SIZE, SIZE, dtype=torch.uint8))
    assert (h.shape, u.shape) == ((3, 3), (3,))
    assert u.isfinite().all()


def test_the_further_scores_stand_beside_the_default_in_the_features(drawing, tmp_path):
    config = drawing()
    fit(config, tmp_path / "run", progress=False)
    model = Model.read(tmp_path / "run", device="cpu")
    features = extract(
        model.method,
        prepare.load_images(config),
        views=config.views,
        size=SIZE,
        mean=(0.0,),
        std=(1.0,),
    )
    own = {"posterior-entropy", "negative-elbo", "reconstruction"}
    assert own <= set(features.scores)
    assert features.default_score == "posterior-entropy"


def test_accumulated_parts_give_the_weights_of_the_whole_batch(drawing, tmp_path):
    weights = []
    for accumulate in (1, 4):
        config = drawing(training__accumulate=accumulate, training__precision="64-true")
        fit(config, tmp_path / str(accumulate), progress=False)
        method = Model.read(tmp_path / str(accumulate), device="cpu").method
        weights.append(torch.cat([p.detach().flatten() for p in method.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


def test_a_resumed_run_is_the_run_bit_by_bit(drawing, tmp_path, stop_at):
    config = drawing(views=3)
    fit(config, tmp_path / "whole", progress=False)
    stop_at(2)
    with pytest.raises(Interrupted):
        fit(config, tmp_path / "parts", progress=False)
    stop_at(100)
    fit(config, tmp_path / "parts", resume=True, progress=False)
    whole, parts = (Model.read(tmp_path / n, device="cpu").method for n in ("whole", "parts"))
    pairs = list(zip(whole.parameters(), parts.parameters(), strict=True))
    assert len(pairs) > 10
    assert all(torch.equal(a, b) for a, b in pairs)


def test_normalised_views_one_view_and_another_size_are_refused_before_a_folder_exists(
    drawing, tmp_path
):
    model = ImageModelConfig(latent_dim=3, decoder="mlp", image_size=16)
    larger = dataclasses.replace(drawing("vae"), method=get("vae")(model=model))
    for config, sentence in (
        (drawing(data__mean=(0.5,), data__std=(0.25,)), r"images in \[0, 1\]"),
        (drawing(views=1), "at least 2 views"),
        (larger, "which the decoder draws"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            fit(config, tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()


def test_every_generative_recipe_builds_a_method_whose_networks_fit():
    found = [recipe for recipe in RECIPES.values() if recipe.methods == METHODS]
    assert len(found) == 4
    for recipe in found:
        for name in METHODS:
            config = recipe.build(name)
            assert config.method.name == name
            assert config.optimiser.name == "adamw"
            if recipe.name.startswith("simve"):
                assert config.optimiser.eps == 1e-4 / 64
                # 8e-5 at every step
                assert prepare.peak_rate(config) == pytest.approx(8e-5)
                groups = prepare.build_optimiser(config, prepare.build_method(config)).param_groups
                assert all(group["constant"] for group in groups)
        # CR-VAE's first view is the image
        pixels = torch.randint(0, 256, (4, config.data.channels, *[config.data.image_size] * 2))
        options = {"seed": 0, "step": 0, "n_global": 4, "start": 0, "mean": None, "std": None}
        first = make_views(pixels.to(torch.uint8), config.views[:1], **options)[0]
        torch.testing.assert_close(first, pixels / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_other_starts_are_adapted_to_a_method_that_draws(name, source):
    for config in (resolve(name, data=source), resolve(name, recipe="demo")):
        assert config.method.name == name
        assert config.encoder.name == "vae-convnet"
        assert config.optimiser.name == "adamw"
        assert [view.size for view in config.views] == [config.data.image_size] * 2
