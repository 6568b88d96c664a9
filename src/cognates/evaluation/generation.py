r"""How near are drawn pictures to real ones, and do views of one psi keep the class?

    Frechet = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))
    KID     = unbiased MMD^2 with k(a, b) = (a . b / d + 1)^3, mean over subsets

Both compare features of a fixed, named reference encoder, never of the encoder under test, which
would reward its own invariances. The Frechet distance is biased in the number of images, so that
number is part of the metric's name.

References:
    GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et
    al., 2017), https://arxiv.org/abs/1706.08500, equation 6.
    Demystifying MMD GANs (Binkowski et al., 2018), https://arxiv.org/abs/1801.01401, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import t as student
from torch import Tensor

from cognates.errors import ConfigError, DataError
from cognates.evaluation import bootstrap, linear
from cognates.evaluation.subjects import labels
from cognates.random import fold_in
from cognates.types import Features, Result

SEEDS = 3
"""Draws of the samples: the interval of these metrics is over them (evaluation.md, section 11)."""
LIMIT = 10_000  # samples and test images, evaluation.md, section 8
SUBSETS, SUBSET = 100, 1000  # of the KID, evaluation.md, section 8
REFERENCE_TRAIN, REFERENCE_TEST = "reference-train", "reference-test"
VIEWS = {"image": "views-of-images", "prior": "views-of-prior"}
OF_PIXELS = "-pixels"
"""Ends the name of the same views as pixels, for a judge that is not the model itself."""
GROUP = 4
"""Views of one psi: six pairs."""
GROUPS = 1000
"""Psi whose views are drawn, and encoded again."""


def generated(number: int) -> str:
    """Return the name of the features of one draw of samples.

    Example:
        >>> generated(0)
        'generated-0'
    """
    return f"generated-{number}"


def generation(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    r"""Protocol `generation`: samples from the prior against test images.

    Metrics: `fid-ENCODER-N` and `kid-ENCODER-N`, the mean over three draws of N samples with a
    Student t interval, and `...-of-train-images`, the same for N random training images: what
    images of the same distribution score, which is not 0. Comparable only within one name.

    Args:
        train: not used.
        test: not used.
        seed: of the KID's subsets and of the training images.
        others: `reference-test`, `reference-train` and `generated-0` to `generated-2`: features of
            one reference encoder, whose name is their layer.

    Raises:
        DataError: there are no samples, or too few images for a covariance.
    """
    del train, test
    others = others or {}
    real, train_images = others.get(REFERENCE_TEST), others.get(REFERENCE_TRAIN)
    draws = [others[generated(i)] for i in range(SEEDS) if generated(i) in others]
    if real is None or train_images is None or len(draws) < 2:
        raise DataError(
            "Expected features of test and training images and of two draws of samples by a "
            "reference encoder, got some of them missing: evaluate a run of a generative method."
        )
    n = min(len(real.representation), *(len(draw.representation) for draw in draws))
    floor = train_images.representation
    if len(floor) > n:  # at random: a folder's images come class by class
        drawn = np.random.default_rng(fold_in(seed, "generation", "training images"))
        floor = floor[np.sort(drawn.choice(len(floor), n, replace=False))]
    rows = real.representation[:n].astype(np.float64)
    results = []
    for name, distance in (("fid", frechet_distance), ("kid", kernel_distance)):
        options = {"seed": seed} if name == "kid" else {}
        values = [distance(d.representation[:n].astype(np.float64), rows, **options) for d in draws]
        metric = f"{name}-{real.layer}-{n}"
        half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
        mean = float(np.mean(values))
        settings = {"encoder": real.layer, "samples": n, "draws": len(values)}
        if name == "kid":
            settings |= {"subset": min(n, SUBSET), "subsets": 1 if n <= SUBSET else SUBSETS}
        results.append(_fixed(metric, mean, (mean - half, mean + half), n, seed, settings))
        if len(floor) == n:
            least = distance(floor.astype(np.float64), rows, **options)
            results.append(_fixed(f"{metric}-of-train-images", least, None, n, seed, settings))
    return results


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    r"""Return the squared Frechet distance of the normals fitted to two samples, in float64.

    Formula: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^(1/2) S2 S1^(1/2))^(1/2)), S with divisor n - 1.

    Args:
        a: (n, d), n at least 2.
        b: (m, d), m at least 2.

    Returns:
        At least 0 but for rounding, in squared units of the features.

    Raises:
        DataError: a sample has fewer than two rows, or the widths differ.

    References:
        The Frechet distance between multivariate normal distributions (Dowson and Landau, 1982),
        https://doi.org/10.1016/0047-259X(82)90077-X, equation 4.

    Example:
        >>> x = np.array([[0.0], [2.0]])
        >>> round(frechet_distance(x, x + 3), 6)
        9.0
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if min(len(a), len(b)) < 2 or a.shape[1] != b.shape[1]:
        raise DataError(
            f"Expected two samples of at least two rows and one width, got {a.shape}, {b.shape}."
        )
    return frechet_of_moments(
        a.mean(axis=0), np.cov(a.T).reshape(2 * a.shape[1:]),
        b.mean(axis=0), np.cov(b.T).reshape(2 * b.shape[1:]),
    )  # fmt: skip


