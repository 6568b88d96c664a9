"""How a benchmark leaves its result: a JSON file and a table, with all that repeating it takes."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def environment(device: str = "cpu") -> dict[str, Any]:
    """Return commit (and whether files differ from it), command, machine, versions and date."""
    from cognates.training.record import environment as of_run

    found = of_run(device=device, devices=1)
    root = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no", "src"]
    status = subprocess.run(command, capture_output=True, text=True, check=False)
    name = Path(sys.argv[0]).resolve().relative_to(root)
    found["command"] = f"python {name} {shlex.join(sys.argv[1:])}".strip()
    found["commit_is_exact"] = status.returncode == 0 and not status.stdout.strip()
    found["date"] = datetime.now(UTC).date().isoformat()
    return found


def write(
    name: str,
    *,
    title: str,
    note: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    data: dict[str, Any],
    device: str = "cpu",
) -> str:
    """Write `results/NAME.json` and `results/NAME.md`; return the table as printed.

    Args:
        name: of the two files.
        title: the table's heading.
        note: what was measured, in a sentence or two.
        header: names of the columns.
        rows: cells as text.
        data: the figures as data.
        device: what they were computed on.
    """
    found = environment(device)
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"environment": found, **data}, indent=1, default=str) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf8")
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    table = "\n".join(lines)
    exact = "" if found["commit_is_exact"] else " with changes"
    made = (
        f"`{found['command']}` at commit {(found['commit'] or 'unknown')[:12]}{exact}, "
        f"{found['date']}; {found['cpu']}, {found['threads']} threads, {found['device']}; "
        f"torch {found['torch']}, Python {found['python']}."
    )
    page = f"# {title}\n\n{note}\n\n{table}\n\n{made}\n"
    (RESULTS / f"{name}.md").write_text(page, encoding="utf8")
    return table
