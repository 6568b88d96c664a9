"""Images in: sources, the decoded cache, the loader and the views.

The names below are imported on first use, so that the configuration can read `views` without
paying for the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cognates.data.cache import load
    from cognates.data.images import Images
    from cognates.data.loader import LoadedBatch, batches, permutation, steps_per_epoch
    from cognates.data.sources import describe, open_source
    from cognates.data.splits import Source, Split

__all__ = [
    "Images",
    "LoadedBatch",
    "Source",
    "Split",
    "batches",
    "describe",
    "load",
    "open_source",
    "permutation",
    "steps_per_epoch",
]

_HOMES = {
    "Images": "images",
    "LoadedBatch": "loader",
    "Source": "splits",
    "Split": "splits",
    "batches": "loader",
    "describe": "sources",
    "load": "cache",
    "open_source": "sources",
    "permutation": "loader",
    "steps_per_epoch": "loader",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'cognates.data' has no attribute '{name}'")
    return getattr(importlib.import_module(f"cognates.data.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
