"""Does the uncertainty rise when an image loses content? Centre crops and blur of growing severity.

The sweep needs the model (`sweep`); the protocol reads its scores, like every other protocol.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from cognates.data.images import Images
from cognates.data.views import ViewSpec
from cognates.errors import DataError
from cognates.evaluation import bootstrap
from cognates.evaluation.features import Transform, by_views, require_eval, score_views
from cognates.evaluation.ranks import mid_ranks, spearman
from cognates.evaluation.store import check
from cognates.methods.base import Method
from cognates.random import fold_in
from cognates.types import Features, Result

CROPS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)
"""Share of the side that a centre crop removes; the rest is resized back."""
BLURS = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16)
"""Standard deviation of the Gaussian over the side: .3 to 4.5 pixels at 28, 2 to 36 at 224."""
LIMIT = 1000
"""Images that are swept: eleven passes each, ninety if the score takes eight views."""


def sweep(
    method: Method,
    images: Images,
    *,
    views: Sequence[ViewSpec],
    size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    limit: int = LIMIT,
    seed: int = 0,
) -> dict[str, Features]:
    """Score at most `limit` random images under every severity; arguments as in `features.extract`.

    Returns:
        `crop-test` and `blur-test`: features without a representation, whose scores are named by
        severity.
    """
    require_eval(method)
    generator = np.random.default_rng(fold_in(seed, "sensitivity"))
    rows = np.sort(generator.permutation(len(images))[:limit])
    raw, transform = Transform.of(size), Transform.of(size, mean, std)
    name = method.default_score
    spec = views[0] if by_views(method) else None
    sweeps: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
        "crop-test": (crop, CROPS),
        "blur-test": (blur, BLURS),
    }
    parts = {key: {level: [] for level in levels} for key, (_, levels) in sweeps.items()}
    for start in range(0, len(rows), batch_size):
        chunk = torch.from_numpy(np.array(images.pixels[rows[start : start + batch_size]]))
        clean = raw.view(chunk.to(device))
        for key, (change, levels) in sweeps.items():
            for level in levels:
                changed = change(clean, level)
                scores = score_views(method, changed, spec=spec, transform=transform)[1]
                if name not in scores:
                    raise DataError(f"Expected the method to give its score '{name}', got none.")
                parts[key][level].append(scores[name])
    blank = Features(
        representation=np.empty((len(rows), 0), dtype=np.float32),
        index=rows,
        default_score=name,
        dataset=images.dataset,
        split=images.split,
    )
    return {
        key: check(
            replace(blank, scores={f"{v:.2f}": np.concatenate(p) for v, p in of_level.items()})
        )
        for key, of_level in parts.items()
    }


def sensitivity(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    r"""Protocol `sensitivity`: Spearman's correlation of the uncertainty with crop and blur.

    `crop-per-image` and `blur-per-image`: the mean over images of the correlation over the
    severities of one image, which removes what differs between images. `crop-overall` and
    `blur-overall`: over all images and severities. Positive: less content, more uncertain. Meant
    for images of single objects.

    Args:
        train: not used.
        test: not used.
        seed: of the resamples.
        others: `crop-test` and `blur-test` as `sweep` makes them.

    Raises:
        DataError: there is no sweep.
    """
    del train, test
    results = []
    for change in ("crop", "blur"):
        swept = (others or {}).get(f"{change}-test")
        if swept is None:
            raise DataError(
                f"Expected the scores of a {change} sweep ('{change}-test'), got none: "
                "make them with cognates.evaluation.sensitivity.sweep."
            )
        levels = sorted(swept.scores, key=float)
        table = np.stack([swept.scores[level] for level in levels], axis=1)
        n, width = table.shape
        severity = np.array([float(level) for level in levels])
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
        for name, (value, samples) in columns.items():
            low, high = bootstrap.interval(samples)
            results.append(
                Result(
                    protocol="sensitivity",
                    metric=f"{change}-{name}",
                    value=value,
                    low=low,
                    high=high,
                    n=n,
                    protocol_seed=seed,
                    settings={"score": swept.default_score, "severities": severity.tolist()},
                )
            )
    return results


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
