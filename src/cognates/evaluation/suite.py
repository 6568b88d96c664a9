"""One call from a frozen encoder to all records: features once, then every protocol.

`run_protocols` needs features alone; `evaluate` makes them from a method and images, keeps them on
disk, and writes `results.json` and `gallery.npz` into the run directory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

from cognates.data.images import Images
from cognates.data.tokens import Tokenizer
from cognates.data.views import ViewSpec
from cognates.errors import ConfigError, DataError
from cognates.evaluation import corruption, effects, kind_retrieval, linear
from cognates.evaluation.attributes import ATTRIBUTES
from cognates.evaluation.caption_retrieval import CAPTIONS, TEXTS
from cognates.evaluation.caption_retrieval import NAME as CAPTION_RETRIEVAL
from cognates.evaluation.drawings import write_drawings
from cognates.evaluation.drawn import GENERATIVE, Reference, drawable
from cognates.evaluation.earlier import staying
from cognates.evaluation.factors import FACTORS
from cognates.evaluation.features import Transform
from cognates.evaluation.gallery import write_gallery
from cognates.evaluation.kind_retrieval import KINDS
from cognates.evaluation.kinds import pairs_kinds
from cognates.evaluation.outsiders import LIMIT, require_others
from cognates.evaluation.pairs import reads_text
from cognates.evaluation.passes import FeaturePass
from cognates.evaluation.protocols import GROUPS, PROTOCOLS, Protocol, resolve
from cognates.evaluation.records import read_results, table, write_results
from cognates.evaluation.relative import Bank
from cognates.evaluation.splits import part_of
from cognates.evaluation.subjects import TARGET, has_labels
from cognates.evaluation.sweeps import CHANGES, Change
from cognates.methods.base import Method
from cognates.types import Features, Result

__all__ = ["GROUPS", "PROTOCOLS", "Protocol", "evaluate", "resolve", "run_protocols", "table"]

Say = Callable[[str], None]


def run_protocols(
    features: Mapping[str, Features],
    *,
    seed: int = 0,
    only: Sequence[str] | None = None,
    grid: int = linear.GRID,
    run_seed: int | None = None,
    hashes: Mapping[str, str] | None = None,
    progress: Say | None = None,
) -> list[Result]:
    r"""Run protocols on frozen features.

    Args:
        features: `train` and `test`; beside them `untrained-train`, `untrained-test`,
            `pixels-train`, `pixels-test`, `view1-test`, `view2-test` (also with a baseline's
            prefix), those of `sensitivity.sweep`, `ood-NAME` of other sets' images, and those of
            `augmentation.feature_name`, as far as they exist.
        seed: the protocols' seed: subsets, bootstrap, ties.
        only: names of protocols or groups; None: all standard ones.
        grid: number of penalties of the linear probes; the demo takes 6.
        run_seed: the pre-training seed, recorded.
        hashes: cache key of the features by subject, recorded.
        progress: called with one line per protocol.

    Returns:
        Records. A protocol that failed gives one record with `error` and the value NaN. Without
        labels the protocols that need them give nothing, and `progress` is told.

    Raises:
        ConfigError: an unknown protocol is named.
        DataError: every protocol of `only` needs labels, attributes or factors that are missing.
    """
    say = progress or (lambda line: None)
    train, test = features["train"], features["test"]
    others = {name: value for name, value in features.items() if name not in ("train", "test")}
    chosen = resolve(only)
    paired = {TEXTS: CAPTIONS, kind_retrieval.SECOND: KINDS}
    allowed = {what for name, what in paired.items() if name in others}
    lacking = _lacking(chosen, train, test, allowed)
    for what in dict.fromkeys(lacking.values()):
        skipped = ", ".join(name for name, needed in lacking.items() if needed == what)
        say(f"There are no {_PLURAL[what]}: {skipped} not run.")
    results = []
    for protocol in chosen:
        if protocol.name in lacking:
            continue
        started = time.perf_counter()
        options = {"grid": grid} if protocol.grid else {}
        try:
            found = protocol.run(train, test, seed=seed, others=others, **options)
        except Exception as error:  # whatever it is, the other protocols' values are not lost
            found = [_failed(protocol, error, test, seed)]
        seconds = time.perf_counter() - started
        say(f"{protocol.name}: {protocol.summary}, {seconds:.1f} s{_headline(found)}")
        for result in found:
            results.append(
                replace(
                    result,
                    version=protocol.version,
                    seed=run_seed,
                    dataset=test.dataset,
                    split=test.split,
                    layer="pixels" if result.subject == "pixels" else test.layer,
                    features=(hashes or {}).get(result.subject, ""),
                    seconds=round(seconds, 3),
                )
            )
    return results


def evaluate(
    method: Method,
    train: Images,
    test: Images,
    *,
    views: Sequence[ViewSpec],
    size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    untrained: Method | None = None,
    out: str | Path | None = None,
    only: Sequence[str] | None = None,
    seed: int = 0,
    run_seed: int | None = None,
    grid: int = linear.GRID,
    quantiles: np.ndarray | None = None,
    images: int | None = None,
    reference: Reference | None = None,
    bank: Bank | None = None,
    default_score: str | None = None,
    outside: Mapping[str, Images] | None = None,
    tokenizer: Tokenizer | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    progress: Say | None = None,
) -> list[Result]:
    r"""Evaluate a frozen method beside an untrained copy of it and raw pixels.

    Args:
        method: in eval mode, on `device`.
        train: training images; their labels, if any, train the probes.
        test: test images.
        views: the training views.
        size: height and width of the test view.
        mean: per channel, as in training.
        std: per channel, as in training.
        untrained: the same architecture freshly initialised, in eval mode, on `device`, its batch
            norm as it starts (see `evaluation.subjects`); None: without that subject.
        out: the run directory: features are kept in `features/`, records go to `results.json`,
            images to `gallery.npz`, where all are taken. Records of protocols that are not run now
            stay if they are about the features of these images, or of all, and about the same
            default score; `progress` is told of those that do not. None: nothing is written.
        only: names of protocols or groups; None: all standard ones, and those of generative methods
            that the method allows.
        seed: the protocols' seed.
        run_seed: the pre-training seed, recorded.
        grid: number of penalties of the linear probes; the demo takes 6.
        quantiles: (101,) quantiles of the default score among training images, for the gallery.
        images: at most so many images of each split, drawn by the seed; None: all, and of dSprites,
            for its protocol, 20,000 and 5,000. Settings record under `train` how many training
            images those were, where they were not all.
        reference: the encoder that samples are compared by; None: a random convolutional one.
        bank: training images that the `relative` scores compare with; None: drawn from `train`.
        default_score: the uncertainty that the method stands for; None: the method says.
        outside: images of other sets by name, for the protocol `ood`: at most 10,000 of each.
        tokenizer: the run's, if its method reads captions.
        device: where the methods are.
        batch_size: images per forward pass; values do not depend on it.
        progress: called with lines of text.

    Returns:
        Records, those of this call only.

    Raises:
        ConfigError: an unknown protocol is named, or one that the method does not allow; a method
            is in training mode; the reference is the method itself; `ood` without other images.
        DataError: every protocol of `only` needs labels, attributes or factors that are missing.
        NonFiniteError: a method gives a NaN.
        StorageError: something cannot be written.
    """
    drawn = drawable(method, only=only, reference=reference)
    allowed = _allowed(method, test, tokenizer)
    named, chosen = _named(only, drawn, allowed)
    lacking = _lacking(named, train, test, allowed)  # before the passes, which take time
    others = _outside(outside, test, images, seed) if "ood" in chosen else {}
    passes = FeaturePass(
        views=tuple(views),
        transform=Transform.of(size, mean, std),
        folder=None if out is None else Path(out) / "features",
        seed=seed,
        device=device,
        batch_size=batch_size,
        say=progress or (lambda line: None),
        bank=bank,
        default_score=default_score,
        grid=grid,
    )
    whole, given = test, train
    train, test = _taken(train, test, images, named, seed)
    found, hashes = passes.features(
        *(method, untrained, train, test),
        **_asked(chosen - lacking.keys(), test.pixels.shape[1]),
        outside=others,
        generative=[name for name in drawn if name not in lacking],
        reference=reference,
        tokenizer=tokenizer if CAPTIONS in allowed and CAPTION_RETRIEVAL in chosen else None,
    )
    kind = {"seed": seed, "only": [*chosen], "grid": grid, "run_seed": run_seed, "hashes": hashes}
    results = _telling(run_protocols(found, progress=progress, **kind), train, given)
    if out is not None:
        every = passes.hashes(method, untrained, whole)
        _write(Path(out), results, passes.say, run=chosen, now=hashes, known=every)
        _write_pictures(Path(out), method, test, found["test"], passes, quantiles, whole=whole)
    return results


def _telling(results: list[Result], train: Images, given: Images) -> list[Result]:
    """Return records that say how many training images were taken, where not all were."""
    if train is given:  # `features`, the cache key, names the test images alone
        return results
    return [replace(r, settings={"train": len(train), **r.settings}) for r in results]


def _allowed(method: Method, test: Images, tokenizer: Tokenizer | None) -> set[str]:
    """Return what a method has beyond an encoder that protocols need of it."""
    captions = tokenizer is not None and test.captions is not None and reads_text(method)
    return ({CAPTIONS} if captions else set()) | ({KINDS} if pairs_kinds(method) else set())


def _named(
    only: Sequence[str] | None, drawn: Sequence[str], allowed: set[str]
) -> tuple[list[Protocol], set[str]]:
    """Return what will run, unasked also what the kind of method allows, and its names."""
    unasked = [p.name for p in PROTOCOLS.values() if p.needs in allowed] if only is None else []
    usual = [p.name for p in resolve(only) if p.name not in GENERATIVE]
    named = resolve([*usual, *unasked, *drawn])
    return named, {protocol.name for protocol in named}


def _write_pictures(
    out: Path,
    method: Method,
    images: Images,
    features: Features,
    passes: FeaturePass,
    quantiles: np.ndarray | None,
    *,
    whole: Images,
) -> None:
    """Write what the report shows of the test images."""
    seed, device = passes.seed, passes.device
    write_drawings(out / "drawings.npz", method, images, passes.transform, seed=seed, device=device)
    if images is whole and features.default_score is not None:
        write_gallery(out / "gallery.npz", images, features, quantiles=quantiles, seed=seed)


def _taken(
    train: Images, test: Images, most: int | None, named: Sequence[Protocol], seed: int
) -> tuple[Images, Images]:
    """Return the images that are evaluated: a protocol's own limit gives way to a stated one."""
    limits = next((p.images for p in named if p.images), (None, None))
    first, second = limits if most is None else (most, most)
    return part_of(train, first, seed=seed), part_of(test, second, seed=seed)


