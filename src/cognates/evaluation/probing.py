"""Content and style by the same two probes: many targets read from one frozen representation.

Classes are predicted by the probes `linear` and `mlp`, numbers by `ridge` and `mlp`; every choice
is made on held-out training images. Numbers that all images have share one MLP, and so do
decisions (forty attributes cost what one does); linear probes are of one target each. Beside the
trained encoder stand the untrained one and the principal components of the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cognates.errors import DataError
from cognates.evaluation import bootstrap, linear, mlp, ridge
from cognates.evaluation.components import PIXELS, reduce
from cognates.evaluation.measures import Answer, Estimate, mean, measure
from cognates.evaluation.subjects import BASELINES, subjects
from cognates.types import Features, Result

LEAST = 5
"""Training and test images with a value without which a target is left out: a fifth is held out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """What is to be predicted; an image without a value takes no part in it."""

    name: str
    train: np.ndarray
    """(n,) classes, below 0 where there is none; or (n,), (n, k) numbers, NaN where there is none.
    """
    test: np.ndarray
    measures: tuple[str, ...] = ("accuracy",)
    """Of `evaluation.measures`; ("r2",) makes it a target of numbers."""
    groups: tuple[tuple[str, str], ...] = ()
    """Means over targets that this one counts in: (name, measure)."""

    @property
    def continuous(self) -> bool:
        """Whether numbers are predicted."""
        return self.measures == ("r2",)

    def usable(self) -> int:
        """Return how many images have a value, in the split with fewer."""
        return min(int(known(values).sum()) for values in (self.train, self.test))

    def varies(self) -> bool:
        """Return whether there are enough values and they differ, in both splits."""
        if self.usable() < LEAST:
            return False
        split = (values[known(values)] for values in (self.train, self.test))
        return not any((np.ptp(values, axis=0) == 0).any() for values in split)


