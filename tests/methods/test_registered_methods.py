"""The standard tests of a method hold for every registered one, with small sizes and as built."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import ClassVar

import pytest

from cognates.methods import MethodConfig, get, names, registry
from cognates.methods.vicreg import VicRegConfig
from cognates.recipes import method_config
from cognates.testing import check_method
from tests.small import SMALL


def test_all_methods_are_registered_and_say_what_their_score_costs():
    assert len(registry._BUILTIN) == 15
    assert set(registry._BUILTIN) <= set(names())
    assert all(issubclass(get(name), MethodConfig) for name in registry._BUILTIN)


@pytest.mark.ddp
@pytest.mark.parametrize("name", sorted(registry._BUILTIN))
def test_the_standard_tests_hold_on_two_processes_as_well(name):
    check_method(method_config(name, **SMALL), views=2)


def test_an_entry_point_of_another_package_makes_a_method_known(monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class Elsewhere(VicRegConfig):
        name: ClassVar[str] = "vicreg-elsewhere"

    package = ModuleType("elsewhere")
    package.Elsewhere = Elsewhere  # pyright: ignore[reportAttributeAccessIssue]
    entry = EntryPoint("vicreg-elsewhere", "elsewhere:Elsewhere", "cognates.methods")
    monkeypatch.setitem(sys.modules, "elsewhere", package)
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    monkeypatch.setattr(registry, "entry_points", lambda group: {entry.group: [entry]}[group])
    assert "vicreg-elsewhere" in names()
    assert get("vicreg-elsewhere") is Elsewhere
    check_method(method_config("vicreg-elsewhere", **SMALL))
