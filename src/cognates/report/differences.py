"""What differs between runs besides their seed: settings, environment, images, evaluation.

Only runs that count are looked at, not the copies of a seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cognates.report.collect import SEED, Group, RunRecord, flatten

MISSING = "\N{EM DASH}"
_ENVIRONMENT = ("cognates", "commit", "python", "torch", "numpy", "device", "cpu", "threads")
"""What of the environment is compared, because it can change a figure."""
_EVALUATION = "evaluation"
_PROTOCOLS = f"{_EVALUATION}.protocols"
_CONSEQUENCES = {"error_rate", "width"}
"""Recorded beside the settings of a protocol, but found, not chosen."""


def facts(record: RunRecord) -> dict[str, str]:
    """Return everything about a run that can move its figures, but the seed, by dotted name."""
    found: dict[str, Any] = {k: v for k, v in flatten(record.config).items() if k != SEED}
    environment = record.environment
    found |= {f"environment.{k}": environment[k] for k in _ENVIRONMENT if k in environment}
    # The source stands in the configuration; the note says in words what the counts say.
    data = {k: v for k, v in record.data.items() if k not in ("source", "note")}
    found |= flatten(data, "images") if data else {}
    return {name: _shown(value) for name, value in found.items()} | _evaluation(record)


def between(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Return what the groups differ in, with its value in each of them.

    Where the runs of one group differ, its value names the seeds of each: "2.12.0 (seed 0), 2.13.0
    (seeds 1, 2)".
    """
    described = []
    for g in groups:
        known = [facts(run) for run in g.runs]
        names = dict.fromkeys(name for one in known for name in one)
        described.append({name: _by_seed(g.runs, known, name) for name in names})
    return _rows(described)


def within(group: Group) -> list[tuple[str, list[str]]]:
    """Return what the runs of a group differ in besides their seed, with the value of each run."""
    return _rows([facts(run) for run in group.runs])


def sentence(group: Group) -> str:
    """Return what the runs of a group differ in as one sentence, nothing if they do not."""
    rows = within(group)
    if not rows:
        return ""
    known = [facts(run) for run in group.runs]
    listed = "; ".join(f"{name}: {_by_seed(group.runs, known, name)}" for name, _ in rows)
    return (
        f"The runs of {group.name} differ in more than their seed, so that their interval is not "
        f"about the seed alone: {listed}."
    )


def _rows(described: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    names = dict.fromkeys(name for one in described for name in one)
    rows = [(name, [one.get(name, MISSING) for one in described]) for name in names]
    return [(name, values) for name, values in rows if _differ(name, values)]


def _differ(name: str, values: Sequence[str]) -> bool:
    present = set(values)
    if name.startswith(f"{_EVALUATION}.") and name != _PROTOCOLS:
        # A protocol that did not run is said once, not with every setting of it.
        present.discard(MISSING)
    return len(present) > 1


def _by_seed(runs: Sequence[RunRecord], known: Sequence[Mapping[str, str]], name: str) -> str:
    seeds: dict[str, list[int]] = {}
    for run, one in zip(runs, known, strict=True):
        seeds.setdefault(one.get(name, MISSING), []).append(run.seed)
    if len(seeds) == 1:
        return next(iter(seeds))
    return ", ".join(
        f"{value} (seed{'s' if len(of_value) > 1 else ''} {', '.join(map(str, of_value))})"
        for value, of_value in seeds.items()
    )


def _evaluation(record: RunRecord) -> dict[str, str]:
    """Return version, seed, images and settings of every protocol that gave a value."""
    found: dict[str, dict[str, None]] = {}
    for r in record.results:
        if r.error is not None or r.subject != "trained":
            continue
        chosen: dict[str, object] = {
            "version": r.version,
            "seed": r.protocol_seed,
            "dataset": r.dataset,
            "split": r.split,
            "images": r.n,
            **r.settings,
        }
        for name, value in chosen.items():
            # Baselines go by the same names everywhere; what a method stands for may differ.
            other_score = name == "score" and "default" not in r.flags
            if name not in _CONSEQUENCES and not other_score:
                values = found.setdefault(f"{_EVALUATION}.{r.protocol}.{name}", {})
                values.setdefault(_shown(value))
    protocols = dict.fromkeys(r.protocol for r in record.results if r.error is None)
    shown = {name: ", ".join(sorted(values)) for name, values in found.items()}
    return {_PROTOCOLS: ", ".join(sorted(protocols)), **shown} if protocols else shown


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
