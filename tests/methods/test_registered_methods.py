"""The standard tests of a method hold for every registered one, with small sizes and as built."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional

from cognates.errors import ConfigError
from cognates.methods import MethodConfig, get, names, registry
from cognates.methods.vicreg import VicRegConfig
from cognates.recipes import method_config
from cognates.testing import check_method
from cognates.types import END, START, Batch
from tests.small import SMALL


def test_all_methods_are_registered_and_say_what_their_score_costs():
    assert len(registry._BUILTIN) == 16
    assert set(registry._BUILTIN) <= set(names())
    assert all(issubclass(get(name), MethodConfig) for name in registry._BUILTIN)


@pytest.mark.ddp
@pytest.mark.parametrize("name", sorted(registry._BUILTIN))
def test_the_standard_tests_hold_on_two_processes_as_well(name):
    check_method(method_config(name, **SMALL), views=2)


@pytest.mark.parametrize("name", sorted(registry._BUILTIN))
def test_each_of_three_views_has_a_say_in_the_loss_of_every_method(name):
    config = method_config(name, **SMALL)
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(32, 9), nn.Tanh(), nn.Linear(9, 5))
    method = config.completed(channels=2, image_size=4, views=3).build(encoder, width=5).train()
    views = tuple(torch.rand(3, 8, 2, 4, 4))
    words = torch.randint(3, SMALL["vocabulary"], (8, 3))
    text = functional.pad(functional.pad(words, (1, 0), value=START), (0, 1), value=END)
    batch = Batch(views=views, index=torch.arange(8), step=0, seed=0, text=text)
    with torch.no_grad():
        whole = copy.deepcopy(method)(batch).total
        for number in range(3):
            others = [view.flip(0) if i == number else view for i, view in enumerate(views)]
            changed = copy.deepcopy(method)(batch._replace(views=tuple(others))).total
            assert abs(changed - whole) > 1e-6 * abs(whole), f"view {number}"


@dataclass(frozen=True, kw_only=True)
class Elsewhere(VicRegConfig):
    name: ClassVar[str] = "vicreg-elsewhere"


@pytest.fixture
def declared(monkeypatch):
    """Return a function that installs, so to say, a package with one entry point."""
    package = ModuleType("elsewhere")
    package.Elsewhere = Elsewhere  # pyright: ignore[reportAttributeAccessIssue]
    package.number = 3  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "elsewhere", package)
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))

    def declare(name, value):
        entry = EntryPoint(name, value, "cognates.methods")
        monkeypatch.setattr(registry, "entry_points", lambda group: {entry.group: [entry]}[group])

    return declare


def test_an_entry_point_of_another_package_makes_a_method_known(declared):
    declared("vicreg-elsewhere", "elsewhere:Elsewhere")
    assert "vicreg-elsewhere" in names()
    assert get("vicreg-elsewhere") is Elsewhere
    check_method(method_config("vicreg-elsewhere", **SMALL))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("vicreg-there", "elsewhere:Elsewhere", "called as its configuration .* got 'vicreg-else"),
        ("vicreg-elsewhere", "elsewhere:number", "a subclass of MethodConfig, got 3"),
        ("vicreg-elsewhere", "elsewhere:Nothing", "to import, got AttributeError"),
        ("vicreg-elsewhere", "nowhere:Elsewhere", "to import, got ModuleNotFoundError"),
    ],
)
def test_an_entry_point_that_does_not_keep_its_promise_is_named(declared, name, value, said):
    declared(name, value)
    with pytest.raises(ConfigError, match=f"Expected the entry point '{name} = {value}'.*{said}"):
        get(name)
    assert name not in registry._REGISTERED


def test_a_name_of_the_library_cannot_be_taken_and_a_record_keeps_its_meaning():
    kind = get("vicreg")

    @dataclass(frozen=True, kw_only=True)
    class Another(VicRegConfig):
        pass  # the name is inherited

    with pytest.raises(ConfigError, match="name of its own for Another, got 'vicreg'"):
        registry.register(Another)
    assert get("vicreg") is kind
