"""Does the uncertainty rise when an image loses content? Centre crops and blur of growing severity.

The sweep needs the model (`sweep`); the protocol reads its scores, like every other protocol. The
same sweep scores one centre crop of random size, which the protocol `crop` reads, and `corruption`
sweeps over changes of its own.
Beside the method's own score stand those that any method has: a score that follows crop and blur no
better than the length of the representation does says nothing more about them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cognates.data.corrupt import blur, uniform_of
from cognates.data.images import Images
from cognates.data.views import ViewSpec
from cognates.errors import DataError
from cognates.evaluation import bootstrap, knn
from cognates.evaluation.features import (
    DISAGREEMENT,
    Transform,
    by_views,
    require_eval,
    score_views,
)
from cognates.evaluation.ranks import mid_ranks, row_ranks, spearman
from cognates.evaluation.store import check
from cognates.evaluation.subjects import TARGET
from cognates.evaluation.uncertainty import DRAWN, LABEL_FREE
from cognates.methods.base import Method
from cognates.random import fold_in
from cognates.types import Features, Result

CROPS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)
"""Share of the side that a centre crop removes; the rest is resized back."""
BLURS = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16)
"""Standard deviation of the Gaussian over the side: .3 to 4.5 pixels at 28, 2 to 36 at 224."""
FRACTIONS = (0.1, 0.75)
"""Side of a crop of random size over that of the image: evaluation.md, section 10."""
RANDOM_CROP = "random-crop"
FRACTION = "fraction"
PREDICTED = "knn"
"""Before `/SEVERITY`: the target that holds the prediction of the nearest neighbours."""
LIMIT = 1000
"""Images that are swept: twelve passes each, 108 if the method's own score takes eight views."""
FEW = 200
"""Of them, those on which `view-disagreement` stands beside another score: nine passes for each of
twelve severities, so that this baseline costs less than twice the sweep itself."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is done to images, and how much of it; the first severity changes nothing."""

    apply: Callable[[Tensor, float, Tensor, int], Tensor]
    """Of images (n, c, s, s) in [0, 1], a severity, their numbers (n,) and the seed."""
    levels: tuple[float, ...]
    about: Callable[[np.ndarray, int], Mapping[str, np.ndarray]] = lambda index, seed: {}
    """Targets that say what was done to each image, of their numbers and the seed."""


def sweep(
    method: Method,
    images: Images,
    *,
    views: Sequence[ViewSpec],
    size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    bank: Features | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    limit: int = LIMIT,
    seed: int = 0,
    changes: Mapping[str, Change] | None = None,
    predict: bool = False,
) -> dict[str, Features]:
    """Score at most `limit` random images under every severity; arguments as in `features.extract`.

    `bank` are features of the training images, for `knn-distance`; None: without that score.
    `changes` are by default `CHANGES`. `predict`: whether to keep what the nearest neighbours of
    the bank, which needs labels, say about every image and severity.

    Returns:
        `crop-test`, `blur-test` and so on: features without a representation, with the method's
        default score named by severity, and what was done as targets. `crop-SCORE-test` and
        `blur-SCORE-test`: the same with a baseline; `view-disagreement` is that of the first 200
        random images alone.
    """
    changes = CHANGES if changes is None else changes
    require_eval(method)
    default = method.default_score
    order = np.random.default_rng(fold_in(seed, "sensitivity")).permutation(len(images))
    rows, few = np.sort(order[:limit]), np.sort(order[: min(limit, FEW)])
    look = _Look(
        method=method,
        images=images,
        transform=Transform.of(size, mean, std),
        device=device,
        batch_size=batch_size,
        changes=changes,
        seed=seed,
    )
    own_views = by_views(method)
    tables = look.tables(rows, spec=views[0] if own_views else None, bank=bank, predict=predict)
    if any(default not in scores for scores in tables.values()):
        raise DataError(f"Expected the method to give its score '{default}', got none.")
    if not own_views:
        for change, scores in look.tables(few, spec=views[0], bank=None).items():
            tables[change][DISAGREEMENT] = scores[DISAGREEMENT]
    found = {}
    for change, scores in tables.items():
        predicted = scores.pop(PREDICTED, {})
        about = {f"{PREDICTED}/{level:.2f}": values for level, values in predicted.items()}
        if predicted:
            about[TARGET] = images.targets[TARGET][rows]
        for score, levels in scores.items():
            index = few if score == DISAGREEMENT and not own_views else rows
            found[sweep_name(change, score, default)] = check(
                Features(
                    representation=np.empty((len(index), 0), dtype=np.float32),
                    index=index,
                    targets={
                        **changes[change].about(index, seed),
                        **(about if score == default else {}),
                    },
                    scores={f"{level:.2f}": values for level, values in levels.items()},
                    default_score=score,
                    dataset=images.dataset,
                    split=images.split,
                )
            )
    return found


