"""The part of a page that compares runs: groups over seeds, paired differences, what differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from cognates.report import differences, figures, readings, statements
from cognates.report.blocks import (
    Cell,
    Column,
    Drawing,
    Header,
    Part,
    Row,
    Table,
    difference,
    interval,
    number,
    percent,
    share,
)
from cognates.report.collect import Group, RunRecord

_ENOUGH = 3
"""Seeds from which an interval is given (evaluation protocol, section on intervals)."""
_BEYOND = ("environment", "images", "evaluation")
"""First words of the names of differences that no configuration records."""


def header(groups: Sequence[Group]) -> Header:
    """Return which runs these are and which of them is ahead."""
    count = sum(len(g.runs) + len(g.copies) for g in groups)
    if len(groups) == 1:
        seeds = [str(run.seed) for run in groups[0].runs]
        word = "seed" if len(seeds) == 1 else "seeds"
        headline = f"{count} runs of one configuration, {word} {', '.join(seeds)}"
    else:
        headline = f"{count} runs in {len(groups)} configurations, side by side"
    return Header("comparison", headline, _finding(groups), _warnings(groups))


def parts(groups: Sequence[Group]) -> list[Part]:
    """Return the tables and figures of the comparison."""
    found = [_values(groups), _differences(groups), _settings(groups), _curves(groups)]
    return [part for part in found if part is not None]


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the mean and its Student t interval; no interval below three values.

    Example:
        >>> mean_interval([1.0, 2.0])
        (1.5, None, None)
        >>> [round(x, 4) for x in mean_interval([1.0, 2.0, 3.0])]
        [2.0, -0.4841, 4.4841]
    """
    mean = math.fsum(values) / len(values)
    if len(values) < _ENOUGH:
        return mean, None, None
    from scipy.stats import t

    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    half = float(t.ppf(0.975, len(values) - 1)) * math.sqrt(variance / len(values))
    return mean, mean - half, mean + half


def _metrics(
    groups: Sequence[Group],
) -> dict[str, tuple[Callable[[RunRecord], float | None], bool]]:
    """Return what can be compared: how to read it from a run, and whether it is a fraction."""
    found: dict[str, tuple[Callable[[RunRecord], float | None], bool]] = {}
    mixed = _mixed_versions(groups)
    for run in (run for g in groups for run in g.runs):
        for label, (result, fraction) in readings.compared(run).items():
            if result.protocol not in mixed:
                found.setdefault(label, (_reader(label), fraction))
    return found


def _mixed_versions(groups: Sequence[Group]) -> dict[str, list[int]]:
    """Return the protocols whose values are of several versions, which no table may mix."""
    found: dict[str, set[int]] = {}
    for run in (run for g in groups for run in g.runs):
        for result, _ in readings.compared(run).values():
            found.setdefault(result.protocol, set()).add(result.version)
    return {name: sorted(versions) for name, versions in found.items() if len(versions) > 1}


def _reader(label: str) -> Callable[[RunRecord], float | None]:
    return lambda run: readings.comparable(run).get(label, (None, False))[0]


def _values(groups: Sequence[Group]) -> Part | None:
    metrics = _metrics(groups)
    if not metrics:
        return None
    rows = []
    for label, (read, fraction) in metrics.items():
        cells = [_over_seeds([read(run) for run in g.runs], fraction) for g in groups]
        rows.append(Row(label, cells))
    columns = [
        Column(f"{g.name} ({_count(len(g.runs))})", figures.SERIES[i % len(figures.SERIES)])
        for i, g in enumerate(groups)
    ]
    text = (
        "Mean over the seeds of a group, with Student's t interval from three seeds on. It says "
        "how far a repetition with another seed would move the value; the interval over images, "
        "of each run alone, is in its own part below."
    )
    drawings = [_dots(label, read, fraction, groups) for label, (read, fraction) in metrics.items()]
    return Part("Side by side", text, [Table("trained encoder", columns, rows)], drawings[:4])


def _over_seeds(values: Sequence[float | None], fraction: bool) -> Cell:
    present = [v for v in values if v is not None]
    if not present:
        return Cell("–")
    mean, low, high = mean_interval(present)
    show = percent if fraction else number
    return Cell(show(mean), interval(low, high, show))


def _dots(
    label: str, read: Callable[[RunRecord], float | None], fraction: bool, groups: Sequence[Group]
) -> Drawing:
    rows = []
    for i, g in enumerate(groups):
        values = [v for v in map(read, g.runs) if v is not None]
        if values:
            colour = figures.SERIES[i % len(figures.SERIES)]
            rows.append([figures.Interval(g.name, *mean_interval(values), colour, strong=True)])
    return Drawing(label, figures.dots(rows, title=f"comparison: {label}", percent=fraction))


def _differences(groups: Sequence[Group]) -> Part | None:
    """Return every group against the first, paired by seed."""
    metrics = _metrics(groups)
    if len(groups) < 2 or not metrics:
        return None
    base, others = groups[0], groups[1:]
    rows = []
    for label, (read, fraction) in metrics.items():
        cells = []
        for other in others:
            pairs = _pairs(base, other, read)
            cells.append(
                difference(*mean_interval(pairs), fraction=fraction) if pairs else Cell("–")
            )
        rows.append(Row(label, cells))
    columns = [Column(f"{g.name} − {base.name} ({_shared(base, g)} shared)") for g in others]
    text = (
        "The difference to the first configuration, seed by seed: runs that share a seed share "
        "their order of images and their draws. With fewer than three shared seeds there is no "
        "interval, and a difference may be nothing but the seed."
    )
    return Part("Paired by seed", text, [Table("difference", columns, rows)])


