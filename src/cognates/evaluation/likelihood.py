r"""What a generative model makes of the test images: reconstruction error and bound, per image.

Two passes need the model (`reconstruction_pass`, `bound_pass`); the protocols `reconstruction` and
`elbo` read the numbers that they leave, like every other protocol. Weights that training puts on a
term (1/s_x of the tempered form, beta) never enter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from cognates.data import augment
from cognates.data.images import Images
from cognates.data.views import ViewSpec
from cognates.distributions import BernoulliImage, DiagonalNormal, TemperedBernoulliImage
from cognates.errors import DataError
from cognates.evaluation import bootstrap
from cognates.evaluation.drawings import DrawingMethod, as_drawing, posterior_of
from cognates.evaluation.features import Transform
from cognates.evaluation.store import check
from cognates.methods.base import Method
from cognates.objectives import importance_weighted_bound
from cognates.random import fold_in, generator, normal_of
from cognates.types import Features, Result

SAMPLES = 64
"""Draws of the posterior for one image's bound: 50 in Burda et al. (2015), table 1, and a power of
two, with the bound of the first 8 beside it."""
NESTED = (8,)
LIMIT = 500
"""Images whose bound is taken: 64 passes of the decoder each, for the image and for every view."""
RECONSTRUCTION, BOUND = "reconstruction-test", "bound-test"
_SIZE, _DENSITY, _PROPER = "dimensions", "density", "proper"
_ROWS = ("mean", "sample")
_MEAN_IMAGE = "mean-image"


@torch.no_grad()
def reconstruction_pass(
    method: Method,
    images: Images,
    *,
    transform: Transform,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    seed: int = 0,
) -> Features:
    r"""Return the reconstruction errors of every image, at the posterior's mean and at one draw.

    Scores: `mean/mse` and `sample/mse`, (1/D) sum (x - E[x | z])^2; `mean/bce` and `sample/bce`,
    -sum [ x log mu + (1 - x) log(1 - mu) ] in nats, mu the sigmoid of the decoder's logits. Target
    `dimensions`: D, pixels times channels.

    Args:
        method: that draws images, in eval mode, on `device`.
        images: one split.
        transform: of the run, without normalisation.
        device: where the method is.
        batch_size: images per forward pass; the result does not depend on it.
        seed: of the draw.

    Raises:
        ConfigError: the method draws no images, or these do not fit its decoder.
    """
    model = as_drawing(method).model
    parts: list[dict[str, np.ndarray]] = []
    for index, view in _views(images, transform, device, batch_size):
        q = posterior_of(method, view)
        noise = normal_of(index, 1, q.loc.shape[-1], seed=fold_in(seed, "reconstruction"))
        found = {}
        for row, z in zip(_ROWS, (q.mean, q.place(noise[:, 0].to(q.loc))), strict=True):
            likelihood = model.likelihood(z[None])
            error = (likelihood.mean[0].double() - view.double()).square().flatten(1).mean(1)
            # Of the logits: the logarithm of a sigmoid would lose a black or white pixel.
            logits = likelihood.logits[0].double()
            entropy = binary_cross_entropy_with_logits(logits, view.double(), reduction="none")
            found |= {f"{row}/mse": error, f"{row}/bce": entropy.flatten(1).sum(1)}
        parts.append({name: values.cpu().numpy() for name, values in found.items()})
    size = {_SIZE: math.prod(model.shape)}
    return _scored(images, np.arange(len(images)), parts, size)


@torch.no_grad()
def bound_pass(
    method: Method,
    images: Images,
    *,
    views: Sequence[ViewSpec],
    transform: Transform,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    samples: int = SAMPLES,
    limit: int = LIMIT,
    seed: int = 0,
) -> Features:
    r"""Return bounds on log p of at most `limit` random images, in nats per view.

    Formula: with log weights w_s = log p(x^1 .. x^v | z_s) + log p(z_s) - log q(z_s | x), z_s a
    draw of the posterior, all constants included and every term with weight 1,
    ELBO = (1/(S v)) sum_s w_s and L_k = (1/v) log (1/k) sum_{s <= k} exp w_s.

    Scores, larger is worse: `image/elbo`, `image/iw-K` for nested K (image: the test view, v = 1)
    and `views/...` (v views drawn as in training, whose latents share what the prior says).

    Args:
        method: that draws images, in eval mode, on `device`.
        images: one split.
        views: the training views, at least one.
        transform: of the run, without normalisation.
        device: where the method is.
        batch_size: images per forward pass; the result does not depend on it.
        samples: S, at least 1.
        limit: images at most.
        seed: of the choice of images, the views and the draws.

    Raises:
        ConfigError: the method draws no images, or these do not fit its decoder.

    References:
        Importance Weighted Autoencoders (Burda, Grosse and Salakhutdinov, 2015),
        https://arxiv.org/abs/1509.00519, equation 8.
    """
    drawing = as_drawing(method)
    order = np.random.default_rng(fold_in(seed, "bound")).permutation(len(images))
    rows = np.sort(order[:limit])
    n, _, height, width = images.pixels.shape
    drawn = [
        augment.draw(
            spec, n, height=height, width=width, generator=generator(seed, "bound view", number)
        )
        for number, spec in enumerate(views)
    ]
    # 64 draws of one image are one pass, so fewer images go into it.
    chunk = max(1, batch_size // samples)
    parts = []
    for start in range(0, len(rows), chunk):
        chosen = rows[start : start + chunk]
        stored = torch.from_numpy(np.array(images.pixels[chosen])).to(device)
        seen = [
            transform.augmented(stored, augment.ViewParameters(*(part[chosen] for part in each)))
            for each in drawn
        ]
        index = torch.from_numpy(chosen)
        found = {}
        for name, group in {"image": [transform.view(stored)], "views": seen}.items():
            weights = log_weights(drawing, torch.stack(group), index, samples=samples, seed=seed)
            bounds = importance_weighted_bound(weights)
            found[f"{name}/elbo"] = -weights.mean(0) / len(group)
            for k in {*(k for k in NESTED if k < samples), samples}:
                found[f"{name}/iw-{k}"] = -bounds[k - 1] / len(group)
        parts.append({name: values.cpu().numpy() for name, values in found.items()})
    prior = drawing.config.prior_of(1)
    about = {
        _SIZE: math.prod(drawing.model.shape),
        _DENSITY: drawing.model.config.likelihood not in ("bernoulli", "tempered-bernoulli")
        or np.isin(images.pixels[rows], (0, 255)).all(),
        _PROPER: not prior.flat,
    }
    return _scored(images, rows, parts, about)


def reconstruction(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    r"""Protocol `reconstruction`: errors of the test images, without augmentation.

    Metrics, at the posterior's mean (`mean/...`) and at one draw of it (`sample/...`): `mse` per
    pixel and channel on [0, 1], `sse` the same summed over an image, `bce` in nats per image and
    `bce-bits` = bce / (D log 2) per dimension. `mean-image/mse` and `mean-image/bce` are those of a
    model that always draws the mean training image, with paired differences. A constant .5 has a
    bce of D log 2.

    Args:
        train: not used.
        test: not used.
        seed: of the resamples.
        others: `reconstruction-test` as `reconstruction_pass` makes it; `pixels-train` and
            `pixels-test` for the mean image.

    Raises:
        DataError: there is no reconstruction.
    """
    del train, test
    found = _needed(others, RECONSTRUCTION, "reconstruction_pass")
    size = int(found.targets[_SIZE][0])
    columns: dict[str, np.ndarray] = {}
    for row in _ROWS:
        mse, bce = found.scores[f"{row}/mse"], found.scores[f"{row}/bce"]
        columns |= {
            f"{row}/mse": mse,
            f"{row}/sse": mse * size,
            f"{row}/bce": bce,
            f"{row}/bce-bits": bce / (size * math.log(2)),
        }
    rivals = _mean_image(others or {}, size)
    for name, values in rivals.items():
        columns[f"{_MEAN_IMAGE}/{name}"] = values
        columns[f"mean/{name}-minus-{_MEAN_IMAGE}"] = found.scores[f"mean/{name}"] - values
    settings = {"dimensions": size}
    return [
        _record("reconstruction", metric, values, seed, settings, ())
        for metric, values in columns.items()
    ]


def elbo(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    r"""Protocol `elbo`: bounds on -log p of random test images; smaller is better.

    Metrics: `image/negative-elbo` and `image/importance-weighted-K` in nats per image,
    `.../bits` per dimension (nats / (D log 2)), and `views/...` the same for the joint density of
    v views drawn as in training, per image and view. `image/gap` is the paired difference of the
    two bounds. Nats and bits are those of a density on pixels in [0, 1]: for grey values of 8 bits
    add 8 bits per dimension.

    Flags: `no-likelihood` if the cross-entropy of grey values stands for a likelihood (bernoulli,
    and tempered-bernoulli, taken with temperature 1), so that the number bounds nothing;
    `improper-prior` if psi has a flat prior.

    Args:
        train: not used.
        test: not used.
        seed: of the resamples.
        others: `bound-test` as `bound_pass` makes it.

    Raises:
        DataError: there is no bound.
    """
    del train, test
    found = _needed(others, BOUND, "bound_pass")
    size = int(found.targets[_SIZE][0])
    flags = () if found.targets[_DENSITY].all() else ("no-likelihood",)
    flags += () if found.targets[_PROPER].all() else ("improper-prior",)
    results = []
    for group in ("image", "views"):
        stem = f"{group}/iw-"
        nested = sorted(int(name[len(stem) :]) for name in found.scores if name.startswith(stem))
        columns = {"negative-elbo": found.scores[f"{group}/elbo"]}
        for k in nested:
            columns[f"importance-weighted-{k}"] = found.scores[f"{group}/iw-{k}"]
        last = list(columns)[-1]
        settings = {"samples": nested[-1], "dimensions": size}
        for name, nats in columns.items():
            for suffix, values in {"": nats, "/bits": nats / (size * math.log(2))}.items():
                metric = f"{group}/{name}{suffix}"
                results.append(_record("elbo", metric, values, seed, settings, flags))
        gap = columns["negative-elbo"] - columns[last]
        results.append(_record("elbo", f"{group}/gap", gap, seed, settings, flags))
    return results


def log_weights(
    drawing: DrawingMethod, views: Tensor, index: Tensor, *, samples: int, seed: int
) -> Tensor:
    """Return w (samples, n) float64 of groups of views (v, n, c, h, w); see `bound_pass`."""
    v = len(views)
    x = drawing.model.stack(list(views))
    q = drawing.model.posterior(drawing.encoder(x.flatten(0, 1)), views=v)
    wide = (
        part.double().expand(samples, *part.shape) for part in (q.loc, q.log_variance)
    )  # (s, v, n, d)
    posterior = DiagonalNormal(*wide, validate_args=False)
    noise = normal_of(
        index.to(x.device), samples, v, q.loc.shape[-1],
        seed=fold_in(seed, "bound", v), dtype=torch.float64,
    )  # fmt: skip
    z = posterior.place(noise.permute(1, 2, 0, 3))
    drawn = drawing.model.likelihood(z.to(q.loc).flatten(0, 1))
    if isinstance(drawn, TemperedBernoulliImage):
        drawn = BernoulliImage(drawn.logits)
    target = x.expand(samples, *x.shape).flatten(0, 1)
    pixels = drawn.log_prob(target).double().unflatten(0, (samples, v)).sum(1)
    prior = drawing.config.prior_of(v).log_prob(z.transpose(1, 2))
    return pixels + prior - posterior.log_prob(z).sum(1)


def _needed(others: Mapping[str, Features] | None, name: str, maker: str) -> Features:
    found = (others or {}).get(name)
    if found is None:
        raise DataError(
            f"Expected what the model makes of the test images ('{name}'), got none: make it with "
            f"cognates.evaluation.likelihood.{maker}."
        )
    return found


def _mean_image(others: Mapping[str, Features], size: int) -> dict[str, np.ndarray]:
    """Return the errors of the mean training image, a model that has learnt nothing else."""
    if "pixels-train" not in others or "pixels-test" not in others:
        return {}
    x = others["pixels-test"].representation.astype(np.float64)
    mean = others["pixels-train"].representation.mean(axis=0, dtype=np.float64)
    if x.shape[1] != size:
        return {}
    # A pixel that is black in every training image may be white in a test image.
    mu = mean.clip(1 / 512, 1 - 1 / 512)  # half a grey value
    logit = np.log(mu) - np.log1p(-mu)
    return {
        "mse": ((x - mean) ** 2).mean(axis=1),
        "bce": -(x @ logit) - np.log1p(-mu).sum(),
    }


def _record(
    protocol: str,
    metric: str,
    values: np.ndarray,
    seed: int,
    settings: Mapping[str, object],
    flags: tuple[str, ...],
) -> Result:
    """Return the mean over images with its interval."""
    low, high = bootstrap.interval(bootstrap.means(values, seed=seed))
    return Result(
        protocol=protocol,
        metric=metric,
        value=float(np.mean(values)),
        low=low,
        high=high,
        n=len(values),
        protocol_seed=seed,
        settings=dict(settings),
        flags=flags,
    )


def _views(
    images: Images, transform: Transform, device: torch.device | str, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (index (n,), test views (n, c, h, w)) chunk by chunk."""
    if not len(images):
        raise DataError(f"Expected images in the split '{images.split}', got none.")
    for start in range(0, len(images), batch_size):
        stored = torch.from_numpy(np.array(images.pixels[start : start + batch_size])).to(device)
        yield torch.arange(start, start + len(stored), device=stored.device), transform.view(stored)


def _scored(
    images: Images,
    rows: np.ndarray,
    parts: list[dict[str, np.ndarray]],
    about: Mapping[str, int],
) -> Features:
    """Return features without a representation, with one number per image under every name."""
    return check(
        Features(
            representation=np.empty((len(rows), 0), dtype=np.float32),
            index=rows,
            targets={name: np.full(len(rows), int(value)) for name, value in about.items()},
            scores={name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
            dataset=images.dataset,
            split=images.split,
        )
    )