def frechet_of_moments(m1: np.ndarray, s1: np.ndarray, m2: np.ndarray, s2: np.ndarray) -> float:
    """Return the squared Frechet distance of two normals from means (d,) and covariances (d, d)."""
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    # Symmetric, with the eigenvalues of S1 S2: no complex square root, and a singular S is allowed.
    crossed = np.linalg.eigvalsh(root @ s2 @ root).clip(min=0)
    apart = np.square(m1 - m2).sum()
    return float(apart + np.trace(s1) + np.trace(s2) - 2 * np.sqrt(crossed).sum())


def kernel_distance(a: np.ndarray, b: np.ndarray, *, seed: int) -> float:
    r"""Return the KID: the unbiased MMD^2 with a cubic kernel, mean over 100 subsets of 1,000.

    Formula: k(x, y) = (x . y / d + 1)^3. Samples of at most 1,000 rows are taken whole, once.

    Args:
        a: (n, d), n at least 2.
        b: (n, d).
        seed: of the subsets, which are drawn without replacement.

    Returns:
        Around 0, also below, for samples of one distribution.

    Raises:
        DataError: the samples differ in shape.
    """
    if a.shape != b.shape:
        raise DataError(f"Expected two samples of one shape, got {a.shape} and {b.shape}.")
    x, y = torch.from_numpy(a).double(), torch.from_numpy(b).double()
    n = len(x)
    if n <= SUBSET:
        return _cubic_mmd(x, y)
    draws = np.random.default_rng(fold_in(seed, "kid"))
    total = 0.0
    for _ in range(SUBSETS):
        rows, columns = (torch.from_numpy(draws.permutation(n)[:SUBSET]) for _ in range(2))
        total += _cubic_mmd(x[rows], y[columns])
    return total / SUBSETS


def generated_views(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    grid: int = linear.GRID,
) -> list[Result]:
    r"""Protocol `generated-views`: do views drawn from one psi share a class?

    The class of a drawn view is what the linear probe, trained on real images' features, says of it
    once the model has encoded it again: a model's own sameness speaks for it there, also untrained.
    So a second judge, of records that end in `/pixels`, is the probe on the pixels of real images,
    asked about those of the drawn view. Metrics, for psi that test images tell of (`image/...`) and
    psi from the prior (`prior/...`): `agreement`, the share of pairs of views of one psi with one
    class; `agreement-unrelated`, that of pairs from different psi, all of them;
    `agreement-minus-unrelated`, their paired difference; `image/class-kept`, the share of views
    with the label of their image.

    Args:
        train: with labels.
        test: with labels.
        seed: of the resamples, which are of psi; a resample keeps each psi's mean over the others.
        others: `views-of-images` and `views-of-prior`: the model's features of drawn views, in
            which `index` says the psi (the row of the test image, or a number); the same with
            `-pixels`, and `pixels-train`, for the second judge, left out without them.
        grid: number of penalties of the linear probe.

    Raises:
        DataError: there are no drawn views.
    """
    others = others or {}
    if VIEWS["image"] not in others:
        raise DataError(
            "Expected features of views drawn from one psi, got none: evaluate a run of simve."
        )
    results = _judged(train, test, others, ending="", seed=seed, grid=grid)
    pixels = others.get("pixels-train")
    if pixels is not None and VIEWS["image"] + OF_PIXELS in others:
        pixels = replace(pixels, targets=train.targets)
        results += _judged(pixels, test, others, ending=OF_PIXELS, seed=seed, grid=grid)
    return results