def _pairs(base: Group, other: Group, read: Callable[[RunRecord], float | None]) -> list[float]:
    first: Mapping[int, float | None] = {run.seed: read(run) for run in base.runs}
    second = {run.seed: read(run) for run in other.runs}
    pairs = ((first[seed], second[seed]) for seed in sorted(first.keys() & second.keys()))
    return [b - a for a, b in pairs if a is not None and b is not None]


def _shared(base: Group, other: Group) -> str:
    return _count(len({r.seed for r in base.runs} & {r.seed for r in other.runs}))


def _settings(groups: Sequence[Group]) -> Part | None:
    """Return what differs besides the seed: between the groups, and between the runs of one."""
    tables, said = [], []
    if len(groups) > 1:
        found = differences.between(groups)
        said.append(
            f"{len(found)} settings differ between these configurations. A comparison is about one "
            "of them only if it stands here alone."
        )
        tables.append(_listed("setting", [g.name for g in groups], found))
    for g in groups:
        found = differences.within(g)
        if found:
            said.append(f"The runs of {g.name} differ among themselves, in {len(found)}.")
            names = [f"{run.name} (seed {run.seed})" for run in g.runs]
            tables.append(_listed(f"within {g.name}", names, found))
    if not tables:
        return None
    return Part("What differs", " ".join(said), tables)


def _listed(corner: str, names: Sequence[str], found: Sequence[tuple[str, list[str]]]) -> Table:
    rows = [Row(name, [Cell(value) for value in values]) for name, values in found]
    return Table(corner, [Column(name) for name in names], rows)


def _curves(groups: Sequence[Group]) -> Part | None:
    """Return the first run of each group over its epochs."""
    with_metrics = [g for g in groups if g.runs[0].metrics]
    if not with_metrics:
        return None
    drawings = []
    for title, name, reference in (
        ("Spread", "spread", 0.1),
        ("Effective rank", "effective_rank", 2.0),
    ):
        series = {
            g.name: (
                [float(m["epoch"]) for m in g.runs[0].metrics],
                [float(m[name]) for m in g.runs[0].metrics],
            )
            for g in with_metrics
        }
        drawing = figures.curves(series, title=f"comparison: {title}", reference=reference)
        drawings.append(Drawing(title, drawing, "Colours as above; the first run of each group."))
    text = "Losses of different methods have different units, so only what they share is drawn."
    return Part("Training", text, figures=drawings)


def _finding(groups: Sequence[Group]) -> list[str]:
    """Return which group is ahead in the first metric, if there is one."""
    metrics = _metrics(groups)
    if len(groups) < 2 or not metrics:
        return []
    label, (read, fraction) = next(iter(metrics.items()))
    label = label.removesuffix(", %")
    means = []
    for g in groups:
        values = [v for v in map(read, g.runs) if v is not None]
        if values:
            means.append((mean_interval(values)[0], g.name))
    if len(means) < 2:
        return []
    means.sort(reverse=True)
    show = share if fraction else number
    (best, name), (second, other) = means[:2]
    return [f"{label}: {name} leads with {show(best)}, followed by {other} with {show(second)}."]


def _warnings(groups: Sequence[Group]) -> list[str]:
    said = []
    if len(groups) > 1:
        found = [name for name, _ in differences.between(groups)]
        if len(found) > 1:
            said.append(
                f"These configurations differ in {len(found)} settings, listed below: a difference "
                "between them cannot be put down to one alone."
            )
        beyond = [name for name in found if name.split(".")[0] in _BEYOND]
        if beyond:
            said.append(f"Beyond their configuration they differ in {', '.join(beyond)}.")
    said += [line for g in groups if (line := differences.sentence(g))]
    said += [_copies(g) for g in groups if g.copies]
    said += [
        f"The protocol '{name}' has values of versions {', '.join(map(str, versions))}, which no "
        "table may mix, and is left out: evaluate the older runs again."
        for name, versions in _mixed_versions(groups).items()
    ]
    if min(len(g.runs) for g in groups) < _ENOUGH:
        said.append("Fewer than three seeds in a group: no interval over seeds is given for it.")
    failed = [run.name for g in groups for run in g.runs if not run.results]
    if failed:
        said.append(f"Not evaluated yet: {', '.join(failed)} (cognates evaluate RUN).")
    said += [
        f"{run.name}: {w}"
        for g in groups
        for run in g.runs
        for w in statements.warnings(run)
        if w.startswith("The representation has collapsed")
    ]
    return said


def _copies(group: Group) -> str:
    """Return which runs repeat a seed and do not count."""
    names = ", ".join(f"{run.name} (seed {run.seed})" for run in group.copies)
    count = len({run.seed for run in group.runs})
    return (
        f"{group.name} has copies of one seed, which say nothing about another and are left out of "
        f"means and intervals: {names}; {_count(count)} counted."
    )


def _count(runs: int) -> str:
    return f"{runs} seed" if runs == 1 else f"{runs} seeds"
