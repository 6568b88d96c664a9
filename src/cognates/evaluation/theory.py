r"""The terms of the variational reading for any encoder: do views agree, do images spread?

    J_align   =  mean over i != j of log p(z^i | x^j)
    J_uniform = -mean over i != j of log (1/N) sum_k p(z^i | x_k^j)

p(z|x) is a von Mises-Fisher density around the unit representation of a view with one concentration
for all images, fitted by maximum likelihood on views of training images; q is the point itself. A
method with posteriors of its own is measured with these as well.

References:
    Representation Uncertainty in Self-Supervised Learning as Variational Inference (Nakamura, Okada
    and Taniguchi, 2023), https://arxiv.org/abs/2203.11437; docs/theory/variational.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cognates.data.images import Images
from cognates.data.views import ViewSpec
from cognates.distributions import VonMisesFisher
from cognates.distributions.spherical import Axial
from cognates.distributions.von_mises_fisher import concentration_for
from cognates.errors import DataError, NonFiniteError
from cognates.evaluation.features import view_pair
from cognates.evaluation.subjects import BASELINES
from cognates.methods.base import Latents, Method
from cognates.objectives.inference import j_align, j_uniform
from cognates.objectives.variational import FAMILIES
from cognates.types import Features, Result

MOST = 10_000
"""Most images that the terms are taken on: every k-th one, as the cost is quadratic."""
FIT = 2000
"""Training images whose views fit the one concentration, a number known to a few percent then."""
LARGEST = 1e7
"""Of a fitted concentration: where views coincide the likelihood has no maximum."""
LATENTS = ("latents1-test", "latents2-test")
"""Names of the features that `latent_pair` makes."""
_FAMILY = "family"


def fitted_concentration(z: Tensor) -> float:
    r"""Return the concentration under which views of the same images are most likely.

    Formula: the kappa at which a von Mises-Fisher cosine has the mean of cos(z^1, z^2).

    Args:
        z: (2, n, d) representations of two views.

    Returns:
        From 0, where the views agree no better than by chance, to 1e7, where they coincide.
    """
    cosine = (_unit(z[0]) * _unit(z[1])).sum(-1).mean()
    return min(float(concentration_for(cosine, dim=z.shape[-1])), LARGEST)


@torch.no_grad()
def terms_of(p: Axial, points: Tensor) -> dict[str, float]:
    """Return `j-align`, `j-uniform` and their sum `j` in nats; points (2, n, d) of unit length."""
    align, uniform = float(j_align(p, points)), float(j_uniform(p, points))
    return {"j-align": align, "j-uniform": uniform, "j": align + uniform}


def view_terms(z: Tensor, concentration: float) -> dict[str, float]:
    r"""Return J_align and J_uniform of representations with one concentration for all.

    Args:
        z: (2, n, d) of two views of n images, of any length.
        concentration: at least 0.

    Returns:
        `j-align`, `j-uniform` and their sum `j`, in nats; `j` is at most log n. In float64.

    Example:
        >>> terms = view_terms(torch.eye(4).expand(2, 4, 4), 50.0)
        >>> round(terms["j"], 6) == round(float(torch.tensor(4.0).log()), 6)
        True
    """
    unit = _unit(z)
    kappa = torch.full(unit.shape[:-1], concentration, dtype=unit.dtype, device=unit.device)
    return terms_of(VonMisesFisher(unit, kappa, validate_args=False), unit)


def theory(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    """Protocol `theory`: the terms of two views of the test images, by subject.

    At most 10,000 images are taken; there is no interval. J_KL is not there: q is a point.

    Args:
        train: not used.
        test: not used.
        seed: recorded.
        others: `view1-test`, `view2-test`, `view1-train` and `view2-train`, and the same with the
            prefix of a baseline; and, of a method with posteriors of its own, `latents1-test` and
            `latents2-test`.

    Returns:
        `j-align`, `j-uniform`, `j` and `concentration` of the representation by subject, flagged
        `coincident` at the largest concentration; `own-j-align` and so on with the method's own
        posteriors. Nats, but for the concentration; comparable for one n and one dimension.

    Raises:
        DataError: the features of the views are missing or of different images.
    """
    del train, test
    others = others or {}
    results = []
    for subject in ("trained", *BASELINES):
        prefix = "" if subject == "trained" else f"{subject}-"
        fit, held = (
            _stacked(others, [f"{prefix}view{side}-{split}" for side in (1, 2)])
            for split in ("train", "test")
        )
        if fit is None or held is None:
            continue
        kappa = fitted_concentration(fit)
        values = view_terms(held, kappa) | {"concentration": kappa}
        results += _results(subject, values, held.shape[1], seed, {"images": fit.shape[1]})
    if not results:
        raise DataError(
            "Expected features of two views of training and of test images ('view1-train', "
            "'view2-train', 'view1-test', 'view2-test'), got none: make them with "
            "cognates.evaluation.features.view_pair."
        )
    return results + _own(others, seed)


def has_latents(method: Method) -> bool:
    """Return whether a method has posteriors of its own."""
    return type(method).latents is not Method.latents


def latent_pair(
    method: Method,
    images: Images,
    *,
    views: Sequence[ViewSpec],
    size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    seed: int = 0,
) -> tuple[Features, Features]:
    """Return the posteriors of the two views of `view_pair`.

    The point of q is the representation, the direction of p the target `prediction`, kappa the
    target `concentration`. Arguments as for `view_pair`.
    """

    def read(view: Tensor) -> Tensor:
        found = cast("Latents", method.latents(view))
        parts = (found.target, found.prediction, found.concentration[:, None])
        return torch.cat([part.float() for part in parts], dim=1)

    pair = view_pair(
        method, images, views=views, size=size, mean=mean, std=std, device=device,
        batch_size=batch_size, seed=seed, read=read,
    )  # fmt: skip
    family = getattr(getattr(method, "config", None), _FAMILY, "von-mises-fisher")
    first, second = (_unpacked(side, family) for side in pair)
    return first, second


def _unpacked(side: Features, family: str) -> Features:
    packed = side.representation
    dim = packed.shape[1] // 2
    targets = {"prediction": packed[:, dim : 2 * dim], "concentration": packed[:, -1]}
    return replace(
        side, representation=packed[:, :dim], targets=targets, target_names={}, layer=family
    )


def _own(others: Mapping[str, Features], seed: int) -> list[Result]:
    """Return the terms with the posteriors that the method has learnt."""
    points = _stacked(others, LATENTS)
    if points is None:
        return []
    sides = [others[name] for name in LATENTS]
    every = _step(len(sides[0].index))
    read = functools.partial(np.stack, axis=0)
    direction = read([side.targets["prediction"][::every] for side in sides])
    kappa = torch.from_numpy(read([side.targets["concentration"][::every] for side in sides]))
    p = FAMILIES[sides[0].layer](
        _unit(torch.from_numpy(direction)), kappa.double(), validate_args=False
    )
    values = terms_of(p, _unit(points)) | {"concentration": float(kappa.double().mean())}
    named = {f"own-{name}": value for name, value in values.items()}
    return _results("trained", named, points.shape[1], seed, {"family": sides[0].layer})


def _stacked(others: Mapping[str, Features], names: Sequence[str]) -> Tensor | None:
    """Return (2, n, d) of the features called `names`; None: they are not there."""
    sides = [others[name] for name in names if name in others]
    if len(sides) < len(names):
        return None
    if not np.array_equal(sides[0].index, sides[1].index):
        raise DataError("Expected two views of the same images in the same order, got others.")
    every = _step(len(sides[0].index))
    found = torch.from_numpy(np.stack([side.representation[::every] for side in sides]))
    if not bool(found.isfinite().all()):
        raise NonFiniteError(
            "Expected finite features, got NaN or infinity: embed with weights of a run that has "
            "not diverged."
        )
    return found


def _step(n: int) -> int:
    return -(-n // MOST)


def _unit(z: Tensor) -> Tensor:
    return functional.normalize(z.double(), dim=-1)


def _results(
    subject: str, values: Mapping[str, float], n: int, seed: int, settings: Mapping[str, object]
) -> list[Result]:
    coincident = values.get("concentration", 0.0) >= LARGEST
    return [
        Result(
            protocol="theory",
            metric=metric,
            value=value,
            low=None,
            high=None,
            n=n,
            protocol_seed=seed,
            subject=subject,
            settings=settings,
            interval="none",
            flags=("coincident",) if coincident else (),
        )
        for metric, value in values.items()
    ]
