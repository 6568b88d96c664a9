"""What the report looks up in a run's results: accuracies with their baselines, scores, tenths.

The names of protocols and metrics are those of `cognates.evaluation`; this is the only module of
the report that knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cognates.evaluation.records import in_percent
from cognates.report.collect import RunRecord
from cognates.types import Result

_ACCURACIES = {
    "linear": ("Linear probe", "logistic regression on all training labels"),
    "knn": ("Nearest neighbours", "weighted vote of the 20 nearest training images"),
    "few-labels": ("Few labels", "linear probe on a few labelled images per class"),
}
_PAIRS = (
    (
        *("caption-retrieval", "image-to-text", "Image to caption"),
        *("one of its captions", "the first right caption"),
    ),
    ("caption-retrieval", "text-to-image", "Caption to image", "its image", "the right image"),
    ("kind-retrieval", "first-to-second", "First kind to second", "its other kind", "the image"),
    ("kind-retrieval", "second-to-first", "Second kind to first", "its other kind", "the image"),
)
_LABEL_FREE = (
    (
        "view-retrieval",
        "r-at-1",
        "View retrieval, %",
        "is an image's second view the nearest?",
        True,
    ),
    *(
        (name, f"{way}-r-at-10", f"{label}, R@10, %", f"is {own} among the ten nearest?", True)
        for name, way, label, own, _ in _PAIRS
    ),
    *(
        (name, f"{way}-median-rank", f"{label}, median rank", f"of {right}; 1 at best", False)
        for name, way, label, _, right in _PAIRS
    ),
    (
        *("spread", "effective-rank", "Effective rank"),
        *("directions of the representation in use", False),
    ),
    ("spread", "spread", "Spread", "1: all directions; 0: collapsed", False),
    (
        *("sensitivity", "crop-per-image", "Uncertainty against crop"),
        *("rank correlation with the share cut away, per image", False),
    ),
    (
        *("sensitivity", "blur-per-image", "Uncertainty against blur"),
        *("rank correlation with the width of the blur, per image", False),
    ),
)
_DRAWN = (
    ("reconstruction", "mean/mse", "Reconstruction, MSE", "per pixel and channel, on [0, 1]"),
    ("reconstruction", "mean-image/mse", "Mean training image, MSE", "drawn for every image"),
    ("reconstruction", "mean/bce", "Reconstruction, cross-entropy", "nats per image"),
    ("elbo", "image/negative-elbo", "Negative ELBO", "nats per image, {samples} samples"),
    ("elbo", "image/negative-elbo/bits", "Negative ELBO", "bits per dimension"),
    (
        *("elbo", "image/importance-weighted-{samples}", "Importance-weighted bound"),
        "nats per image, {samples} samples",
    ),
    (
        *("elbo", "image/importance-weighted-{samples}/bits", "Importance-weighted bound"),
        "bits per dimension, {samples} samples",
    ),
    ("elbo", "views/negative-elbo", "Negative ELBO of training views", "nats per image and view"),
    (
        *("generation", "fid-", "Frechet distance of samples"),
        "{samples} images each; features of {encoder}, comparable with no other",
    ),
    ("generation", "kid-", "Kernel distance of samples", "features of {encoder}"),
    (
        *("generated-views", "image/agreement", "Views of one psi share their class"),
        "share of pairs, by the linear probe; psi told of by test images",
    ),
    (
        *("generated-views", "image/agreement-unrelated", "Views of different psi share it"),
        "share of pairs",
    ),
    (
        *("generated-views", "image/agreement-minus-unrelated", "The difference"),
        "paired over psi",
    ),
    (
        *("generated-views", "prior/agreement", "Views of one psi of the prior share their class"),
        "share of pairs, by the linear probe on the model's own features",
    ),
    (
        *("generated-views", "prior/agreement-minus-unrelated", "The same, less different psi"),
        "paired over psi",
    ),
    (
        *("generated-views", "prior/agreement/pixels", "The same, judged by pixels"),
        "share of pairs, by the linear probe on pixels of real images",
    ),
    (
        *("generated-views", "prior/agreement-minus-unrelated/pixels"),
        *("The same by pixels, less different psi", "paired over psi"),
    ),
)
_NOT = {
    "no-likelihood": "no likelihood: the cross-entropy of grey values bounds nothing",
    "improper-prior": "the flat prior has no density of its own",
}
_CONTENT = ("mlp", "knn-vote", "gmm", "gmm-pca64", "kmeans", "augmentation", "celeba", "dsprites")
_OF_MANY = ("macro/", "hair/", "gender/", "binary/")
"""What is shown of the attributes; the single ones are among all results."""
_PROBES = {"linear": "the linear probe", "knn": "nearest neighbours"}
_MARKED = {"needs-labels", "eight-passes"}
_TENTHS = 10
_SANITY = "random"


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """One protocol's accuracy for the three subjects, and the differences that matter."""

    protocol: str
    label: str
    hint: str
    trained: Result
    untrained: Result | None
    pixels: Result | None
    over_untrained: Result | None
    """The paired difference: its interval is over the same resamples of test images."""
    over_pixels: Result | None


