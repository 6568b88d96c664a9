"""Scores of images that are changed by degrees: cropped, blurred, corrupted.

A sweep needs the model; the protocols `sensitivity`, `crop` and `corruption` read its scores, like
every other protocol. Beside the method's own score stand those that any method has: a score that
follows crop and blur no better than the length of the representation does says nothing more about
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cognates.data.corrupt import blur, uniform_of
from cognates.data.images import Images
from cognates.data.views import ViewSpec, changing
from cognates.errors import DataError
from cognates.evaluation import knn, relative
from cognates.evaluation.features import (
    DISAGREEMENT,
    Transform,
    by_views,
    require_eval,
    score_views,
)
from cognates.evaluation.linear import Prediction
from cognates.evaluation.relative import Bank
from cognates.evaluation.store import check
from cognates.evaluation.subjects import TARGET
from cognates.evaluation.uncertainty import DRAWN, LABEL_FREE, MAX_SOFTMAX, RANDOM
from cognates.methods.base import Method
from cognates.random import fold_in
from cognates.types import Features

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
    depends: str = ""
    """What is done beyond the name and the levels: a kept sweep of another text is made again."""


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
    changes: Mapping[str, Change] | None = None,
    predict: bool = False,
    probe: Prediction | None = None,
) -> dict[str, Features]:
    """Score at most `limit` random images under every severity; arguments as in `features.extract`.

    `bank` are features of the training images, for `knn-distance`; None: without that score.
    `compared` is what the `relative` scores compare with, and `default_score` the one that the
    method stands for; None: without them, and the method says. `changes` are by default `CHANGES`.
    `predict`: whether to keep what the nearest neighbours of the bank, which needs labels, say
    about every image and severity. `probe` is the linear one, for `max-softmax`; None: without.

    Returns:
        `crop-test`, `blur-test` and so on: features without a representation, with the method's
        default score named by severity, and what was done as targets. `crop-SCORE-test` and
        `blur-SCORE-test`: the same with a baseline; `view-disagreement` is that of the first 200
        random images alone.
    """
    changes = CHANGES if changes is None else changes
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
        changes=changes,
        seed=seed,
        compared=compared,
        probe=probe,
    )
    own_views, spec = by_views(method), changing(views)
    tables = look.tables(rows, spec=spec if own_views else None, bank=bank, predict=predict)
    if any(default not in scores for scores in tables.values()):
        raise DataError(f"Expected the method to give its score '{default}', got none.")
    if not own_views:
        for change, scores in look.tables(few, spec=spec, bank=None).items():
            tables[change][DISAGREEMENT] = scores[DISAGREEMENT]
    found = {}
    for change, scores in tables.items():
        predicted = scores.pop(PREDICTED, {})
        about = {f"{PREDICTED}/{level:.2f}": values for level, values in predicted.items()}
        if predicted:
            about[TARGET] = images.targets[TARGET][rows]
        for score, levels in scores.items():
            index = few if score == DISAGREEMENT and not own_views else rows
            targets = {**changes[change].about(index, seed), **(about if score == default else {})}
            name = sweep_name(change, score, default)
            found[name] = _as_features(images, index, targets, levels, score)
    return found


def _as_features(
    images: Images,
    index: np.ndarray,
    targets: Mapping[str, np.ndarray],
    levels: Mapping[float, np.ndarray],
    score: str,
) -> Features:
    return check(
        Features(
            representation=np.empty((len(index), 0), dtype=np.float32),
            index=index,
            targets=targets,
            scores={f"{level:.2f}": values for level, values in levels.items()},
            default_score=score,
            dataset=images.dataset,
            split=images.split,
        )
    )


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


def swept_beside(change: str, default: str | None, others: Mapping[str, Features]) -> list[str]:
    """Return the scores beside the default one that were swept, the baselines first."""
    swept = {
        name.removeprefix(f"{change}-").removesuffix("-test")
        for name in others
        if name.startswith(f"{change}-") and name != f"{change}-test"
    } - {default}
    first = [score for score in (*LABEL_FREE, *DRAWN, MAX_SOFTMAX) if score in swept]
    return [*first, *sorted(swept - {*first})]


def drawn_like(swept: Features, change: str, seed: int) -> Features:
    """Return a score that knows nothing, of the same images and severities."""
    generator = np.random.default_rng(fold_in(seed, "random-score", change))
    return replace(
        swept,
        scores={level: generator.random(len(swept.index)) for level in swept.scores},
        default_score=RANDOM,
    )


def same_images(
    own: Features, beside: Mapping[str, Features]
) -> Iterator[tuple[Features, dict[str, Features], bool]]:
    """Yield scores that saw the same images, those of all images first.

    Args:
        own: the default score's sweep.
        beside: those of other scores, of the same images or of some of them.

    Yields:
        The default's sweep of these images; by name it and the others; whether they are few.
    """
    for size in dict.fromkeys([len(own.index), *(len(swept.index) for swept in beside.values())]):
        same = {score: swept for score, swept in beside.items() if len(swept.index) == size}
        part = part_of_sweep(own, next(iter(same.values()), own).index)
        yield part, {str(own.default_score): part, **same}, size != len(own.index)


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
    compared: Bank | None = None
    probe: Prediction | None = None

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
        if self.probe is not None:
            scores[MAX_SOFTMAX] = 1 - self.probe.confidence_of(found)
        if self.compared is not None and self.compared.own in scores:
            scores |= relative.against(self.compared, found, scores)
        return scores


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
