r"""Objectives of methods whose output is a distribution.

References:
    Representation Uncertainty in Self-Supervised Learning as Variational Inference (Nakamura, Okada
    and Taniguchi, 2023), https://arxiv.org/abs/2203.11437.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cognates.distributions import log_area, power_spherical, von_mises_fisher
from cognates.distributions.spherical import precise
from cognates.errors import ConfigError
from cognates.objectives.siamese import pair_cosines
from cognates.types import Terms

Family = Literal["power-spherical", "von-mises-fisher"]

_LOG_RATIO = {
    "power-spherical": power_spherical.log_ratio,
    "von-mises-fisher": von_mises_fisher.log_ratio,
}


def vi_simsiam(
    prediction: Float[Tensor, "v n d"],
    concentration: Float[Tensor, "v n"],
    projection: Float[Tensor, "v n d"],
    *,
    family: Family = "power-spherical",
    per_dimension: bool = True,
) -> Terms:
    r"""Return VI-SimSiam's objective: how unlikely each view finds the others' projections.

    Formula: L = -1/(v (v-1)) sum_{i != j} mean_n log p(t^j; mu^i, kappa^i), with mu = p/|p|,
    t = sg(z/|z|) and p the density of the family; divided by d - 1 if `per_dimension`.

    Args:
        prediction: p, the predictor's output for each view; v at least 2, d at least 2.
        concentration: kappa, at least 0; of the order of d.
        projection: z, the projector's output; no gradient passes through it.
        family: the distribution on the sphere.
        per_dimension: whether to divide by d - 1, which keeps SimSiam's learning rates valid.

    Returns:
        `alignment`: nats per dimension (or nats), a mean over images and ordered pairs of views; it
        has no lower bound. Cosines are taken in float32 or better and the densities in float64,
        whatever autocast says.

    Raises:
        ConfigError: shapes do not fit, there are fewer than two views, or the family is unknown.

    Notes:
        Gradients of the Power Spherical loss of one pair with s = mu.t, before the division:
        dL/dkappa = log 2 + psi((d-1)/2 + kappa) - psi(d-1 + kappa) - log(1+s) and
        dL/dmu = -kappa/(1+s) t. The best concentration is (d-1) s/(1-s) + 1/2 (0 for s below
        -1/(2(d-1))), where the loss is log A_d + ((d-1)/2) log(1-s^2) - (1/2) log(1+s): it falls
        without limit as s goes to 1, so a falling loss is no sign of health. With a fixed
        concentration the von Mises-Fisher loss is kappa times `negative_cosine`, plus a constant.
        s is kept above -1 + 1e-6, and a device without float64 (Apple's) computes in float32.

    References:
        Representation Uncertainty in Self-Supervised Learning as Variational Inference (Nakamura,
        Okada and Taniguchi, 2023), https://arxiv.org/abs/2203.11437.

    Example:
        >>> z = torch.eye(8, dtype=torch.float64).expand(2, 8, 8)
        >>> {k: round(v.item(), 4) for k, v in vi_simsiam(z, torch.full((2, 8), 5.0), z).items()}
        {'alignment': 0.1294}
    """
    if concentration.shape != prediction.shape[:-1]:
        raise ConfigError(
            f"Expected one concentration per prediction, {tuple(prediction.shape[:-1])}, got "
            f"{tuple(concentration.shape)}."
        )
    if family not in _LOG_RATIO:
        raise ConfigError(f"Expected 'family' to be one of {list(_LOG_RATIO)}, got {family!r}.")
    dim = prediction.shape[-1]
    with torch.autocast(prediction.device.type, enabled=False):
        cosine = pair_cosines(prediction, projection)
        # By rounding a cosine can pass -1, where the Power Spherical density is zero.
        s = precise(cosine).clamp(-1 + 1e-6, 1.0)
        relative = _LOG_RATIO[family](s, precise(concentration)[:, None], dim=dim)
        loss = log_area(dim) - relative.mean()
        if per_dimension:
            loss = loss / (dim - 1)
        return {"alignment": loss.to(cosine.dtype)}
