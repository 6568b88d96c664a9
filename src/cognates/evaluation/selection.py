r"""What to label first: a few images that stand for many.

All strategies see unit representations z_i and an uncertainty u_i, and return positions in the
order in which to label; none sees a label.

    spread     k-means++ draws: the next image with probability proportional to w_i D_i^2, where D_i
               is the distance to the nearest image that is chosen and w_i the rank of u_i in [0, 1]
    typical    k-means with one cluster per label; of every cluster the image with the largest mean
               cosine to its 20 nearest of the same cluster, the largest cluster first
    certain    the same clusters; of the half of a cluster that is nearest to its centre the image
               of the lowest uncertainty
    random     the one to beat

`certain` and `spread` read the uncertainty, `typical` and `random` do not.

References:
    Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets (Hacohen, Dekel and
    Weinshall, 2022), https://arxiv.org/abs/2202.02794: typical images of clusters
    Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds (Ash, Zhang,
    Krishnamurthy, Langford and Agarwal, 2020), https://arxiv.org/abs/1906.03671: k-means++ draws
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from cognates.errors import ConfigError, nearest
from cognates.evaluation.knn import NEIGHBOURS, normalise
from cognates.evaluation.ranks import mid_ranks, require_finite
from cognates.random import fold_in

DEFAULT = "typical"
BY_UNCERTAINTY = ("certain", "spread")
"""The strategies that read the uncertainty."""
STEPS = 10
"""Of k-means: the tenth moved 0.4 to 2 % of 10,000 images of Fashion-MNIST and CIFAR-10 to another
of 40 or 400 clusters."""
_ELEMENTS = 1 << 23  # distances at a time: 32 MB


def select(
    representation: np.ndarray,
    uncertainty: np.ndarray,
    *,
    budget: int,
    strategy: str = DEFAULT,
    seed: int = 0,
) -> np.ndarray:
    r"""Return which images to label, the first to label first.

    Args:
        representation: (n, d); only directions count.
        uncertainty: (n,) finite, larger is less certain; only ranks count, and only for the
            strategies of `BY_UNCERTAINTY`.
        budget: images to choose, 1 to n.
        strategy: a key of `STRATEGIES`; "random" is the one to beat.
        seed: of what is drawn.

    Returns:
        (budget,) int64: distinct positions.

    Raises:
        ConfigError: an unknown strategy, or a budget that is not within 1 and n.

    Example:
        >>> z = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> chosen = select(z, np.array([0.1, 0.2, 0.4, 0.3]), budget=2)
        >>> sorted(int(row) // 2 for row in chosen)
        [0, 1]
    """
    require(strategy, budget)
    if budget > len(representation):
        raise ConfigError(
            f"Expected a budget of at most all {len(representation)} images, got {budget}."
        )
    require_finite("the uncertainty", uncertainty)
    generator = np.random.default_rng(fold_in(seed, "select", strategy))
    chosen = STRATEGIES[strategy](normalise(representation), uncertainty, budget, generator)
    return np.asarray(chosen, dtype=np.int64)


def require(strategy: str, budget: int, score: str | None = None) -> None:
    """Raise a `ConfigError` for an unknown strategy, no budget, or a score that is not read."""
    if strategy not in STRATEGIES:
        raise ConfigError(f"Unknown strategy '{strategy}': {nearest(strategy, STRATEGIES)}.")
    if budget < 1:
        raise ConfigError(f"Expected a budget of at least 1 image, got {budget}.")
    if score is not None and strategy not in BY_UNCERTAINTY:
        raise ConfigError(
            f"Expected a score with the strategy {' or '.join(BY_UNCERTAINTY)}, which read one, "
            f"got '{score}' with '{strategy}': leave one of the two out."
        )


def _random(
    z: torch.Tensor, u: np.ndarray, budget: int, generator: np.random.Generator
) -> np.ndarray:
    del u
    return generator.permutation(len(z))[:budget]


def _spread(
    z: torch.Tensor, u: np.ndarray, budget: int, generator: np.random.Generator
) -> np.ndarray:
    weight = (mid_ranks(u) - 0.5) / len(u)
    return _plus_plus(z, weight, budget, generator)


def _typical(
    z: torch.Tensor, u: np.ndarray, budget: int, generator: np.random.Generator
) -> np.ndarray:
    del u

    def density(members: np.ndarray, centre: torch.Tensor) -> int:
        del centre
        cosine = z[members] @ z[members].T
        k = min(NEIGHBOURS + 1, len(members))  # with itself, which moves all of them alike
        return int(cosine.topk(k, dim=1).values.mean(dim=1).argmax())

    return _one_of_each(z, budget, generator, density)


def _certain(
    z: torch.Tensor, u: np.ndarray, budget: int, generator: np.random.Generator
) -> np.ndarray:
    def surest(members: np.ndarray, centre: torch.Tensor) -> int:
        cosine = (z[members] @ centre).numpy()
        core = np.argsort(-cosine, kind="stable")[: -(-len(members) // 2)]
        return int(core[u[members][core].argmin()])

    return _one_of_each(z, budget, generator, surest)


STRATEGIES: dict[
    str, Callable[[torch.Tensor, np.ndarray, int, np.random.Generator], np.ndarray]
] = {"typical": _typical, "certain": _certain, "spread": _spread, "random": _random}
"""By name."""


def _one_of_each(
    z: torch.Tensor,
    budget: int,
    generator: np.random.Generator,
    choose: Callable[[np.ndarray, torch.Tensor], int],
) -> np.ndarray:
    """Return one image of every cluster, the largest cluster first."""
    cluster, centres = _clusters(z, budget, generator)
    order = np.argsort(cluster, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(cluster, minlength=budget))[:-1])
    sizes = np.array([len(members) for members in groups])
    chosen = [
        int(members[choose(members, centres[number])])
        for number in np.argsort(-sizes, kind="stable")
        if len(members := groups[number])
    ]
    # A cluster that has lost its images to others gives none: what is missing is drawn apart.
    if len(chosen) < budget:
        more = _plus_plus(z, np.ones(len(z)), budget - len(chosen), generator, chosen)
        chosen = [*chosen, *more]
    return np.asarray(chosen)


def _clusters(
    z: torch.Tensor, count: int, generator: np.random.Generator
) -> tuple[np.ndarray, torch.Tensor]:
    """Return the cluster (n,) of every image and the centres, by Lloyd's steps from k-means++."""
    centres = z[torch.from_numpy(_plus_plus(z, np.ones(len(z)), count, generator))]
    cluster = _nearest(z, centres)
    for _ in range(STEPS):
        total = torch.zeros_like(centres).index_add_(0, cluster, z)
        size = torch.bincount(cluster, minlength=count)[:, None]
        centres = torch.where(size > 0, total / size.clamp(min=1), centres)
        cluster = _nearest(z, centres)
    return cluster.numpy(), centres


def _nearest(z: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    step = max(1, _ELEMENTS // len(centres))
    half = centres.square().sum(dim=1) / 2
    return torch.cat(
        [(z[i : i + step] @ centres.T - half).argmax(dim=1) for i in range(0, len(z), step)]
    )


def _plus_plus(
    z: torch.Tensor,
    weight: np.ndarray,
    count: int,
    generator: np.random.Generator,
    given: list[int] | None = None,
) -> np.ndarray:
    """Draw distinct images by weight times squared distance to those that are there."""
    # 4 is the largest squared distance of two directions: the first draw is by weight alone
    distance = np.full(len(z), 4.0)
    free = np.ones(len(z), dtype=bool)

    def take(number: int) -> None:
        squared = (2 - 2 * (z @ z[number])).clamp(min=0).double().numpy()
        np.minimum(distance, squared, out=distance)
        free[number] = False

    for number in given or []:
        take(number)
    chosen: list[int] = []
    while len(chosen) < count:
        chance = np.where(free, weight * distance, 0.0)
        if not chance.sum() > 0:  # copies of those that are chosen are all there is
            chance = free.astype(float)
        chosen.append(int(generator.choice(len(z), p=chance / chance.sum())))
        take(chosen[-1])
    return np.asarray(chosen)
