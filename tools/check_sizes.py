#!/usr/bin/env python3
"""Check what no linter here does: lengths of files and functions, and names that say nothing.

    python tools/check_sizes.py [FOLDER]

A file has at most 400 lines and a function 60, not counting its docstring; a module is called after
what is in it, never utils, helpers, misc or common. Prints each violation; exit code 1 if any.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("src", "tests", "tools", "benchmarks", "examples")
FILE_LINES = 400
FUNCTION_LINES = 60
NAMES_THAT_SAY_NOTHING = frozenset({"utils", "util", "helpers", "helper", "misc", "common"})


def violations(file: Path) -> Iterator[str]:
    """Yield a sentence for each rule that `file` breaks."""
    if {file.stem, file.parent.name} & NAMES_THAT_SAY_NOTHING:
        yield f"{file}: a name that says nothing"
    text = file.read_text(encoding="utf8")
    lines = len(text.splitlines())
    if lines > FILE_LINES:
        yield f"{file}: {lines} lines (at most {FILE_LINES})"
    for node in ast.walk(ast.parse(text, str(file))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = lines_without_docstring(node)
            if length > FUNCTION_LINES:
                place = f"{file}:{node.lineno}"
                yield f"{place}: {node.name} has {length} lines (at most {FUNCTION_LINES})"


def lines_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function has from `def` to its end, its docstring left out."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is None:
        return total
    return total - ((first.end_lineno or first.lineno) - first.lineno + 1)


def main(root: Path) -> int:
    """Check every Python file below `root`'s folders and return the exit code."""
    files = [file for name in FOLDERS for file in sorted((root / name).rglob("*.py"))]
    if not files:
        print(f"Expected Python files in {', '.join(FOLDERS)} of '{root}', got none.")
        return 1
    found = [sentence for file in files for sentence in violations(file)]
    print("\n".join([*found, f"{len(files)} files, {len(found)} too long or badly named"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path()))
