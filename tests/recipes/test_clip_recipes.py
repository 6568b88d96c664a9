"""CLIP's recipes: the paper's numbers, and two views of an image where there are no captions."""

from __future__ import annotations

import pytest

from cognates.config import RunConfig
from cognates.methods.base import TextConfig
from cognates.recipes import RECIPES, resolve
from cognates.training.prepare import peak_rate

IMAGES = ("fashion-mnist", "cifar10-small", "cifar10", "imagenette", "imagenette-64")


def test_there_are_seven_recipes_with_clip():
    found = {name for name, recipe in RECIPES.items() if "clip" in recipe.methods}
    assert found == {*IMAGES, "flickr8k", "clip"}


@pytest.mark.parametrize("name", IMAGES)
def test_sets_without_captions_pair_two_views_with_an_encoder_each(name):
    found, theirs = (RECIPES[name].build(method) for method in ("clip", "simsiam"))
    for part in ("encoder", "data", "views", "training"):
        assert getattr(found, part) == getattr(theirs, part)
    assert (found.method.name, found.method.second, found.method.text) == ("clip", "image", None)
    assert found.method.completed(channels=3, image_size=32, views=2) == found.method
    assert (found.optimiser.name, found.optimiser.clip) == ("adamw", 1.0)
    assert resolve("clip", recipe=name) == found
    known = RECIPES[name].of("clip")
    assert "2103.00020" in known.paper
    measured = name in ("fashion-mnist", "cifar10-small")
    assert known.expected.startswith("20,000 images" if measured else "not measured")


def test_flickr8ks_run_reads_all_its_captions_and_whole_epochs():
    config = RECIPES["flickr8k"].build("clip")
    assert config.method.text == TextConfig(vocabulary=2000, length=24, captions=5, omitted=0.3)
    assert (config.method.text_layers, config.method.text_pooling) == (1, "mean")
    assert 6000 % config.training.batch_size == 0
    (view,) = config.views
    assert (view.size, view.scale) == (64, (0.25, 1.0))
    assert resolve("clip", recipe="flickr8k") == config


def test_the_papers_run_has_the_numbers_of_its_tables():
    config = RECIPES["clip"].build("clip")
    method, adam = config.method, config.optimiser
    assert (config.training.epochs, config.training.batch_size) == (32, 32768)
    assert peak_rate(config) == pytest.approx(5e-4, rel=1e-12)
    assert (adam.name, adam.weight_decay, adam.eps) == ("adamw", 0.2, 1e-8)
    assert adam.warmup_epochs * 400e6 / 32768 == pytest.approx(2000, rel=1e-12)
    assert (method.dim, method.vocabulary, method.length) == (1024, 49408, 76)
    assert (method.text_width, method.text_layers, method.text_heads) == (512, 12, 8)
    assert (config.encoder.name, method.temperature) == ("resnet50", 0.07)
    (view,) = config.views
    assert (view.size, view.ratio, view.flip, view.jitter, view.grey) == (224, (1, 1), 0, 0, 0)
    assert view.scale[0] == view.scale[1] == (7 / 8) ** 2
    assert RunConfig.from_json(config.to_json()) == config