def _judged(
    train: Features,
    test: Features,
    others: Mapping[str, Features],
    *,
    ending: str,
    seed: int,
    grid: int,
) -> list[Result]:
    """Return the records of one judge: the linear probe on `train`, asked about the drawn views."""
    names = {source: name + ending for source, name in VIEWS.items()}
    drawn = {source: others[name] for source, name in names.items() if name in others}
    rows = np.concatenate([views.representation for views in drawn.values()])
    seen = Features(representation=rows, index=np.arange(len(rows)))
    predicted = linear.predict(train, seen, grid=grid).labels
    results, start = [], 0
    for source, views in drawn.items():
        psi, counts = np.unique(views.index, return_counts=True)
        stop = start + len(views.index)
        table = predicted[start:stop].reshape(len(psi), counts[0])
        start = stop
        columns = agreement(table)
        columns["agreement-minus-unrelated"] = columns["agreement"] - columns["agreement-unrelated"]
        if source == "image":
            columns["class-kept"] = (table == labels(test)[psi][:, None]).mean(axis=1)
        judge = "pixels" if ending else "own"
        settings = {"views": int(counts[0]), "psi": source, "grid": grid, "judge": judge}
        for metric, values in columns.items():
            low, high = bootstrap.interval(bootstrap.means(values, seed=seed))
            results.append(
                Result(
                    protocol="generated-views",
                    metric=f"{source}/{metric}{ending.replace('-', '/')}",
                    value=float(values.mean()),
                    low=low,
                    high=high,
                    n=len(values),
                    protocol_seed=seed,
                    settings=settings,
                    interval="bootstrap-groups",
                )
            )
    return results


def agreement(table: np.ndarray) -> dict[str, np.ndarray]:
    r"""Return how often views agree, per psi, within it and with all others.

    Formula: with n_ic of the k views of psi i in class c and N_c in all of n psi,
    within = sum_c n_ic (n_ic - 1) / (k (k - 1)),
    unrelated = sum_c n_ic (N_c - n_ic) / (k^2 (n - 1)).

    Args:
        table: (n, k) classes, n and k at least 2.

    Returns:
        `agreement` and `agreement-unrelated`, each (n,) in [0, 1].

    Raises:
        ConfigError: there is one psi or one view.

    Example:
        >>> {name: v.tolist() for name, v in agreement(np.array([[1, 1], [1, 2]])).items()}
        {'agreement': [1.0, 0.0], 'agreement-unrelated': [0.5, 0.5]}
    """
    n, k = table.shape
    if n < 2 or k < 2:
        raise ConfigError(f"Expected at least two psi and two views of each, got {n} and {k}.")
    classes, found = np.unique(table, return_inverse=True)
    counts = np.zeros((n, len(classes)))
    np.add.at(counts, (np.repeat(np.arange(n), k), found.reshape(-1)), 1)
    within = (counts * (counts - 1)).sum(axis=1) / (k * (k - 1))
    unrelated = (counts * (counts.sum(axis=0) - counts)).sum(axis=1) / (k * k * (n - 1))
    return {"agreement": within, "agreement-unrelated": unrelated}


def _cubic_mmd(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> float:
    """Return the unbiased MMD^2 of `kernel_distance` from products alone, few passes over memory.

    A constant coordinate adds the 1 of the kernel.
    """
    n, d = x.shape
    one = torch.ones(n, 1, dtype=x.dtype)
    a, b = (torch.cat([part / d**0.5, one], dim=1) for part in (x, y))

    def cubes(gram: Tensor) -> Tensor:
        return (gram * gram).flatten() @ gram.flatten()

    inside = sum(cubes(part @ part.T) - part.square().sum(1).pow(3).sum() for part in (a, b))
    return float(inside / (n * (n - 1)) - 2 * cubes(a @ b.T) / n**2)


def _fixed(
    metric: str,
    value: float,
    bounds: tuple[float, float] | None,
    n: int,
    seed: int,
    settings: Mapping[str, object],
) -> Result:
    low, high = (None, None) if bounds is None else (float(bounds[0]), float(bounds[1]))
    return Result(
        protocol="generation",
        metric=metric,
        value=value,
        low=low,
        high=high,
        n=n,
        protocol_seed=seed,
        settings=dict(settings),
        interval="none" if bounds is None else "generation-draws",
    )
