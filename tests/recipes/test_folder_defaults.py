"""The default for a folder: every method can be trained with it, a user's own too."""

import dataclasses
import sys
from pathlib import Path

import pytest
from PIL import Image

from cognates.config import EncoderConfig, RunConfig
from cognates.errors import ConfigError
from cognates.methods import registry
from cognates.recipes import resolve
from cognates.training import prepare

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_method.py"
METHODS = registry.names()


@pytest.fixture
def photos(tmp_path):
    for i in range(10):
        Image.new("RGB", (20, 20), (20 * i,) * 3).save(tmp_path / f"{i}.png")
    return f"folder:{tmp_path}"


@pytest.fixture
def own_method(monkeypatch):
    """Forget the example afterwards: tests elsewhere list the known methods."""
    for table in ("_REGISTERED", "_PLUGINS"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("cognates_plugin_"):
            del sys.modules[name]


def optimiser_of(config):
    """Make what the first step needs; a small encoder stands for ResNet-18."""
    small = EncoderConfig(name="mlp", width=8)
    if config.method.models_pixels:
        small = EncoderConfig(name="vae-mlp")
    config = dataclasses.replace(config, encoder=small)
    return prepare.build_optimiser(config, prepare.build_method(config))


def test_every_registered_method_is_tried():
    assert len(METHODS) == 16
    assert {"mc-info-nce", "combined", "clip", "simve"} <= set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_the_default_for_a_folder_fits_the_method(method, photos):
    config = resolve(method, data=photos, device="cpu")
    groups = optimiser_of(config).param_groups
    assert sum(len(group["params"]) for group in groups) > 4
    constant = any(group["constant"] for group in groups)
    assert constant == (config.optimiser.constant_rate != ())
    assert constant == (method in ("simsiam", "vi-simsiam", "loss-prediction", "combined"))


@pytest.mark.parametrize("start", [{}, {"recipe": "imagenette"}])
def test_a_method_of_ones_own_needs_no_predictor(start, photos, own_method):
    config = resolve(None, plugin=EXAMPLE, data=photos, device="cpu", **start)
    assert config.method.name == "my-method"
    assert config.optimiser.constant_rate == ()
    assert len(optimiser_of(config).param_groups) == 2


def test_a_record_of_another_method_loses_its_predictor_and_the_own_one_keeps_it(photos):
    theirs = resolve("simsiam", data=photos, device="cpu")
    assert theirs.optimiser.constant_rate == ("predictor",)
    assert resolve(None, config=theirs) == theirs
    found = resolve("mc-info-nce", config=theirs)
    assert found.optimiser == dataclasses.replace(theirs.optimiser, constant_rate=())


def test_combined_without_its_predictor_trains_and_what_is_asked_for_is_not_dropped(photos):
    settings = ["method.weights.cosine=0"]
    config = resolve("combined", data=photos, device="cpu", settings=settings)
    assert config.optimiser.constant_rate == ()
    optimiser_of(config)
    asked = [*settings, 'optimiser.constant_rate=["predictor"]']
    config = resolve("combined", data=photos, device="cpu", settings=asked)
    assert isinstance(config, RunConfig)
    with pytest.raises(ConfigError, match="'predictor': did you mean 'projector'") as told:
        optimiser_of(config)
    assert "encoder." not in str(told.value)
