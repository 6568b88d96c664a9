"""Plain tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def columns(rows: Sequence[Sequence[str]], *, heads: Sequence[str] = ()) -> str:
    """Return rows as aligned text: the first column to the left, the others to the right.

    Example:
        >>> print(columns([["knn", "84.8"], ["linear", "6.1"]], heads=["", "%"]))
                   %
        knn     84.8
        linear   6.1
    """
    every = [list(heads), *map(list, rows)] if heads else [list(row) for row in rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(every[0]))]
    lines = []
    for row in every:
        first = row[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Return names and values under each other, the values aligned to the left.

    Example:
        >>> print(pairs([("torch", "2.13.0"), ("device", "cpu")]))
        torch   2.13.0
        device  cpu
    """
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def left_out(count: int, where: Path) -> str:
    """Return a line about unreadable files and the file that lists them.

    Example:
        >>> left_out(1, Path("runs/photos/unreadable.txt"))
        'Left out, because unreadable: 1 file, listed in runs/photos/unreadable.txt'
    """
    files = f"{count:,} file{'' if count == 1 else 's'}"
    return f"Left out, because unreadable: {files}, listed in {where}"


def left_out_of_run(run: Path) -> str:
    """Return that line for the images of a run; nothing if all of them can be read."""
    listed = run / "unreadable.txt"
    try:
        count = len(listed.read_text(encoding="utf8").splitlines())
    except OSError:
        count = 0
    return left_out(count, listed) if count else ""