def sweep_name(change: str, score: str, default: str | None) -> str:
    """Return the name of the features of one score under one change.

    Example:
        >>> sweep_name("crop", "norm", "norm"), sweep_name("crop", "norm", "concentration")
        ('crop-test', 'crop-norm-test')
    """
    return f"{change}-test" if score == default else f"{change}-{score}-test"


def part_of_sweep(swept: Features, index: np.ndarray) -> Features:
    """Return the rows of those images that are in `index`."""
    rows = np.isin(swept.index, index)
    return Features(
        representation=swept.representation[rows],
        index=swept.index[rows],
        targets={name: values[rows] for name, values in swept.targets.items()},
        scores={name: values[rows] for name, values in swept.scores.items()},
        default_score=swept.default_score,
    )


@dataclass(frozen=True, kw_only=True)
class _Look:
    """Scores images under every severity, chunk by chunk."""

    method: Method
    images: Images
    transform: Transform
    device: torch.device | str
    batch_size: int
    changes: Mapping[str, Change]
    seed: int

    def tables(
        self,
        rows: np.ndarray,
        *,
        spec: ViewSpec | None,
        bank: Features | None,
        predict: bool = False,
    ) -> dict[str, dict[str, dict[float, np.ndarray]]]:
        """Return {change: {score: {severity: (n,)}}} of the images `rows`."""
        parts = {name: {level: [] for level in c.levels} for name, c in self.changes.items()}
        for start in range(0, len(rows), self.batch_size):
            chosen = rows[start : start + self.batch_size]
            chunk = torch.from_numpy(np.array(self.images.pixels[chosen])).to(self.device)
            numbers = torch.from_numpy(chosen).to(self.device)
            clean = Transform.of(self.transform.size).view(chunk)
            unchanged = self._scores(clean, spec, bank, predict)
            for name, change in self.changes.items():
                for level in change.levels:
                    scores = unchanged
                    if level > 0:
                        view = change.apply(clean, level, numbers, self.seed)
                        scores = self._scores(view, spec, bank, predict)
                    parts[name][level].append(scores)
        return {
            change: {
                score: {
                    level: np.concatenate([part[score] for part in of_level])
                    for level, of_level in levels.items()
                }
                for score in levels[0.0][0]
            }
            for change, levels in parts.items()
        }

    def _scores(
        self, view: Tensor, spec: ViewSpec | None, bank: Features | None, predict: bool
    ) -> dict[str, np.ndarray]:
        found, scores = score_views(self.method, view, spec=spec, transform=self.transform)
        if bank is not None:
            seen = Features(representation=found, index=np.arange(len(found)))
            scores[knn.DISTANCE] = knn.knn_distance(bank, seen)
            if predict:
                k = min(knn.NEIGHBOURS, len(bank.representation))
                scores[PREDICTED] = knn.predict(bank, seen, k=k)
        return scores


