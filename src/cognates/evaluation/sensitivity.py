"""Does the uncertainty rise when an image loses content? Centre crops and blur of growing severity.

The sweep needs the model (`sweep`); the protocol reads its scores, like every other protocol.
Beside the method's own score stand those that any method has: a score that follows crop and blur no
better than the length of the representation does says nothing more about them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from cognates.data.images import Images
from cognates.data.views import ViewSpec
from cognates.errors import DataError
from cognates.evaluation import bootstrap, knn, relative
from cognates.evaluation.features import (
    DISAGREEMENT,
    Transform,
    by_views,
    require_eval,
    score_views,
)
from cognates.evaluation.ranks import mid_ranks, spearman
from cognates.evaluation.relative import Bank
from cognates.evaluation.store import check
from cognates.evaluation.uncertainty import DRAWN, LABEL_FREE
from cognates.methods.base import Method
from cognates.random import fold_in
from cognates.types import Features, Result

CROPS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)
"""Share of the side that a centre crop removes; the rest is resized back."""
BLURS = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16)
"""Standard deviation of the Gaussian over the side: .3 to 4.5 pixels at 28, 2 to 36 at 224."""
LIMIT = 1000
"""Images that are swept: eleven passes each, 99 if the method's own score takes eight views."""
FEW = 200
"""Of them, those on which `view-disagreement` stands beside another score: nine passes for each of
eleven severities, so that this baseline costs less than twice the sweep itself."""


def sweep(
    method: Method,
    images: Images,
    *,
    views: Sequence[ViewSpec],
    size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    bank: Features | None = None,
    compared: Bank | None = None,
    default_score: str | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    limit: int = LIMIT,
    seed: int = 0,
) -> dict[str, Features]:
    """Score at most `limit` random images under every severity; arguments as in `features.extract`.

    `bank` are features of the training images, for `knn-distance`; None: without that score.
    `compared` is what the `relative` scores compare with, and `default_score` the one that the
    method stands for; None: without them, and the method says.

    Returns:
        `crop-test` and `blur-test`: features without a representation, with the method's default
        score named by severity. `crop-SCORE-test` and `blur-SCORE-test`: the same with a baseline;
        `view-disagreement` is that of the first 200 random images alone.
    """
    require_eval(method)
    default = default_score or method.default_score
    order = np.random.default_rng(fold_in(seed, "sensitivity")).permutation(len(images))
    rows, few = np.sort(order[:limit]), np.sort(order[: min(limit, FEW)])
    look = _Look(
        method=method,
        images=images,
        transform=Transform.of(size, mean, std),
        device=device,
        batch_size=batch_size,
        compared=compared,
    )
    own_views = by_views(method)
    tables = look.tables(rows, spec=views[0] if own_views else None, bank=bank)
    if default not in tables["crop"]:
        raise DataError(f"Expected the method to give its score '{default}', got none.")
    if not own_views:
        for change, scores in look.tables(few, spec=views[0], bank=None).items():
            tables[change][DISAGREEMENT] = scores[DISAGREEMENT]
    found = {}
    for change, scores in tables.items():
        for score, levels in scores.items():
            index = few if score == DISAGREEMENT and not own_views else rows
            found[sweep_name(change, score, default)] = check(
                Features(
                    representation=np.empty((len(index), 0), dtype=np.float32),
                    index=index,
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


@dataclass(frozen=True, kw_only=True)
class _Look:
    """Scores images under every severity, chunk by chunk."""

    method: Method
    images: Images
    transform: Transform
    device: torch.device | str
    batch_size: int
    compared: Bank | None = None

    def tables(
        self, rows: np.ndarray, *, spec: ViewSpec | None, bank: Features | None
    ) -> dict[str, dict[str, dict[float, np.ndarray]]]:
        """Return {change: {score: {severity: (n,)}}} of the images `rows`."""
        parts = {change: {level: [] for level in levels} for change, (_, levels) in CHANGES.items()}
        for start in range(0, len(rows), self.batch_size):
            chosen = rows[start : start + self.batch_size]
            chunk = torch.from_numpy(np.array(self.images.pixels[chosen])).to(self.device)
            clean = Transform.of(self.transform.size).view(chunk)
            unchanged = self._scores(clean, spec, bank)
            for change, (apply, levels) in CHANGES.items():
                for level in levels:
                    changed = level > 0
                    parts[change][level].append(
                        self._scores(apply(clean, level), spec, bank) if changed else unchanged
                    )
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
        self, view: Tensor, spec: ViewSpec | None, bank: Features | None
    ) -> dict[str, np.ndarray]:
        found, scores = score_views(self.method, view, spec=spec, transform=self.transform)
        if bank is not None:
            seen = Features(representation=found, index=np.arange(len(found)))
            scores[knn.DISTANCE] = knn.knn_distance(bank, seen)
        if self.compared is not None and self.compared.own in scores:
            scores |= relative.against(self.compared, found, scores)
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
    `reconstruction` and `negative-elbo`, and about the scores against the bank.
    `crop-per-image/default-minus-SCORE` is the paired difference on the images that both scores
    have seen.

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
    for change in CHANGES:
        swept = others.get(f"{change}-test")
        if swept is None:
            raise DataError(
                f"Expected the scores of a {change} sweep ('{change}-test'), got none: "
                "make them with cognates.evaluation.sensitivity.sweep."
            )
        own, records = _correlations(change, swept, seed, of_default=True)
        results += records
        for score in _beside(change, swept.default_score, others):
            rival = others[f"{change}-{score}-test"]
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


def _beside(change: str, default: str | None, others: Mapping[str, Features]) -> list[str]:
    """Return the scores beside the default one that were swept, the baselines first."""
    swept = {
        name.removeprefix(f"{change}-").removesuffix("-test")
        for name in others
        if name.startswith(f"{change}-") and name != f"{change}-test"
    } - {default}
    first = [score for score in (*LABEL_FREE, *DRAWN) if score in swept]
    return [*first, *sorted(swept - {*first})]


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
    ranks = np.stack([mid_ranks(row) for row in table]) - centre
    target = mid_ranks(severity) - centre
    scale = np.sqrt((ranks * ranks).sum(axis=1) * (target @ target))
    return np.where(scale > 0, ranks @ target / np.where(scale > 0, scale, 1), 0.0)


def crop(images: Tensor, removed: float) -> Tensor:
    """Return the centre of `images` (n, c, s, s) without the share `removed`, resized back to s."""
    size = images.shape[-1]
    side = max(1, round((1 - removed) * size))
    if side == size:
        return images
    offset = (size - side) // 2
    centre = images[..., offset : offset + side, offset : offset + side]
    return interpolate(centre, size=(size, size), mode="bilinear", align_corners=False)


def blur(images: Tensor, strength: float) -> Tensor:
    """Return `images` (n, c, s, s) under a Gaussian of deviation `strength` s; edges repeat."""
    sigma = strength * images.shape[-1]
    if sigma == 0:
        return images
    radius = math.ceil(3 * sigma)  # beyond three standard deviations lies 0.3 % of the mass
    steps = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    padded = pad(images, (radius, radius, radius, radius), mode="replicate")
    rows = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    across = conv2d(padded, rows, groups=channels)
    return conv2d(across, rows.transpose(2, 3), groups=channels)


CHANGES: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "crop": (crop, CROPS),
    "blur": (blur, BLURS),
}
"""What is done to images, and how much of it; the first severity changes nothing."""
