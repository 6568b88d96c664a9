"""`cognates data`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tyro

from cognates.cli.options import Source

_LISTED = 20
_CLASSES = 12


@dataclass(frozen=True, kw_only=True)
class Command:
    """Describe a source: counts, sizes, labels, splits, unreadable files.

    Only the headers of the files are read; nothing is decoded or written.
    """

    source: tyro.conf.Positional[Source]
    """folder:DIR, pairs:DIR, idx:DIR, npz:FILE_OR_DIR, hub:ORG/NAME or a bare name."""

    def run(self) -> None:
        """Print the description."""
        from cognates.data.sources import describe

        print(described(describe(self.source)))


def described(found: dict[str, Any]) -> str:
    """Return a description as text."""
    from cognates.cli.text import pairs

    rows = [
        ("source", f"{found['source']} ({found['kind']})"),
        ("images", f"{found['images']:,}"),
        ("width", _spread(found["sizes"]["width"])),
        ("height", _spread(found["sizes"]["height"])),
        (
            "modes",
            ", ".join(f"{mode} {count:,}" for mode, count in found["modes"].items()) or "none",
        ),
        ("targets", ", ".join(found["targets"]) or "none: the images have no labels"),
        ("splits", found["note"]),
    ]
    for name, split in found["splits"].items():
        rows.append((f"  {name}", f"{split['images']:,} images{_classes(split['labels'])}"))
    rows.append(("unreadable", f"{len(found['unreadable']):,}"))
    for path, reason in found["unreadable"][:_LISTED]:
        rows.append(("", f"{path}: {reason}"))
    if len(found["unreadable"]) > _LISTED:
        rows.append(("", f"and {len(found['unreadable']) - _LISTED:,} more"))
    return pairs(rows)


def _spread(values: list[float] | None) -> str:
    if values is None:
        return "unknown"
    low, middle, high = (f"{value:g}" for value in values)
    return f"{low} px" if low == high else f"{low} to {high} px, median {middle}"


def _classes(labels: dict[str, int]) -> str:
    if not labels:
        return ""
    shown = ", ".join(f"{name} {count:,}" for name, count in list(labels.items())[:_CLASSES])
    more = f" and {len(labels) - _CLASSES} more" if len(labels) > _CLASSES else ""
    return f" in {len(labels)} classes: {shown}{more}"
