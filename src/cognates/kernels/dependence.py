r"""How much two variables depend on each other, from Gram matrices: HSIC, CKA, MMD.

References:
    Measuring Statistical Dependence with Hilbert-Schmidt Norms (Gretton, Bousquet, Smola,
    Schölkopf, 2005), definition 2.
    Feature Selection via Dependence Maximization (Song, Smola, Gretton, Bedo, Borgwardt, 2012),
    equation 4.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cognates.errors import ConfigError
from cognates.kernels.gram import precise

Estimator = Literal["biased", "gretton", "unbiased"]


def hsic(
    K: Float[Tensor, "m m"],
    L: Float[Tensor, "m m"],
    estimator: Estimator = "biased",
) -> Float[Tensor, ""]:
    r"""Return the Hilbert-Schmidt independence criterion of two variables seen at m points.

    Formula, with H = I - 11'/m and K~, L~ without their diagonals:

        biased    Tr(KHLH)/m^2
        gretton   Tr(KHLH)/(m-1)^2
        unbiased  (Tr(K~L~) + 1'K~1 1'L~1/((m-1)(m-2)) - 2/(m-2) 1'K~L~1) / (m(m-3))

    Args:
        K: Gram matrix of the first variable, symmetric.
        L: Gram matrix of the second variable at the same points, symmetric.
        estimator: "biased" is what the objective uses, "gretton" the textbook's; "unbiased" can be
            negative: for diagnostics, never under a root.

    Returns:
        A scalar in units of K times L, float32 or better whatever autocast says; at least 0 but for
        rounding if biased and both matrices are positive semi-definite.

    Raises:
        ConfigError: the matrices differ in shape, an unknown estimator, or too few points for it
            (1, 2 and 4).

    References:
        Gretton et al. 2005, definition 2; Song et al. 2012, equation 4.

    Example:
        >>> K = torch.eye(4)
        >>> [round(hsic(K, K, estimator).item(), 4) for estimator in ("biased", "gretton")]
        [0.1875, 0.3333]
    """
    _check(K, L, estimator)
    m = len(K)
    with torch.autocast(K.device.type, enabled=False):
        K, L = precise(K), precise(L)
        if estimator == "unbiased":
            K, L = _hollow(K), _hollow(L)
            rows, columns = K.sum(0), L.sum(0)
            product = rows.sum() * columns.sum() / ((m - 1) * (m - 2))
            total = (K * L).sum() + product - 2 / (m - 2) * (rows * columns).sum()
            return total / (m * (m - 3))
        # Both centred, although one would do: a product of differences loses fewer digits.
        total = (centred(K) * centred(L)).sum()
        return total / (m * m if estimator == "biased" else (m - 1) ** 2)


def cka(
    K: Float[Tensor, "m m"],
    L: Float[Tensor, "m m"],
    *,
    estimator: Estimator = "biased",
) -> Float[Tensor, ""]:
    r"""Return the centred kernel alignment: HSIC as a correlation.

    Formula: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).

    Args:
        K: as in `hsic`.
        L: as in `hsic`.
        estimator: "biased" and "gretton" give the same; "unbiased" is the debiased CKA.

    Returns:
        In [0, 1] but for "unbiased"; 1 if K is a multiple of L up to centring; 0 if either variable
        is constant.

    Raises:
        ConfigError: as `hsic`.

    References:
        Similarity of Neural Network Representations Revisited (Kornblith, Norouzi, Lee, Hinton,
        2019), https://arxiv.org/abs/1905.00414, equation 4

    Example:
        >>> K = torch.diag(torch.arange(4.0))
        >>> cka(K, 3 * K).item(), cka(K, torch.ones(4, 4)).item()
        (1.0, 0.0)
    """
    cross = hsic(K, L, estimator)
    own = hsic(K, K, estimator).clamp_min(0) * hsic(L, L, estimator).clamp_min(0)
    # What one constant variable leaves of the product is rounding. Both branches are finite, for
    # torch.where differentiates both.
    defined = own > torch.finfo(own.dtype).tiny
    root = torch.where(defined, own, torch.ones_like(own)).sqrt()
    return torch.where(defined, cross / root, torch.zeros_like(cross))


def mmd(
    K_xx: Float[Tensor, "n n"],
    K_yy: Float[Tensor, "m m"],
    K_xy: Float[Tensor, "n m"],
    estimator: Literal["biased", "unbiased"] = "biased",
) -> Float[Tensor, ""]:
    r"""Return the squared maximum mean discrepancy of two samples.

    Formula: mean(K_xx) + mean(K_yy) - 2 mean(K_xy), the squared distance of the mean embeddings;
    "unbiased" leaves out the diagonals of K_xx and K_yy.

    Args:
        K_xx: Gram matrix of the first sample.
        K_yy: Gram matrix of the second sample.
        K_xy: between them.
        estimator: "biased" or "unbiased".

    Returns:
        A scalar in units of K; at least 0 but for rounding if biased.

    Raises:
        ConfigError: the shapes do not fit, an unknown estimator, or fewer points than it needs (1;
            unbiased: 2).

    References:
        A Kernel Two-Sample Test (Gretton, Borgwardt, Rasch, Schölkopf, Smola, 2012), equations 3, 5

    Example:
        >>> from cognates.kernels import linear
        >>> x, y, k = torch.zeros(3, 2), torch.ones(4, 2), linear()
        >>> mmd(k(x, x), k(y, y), k(x, y)).item()
        2.0
    """
    n, m = len(K_xx), len(K_yy)
    if K_xx.shape != (n, n) or K_yy.shape != (m, m) or K_xy.shape != (n, m):
        raise ConfigError(
            "Expected Gram matrices (n, n), (m, m) and (n, m), got "
            f"{tuple(K_xx.shape)}, {tuple(K_yy.shape)} and {tuple(K_xy.shape)}."
        )
    if estimator not in ("biased", "unbiased"):
        raise ConfigError(f"Expected the estimator biased or unbiased, got {estimator!r}.")
    least = 1 if estimator == "biased" else 2
    if min(n, m) < least:
        raise ConfigError(f"Expected at least {least} points in each sample, got {n} and {m}.")
    with torch.autocast(K_xy.device.type, enabled=False):
        x, y, xy = precise(K_xx), precise(K_yy), precise(K_xy)
        if estimator == "biased":
            return x.mean() + y.mean() - 2 * xy.mean()
        inside = _hollow(x).sum() / (n * (n - 1)) + _hollow(y).sum() / (m * (m - 1))
        return inside - 2 * xy.mean()


def centred(K: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
    """Return HKH: the Gram matrix of the features less their mean.

    Example:
        >>> centred(torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
        tensor([[ 0.5000, -0.5000],
                [-0.5000,  0.5000]])
    """
    once = K - K.mean(0)
    return once - once.mean(1, keepdim=True)


def _hollow(K: Tensor) -> Tensor:
    return K - torch.diag(K.diagonal())


def _check(K: Tensor, L: Tensor, estimator: str) -> None:
    if K.ndim != 2 or K.shape[0] != K.shape[1] or K.shape != L.shape:
        raise ConfigError(
            "Expected two Gram matrices (m, m) of the same points, got "
            f"{tuple(K.shape)} and {tuple(L.shape)}."
        )
    least = {"biased": 1, "gretton": 2, "unbiased": 4}
    if estimator not in least:
        raise ConfigError(f"Expected an estimator of {list(least)}, got {estimator!r}.")
    if len(K) < least[estimator]:
        raise ConfigError(
            f"Expected at least {least[estimator]} points for the estimator '{estimator}', got "
            f"{len(K)}."
        )
