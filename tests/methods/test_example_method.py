"""The example of a user's single-file method: it loads as a plug-in and keeps every promise."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from cognates.errors import ConfigError
from cognates.methods import get, load_plugin, registry
from cognates.random import generator
from cognates.testing import check_method

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_method.py"


@pytest.fixture(scope="module")
def kind():
    registered, modules = dict(registry._REGISTERED), set(sys.modules)
    assert load_plugin(EXAMPLE) == ["my-method"]
    yield get("my-method")
    # Forget it: tests elsewhere list the known methods.
    registry._REGISTERED.clear()
    registry._REGISTERED.update(registered)
    for name in set(sys.modules) - modules:
        if name.startswith("cognates_plugin_"):
            del sys.modules[name]


@pytest.mark.parametrize("views", [2, 3])
def test_the_example_passes_the_standard_tests(kind, views):
    check_method(kind(dim=16, hidden=16), views=views)


def test_the_example_is_short_and_loads_twice_without_harm(kind):
    assert len(EXAMPLE.read_text().splitlines()) < 130
    assert load_plugin(EXAMPLE) == ["my-method"]
    assert get("my-method") is kind


def test_a_plug_in_is_known_by_its_content(kind, tmp_path):
    copy = tmp_path / "plugin.py"
    copy.write_bytes(EXAMPLE.read_bytes())
    assert load_plugin(copy) == ["my-method"]
    assert get("my-method") is kind
    copy.write_text(EXAMPLE.read_text() + "\n# another version\n")
    with pytest.raises(ConfigError, match="with the checksum"):
        load_plugin(copy, sha256=registry.plugin_of(kind()).sha256)
    assert load_plugin(copy) == ["my-method"]
    other = get("my-method")
    assert other is not kind
    assert registry.plugin_of(other()).source == copy.read_bytes()
    # The one that was named last gives the name its meaning.
    assert load_plugin(EXAMPLE) == ["my-method"]
    assert get("my-method") is kind
    assert [path.name for path in tmp_path.iterdir()] == ["plugin.py"]


def test_its_hyperparameters_have_a_help_text_and_a_check(kind):
    fields = [field.name for field in dataclasses.fields(kind)]
    assert fields == ["dim", "hidden", "weight"]
    with pytest.raises(ConfigError, match="weight"):
        kind(weight=-1.0)


def test_its_objective_is_zero_for_equal_decorrelated_views_and_counts_what_is_missing(
    monkeypatch,
):
    spec = importlib.util.spec_from_file_location("example_method_alone", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    gen = generator(0, "example")
    z = torch.randn(64, 8, generator=gen)
    z = torch.linalg.qr(z - z.mean(0)).Q * 8  # centred, unit variance, uncorrelated
    terms = module.redundancy_reduction(z, z, weight=0.5)
    assert list(terms) == ["invariance", "redundancy"]
    assert all(value.item() == pytest.approx(0, abs=1e-6) for value in terms.values())
    same = z[:, :1].expand(64, 8)
    terms = module.redundancy_reduction(same, same, weight=0.5)
    assert terms["redundancy"].item() == pytest.approx(0.5 * 7, rel=1e-3)
    terms = module.redundancy_reduction(z, -z, weight=0.5)
    assert terms["invariance"].item() == pytest.approx(4, rel=1e-3)
