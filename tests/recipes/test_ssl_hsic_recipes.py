"""The recipes of SSL-HSIC: what they set, and that the command line's words lead to them."""

import math

import pytest
import torch

from cognates.objectives import ssl_hsic
from cognates.recipes import RECIPES, default, method_config, resolve
from cognates.training.prepare import peak_rate

OWN = ("fashion-mnist", "cifar10-small", "cifar10", "imagenette", "imagenet")


@pytest.mark.parametrize("name", OWN)
def test_a_recipe_named_for_the_method_has_the_methods_own_settings(name):
    found = resolve("ssl-hsic", recipe=name)
    assert found == RECIPES[name].build("ssl-hsic")
    assert found.method.name == "ssl-hsic"
    papers = name not in ("fashion-mnist", "cifar10-small")
    assert found.method.target == papers
    assert found.method.gamma == (3.0 if papers else 1.0)
    assert found.optimiser.constant_rate == ()
    # more images than gamma^2 + 1: with fewer a collapsed batch has the lower loss
    assert found.training.batch_size > found.method.gamma**2 + 1
    points = 2 * len(found.views) * found.training.batch_size
    assert (points <= found.method.exact_up_to) == (name != "imagenet")


def test_imagenet_is_the_released_codes_run():
    found = RECIPES["imagenet"].build("ssl-hsic")
    assert peak_rate(found) == pytest.approx(6.4)
    assert (found.training.batch_size, found.training.epochs) == (4096, 1000)
    assert (found.optimiser.name, found.optimiser.weight_decay) == ("lars", 1e-6)
    assert (found.method.dim, found.method.hidden, found.method.average) == (256, 4096, 0.999)
    assert [view.blur for view in found.views] == [1.0, 0.1]
    assert [view.solarise for view in found.views] == [0.0, 0.2]
    assert all(view.scale == (0.08, 1.0) for view in found.views)


def test_fashion_mnist_differs_from_the_other_methods_in_method_and_optimiser_only():
    ours, theirs = (RECIPES["fashion-mnist"].build(name) for name in ("ssl-hsic", "simsiam"))
    for part in ("encoder", "data", "views", "training"):
        assert getattr(ours, part) == getattr(theirs, part)
    assert ours.optimiser.learning_rate == 0.5


@pytest.mark.parametrize("images", [3, 8, 20, 40, 63, 64, 4000])
def test_a_small_folder_gets_a_gamma_at_which_spread_images_beat_a_collapse(images):
    class Source:
        native_size, native_channels, splits = None, 3, {"train": range(images)}

    found = default("ssl-hsic", Source(), spec="folder:photos")  # pyright: ignore
    batch, gamma = found.training.batch_size, found.method.gamma
    found.method.require_images(batch)
    z = torch.eye(batch, dtype=torch.float64).expand(2, batch, batch)
    dependence, variance = ssl_hsic(z, gamma=gamma).values()
    # a collapsed batch has 0; gamma has two digits
    assert -variance / dependence <= 3 / math.sqrt(15) + 0.005 / math.sqrt(batch - 1) + 1e-12
    assert (gamma == 3.0) == (batch >= 16)


def test_a_folder_gets_a_rate_at_which_the_method_spreads_its_points():
    class Source:
        native_size, native_channels, splits = None, 3, {"train": range(4000)}

    found = default("ssl-hsic", Source(), spec="folder:photos")  # pyright: ignore
    assert (found.optimiser.learning_rate, found.optimiser.constant_rate) == (0.5, ())
    assert found.method == method_config("ssl-hsic", dim=128, hidden=512)
    assert found.training.batch_size == 256