@dataclass(frozen=True)
class Score:
    """How well one uncertainty finds errors."""

    score: str
    result: Result
    own: bool
    """Whether it is the score that the method stands for."""
    marked: bool
    """Whether it uses labels or needs several passes."""


@dataclass(frozen=True)
class Rival:
    """The best label-free baseline of a score, and the paired difference to it."""

    score: str
    value: float
    difference: Result


@dataclass(frozen=True)
class Drawn:
    """One figure of a method that draws images."""

    label: str
    result: Result
    hint: str


@dataclass(frozen=True, kw_only=True)
class LabelFree:
    """One value that needs no label, for the three subjects."""

    label: str
    hint: str
    fraction: bool
    trained: Result
    untrained: Result | None
    pixels: Result | None


@dataclass(frozen=True, kw_only=True)
class Content:
    """One value about content or style for the three subjects, and its paired differences."""

    protocol: str
    metric: str
    fraction: bool
    trained: Result
    untrained: Result | None
    pixels: Result | None
    over_untrained: Result | None
    over_pixels: Result | None


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """How the uncertainties follow one change of the images, the method's own first."""

    label: str
    hint: str
    scores: Mapping[str, Result]
    differences: Mapping[str, Result]
    """The own score minus a baseline, paired, by the baseline's name."""


def accuracies(record: RunRecord) -> list[Accuracy]:
    """Return the accuracies that a run has, the linear probe first."""
    found = []
    for protocol, (label, hint) in _ACCURACIES.items():
        trained = record.find(protocol, "accuracy")
        if trained is None:
            continue
        if "per_class" in trained.settings:
            count, draws = trained.settings["per_class"], trained.settings.get("draws")
            label, hint = f"{count} labels per class", f"linear probe, mean of {draws} draws"
        found.append(
            Accuracy(
                protocol=protocol,
                label=label,
                hint=hint,
                trained=trained,
                untrained=record.find(protocol, "accuracy", "untrained"),
                pixels=record.find(protocol, "accuracy", "pixels"),
                over_untrained=record.find(protocol, "accuracy-minus-untrained"),
                over_pixels=record.find(protocol, "accuracy-minus-pixels"),
            )
        )
    return found


def scores(record: RunRecord) -> dict[str, list[Score]]:
    """Return the AUROC of every uncertainty by whose errors it finds, the best first."""
    found: dict[str, list[Score]] = {}
    for probe, name in _PROBES.items():
        rows = [
            Score(
                score=str(r.settings["score"]),
                result=r,
                own="default" in r.flags,
                marked=bool(_MARKED & set(r.flags)),
            )
            for r in record.results
            if r.protocol == "auroc-error"
            and r.error is None
            and r.metric == f"{probe}/{r.settings.get('score')}"
        ]
        if rows:
            found[name] = sorted(rows, key=lambda s: -s.result.value)
    return found


def own_score(record: RunRecord) -> Score | None:
    """Return how well the method's own uncertainty finds the linear probe's errors."""
    return next((s for s in scores(record).get(_PROBES["linear"], []) if s.own), None)


def rival(record: RunRecord) -> Rival | None:
    """Return the best label-free baseline of the method's own uncertainty, if there is one."""
    difference = record.find("auroc-error", "linear/default-minus-best")
    if difference is None:
        return None
    name = str(difference.selected.get("baseline"))
    baseline = record.find("auroc-error", f"linear/{name}")
    return None if baseline is None else Rival(name, baseline.value, difference)


def deciles(record: RunRecord) -> dict[str, list[Result]]:
    """Return accuracy in each tenth of the images by score, the method's own first."""
    found: dict[str, list[Result]] = {}
    names = dict.fromkeys(
        str(r.settings.get("score")) for r in record.results if r.protocol == "deciles"
    )
    for name in names:
        rows = [record.find("deciles", f"{name}/decile-{i + 1}") for i in range(_TENTHS)]
        present = [row for row in rows if row is not None]
        if len(present) == _TENTHS and name != _SANITY:
            found[name] = present
    own = [name for name, rows in found.items() if "default" in rows[0].flags]
    return {name: found[name] for name in dict.fromkeys([*own, *found])}


