"""Recipes: functions that return the configuration of a run; with paper, expectation and cost."""

from __future__ import annotations

from cognates.recipes.defaults import default, method_config
from cognates.recipes.named import RECIPES, Recipe, get, names
from cognates.recipes.resolve import resolve

__all__ = ["RECIPES", "Recipe", "default", "get", "method_config", "names", "resolve"]
