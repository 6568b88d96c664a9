r"""SSL-HSIC: a representation that depends on the image's identity, and on little else.

    L = -HSIC(Z, Y) + gamma sqrt(HSIC(Z, Z))

Y is the image that a view was made of. For a label that only says which image it is, HSIC(Z, Y) is,
up to a factor, the mean kernel of two views of one image less that of any two points:

    HSIC(Z, Y) = (D_l / N) (E_pos[k] - E[k]);   the factor is dropped here

References:
    Self-Supervised Learning with Kernel Dependence Maximization (Li, Pogodin, Sutherland, Gretton,
    2021), https://arxiv.org/abs/2106.08320, equations 4 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cognates.errors import ConfigError
from cognates.kernels import Kernel, RandomFeatures, imq
from cognates.kernels.dependence import centred
from cognates.kernels.gram import precise
from cognates.types import Terms

Pairs = Literal["distinct", "all"]
_Features = Callable[[Tensor], Tensor]

_IMQ = imq(1.0)
_ELEMENTS = 1 << 20  # features at a time: 4 MB, which caches hold and allocators keep


def ssl_hsic(
    z: Float[Tensor, "v n d"],
    *,
    kernel: Kernel = _IMQ,
    gamma: float = 3.0,
    pairs: Pairs = "distinct",
    features: tuple[RandomFeatures, RandomFeatures] | None = None,
) -> Terms:
    r"""Return SSL-HSIC's objective, exact or with random features.

    Formula, for m = v n points, their Gram matrix K and H = I - 11'/m:

        HSIC(Z, Y) = 1/(n v (v-1)) sum_i sum_{p != l} k(z_i^p, z_i^l) - mean(K)
        HSIC(Z, Z) = Tr(KHKH)/m^2 = |HKH|^2/m^2
        L = -HSIC(Z, Y) + gamma sqrt(HSIC(Z, Z))

    With two independent draws A and B of D random features, S_i the sum of phi_A over the views of
    image i and C the (D, D) cross-covariance of phi_B and phi_A:

        HSIC(Z, Y) = (sum_i |S_i|^2 - sum |phi_A|^2)/(n v (v-1)) - |sum_i S_i|^2/m^2
        HSIC(Z, Z) = |C|^2/m^2,   C = sum over points of (phi_B - mean)(phi_A - mean)'

    Args:
        z: rows of unit length, normalised by the caller (`unit_rows`); v at least 2, n at least 1.
        kernel: of the exact form.
        gamma: weight of the variance term, finite and at least 0. The root makes both terms of
            degree one in the kernel, so one value serves every kernel.
        pairs: "distinct" leaves out a view's pair with itself; "all" keeps it, as the released code
            does, which adds sum of |phi(z)|^2/(n v (v-1)) to HSIC(Z, Y): 1/(v-1) in the exact form
            where k(z, z) = 1, whose gradient is zero.
        features: None: the exact form, O(m^2 d), and O(m d^2) for the linear kernel.
            (A, B): the random-feature form in time O(m D^2) and memory O(m d + D^2),
            as features are made again in the backward pass; A for
            HSIC(Z, Y) and one factor of HSIC(Z, Z), B for the other; they carry their own kernel.

    Returns:
        `dependence`, -HSIC(Z, Y), and `variance`, gamma sqrt(HSIC(Z, Z)): without unit, means over
        pairs of points, in float32 or better whatever autocast says.

    Raises:
        ConfigError: z has not three axes, there are fewer than two views or no image, gamma is
            negative or not finite, `pairs` is unknown, or A and B are one draw.

    Notes:
        The root is taken as a Frobenius norm, whose gradient at zero is zero: a collapsed batch has
        a finite gradient (in the released code it is NaN). At collapse both terms are 0 for
        distinct pairs; only the first one keeps images apart. HSIC(Z, Z) from one draw is biased
        upward, hence the two. The exact form equals Tr(KHLH)/m^2 with the one-hot label only after
        weighting: that is (((v-1)/v) (HSIC(Z, Y) + mean(K)) + Tr(K)/(m v) - mean(K))/n.

    References:
        Self-Supervised Learning with Kernel Dependence Maximization (Li, Pogodin, Sutherland,
        Gretton, 2021), https://arxiv.org/abs/2106.08320, equation 4; gamma and the pairs of "all":
        https://github.com/google-deepmind/ssl_hsic at d7ea38d.

    Example:
        >>> z = torch.eye(4).expand(2, 4, 4)  # four images with equal views, orthogonal
        >>> {name: round(term.item(), 4) for name, term in ssl_hsic(z).items()}
        {'dependence': -0.317, 'variance': 0.549}
    """
    _check(z, gamma, pairs)
    distinct = pairs == "distinct"
    with torch.autocast(z.device.type, enabled=False):
        z = precise(z)
        if features is None:
            if kernel.name == "linear" and z.shape[0] * z.shape[1] > z.shape[2]:
                # its features are the points, without a draw: exact in O(m d^2)
                zy, root = _by_features(z, _same, _same, z.shape[2], distinct)
            else:
                zy, root = _exact(z, kernel, distinct)
        else:
            first, second = features
            if first is second or first.weight is second.weight:
                raise ConfigError(
                    "Expected two independent draws of random features, got one twice: HSIC(Z, Z) "
                    "would be biased upward; draw again with another generator."
                )
            zy, root = _by_features(z, first, second, len(first.weight), distinct)
        return {"dependence": -zy, "variance": gamma * root}


def unit_rows(z: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes d"]:
    r"""Return rows of unit length, in float32 or better whatever autocast says.

    Formula: z / max(|z|, 1e-6), the floor of the released code; its gradient is finite at zero.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    with torch.autocast(z.device.type, enabled=False):
        z = precise(z)
        return z / torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(1e-6)