def overall_accuracy(record: RunRecord) -> float | None:
    """Return the linear probe's accuracy on all test images."""
    found = record.find("linear", "accuracy")
    return None if found is None else found.value


def label_free(record: RunRecord) -> list[LabelFree]:
    """Return the values that need no label."""
    found = []
    for protocol, metric, label, hint, fraction in _LABEL_FREE:
        trained = record.find(protocol, metric)
        if trained is not None:
            chance = trained.settings.get("chance")
            beside = f" chance {100 * chance:.1f} %" if isinstance(chance, float) else ""
            found.append(
                LabelFree(
                    label=label,
                    hint=hint + beside,
                    fraction=fraction,
                    trained=trained,
                    untrained=record.find(protocol, metric, "untrained"),
                    pixels=record.find(protocol, metric, "pixels"),
                )
            )
    return found


def sensitivities(record: RunRecord) -> list[Sensitivity]:
    """Return crop and blur with every score that was swept; nothing where no baseline was."""
    found = []
    for protocol, metric, label, hint, _ in _LABEL_FREE:
        own = record.find(protocol, metric)
        if protocol != "sensitivity" or own is None:
            continue
        beside = [r for r in record.results if r.protocol == protocol and r.error is None]
        at, less = f"{metric}/", f"{metric}/default-minus-"
        differences = {r.metric.removeprefix(less): r for r in beside if r.metric.startswith(less)}
        scores = {name: record.find(protocol, f"{at}{name}") for name in differences}
        present = {name: result for name, result in scores.items() if result is not None}
        if present:
            found.append(
                Sensitivity(
                    label=label,
                    hint=hint,
                    scores={str(own.settings.get("score")): own, **present},
                    differences=differences,
                )
            )
    return found


def generative(record: RunRecord) -> list[Drawn]:
    """Return the figures of a method that draws images, in the order of the page."""
    found = []
    for protocol, metric, label, hint in _DRAWN:
        for r in record.results:
            if r.protocol != protocol or r.error is not None:
                continue
            wanted = metric.format(**r.settings)  # some names have the number of samples in them
            if r.metric != wanted and not (wanted.endswith("-") and r.metric.startswith(wanted)):
                continue
            floor = r.metric.endswith("-of-train-images")
            name = label.replace("samples", "training images") if floor else label
            more = [hint.format(**r.settings), *(_NOT[flag] for flag in r.flags if flag in _NOT)]
            found.append(Drawn(name, r, "; ".join(more)))
    return found


def content(record: RunRecord) -> list[Content]:
    """Return the values of the protocols about content and style, in the order of the file."""
    return [
        Content(
            protocol=r.protocol,
            metric=r.metric,
            fraction=in_percent(r),
            trained=r,
            untrained=record.find(r.protocol, r.metric, "untrained"),
            pixels=record.find(r.protocol, r.metric, "pixels"),
            over_untrained=record.find(r.protocol, f"{r.metric}-minus-untrained"),
            over_pixels=record.find(r.protocol, f"{r.metric}-minus-pixels"),
        )
        for r in record.results
        if r.protocol in _CONTENT
        and r.subject == "trained"
        and r.error is None
        and not r.metric.endswith(("-minus-untrained", "-minus-pixels"))
        and (r.protocol != "celeba" or r.metric.startswith(_OF_MANY))
    ]


def compared(record: RunRecord) -> dict[str, tuple[Result, bool]]:
    """Return what runs are compared by: {label: (result when trained, is it a fraction)}."""
    found = {f"{row.label}, %": (row.trained, True) for row in accuracies(record)}
    own = own_score(record)
    if own is not None:
        found["Uncertainty finds errors, AUROC"] = (own.result, False)
    for row in label_free(record):
        found[row.label] = (row.trained, row.fraction)
    for row in content(record):
        unit = ", %" if row.fraction else ""
        found[f"{row.protocol}: {row.metric}{unit}"] = (row.trained, row.fraction)
    return found


def comparable(record: RunRecord) -> dict[str, tuple[float, bool]]:
    """Return the values of `compared`."""
    return {label: (r.value, fraction) for label, (r, fraction) in compared(record).items()}


def last(record: RunRecord, name: str) -> float | None:
    """Return the last value of a training metric."""
    value = record.metrics[-1].get(name) if record.metrics else None
    return None if value is None else float(value)
