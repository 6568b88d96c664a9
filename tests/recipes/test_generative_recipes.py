"""The numbers of SimVE's released code, as the recipes that repeat it have them.

Source: specification of SimVE, section 6 (networks, augmentation, hyperparameters) and section 7
(CelebA's tasks), read in the released code.
"""

import math

import pytest

from cognates import recipes
from cognates.evaluation.attributes import ALL, BINARY, GENDER, HAIR
from cognates.networks.image_model import ImageModelConfig


def test_the_released_runs_have_the_released_numbers():
    small = recipes.get("simve-fashion-mnist").build("simve")
    assert (small.encoder.name, small.method.model.decoder) == ("vae-mlp", "mlp")
    assert (small.method.model.latent_dim, small.method.model.likelihood) == (
        10,
        "tempered-bernoulli",
    )
    natural = recipes.get("simve-cifar10").build("simve")
    assert (natural.encoder.name, natural.method.model.decoder) == ("vae-resnet", "resnet")
    assert (natural.method.model.latent_dim, natural.method.model.likelihood) == (64, "normal")
    assert [view.scale for view in (*small.views, *natural.views)] == [(0.4, 1.0)] * 2 + [
        (0.6, 1.0)
    ] * 2
    assert {view.ratio for view in small.views} == {(0.75, 1.3)}
    for view in natural.views:
        colours = (view.jitter, view.brightness, view.contrast, view.saturation, view.hue)
        assert (*colours, view.grey) == (1.0, 0.8, 0.8, 0.8, 0.2, 0.0)
    for config in (small, natural):
        batch, adam = config.training.batch_size, config.optimiser
        assert (config.method.within, config.method.prior, len(config.views)) == (0.15, "normal", 2)
        assert (config.training.epochs, batch, adam.weight_decay) == (400, 64, 0.0)
        assert adam.learning_rate * batch / 256 == pytest.approx(8e-5, rel=1e-12)
        assert adam.eps * batch == pytest.approx(1e-4, rel=1e-12)


def test_the_variance_of_a_pixel_is_the_released_one():
    assert ImageModelConfig().variance == pytest.approx(math.exp(-4.6), rel=1e-12)


def test_the_tasks_of_celeba_are_those_of_the_released_list():
    binary = "0 1 3 4 5 6 7 10 12 15 18 19 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 39"
    assert tuple(map(int, binary.split())) == BINARY
    assert (len(BINARY), HAIR, GENDER, ALL) == (29, (8, 9, 11, 17), 20, 40)
