r"""Objectives that keep images apart by the statistics of the features: VICReg.

References:
    VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning (Bardes,
    Ponce and LeCun, 2022), https://arxiv.org/abs/2105.04906.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cognates.errors import ConfigError
from cognates.kernels.gram import precise
from cognates.types import Terms

_STD = 1.0  # gamma of equation 1
_EPSILON = 1e-4  # of equation 2: the root has a finite slope where a feature is constant


def vicreg(
    z: Float[Tensor, "v n d"],
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Terms:
    r"""Return VICReg's objective: equal views, features that vary, and that vary independently.

    Formula, with C(z) the covariance of the n rows of a view (divisor n - 1):

        s = mean over p < l of mean_{i,j} (z^p_ij - z^l_ij)^2
        v = mean over p, j of max(0, 1 - sqrt(C(z^p)_jj + 1e-4))
        c = 2 mean over p of sum_{j != k} C(z^p)_jk^2 / d
        L = invariance s + variance v + covariance c

    Args:
        z: embeddings, not normalised; v at least 2, n at least 1. A single image has variance 0.
        invariance: weight of s, finite and at least 0.
        variance: weight of v, finite and at least 0; at 0 a collapse is a minimum.
        covariance: weight of c, finite and at least 0.

    Returns:
        `invariance`, `variance` and `covariance`, weighted, at least 0: squared units of z,
        units of z, and their fourth power over d; in float32 or better whatever autocast says.

    Raises:
        ConfigError: z has not three axes, there are fewer than two views or no image, or a weight
            is negative or not finite.

    Notes:
        For two views these are the released code's numbers, to which the paper's weights belong: s
        is divided by d, v is a mean over the views and c a sum; equations 5 and 6 divide no s by d
        and sum v. All three terms are 0 for equal views whose features are uncorrelated with a
        standard deviation of at least 1. A rotation of the features of all views leaves s as it is,
        not v and c. For n < d the sum of C_jk^2 is taken from the (n, n) Gram matrix, in O(n^2 d).
        c is a difference of sums: rounding may leave it a little below 0.

    References:
        VICReg (Bardes, Ponce and LeCun, 2022), https://arxiv.org/abs/2105.04906, equations 1 to 6;
        https://github.com/facebookresearch/vicreg, main_vicreg.py.

    Example:
        >>> z = torch.zeros(2, 8, 3)  # a collapse costs (almost) the whole weight of the variance
        >>> {name: round(term.item(), 2) for name, term in vicreg(z).items()}
        {'invariance': 0.0, 'variance': 24.75, 'covariance': 0.0}
    """
    _check(z, invariance=invariance, variance=variance, covariance=covariance)
    with torch.autocast(z.device.type, enabled=False):
        z = precise(z)
        pairs = [(a - b).square().mean() for a, b in combinations(z, 2)]
        each = [_moments(view) for view in z]
        spread, off = (torch.stack(part).mean() for part in zip(*each, strict=True))
        return {
            "invariance": invariance * torch.stack(pairs).mean(),
            "variance": variance * spread,
            "covariance": covariance * 2 * off,
        }


def _moments(view: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean lack of standard deviation and the sum of squared covariances over d."""
    n, d = view.shape
    centred = (view - view.mean(0)) / math.sqrt(max(n - 1, 1))
    variances = centred.square().sum(0)
    lack = functional.relu(_STD - (variances + _EPSILON).sqrt()).mean()
    # |X'X| = |XX'|: whichever product is smaller
    product = centred @ centred.T if n < d else centred.T @ centred
    return lack, (product.square().sum() - variances.square().sum()) / d


def _check(z: Tensor, **weights: float) -> None:
    if z.ndim != 3 or z.shape[0] < 2 or not z.shape[1]:
        raise ConfigError(
            "Expected z of shape (v, n, d) with at least two views and one image, got "
            f"{tuple(z.shape)}: stack views on axis 0."
        )
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ConfigError(f"Expected a finite '{name}' of at least 0, got {weight}.")