def sensitivity(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    r"""Protocol `sensitivity`: Spearman's correlation of the uncertainty with crop and blur.

    `crop-per-image` and `blur-per-image`: the mean over images of the correlation over the
    severities of one image, which removes what differs between images. `crop-overall` and
    `blur-overall`: over all images and severities. Positive: less content, more uncertain. Meant
    for images of single objects.

    These are about the default score; `crop-per-image/SCORE` and so on are about the baselines
    `norm`, `knn-distance` and `view-disagreement`, for a method that draws images also about
    `reconstruction` and `negative-elbo`, and `crop-per-image/default-minus-SCORE` is the
    paired difference on the images that both scores have seen.

    Args:
        train: not used.
        test: not used.
        seed: of the resamples.
        others: `crop-test` and `blur-test`, and the baselines', as `sweep` makes them.

    Raises:
        DataError: there is no sweep.
    """
    del train, test
    others = others or {}
    results = []
    for change in GRADUAL:
        swept = others.get(f"{change}-test")
        if swept is None:
            raise DataError(
                f"Expected the scores of a {change} sweep ('{change}-test'), got none: "
                "make them with cognates.evaluation.sensitivity.sweep."
            )
        own, records = _correlations(change, swept, seed, of_default=True)
        results += records
        for score in (*LABEL_FREE, *DRAWN):
            rival = others.get(f"{change}-{score}-test")
            if rival is None or score == swept.default_score:
                continue
            each, records = _correlations(change, rival, seed, of_default=False)
            shared = own[np.isin(swept.index, rival.index)]
            if len(shared) != len(each):
                raise DataError(f"Expected '{score}' of images that were swept, got others.")
            gap = shared - each
            name = f"{change}-per-image/default-minus-{score}"
            samples = bootstrap.means(gap, seed=seed)
            settings = {"score": swept.default_score, "severities": _severities(swept).tolist()}
            records.append(_record(name, float(gap.mean()), samples, len(gap), seed, settings))
            results += records
    return results


def _correlations(
    change: str, swept: Features, seed: int, *, of_default: bool
) -> tuple[np.ndarray, list[Result]]:
    """Return the correlation of every image (n,), and the records about one score."""
    severity = _severities(swept)
    table = np.stack([swept.scores[level] for level in sorted(swept.scores, key=float)], axis=1)
    n, width = table.shape
    each = per_image_spearman(table, severity)
    flat, repeated = table.ravel(), np.tile(severity, n)
    owner = np.repeat(np.arange(n), width)
    columns = {
        "per-image": (float(each.mean()), bootstrap.means(each, seed=seed)),
        "overall": (
            spearman(flat, repeated),
            bootstrap.spearmans(flat, repeated, images=owner, seed=seed),
        ),
    }
    score = swept.default_score
    suffix = "" if of_default else f"/{score}"
    flags = ("default",) if of_default else ()
    flags += ("eight-passes",) if score == DISAGREEMENT else ()
    settings = {"score": score, "severities": severity.tolist()}
    return each, [
        _record(f"{change}-{name}{suffix}", value, samples, n, seed, settings, flags)
        for name, (value, samples) in columns.items()
    ]


def _severities(swept: Features) -> np.ndarray:
    return np.array(sorted(map(float, swept.scores)))


def _record(
    metric: str,
    value: float,
    samples: np.ndarray,
    n: int,
    seed: int,
    settings: Mapping[str, object],
    flags: tuple[str, ...] = (),
) -> Result:
    low, high = bootstrap.interval(samples)
    return Result(
        protocol="sensitivity",
        metric=metric,
        value=value,
        low=low,
        high=high,
        n=n,
        protocol_seed=seed,
        settings=settings,
        flags=flags,
    )


def per_image_spearman(table: np.ndarray, severity: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of every row (n, s) with `severity` (s,); 0 if constant."""
    centre = (table.shape[1] + 1) / 2
    ranks = row_ranks(table) - centre
    target = mid_ranks(severity) - centre
    scale = np.sqrt((ranks * ranks).sum(axis=1) * (target @ target))
    return np.where(scale > 0, ranks @ target / np.where(scale > 0, scale, 1), 0.0)


def fractions(index: np.ndarray, seed: int) -> np.ndarray:
    """Return the side (n,) of each image's random crop, f ~ U(.1, .75), fixed by its number.

    Example:
        >>> bool(((f := fractions(np.arange(9), 0)) > 0.1).all() and (f < 0.75).all())
        True
    """
    low, high = FRACTIONS
    share = uniform_of(torch.from_numpy(index), seed=fold_in(seed, RANDOM_CROP))
    return low + (high - low) * share.numpy().reshape(-1)


def crop(images: Tensor, removed: float) -> Tensor:
    """Return the centre of `images` (n, c, s, s) without the share `removed`, resized back to s."""
    return _centre(images, max(1, round((1 - removed) * images.shape[-1])))


def random_crop(images: Tensor, index: Tensor, seed: int) -> Tensor:
    """Return the centre of each image, of the side that `fractions` says, resized back."""
    share = torch.from_numpy(fractions(index.cpu().numpy(), seed))
    sides = (share * images.shape[-1]).round().clamp(min=1).long().to(images.device)
    made = torch.empty_like(images)
    for side in sides.unique().tolist():
        made[sides == side] = _centre(images[sides == side], side)
    return made


def _centre(images: Tensor, side: int) -> Tensor:
    size = images.shape[-1]
    if side == size:
        return images
    offset = (size - side) // 2
    centre = images[..., offset : offset + side, offset : offset + side]
    return interpolate(centre, size=(size, size), mode="bilinear", align_corners=False)


CHANGES: dict[str, Change] = {
    "crop": Change(apply=lambda images, level, index, seed: crop(images, level), levels=CROPS),
    "blur": Change(apply=lambda images, level, index, seed: blur(images, level), levels=BLURS),
    RANDOM_CROP: Change(
        apply=lambda images, level, index, seed: random_crop(images, index, seed),
        levels=(0.0, 1.0),
        about=lambda index, seed: {FRACTION: fractions(index, seed)},
    ),
}
"""What the sweep does to images."""
GRADUAL = ("crop", "blur")
"""Those of growing severity, which the protocol `sensitivity` reads."""