def _outside(
    outside: Mapping[str, Images] | None, test: Images, most: int | None, seed: int
) -> dict[str, Images]:
    """Return the images of other sets that are taken."""
    most = LIMIT if most is None else most
    found = require_others(outside, test)
    return {name: part_of(images, most, seed=seed) for name, images in found.items()}


class _Asked(TypedDict):
    with_views: bool
    sweeps: list[Mapping[str, Change]]
    with_augmented: bool
    with_theory: bool
    with_kinds: bool


def _asked(chosen: set[str], channels: int) -> _Asked:
    """Return which passes the protocols that will run read, and the changes of their sweeps."""
    sweeps = {
        "sensitivity": CHANGES,
        "crop": CHANGES,
        "corruption": corruption.changes(),
        effects.NAME: effects.changes(channels),
    }
    asked = {tuple(changes): changes for name, changes in sweeps.items() if name in chosen}
    return {
        "with_views": bool({"view-retrieval", "dependence"} & chosen),
        "sweeps": [*asked.values()],
        "with_augmented": "augmentation" in chosen,
        "with_theory": "theory" in chosen,
        "with_kinds": kind_retrieval.NAME in chosen,
    }


def _write(
    out: Path,
    results: list[Result],
    say: Say,
    *,
    run: set[str],
    now: Mapping[str, str],
    known: Mapping[str, str],
) -> None:
    path = out / "results.json"
    earlier = read_results(path) if path.is_file() else []
    keys = {"now": {*now.values()}, "known": {*known.values()}}
    write_results(path, [*staying(earlier, results, run=run, say=say, **keys), *results])


