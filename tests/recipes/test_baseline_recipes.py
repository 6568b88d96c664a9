"""The recipes of BYOL, VICReg, DINO and SimCLR: what they share with others, and what not."""

import pytest

from cognates.recipes import RECIPES, baselines, default, resolve
from cognates.recipes.defaults import BASELINES
from cognates.training.prepare import peak_rate

COMMON = ("fashion-mnist", "cifar10-small", "cifar10", "imagenette", "imagenette-64")


def test_there_are_four_methods_and_six_recipes_each():
    assert baselines.METHODS == BASELINES == ("byol", "vicreg", "dino", "simclr")
    for method in baselines.METHODS:
        own = {name for name, recipe in RECIPES.items() if method in recipe.methods}
        assert own == {*COMMON, "imagenet"}


@pytest.mark.parametrize("method", baselines.METHODS)
@pytest.mark.parametrize("name", COMMON)
def test_small_images_differ_from_simsiams_run_in_method_and_optimiser_alone(name, method):
    found, theirs = (RECIPES[name].build(each) for each in (method, "simsiam"))
    for part in ("encoder", "data", "views", "training"):
        assert getattr(found, part) == getattr(theirs, part)
    assert found.method.name == method
    assert (found.optimiser.name, found.optimiser.constant_rate) == ("sgd", ())
    known = RECIPES[name].of(method)
    measured = name in ("fashion-mnist", "cifar10-small")
    assert known.expected.startswith("20,000 images" if measured else "not measured")
    assert "https://arxiv.org/abs/" in known.paper
    assert resolve(method, recipe=name) == found


def test_imagenet_is_each_papers_run():
    byol, vicreg, dino, simclr = (RECIPES["imagenet"].build(name) for name in baselines.METHODS)
    assert (byol.training.batch_size, byol.training.epochs) == (4096, 1000)
    assert (peak_rate(byol), byol.optimiser.weight_decay) == (pytest.approx(3.2), 1.5e-6)
    assert (vicreg.training.batch_size, vicreg.training.epochs) == (2048, 1000)
    assert (peak_rate(vicreg), vicreg.optimiser.weight_decay) == (pytest.approx(1.6), 1e-6)
    assert [view.solarise for view in byol.views] == [0.0, 0.2]
    assert [view.size for view in dino.views] == [224] * 2 + [96] * 8
    assert [view.scale for view in dino.views] == [(0.14, 1.0)] * 2 + [(0.05, 0.14)] * 8
    assert dino.method.global_views == 2
    assert (dino.training.batch_size, dino.training.epochs) == (1024, 100)
    assert (peak_rate(dino), dino.optimiser.weight_decay) == (pytest.approx(0.12), 1e-4)
    assert (dino.optimiser.name, dino.optimiser.warmup_epochs) == ("sgd", 10.0)
    assert (simclr.training.batch_size, simclr.training.epochs) == (4096, 1000)
    assert (peak_rate(simclr), simclr.optimiser.weight_decay) == (pytest.approx(4.8), 1e-6)
    assert [(view.brightness, view.hue, view.blur) for view in simclr.views] == [
        (0.8, 0.2, 0.5)
    ] * 2
    assert (simclr.method.temperature, simclr.method.dim) == (0.1, 128)
    assert RECIPES["cifar10"].build("simclr").method.temperature == 0.5
    assert {each.encoder.name for each in (byol, vicreg, dino, simclr)} == {"resnet50"}
    assert "not repeated here" in RECIPES["imagenet"].of("byol").expected


@pytest.mark.parametrize("method", baselines.METHODS)
def test_a_folder_gets_heads_of_a_size_that_fits(method):
    class Source:
        native_size, native_channels, splits = None, 3, {"train": range(4000)}

    found = default(method, Source(), spec="folder:photos")  # pyright: ignore
    assert found.method == baselines.heads(method, width=512)
    assert found.optimiser.constant_rate == ()
