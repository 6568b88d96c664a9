r"""Objectives of methods whose output is a distribution.

References:
    Representation Uncertainty in Self-Supervised Learning as Variational Inference (Nakamura, Okada
    and Taniguchi, 2023), https://arxiv.org/abs/2203.11437.
    On the Pitfalls of Heteroscedastic Uncertainty Estimation with Probabilistic Neural Networks
    (Seitzer, Tavakoli, Antic and Martius, 2022), https://arxiv.org/abs/2203.09168, equation 5.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import kl_divergence

from cognates.distributions import (
    PowerSpherical,
    SphericalUniform,
    VonMisesFisher,
    log_area,
    power_spherical,
    von_mises_fisher,
)
from cognates.distributions.spherical import Axial, precise
from cognates.errors import ConfigError
from cognates.objectives.siamese import cosines_between, negative_cosine, pair_cosines, unit
from cognates.types import Terms

Family = Literal["power-spherical", "von-mises-fisher"]
Coupling = Literal["joint", "detached", "cosine", "beta-nll"]
"""How the concentration's loss and the encoder's meet."""
Posterior = Literal["delta", "sampled"]

FAMILIES: dict[str, type[Axial]] = {
    "power-spherical": PowerSpherical,
    "von-mises-fisher": VonMisesFisher,
}
_LOG_RATIO = {
    "power-spherical": power_spherical.log_ratio,
    "von-mises-fisher": von_mises_fisher.log_ratio,
}
_COUPLINGS = ("joint", "detached", "cosine", "beta-nll")
_LEAST_CONCENTRATION = 1e-3  # the floor of `ConcentrationHead`: no weight is infinite


def vi_simsiam(
    prediction: Float[Tensor, "v n d"],
    concentration: Float[Tensor, "v n"],
    projection: Float[Tensor, "v n d"],
    *,
    family: Family = "power-spherical",
    per_dimension: bool = True,
    coupling: Coupling = "joint",
    beta: float = 0.5,
    posterior: Posterior = "delta",
    kl_weight: float = 0.1,
    generator: torch.Generator | None = None,
) -> Terms:
    r"""Return VI-SimSiam's objective: how unlikely each view finds the others' projections.

    Formula: L = -1/(v (v-1)) sum_{i != j} mean_n w^i log p(y^j; mu^i, kappa^i), with mu = p/|p|,
    t = sg(z/|z|), p the density of the family, w = 1 and y = t; divided by d - 1 if
    `per_dimension`. By `coupling`:

        joint, detached   L as it stands (detached: the caller stopped the gradient of the head at
                          its input)
        beta-nll          w^i = sg((kappa^i / (d-1))^-beta), kappa^-beta if not `per_dimension`
        cosine            L with sg(mu), for the concentration alone, and beside it SimSiam's
                          -1/(v (v-1)) sum_{i != j} mean_n mu^i . t^j

    By `posterior`: sampled draws y^j from q^j, the density of the family around t^j with kappa^j,
    and adds kl_weight mean KL(q^j || uniform).

    Args:
        prediction: p, the predictor's output for each view; v at least 2, d at least 2.
        concentration: kappa, at least 0; of the order of d.
        projection: z, the projector's output; no gradient passes through it.
        family: the distribution on the sphere.
        per_dimension: whether to divide by d - 1, which keeps SimSiam's learning rates valid.
        coupling: see above.
        beta: of beta-nll, in [0, 1]. At 1 the pull on mu is free of kappa, at 0 it is joint's.
        posterior: whether q is a point at the target, or a density of which one draw is taken.
        kl_weight: of the divergence of a sampled posterior, at least 0.
        generator: where the draw comes from; None: torch's global state.

    Returns:
        `alignment`: nats per dimension (or nats), a mean over images and ordered pairs of views; it
        has no lower bound. With cosine it is SimSiam's, in [-1, 1], and L is `concentration`. With
        a sampled posterior also `divergence`, in the unit of L. Cosines are taken in float32 or
        better and the densities in float64, whatever autocast says.

    Raises:
        ConfigError: shapes do not fit, there are fewer than two views, or an option is unknown or
            out of its range.

    Notes:
        Gradients of the Power Spherical loss of one pair with s = mu.t, before the division:
        dL/dkappa = log 2 + psi((d-1)/2 + kappa) - psi(d-1 + kappa) - log(1+s) and
        dL/dmu = -kappa/(1+s) t. The best concentration is (d-1) s/(1-s) + 1/2 (0 for s below
        -1/(2(d-1))), where the loss is log A_d + ((d-1)/2) log(1-s^2) - (1/2) log(1+s): it falls
        without limit as s goes to 1, so a falling loss is no sign of health. With a fixed
        concentration the von Mises-Fisher loss is kappa times `negative_cosine`, plus a constant.
        With a sampled posterior and kl_weight = 1 both terms together are the mean of
        KL(q^j || p^i) + log A_d, which is least where nothing is known, at kappa = 0: the weight
        has to be below 1 unless something else spreads the representations.
        s is kept above -1 + 1e-6, and a device without float64 (Apple's) computes in float32.

    References:
        Representation Uncertainty in Self-Supervised Learning as Variational Inference (Nakamura,
        Okada and Taniguchi, 2023), https://arxiv.org/abs/2203.11437.
        On the Pitfalls of Heteroscedastic Uncertainty Estimation with Probabilistic Neural Networks
        (Seitzer et al., 2022), https://arxiv.org/abs/2203.09168, equation 5 (the weight, there a
        power of the variance).

    Example:
        >>> z = torch.eye(8, dtype=torch.float64).expand(2, 8, 8)
        >>> {k: round(v.item(), 4) for k, v in vi_simsiam(z, torch.full((2, 8), 5.0), z).items()}
        {'alignment': 0.1294}
    """
    _check(prediction, concentration, family, coupling, posterior)
    require_weights(beta=beta, kl_weight=kl_weight)
    dim = prediction.shape[-1]
    unit_of_loss = dim - 1 if per_dimension else 1
    terms: Terms = {}
    with torch.autocast(prediction.device.type, enabled=False):
        alone = coupling == "cosine"
        direction = prediction.detach() if alone else prediction
        cosine, divergence = pair_cosines(direction, projection), None
        if posterior == "sampled":
            q = FAMILIES[family](unit(projection.detach()), concentration, validate_args=False)
            cosine = cosines_between(unit(direction), q.rsample(generator=generator))
            divergence = kl_divergence(q, SphericalUniform(dim)).mean() / unit_of_loss
        # By rounding a cosine can pass -1, where the Power Spherical density is zero.
        s = precise(cosine).clamp(-1 + 1e-6, 1.0)
        kappa = precise(concentration)[:, None]
        relative = _LOG_RATIO[family](s, kappa, dim=dim)
        if coupling == "beta-nll":
            weight = (kappa.detach().clamp_min(_LEAST_CONCENTRATION) / unit_of_loss) ** -beta
            loss = (weight * (log_area(dim) - relative)).mean()
        else:
            loss = log_area(dim) - relative.mean()
        if alone:
            terms |= negative_cosine(prediction, projection)
        terms["concentration" if alone else "alignment"] = (loss / unit_of_loss).to(cosine.dtype)
        if divergence is not None:
            terms["divergence"] = kl_weight * divergence.to(cosine.dtype)
        return terms


def require_weights(*, beta: float, kl_weight: float) -> None:
    """Refuse weights of `vi_simsiam` that are out of their range.

    Raises:
        ConfigError: beta is outside [0, 1], or kl_weight is negative or not finite.
    """
    if not 0 <= beta <= 1:
        raise ConfigError(f"Expected 'beta' in [0, 1], got {beta}.")
    if not 0 <= kl_weight < math.inf:
        raise ConfigError(f"Expected 'kl_weight' of at least 0 and finite, got {kl_weight}.")


def _check(
    prediction: Tensor, concentration: Tensor, family: str, coupling: str, posterior: str
) -> None:
    if concentration.shape != prediction.shape[:-1]:
        raise ConfigError(
            f"Expected one concentration per prediction, {tuple(prediction.shape[:-1])}, got "
            f"{tuple(concentration.shape)}."
        )
    for name, value, known in (
        ("family", family, _LOG_RATIO),
        ("coupling", coupling, _COUPLINGS),
        ("posterior", posterior, ("delta", "sampled")),
    ):
        if value not in known:
            raise ConfigError(f"Expected '{name}' to be one of {list(known)}, got {value!r}.")
