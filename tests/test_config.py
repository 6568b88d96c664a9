import dataclasses

import pytest

from cognates.config import (
    DataConfig,
    EncoderConfig,
    OptimiserConfig,
    RunConfig,
    TrainingConfig,
    read,
)
from cognates.data.views import ViewSpec
from cognates.errors import ConfigError
from cognates.methods.registry import get as get_method
from cognates.recipes import named, resolve


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        (OptimiserConfig, {"learning_rate": 0.0}, "'learning_rate' above 0, got 0.0"),
        (OptimiserConfig, {"learning_rate": float("nan")}, "'learning_rate' above 0, got nan"),
        (OptimiserConfig, {"learning_rate": float("inf")}, "'learning_rate' above 0, got inf"),
        (OptimiserConfig, {"momentum": 1.0}, "'momentum' in [0, 1), got 1.0"),
        (OptimiserConfig, {"momentum": -0.1}, "'momentum' in [0, 1), got -0.1"),
        (OptimiserConfig, {"weight_decay": -1e-4}, "'weight_decay' of at least 0, got -0.0001"),
        (OptimiserConfig, {"warmup_epochs": -1.0}, "'warmup_epochs' of at least 0, got -1.0"),
        (OptimiserConfig, {"eps": 0.0}, "'eps' above 0, got 0.0"),
        (OptimiserConfig, {"clip": 0.0}, "'clip' above 0, or none, got 0.0"),
        (TrainingConfig, {"epochs": 0}, "'epochs' of at least 1, got 0"),
        (TrainingConfig, {"epochs": 1, "batch_size": 1}, "at least 2 images for each"),
        (TrainingConfig, {"epochs": 1, "batch_size": 8, "accumulate": 8}, "= 8 parts"),
        (TrainingConfig, {"epochs": 1, "checkpoint_minutes": -1.0}, "'checkpoint_minutes' of at"),
        (DataConfig, {"source": "x", "image_size": 8, "max_unreadable": 1.1}, "in [0, 1], got 1.1"),
    ],
)
def test_a_number_out_of_range_is_a_sentence_with_its_field_and_value(kind, fields, sentence):
    with pytest.raises(ConfigError) as caught:
        kind(**fields)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("Expected ")


def test_numbers_at_the_ends_of_their_ranges_are_taken():
    optimiser = OptimiserConfig(momentum=0.0, weight_decay=0.0, warmup_epochs=0.0, clip=None)
    assert optimiser.clip is None
    plan = TrainingConfig(epochs=1, batch_size=4, accumulate=2, checkpoint_minutes=0.0)
    assert plan.checkpoint_minutes == 0
    for share in (0.0, 1.0):
        assert DataConfig(source="x", image_size=8, max_unreadable=share).max_unreadable == share


def test_views_may_be_smaller_than_the_images_and_not_larger():
    config = RunConfig(
        method=get_method("simsiam")(),
        encoder=EncoderConfig(),
        data=DataConfig(source="x", image_size=16),
        views=(ViewSpec(size=12), ViewSpec(size=8)),
        training=TrainingConfig(epochs=1),
    )
    assert [view.size for view in config.views] == [12, 8]
    for large in ((17, 16), (16, 17)):
        with pytest.raises(ConfigError, match=r"'data\.image_size' = 16 pixels, got 17"):
            dataclasses.replace(config, views=tuple(ViewSpec(size=size) for size in large))


def test_a_warm_up_longer_than_the_run_is_refused_and_one_as_long_is_not():
    config = named.get("cifar10").build("simsiam")
    training = dataclasses.replace(config.training, epochs=5)
    whole = dataclasses.replace(config.optimiser, warmup_epochs=5.0)
    assert dataclasses.replace(config, training=training, optimiser=whole).training.epochs == 5
    longer = dataclasses.replace(config.optimiser, warmup_epochs=5.5)
    with pytest.raises(ConfigError, match=r"'training\.epochs' = 5, got 5\.5: train longer"):
        dataclasses.replace(config, training=training, optimiser=longer)
    with pytest.raises(ConfigError, match=r"warmup_epochs' of at most .* = 5, got 10"):
        resolve("simsiam", recipe="cifar10", epochs=5)


METHODS = (
    *("simsiam", "vi-simsiam", "ssl-hsic", "mc-info-nce", "loss-prediction", "post-hoc"),
    *("byol", "vicreg", "dino", "simclr", "clip", "combined"),
)


def test_every_recipe_builds_for_every_method_and_returns_from_json():
    pairs = [(recipe, method) for recipe in named.names() for method in METHODS]
    assert len(METHODS) == 12
    assert len(pairs) >= 12 * 13
    for recipe, method in pairs:
        config = named.get(recipe).build(method)
        assert RunConfig.from_json(config.to_json()) == config


def test_a_file_that_is_not_text_is_refused_by_name(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 the start of a photograph")
    for reader in (read, lambda path: resolve(None, config=path)):
        with pytest.raises(ConfigError, match=r"photo\.jpg', which is not text in UTF-8"):
            reader(path)
