"""Options of several values, given once or piecemeal."""

from __future__ import annotations

import pytest

from cognates.cli.main import parse


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
