"""Remember what was fitted: several protocols read the same probe and the same neighbours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from cognates.types import Features

R = TypeVar("R")


def once_per_pair(function: Callable[..., R]) -> Callable[..., R]:
    """Decorate `function(train, test, **options)` to compute once per pair of features and options.

    Features are compared by identity (they are frozen), and an answer lives as long as both of
    them.
    """
    kept: WeakKeyDictionary[Features, WeakKeyDictionary[Features, dict[Any, R]]]
    kept = WeakKeyDictionary()

    @functools.wraps(function)
    def remembered(train: Features, test: Features, **options: object) -> R:
        answers = kept.setdefault(train, WeakKeyDictionary()).setdefault(test, {})
        key = tuple(sorted(options.items()))
        if key not in answers:
            answers[key] = function(train, test, **options)
        return answers[key]

    return remembered