_PLURAL = {
    TARGET: "labels",
    ATTRIBUTES: "attributes",
    FACTORS: "factors",
    CAPTIONS: "captions that the method reads",
    KINDS: "two kinds of image that the method pairs",
}


def _lacking(
    chosen: Sequence[Protocol],
    train: Features | Images,
    test: Features | Images,
    allowed: set[str],
) -> dict[str, str]:
    """Return the protocols whose target is missing, with its name.

    Raises:
        ConfigError: that is all of them, and it is the method that misses it.
        DataError: that is all of them.
    """

    def there(target: str) -> bool:
        if not target or target == TARGET:
            return not target or has_labels(train, test)
        if target in (CAPTIONS, KINDS):
            return target in allowed
        return target in train.targets and target in test.targets

    lacking = {p.name: p.needs for p in chosen if not there(p.needs)}
    if chosen and all(lacking.get(p.name) == KINDS for p in chosen):
        raise ConfigError(
            f"Expected a method that pairs two kinds of image for {kind_retrieval.NAME}, got one "
            "that does not: train clip with method.second=image and a view of each kind."
        )
    if chosen and len(lacking) == len(chosen):
        what = " and ".join(_PLURAL[target] for target in dict.fromkeys(lacking.values()))
        free = [p.name for p in PROTOCOLS.values() if p.standard and not p.needs]
        free += [p.name for p in PROTOCOLS.values() if p.needs and there(p.needs)][:1]
        raise DataError(
            f"Expected {what} for {', '.join(lacking)}, got images without ('{test.dataset}'): "
            f"without {what} {', '.join(free[:-1])} and {free[-1]} can be measured."
        )
    return lacking


def _failed(protocol: Protocol, error: Exception, test: Features, seed: int) -> Result:
    return Result(
        protocol=protocol.name,
        metric="failed",
        value=float("nan"),
        low=None,
        high=None,
        n=len(test.representation),
        protocol_seed=seed,
        interval="none",
        error=f"{type(error).__name__}: {error}",
    )


def _headline(found: list[Result]) -> str:
    if not found:
        return ""
    if found[0].error is not None:
        return f"; failed: {found[0].error}"
    return f": {found[0].metric} {found[0].value:.3f}"