class Read(NamedTuple):
    """One target read by one probe from one subject."""

    answer: Answer
    selected: Mapping[str, object]
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How `probe` names and records what it finds."""

    protocol: str
    seed: int
    grid: int = linear.GRID
    prefix: str = ""
    """Before the names of the targets, with its slash."""
    settings: Mapping[str, object] = field(default_factory=dict)


def probe(
    train: Features,
    test: Features,
    targets: Sequence[Target],
    plan: Plan,
    *,
    others: Mapping[str, Features] | None = None,
) -> list[Result]:
    r"""Return a record for every target, measure, probe and subject.

    Args:
        train: representations of the training images.
        test: of the test images.
        targets: for the rows of `train` and `test`; those that do not vary are left out, and
            `settings` name them under `left_out`.
        plan: names, seed and settings.
        others: features of the baselines by the names that protocols know.

    Returns:
        Metrics `TARGET/MEASURE/PROBE`, with `-minus-untrained` and `-minus-pixels` as elsewhere,
        and `TARGET/MEASURE/mlp-minus-linear` (`-ridge`) of the trained encoder; for a group
        `GROUP/MEASURE/PROBE`, the mean over its targets. `rare-class` flags an interval that is too
        narrow, as over 5 % of the resamples lack a class and take the value of all images.

    Raises:
        DataError: no target varies, or none has five images with a value in each split.
    """
    found = subjects(train, test, others or {})
    if "pixels" in found:
        found["pixels"] = reduce(*found["pixels"])
    varied = [target for target in targets if target.varies()]
    left_out = [target.name for target in targets if not target.varies()]
    most = max((target.usable() for target in targets), default=LEAST)
    if most < LEAST:
        raise DataError(
            f"Expected at least {LEAST} training and {LEAST} test images with a value for "
            f"'{plan.protocol}', got {most}: give more images."
        )
    if not varied:
        raise DataError(
            f"Expected targets that vary for '{plan.protocol}', got {', '.join(left_out) or 'none'}"
            ": every image has the same value."
        )
    settings = {**plan.settings, "grid": plan.grid, "pixels": f"pca-{PIXELS}"}
    if left_out:
        settings["left_out"] = left_out
    record = _Recorder(plan, settings)
    members: dict[tuple[str, str], list[_Estimates]] = {}
    shared = {
        (target, subject): read
        for subject, (a, b) in found.items()
        for several in _together(varied)
        for target, read in zip(
            several, _read_together(several, a.representation, b.representation, plan), strict=True
        )
    }
    for target in varied:
        read = {
            (name, subject): shared[target, subject]
            if name == "mlp" and (target, subject) in shared
            else _read(target, a.representation, b.representation, method, plan)
            for subject, (a, b) in found.items()
            for name, method in _probes(target)
        }
        for quantity in target.measures:
            estimates = {
                key: measure(quantity, one.answer, seed=plan.seed) for key, one in read.items()
            }
            record.target(f"{target.name}/{quantity}", estimates, read)
            for group in target.groups:
                if group[1] == quantity:
                    members.setdefault(group, []).append(estimates)
    for (group, quantity), several in members.items():
        together = {key: mean([one[key] for one in several]) for key in several[0]}
        record.target(f"{group}/{quantity}", together, {}, n=len(test.representation))
    return record.results


_Estimates = dict[tuple[str, str], Estimate]
_Fit = Callable[[np.ndarray, np.ndarray, np.ndarray, bool, Plan], Read]


class _Recorder:
    """Collects records of one protocol."""

    def __init__(self, plan: Plan, settings: Mapping[str, object]) -> None:
        self.results: list[Result] = []
        self._plan, self._settings = plan, settings

    def target(
        self,
        label: str,
        estimates: _Estimates,
        read: Mapping[tuple[str, str], Read],
        *,
        n: int | None = None,
    ) -> None:
        """Record one target and measure for all probes and subjects, and the differences."""
        probes = list(dict.fromkeys(name for name, _ in estimates))
        for (name, subject), estimate in estimates.items():
            one = read.get((name, subject))
            count = n if one is None else len(one.answer.truth)
            self._add(f"{label}/{name}", estimate, subject, count, one)
        first = next(iter(read.values()), None)
        count = n if first is None else len(first.answer.truth)
        for name in probes:
            for baseline in BASELINES:
                if (name, baseline) in estimates:
                    gap = estimates[name, "trained"].minus(estimates[name, baseline])
                    self._add(f"{label}/{name}-minus-{baseline}", gap, "trained", count)
        gap = estimates[probes[-1], "trained"].minus(estimates[probes[0], "trained"])
        self._add(f"{label}/{probes[-1]}-minus-{probes[0]}", gap, "trained", count)

    def _add(
        self,
        metric: str,
        estimate: Estimate,
        subject: str,
        n: int | None,
        read: Read | None = None,
    ) -> None:
        low, high = bootstrap.interval(estimate.samples)
        self.results.append(
            Result(
                protocol=self._plan.protocol,
                metric=self._plan.prefix + metric,
                value=estimate.value,
                low=low,
                high=high,
                n=n or 0,
                protocol_seed=self._plan.seed,
                settings=self._settings,
                selected={} if read is None else read.selected,
                subject=subject,
                flags=(*(() if read is None else read.flags), *estimate.flags),
            )
        )


def _probes(target: Target) -> Iterator[tuple[str, _Fit]]:
    if target.continuous:
        yield "ridge", _by_ridge
        yield "mlp", _by_mlp_regression
    else:
        yield "linear", _by_linear
        yield "mlp", _by_mlp


def _read(target: Target, x: np.ndarray, unseen: np.ndarray, fit: _Fit, plan: Plan) -> Read:
    seen, asked = known(target.train), known(target.test)
    balanced = "balanced-accuracy" in target.measures
    read = fit(x[seen], target.train[seen], unseen[asked], balanced, plan)
    return read._replace(answer=read.answer._replace(truth=_truth(target, asked)))


def _together(targets: Sequence[Target]) -> list[list[Target]]:
    """Return the targets that share an MLP: all numbers, or all decisions, of the same images."""
    groups: dict[tuple[bool, bytes, bytes], list[Target]] = {}
    for target in targets:
        decision = "balanced-accuracy" in target.measures and target.train.max() == 1
        if target.continuous or decision:
            masks = known(target.train).tobytes(), known(target.test).tobytes()
            groups.setdefault((target.continuous, *masks), []).append(target)
    return [several for several in groups.values() if len(several) > 1]


def _read_together(
    targets: Sequence[Target], x: np.ndarray, unseen: np.ndarray, plan: Plan
) -> list[Read]:
    seen, asked = known(targets[0].train), known(targets[0].test)
    y = np.column_stack([target.train[seen] for target in targets])
    inputs = x[seen], y, unseen[asked]
    if targets[0].continuous:
        whole = mlp.regress(*inputs, seed=plan.seed)
        ends = np.cumsum([target.train.reshape(len(x), -1).shape[1] for target in targets])[:-1]
        parts = zip(
            np.split(whole.values, ends, axis=1), np.split(whole.reference, ends), strict=True
        )
        reads = [
            _numbers(whole._replace(values=values, reference=reference))
            for values, reference in parts
        ]
    else:
        reads = [_classes(found) for found in mlp.decide(*inputs, seed=plan.seed)]
    return [
        read._replace(answer=read.answer._replace(truth=_truth(target, asked)))
        for target, read in zip(targets, reads, strict=True)
    ]


def _truth(target: Target, asked: np.ndarray) -> np.ndarray:
    truth = target.test[asked]
    return truth.reshape(len(truth), -1) if target.continuous else truth


def _by_linear(
    x: np.ndarray, y: np.ndarray, unseen: np.ndarray, balanced: bool, plan: Plan
) -> Read:
    return _classes(linear.fit(x, y, unseen, grid=plan.grid, balanced=balanced))


def _by_mlp(x: np.ndarray, y: np.ndarray, unseen: np.ndarray, balanced: bool, plan: Plan) -> Read:
    return _classes(mlp.classify(x, y, unseen, seed=plan.seed, balanced=balanced))


def _by_ridge(x: np.ndarray, y: np.ndarray, unseen: np.ndarray, balanced: bool, plan: Plan) -> Read:
    del balanced, plan
    return _numbers(ridge.fit(x, y, unseen))


def _by_mlp_regression(
    x: np.ndarray, y: np.ndarray, unseen: np.ndarray, balanced: bool, plan: Plan
) -> Read:
    del balanced
    return _numbers(mlp.regress(x, y, unseen, seed=plan.seed))


def _classes(found: linear.Prediction) -> Read:
    # of two classes the larger is ranked by its log-odds, which do not saturate at 1
    scores = found.log_probabilities
    score = scores[:, 1] - scores[:, 0] if len(found.classes) == 2 else None
    answer = Answer(np.empty(0), found.labels, score)
    return Read(answer, found.selected, found.flags)


def _numbers(found: ridge.Prediction) -> Read:
    answer = Answer(np.empty(0), found.values, reference=found.reference)
    return Read(answer, found.selected, found.flags)


def known(values: np.ndarray) -> np.ndarray:
    """Return which images have a value (n,)."""
    if values.dtype.kind == "f":
        return np.asarray(np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    return np.asarray(values >= 0)
