"""One call from a frozen encoder to all records: features once, then every protocol.

`run_protocols` needs features alone; `evaluate` makes them from a method and images, keeps them on
disk, and writes `results.json` and `gallery.npz` into the run directory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cognates.data.images import Images
from cognates.data.views import ViewSpec
from cognates.errors import ConfigError, DataError, nearest
from cognates.evaluation import linear
from cognates.evaluation.dependence import dependence
from cognates.evaluation.drawings import write_drawings
from cognates.evaluation.drawn import Reference
from cognates.evaluation.features import Transform
from cognates.evaluation.few_labels import few_labels
from cognates.evaluation.gallery import write_gallery
from cognates.evaluation.generation import generated_views, generation
from cognates.evaluation.knn import knn, knn_200
from cognates.evaluation.likelihood import elbo, reconstruction
from cognates.evaluation.passes import GENERATIVE, FeaturePass, drawable
from cognates.evaluation.records import read_results, table, write_results
from cognates.evaluation.retrieval import view_retrieval
from cognates.evaluation.sensitivity import sensitivity
from cognates.evaluation.spread import representation_spread
from cognates.evaluation.subjects import has_labels
from cognates.evaluation.uncertainty import auroc_error, deciles
from cognates.methods.base import Method
from cognates.types import Features, Result

__all__ = ["GROUPS", "PROTOCOLS", "Protocol", "evaluate", "resolve", "run_protocols", "table"]

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A protocol as the suite knows it."""

    name: str
    run: Callable[..., list[Result]]
    summary: str
    needs_labels: bool = False
    grid: bool = False
    """Whether it takes the number of penalties."""
    version: int = 1
    """Raised by any change of a default or a definition; tables refuse to mix versions."""
    standard: bool = True
    """Whether it runs when no protocol is named."""


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="knn", run=knn, summary="weighted k nearest neighbours", needs_labels=True
        ),
        Protocol(
            name="knn-200",
            run=knn_200,
            summary="the same with k = 200, for published tables",
            needs_labels=True,
            standard=False,
        ),
        Protocol(
            name="linear", run=linear.linear, summary="linear probe", needs_labels=True, grid=True
        ),
        Protocol(
            name="few-labels",
            run=few_labels,
            summary="linear probe on ten labels per class",
            needs_labels=True,
            grid=True,
        ),
        Protocol(
            name="deciles",
            run=deciles,
            summary="accuracy by uncertainty",
            needs_labels=True,
            grid=True,
        ),
        Protocol(
            name="auroc-error",
            run=auroc_error,
            summary="AUROC of the uncertainty for errors",
            needs_labels=True,
            grid=True,
            version=2,
        ),
        Protocol(
            name="view-retrieval", run=view_retrieval, summary="finding the other view of an image"
        ),
        Protocol(
            name="spread",
            run=representation_spread,
            summary="spread and effective rank",
            version=2,
        ),
        Protocol(
            name="dependence",
            run=dependence,
            summary="HSIC of the representation, and InfoNCE beside its approximation",
            standard=False,
        ),
        Protocol(
            name="sensitivity", run=sensitivity, summary="uncertainty against crop and blur"
        ),
        Protocol(name="reconstruction", run=reconstruction, summary="reconstruction error",
                 standard=False),
        Protocol(name="elbo", run=elbo, summary="bounds on the likelihood", standard=False),
        Protocol(name="generation", run=generation, summary="samples against test images",
                 standard=False),
        Protocol(name="generated-views", run=generated_views, needs_labels=True, grid=True,
                 summary="do views drawn from one psi share a class?", standard=False),
    )
}  # fmt: skip

GROUPS = {
    "uncertainty": ("deciles", "auroc-error"),
    "retrieval": ("view-retrieval",),
    "generative": GENERATIVE,
}
"""Names for several protocols, accepted wherever a protocol is named."""