def _exact(z: Tensor, kernel: Kernel, distinct: bool) -> tuple[Tensor, Tensor]:
    """Return HSIC(Z, Y) and the root of HSIC(Z, Z)."""
    v, n, d = z.shape
    m = v * n
    flat = z.reshape(m, d)
    gram = kernel(flat, flat)
    same = gram.view(v, n, v, n).diagonal(dim1=1, dim2=3).sum()
    if distinct:
        same = same - gram.diagonal().sum()
    zy = same / (n * v * (v - 1)) - gram.mean()
    return zy, torch.linalg.vector_norm(centred(gram)) / m


def _same(x: Tensor) -> Tensor:
    return x


def _by_features(
    z: Tensor, first: _Features, second: _Features, count: int, distinct: bool
) -> tuple[Tensor, Tensor]:
    """Return the same from two draws of `count` features, made twice, some images at a time.

    Features are shifted by constants before they are multiplied, so that differences of large sums
    lose no digits; what the shift takes away is put back exactly.
    """
    v, n, d = z.shape
    m, together = v * n, max(1, _ELEMENTS // (v * count))
    with torch.no_grad():
        some = z[:, :together].reshape(-1, d)
        shifts = first(some).mean(0), second(some).mean(0)

    def moments(part: Tensor) -> tuple[Tensor, ...]:
        phi = first(part)
        same = phi.sum(0).square().sum()
        if distinct:
            same = same - phi.square().sum()
        one = phi.flatten(0, 1) - shifts[0]
        two = second(part.flatten(0, 1)) - shifts[1]
        return same, one.sum(0), two.sum(0), two.T @ one

    # Summed as they come: a (D, D) product per part, kept to the end, would grow as m D^3.
    parts, sums = z.split(together, dim=1), None
    for part in parts:
        found = (
            moments(part)
            if len(parts) == 1
            else checkpoint(moments, part, use_reentrant=False, preserve_rng_state=False)
        )
        sums = found if sums is None else tuple(a + b for a, b in zip(sums, found, strict=True))
    assert sums is not None  # there is at least one image
    same, one, two, cross = sums
    zy = same / (n * v * (v - 1)) - (one / m + shifts[0]).square().sum()
    return zy, torch.linalg.vector_norm(cross - two[:, None] * one / m) / m


def _check(z: Tensor, gamma: float, pairs: str) -> None:
    if z.ndim != 3 or z.shape[0] < 2 or not z.shape[1]:
        raise ConfigError(
            "Expected z of shape (v, n, d) with at least two views and one image, got "
            f"{tuple(z.shape)}: stack views on axis 0."
        )
    if not 0 <= gamma < math.inf:
        raise ConfigError(f"Expected a finite 'gamma' of at least 0, got {gamma}.")
    if pairs not in ("distinct", "all"):
        raise ConfigError(f"Expected 'pairs' distinct or all, got {pairs!r}.")
