"""Options of several values, given once or piecemeal."""

from __future__ import annotations

import importlib
import re

import pytest

from cognates.cli.main import COMMANDS, main, parse
from cognates.cli.options import flags


@pytest.mark.parametrize(
    "arguments",
    [
        ["simsiam", "--set", "a=1", "b=2", "--epochs", "3"],
        ["simsiam", "--set", "a=1", "--epochs", "3", "--set", "b=2"],
        ["--set", "a=1", "--epochs", "3", "simsiam", "--set=b=2"],
        ["--set=a=1", "simsiam", "--set", "b=2", "--epochs=3"],
    ],
)
def test_a_repeated_setting_stands_beside_the_earlier_one(arguments):
    command = parse("train", arguments)
    assert (command.settings, command.method, command.epochs) == (("a=1", "b=2"), "simsiam", 3)


@pytest.mark.parametrize(
    ("name", "fixed", "option", "field", "values"),
    [
        ("train", [], "--seeds", "seeds", (1, 2)),
        ("fit-uncertainty", ["run", "--out", "o"], "--set", "settings", ("a", "b")),
        ("evaluate", ["run"], "--only", "only", ("knn", "linear")),
        ("evaluate", ["run"], "--ood", "ood", ("npz:a", "npz:b")),
    ],
)
def test_every_option_of_several_values_may_be_repeated(name, fixed, option, field, values):
    repeated = [word for value in values for word in (option, str(value))]
    assert getattr(parse(name, [*fixed, *repeated]), field) == values


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_options_that_are_offered_are_those_of_the_help(name, monkeypatch, capsys):
    assert len(COMMANDS) == 15
    monkeypatch.setenv("COLUMNS", "100")
    assert main([name, "--help"]) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    shown = re.findall(r"^[^\w-]*(--[a-z][\w-]*)", text, flags=re.MULTILINE)
    offered = flags(importlib.import_module(f"cognates.cli.{name.replace('-', '_')}").Command)
    assert sorted({*shown} - {"--help"}) == sorted(offered)


def test_an_unknown_option_never_offers_the_name_of_a_field(fails):
    said = fails("fit-uncertainty", "run", "--out", "x", "--settings", "x")
    assert "'--settings' of 'cognates fit-uncertainty': did you mean '--set'?" in said
    assert said.count("--settings") == 1
    said = fails("fit-uncertainty", "run", "--out", "x", "--encodr", "x")
    assert "--encoder" not in said
    assert "did you mean '--set'?" in fails("train", "--settings", "x")
