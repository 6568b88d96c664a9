"""`cognates methods`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import typing
from typing import TYPE_CHECKING, Any

import tyro

from cognates.cli.options import OptionalFile, OptionalName

if TYPE_CHECKING:
    from cognates.methods.base import MethodConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """List the methods, or say what one of them is.

    For each: its default uncertainty and what that costs, its paper, and for one method its
    settings with their defaults, to be changed with cognates train --set method.NAME=VALUE.
    """

    name: tyro.conf.Positional[OptionalName] = None
    """The name of a method."""
    plugin: OptionalFile = None
    """A Python file that registers a method of yours."""

    def run(self) -> None:
        """Print the list or the description."""
        from cognates.cli.text import columns
        from cognates.methods import registry

        if self.plugin is not None:
            registry.load_plugin(self.plugin)
        if self.name is not None:
            print(describe(registry.get(self.name)))
            return
        kinds = [registry.get(name) for name in registry.names()]
        rows = [[kind.name, *_score(kind), kind.paper.split(", http")[0]] for kind in kinds]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        padded = [[cell.ljust(width) for cell, width in zip(r, widths, strict=True)] for r in rows]
        heads = ["method", "uncertainty", "its cost", "paper"]
        print(columns(padded, heads=[h.ljust(w) for h, w in zip(heads, widths, strict=True)]))


def describe(kind: type[MethodConfig]) -> str:
    """Return what a person wants to know about a method before using it."""
    from cognates.recipes import RECIPES

    module = inspect.getmodule(kind)
    about = inspect.cleandoc((module.__doc__ if module else None) or kind.__doc__ or "")
    score, cost = _score(kind)
    documented = field_docstrings(kind)
    lines = [about, "", f"Paper: {kind.paper}", f"Uncertainty: {score} ({cost})"]
    recipes = [recipe.of(kind.name) for recipe in RECIPES.values() if kind.name in recipe.methods]
    if recipes:
        lines += ["", "Recipes:"]
        lines += [f"  {r.name}: {r.data}. Expected: {r.expected}. Cost: {r.cost}." for r in recipes]
    lines += ["", "Settings (cognates train --set method.NAME=VALUE):"]
    for field in dataclasses.fields(kind):
        text = textwrap.fill(
            documented.get(field.name, ""), 88, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
        lines += [f"  {field.name} = {field.default!r}", *([text] if text else [])]
    return "\n".join(lines)


def field_docstrings(kind: type) -> dict[str, str]:
    """Return the string under each field of a class, as it stands in its source."""
    try:
        tree: Any = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = inspect.cleandoc(text)
    return found


def _score(kind: type[MethodConfig]) -> tuple[str, str]:
    """Return the default uncertainty and its cost, from the class that `build` promises."""
    try:
        method = typing.get_type_hints(kind.build)["return"]
        return method.default_score, method.score_cost
    except (NameError, KeyError, AttributeError, TypeError):
        return "not stated", "not stated"