def resolve(only: Sequence[str] | None) -> list[Protocol]:
    """Return the protocols named, in the suite's order; None: the standard ones.

    Raises:
        ConfigError: a name is not known; the nearest one is offered.
    """
    if only is None:
        return [protocol for protocol in PROTOCOLS.values() if protocol.standard]
    wanted = set()
    for name in only:
        if name not in PROTOCOLS and name not in GROUPS:
            raise ConfigError(
                f"Expected the name of a protocol, got '{name}': "
                f"{nearest(name, [*PROTOCOLS, *GROUPS])}."
            )
        wanted.update(GROUPS.get(name, (name,)))
    return [protocol for name, protocol in PROTOCOLS.items() if name in wanted]


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
            prefix), `crop-test` and `blur-test` as far as they exist.
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
        DataError: every protocol of `only` needs labels, and there are none.
    """
    say = progress or (lambda line: None)
    train, test = features["train"], features["test"]
    others = {name: value for name, value in features.items() if name not in ("train", "test")}
    chosen = resolve(only)
    labelled = has_labels(train, test)
    _require_measurable(chosen, test.dataset, labelled=labelled)
    if not labelled and any(protocol.needs_labels for protocol in chosen):
        skipped = ", ".join(protocol.name for protocol in chosen if protocol.needs_labels)
        say(f"There are no labels: {skipped} not run.")
    results = []
    for protocol in chosen:
        if protocol.needs_labels and not labelled:
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
    reference: Reference | None = None,
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
            images to `gallery.npz`. Records of protocols that are not run now stay if they are
            about the same features. None: nothing is written.
        only: names of protocols or groups; None: all standard ones, and those of generative methods
            that the method allows.
        seed: the protocols' seed.
        run_seed: the pre-training seed, recorded.
        grid: number of penalties of the linear probes; the demo takes 6.
        quantiles: (101,) quantiles of the default score among training images, for the gallery.
        reference: the encoder that samples are compared by; None: a random convolutional one.
        device: where the methods are.
        batch_size: images per forward pass; values do not depend on it.
        progress: called with lines of text.

    Returns:
        Records, those of this call only.

    Raises:
        ConfigError: an unknown protocol is named, or one that the method does not allow; a method
            is in training mode; the reference is the method itself.
        DataError: every protocol of `only` needs labels, and there are none.
        NonFiniteError: a method gives a NaN.
        StorageError: something cannot be written.
    """
    drawn = drawable(method, only=only, reference=reference)
    only = [*(p.name for p in resolve(only) if p.name not in GENERATIVE), *drawn]
    labelled = has_labels(train, test)
    # Before the passes, which take the time.
    _require_measurable(resolve(only), test.dataset, labelled=labelled)
    chosen = set(only)
    passes = FeaturePass(
        views=tuple(views),
        transform=Transform.of(size, mean, std),
        folder=None if out is None else Path(out) / "features",
        seed=seed,
        device=device,
        batch_size=batch_size,
        say=progress or (lambda line: None),
    )
    found, hashes = passes.features(
        method,
        untrained,
        train,
        test,
        with_views=bool({"view-retrieval", "dependence"} & chosen),
        with_sweeps="sensitivity" in chosen,
        generative=[name for name in drawn if labelled or not PROTOCOLS[name].needs_labels],
        reference=reference,
    )
    results = run_protocols(
        found,
        seed=seed,
        only=only,
        grid=grid,
        run_seed=run_seed,
        hashes=hashes,
        progress=progress,
    )
    if out is not None:
        _write(Path(out), results, chosen, hashes)
        _write_pictures(Path(out), method, test, found["test"], passes, quantiles)
    return results


def _write_pictures(
    out: Path,
    method: Method,
    images: Images,
    features: Features,
    passes: FeaturePass,
    quantiles: np.ndarray | None,
) -> None:
    """Write what the report shows of the test images."""
    seed, device = passes.seed, passes.device
    write_drawings(out / "drawings.npz", method, images, passes.transform, seed=seed, device=device)
    if features.default_score is not None:
        write_gallery(out / "gallery.npz", images, features, quantiles=quantiles, seed=seed)


def _write(out: Path, results: list[Result], chosen: set[str], hashes: Mapping[str, str]) -> None:
    path = out / "results.json"
    kept = read_results(path) if path.is_file() else []
    known = set(hashes.values())
    kept = [r for r in kept if r.protocol not in chosen and r.features in known]
    write_results(path, [*kept, *results])


def _require_measurable(chosen: Sequence[Protocol], dataset: str, *, labelled: bool) -> None:
    """Raise a `DataError` if every protocol needs labels and there are none."""
    if labelled or not chosen or not all(protocol.needs_labels for protocol in chosen):
        return
    free = [p.name for p in PROTOCOLS.values() if p.standard and not p.needs_labels]
    raise DataError(
        f"Expected labels for {', '.join(p.name for p in chosen)}, got images without "
        f"('{dataset}'): without labels {', '.join(free[:-1])} and {free[-1]} can be measured."
    )


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
