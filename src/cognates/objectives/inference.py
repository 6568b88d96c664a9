r"""Self-supervision as variational inference: the three terms, for any posterior on the sphere.

The views x^1 .. x^v of an image X are observations of one latent z. Without a decoder, by Bayes and
with p(z) = E_X' p(z|X'), the bound on log p(X) is, up to a constant,

    J = J_align + J_uniform - J_KL
    J_align   =  E_X E_q [ log p(z|X) ]              views agree
    J_uniform = -E_X E_q [ log E_X' p(z|X') ]        representations spread
    J_KL      =  E_X KL[ q(z|X) || uniform ]         posterior against prior

p(z|x) is a density of a network, q(z|x) a point or a density as well. With a mixture of experts
q(z|X) = (1/v) sum_i q(z|x^i); what p(z|X) is, `experts` says:

    product   eta prod_j p(z|x^j)      with a learned concentration eta is not constant
    mixture   (1/v) sum_j p(z|x^j)
    pairs     log p(z|x^j) for each j != i on its own, eta left out: what pairwise losses do

References:
    Representation Uncertainty in Self-Supervised Learning as Variational Inference (Nakamura, Okada
    and Taniguchi, 2023), https://arxiv.org/abs/2203.11437. The algebra, the factorisations and the
    identities with other methods are derived here: docs/theory/variational.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import kl_divergence

from cognates.distributions import SphericalUniform, VonMisesFisher, log_area
from cognates.distributions.spherical import Axial, precise
from cognates.distributions.von_mises_fisher import log_partition
from cognates.errors import ConfigError
from cognates.objectives.siamese import unit

Experts = Literal["pairs", "product", "mixture"]

_ELEMENTS = 1 << 21  # densities at a time: 16 MB in float64


def j_align(
    p: Axial, z: Float[Tensor, "*draws v n d"], *, experts: Experts = "pairs"
) -> Float[Tensor, ""]:
    r"""Return J_align: how likely an image's views find each other's latents.

    Formula: mean over images, draws and views i of log p(z^i | X); for pairs of log p(z^i | x^j)
    over ordered pairs i != j.

    Args:
        p: p(z|x), batch shape (v, n); v at least 2 for pairs.
        z: draws of q(z^i|x^i), or the points themselves of a delta.
        experts: how views are combined, see the module; product for von Mises-Fisher only.

    Returns:
        Nats, a scalar with gradients, in the dtype of p, computed in float64. Cosines are kept
        above -1 + 1e-6.

    Raises:
        ConfigError: shapes do not fit, there are too few views, or the combination is unknown or
            has no closed form.

    Notes:
        Minus this, with pairs and a delta at the stopped projections, is `vi_simsiam`; with a von
        Mises-Fisher p of fixed concentration kappa it is kappa times SimSiam's mean cosine, plus
        log C_d(kappa).

    References:
        Representation Uncertainty in Self-Supervised Learning as Variational Inference (Nakamura,
        Okada and Taniguchi, 2023), https://arxiv.org/abs/2203.11437.

    Example:
        >>> z = torch.eye(3).expand(2, 3, 3)
        >>> p = VonMisesFisher(z, torch.tensor(2.0))
        >>> j_align(p, z)                           # 2 - log(4 pi sinh(2)/2)
        tensor(-1.1262)
    """
    draws = _checked(p, z, experts)
    with torch.autocast(z.device.type, enabled=False):
        if experts == "product":
            return product_of_experts(p).log_prob(draws).mean()
        views = range(len(p.loc))
        if experts == "pairs":
            pairs = [(i, j) for i in views for j in views if i != j]
            return torch.stack([_between(draws, p, i, j).mean() for i, j in pairs]).mean()
        every = [torch.stack([_between(draws, p, i, j) for j in views]) for i in views]
        return torch.stack(every).logsumexp(1).mean() - math.log(len(views))


def j_uniform(
    p: Axial,
    z: Float[Tensor, "*draws v n d"],
    *,
    bank: Axial | None = None,
    experts: Experts = "pairs",
) -> Float[Tensor, ""]:
    r"""Return J_uniform: how unlikely latents are under the average image's posterior.

    Formula: minus the mean over images, draws and views i of log (1/m) sum_k p(z^i | X'_k); for
    pairs of log (1/m) sum_k p(z^i | x'_k^j) over ordered pairs i != j.

    Args:
        p: p(z|x), batch shape (v, n).
        z: draws of q, as for `j_align`.
        bank: p(z|x') of the m images that stand for the data, batch shape (v, m); the image itself
            belongs to them. None: p, the batch itself.
        experts: as for `j_align`.

    Returns:
        Nats, a scalar with gradients. In time O(draws v^2 n m d); memory is bounded.

    Raises:
        ConfigError: as for `j_align`, or the bank is of another sphere or number of views.

    Notes:
        As the image itself is kept, J_align + J_uniform of a delta is at most log m. With a von
        Mises-Fisher p at 1/tau it is log N - L of InfoNCE, exactly, N = m the terms in the
        denominator. So the value depends on m: compare values of one m only.

    References:
        Representation Uncertainty in Self-Supervised Learning as Variational Inference (Nakamura,
        Okada and Taniguchi, 2023), https://arxiv.org/abs/2203.11437.

    Example:
        >>> z = torch.eye(3).expand(2, 3, 3)
        >>> flat = VonMisesFisher(z, torch.tensor(0.0))
        >>> j_uniform(flat, z)                      # log 4 pi
        tensor(2.5310)
    """
    draws = _checked(p, z, experts)
    bank = p if bank is None else bank
    if bank.loc.ndim != 3 or len(bank.loc) != len(p.loc) or bank.dim != p.dim:
        raise ConfigError(
            f"Expected a bank of {len(p.loc)} views on the sphere of R^{p.dim}, got directions of "
            f"shape {tuple(bank.loc.shape)}: stack the views on axis 0."
        )
    with torch.autocast(z.device.type, enabled=False):
        found = [
            _log_marginal(draws[:, i].flatten(0, 1), against)
            for i, against in _comparisons(bank, experts)
        ]
        return -torch.stack(found).mean()


def j_kl(q: Axial | None) -> Float[Tensor, ""] | None:
    r"""Return J_KL: how far posteriors are from the uniform prior.

    Formula: mean of KL[q || uniform] = log A_d - H(q).

    Args:
        q: q(z|x) of any batch shape; None: a delta.

    Returns:
        Nats, at least 0; None for a delta, whose divergence is infinite whatever the image, so that
        it is left out.

    Example:
        >>> j_kl(VonMisesFisher(torch.eye(3), torch.tensor(2.0)))
        tensor(0.4794)
        >>> j_kl(None) is None
        True
    """
    if q is None:
        return None
    return kl_divergence(q, SphericalUniform(q.dim)).mean()


def variational_terms(
    p: Axial,
    q: Axial | Tensor,
    *,
    bank: Axial | None = None,
    experts: Experts = "pairs",
    draws: int = 1,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor | None]:
    r"""Return J_align, J_uniform and J_KL of a posterior that is a density or a point.

    Args:
        p: p(z|x), batch shape (v, n).
        q: a density of batch shape (v, n), or the points (v, n, d) of a delta.
        bank: see `j_uniform`.
        experts: see `j_align`.
        draws: of a density, per view of an image; at least 1, reparametrised.
        generator: where they come from; None: torch's global state.

    Returns:
        `align`, `uniform` and `kl` in nats, scalars; `kl` is None for a delta. The bound is
        align + uniform - kl, up to a constant of the data.

    Raises:
        ConfigError: as for `j_align`, or there is no draw.

    Example:
        >>> z = torch.eye(3).expand(2, 3, 3)
        >>> terms = variational_terms(VonMisesFisher(z, torch.tensor(2.0)), z)
        >>> {k: v if v is None else round(v.item(), 4) for k, v in terms.items()}
        {'align': -1.1262, 'uniform': 1.9853, 'kl': None}
    """
    if draws < 1:
        raise ConfigError(f"Expected at least one draw, got {draws}.")
    points = q.rsample((draws,), generator=generator) if isinstance(q, Axial) else q
    return {
        "align": j_align(p, points, experts=experts),
        "uniform": j_uniform(p, points, bank=bank, experts=experts),
        "kl": j_kl(q if isinstance(q, Axial) else None),
    }


def product_of_experts(p: Axial) -> VonMisesFisher:
    r"""Return the product of the views' densities, normalised again.

    Formula: prod_j vMF(mu_j, kappa_j) is proportional to vMF(m/|m|, |m|), m = sum_j kappa_j mu_j.

    Args:
        p: a von Mises-Fisher distribution of batch shape (v, n).

    Returns:
        Of batch shape (n,). Views that contradict each other (m = 0) leave the uniform density.

    Raises:
        ConfigError: another family: a product of Power Spherical densities is not one.

    Example:
        >>> mu = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> product_of_experts(VonMisesFisher(mu, torch.tensor(3.0))).concentration
        tensor([4.2426])
    """
    if not isinstance(p, VonMisesFisher):
        raise ConfigError(
            f"Expected von Mises-Fisher experts for a product, got {type(p).__name__}, whose "
            "product has no closed form: use pairs or mixture."
        )
    total = (p.concentration[..., None] * p.loc).sum(0)
    return VonMisesFisher(unit(total), torch.linalg.vector_norm(total, dim=-1), validate_args=False)


def log_eta(p: Axial) -> Float[Tensor, " n"]:
    r"""Return log eta, the normaliser of the product of the views' densities.

    Formula: log C_d(|sum_j kappa_j mu_j|) - sum_j log C_d(kappa_j), so that eta prod_j p(z|x^j) is
    a density.

    Args:
        p: a von Mises-Fisher distribution of batch shape (v, n).

    Returns:
        Nats (n,), in the dtype of p. Least where views contradict each other, and larger for
        smaller concentrations: constant only where these are fixed and all views agree equally.

    Raises:
        ConfigError: another family.

    Example:
        >>> mu = torch.eye(3).expand(2, 3, 3)
        >>> log_eta(VonMisesFisher(mu, torch.tensor(0.0)))   # log A_3: 1/A_3^2 becomes 1/A_3
        tensor([2.5310, 2.5310, 2.5310])
    """
    whole = product_of_experts(p)
    kappa, joint = precise(p.concentration), precise(whole.concentration)
    parts = log_partition(kappa, dim=p.dim) + log_area(p.dim)  # -log C_d
    found = parts.sum(0) - log_partition(joint, dim=p.dim) - log_area(p.dim)
    return found.to(p.loc.dtype)


def categorical_terms(
    log_p: Float[Tensor, "v n k"], log_q: Float[Tensor, "v n k"]
) -> dict[str, Tensor]:
    r"""Return the three terms where the latent is one of k classes, as in DINO.

    Formula: over ordered pairs i != j and images, with sums over the classes,

        align   =  mean q^i . log p^j                      minus DINO's cross-entropy
        uniform = -mean q^i . log mean_n' p^j_n'           what centring keeps at log k
        kl      =  mean [ log k + q^i . log q^i ]          to the uniform prior, finite here

    Args:
        log_p: log probabilities, of DINO's student: log softmax(g/tau_s); v at least 2.
        log_q: the same of its teacher: log softmax((g - centre)/tau_t), without gradient.

    Returns:
        `align`, `uniform` and `kl` in nats, scalars in the inputs' dtype.

    Raises:
        ConfigError: the shapes differ, or there are fewer than two views.

    Notes:
        align - kl = -mean KL(q^i || p^j) - log k. Whether the paper maps DINO in just this way was
        not confirmed.

    References:
        Emerging Properties in Self-Supervised Vision Transformers (Caron et al., 2021),
        https://arxiv.org/abs/2104.14294, equations 1 to 4.

    Example:
        >>> even = torch.full((2, 5, 4), 0.25).log()
        >>> {name: round(value.item(), 4) for name, value in categorical_terms(even, even).items()}
        {'align': -1.3863, 'uniform': 1.3863, 'kl': 0.0}
    """
    if log_p.shape != log_q.shape or log_p.ndim != 3 or len(log_p) < 2:
        raise ConfigError(
            "Expected log probabilities of one shape (v, n, k) with at least two views, got "
            f"{tuple(log_p.shape)} and {tuple(log_q.shape)}: stack views on axis 0."
        )
    q, views = log_q.exp(), range(len(log_p))
    pairs = [(i, j) for i in views for j in views if i != j]
    # a class of probability 0 counts nothing, whatever its logarithm: 0 times infinity would not
    own = torch.where(q > 0, log_q, torch.zeros_like(log_q))
    marginal = log_p.logsumexp(1) - math.log(log_p.shape[1])
    return {
        "align": torch.stack([(q[i] * log_p[j]).sum(-1).mean() for i, j in pairs]).mean(),
        "uniform": -torch.stack([(q[i] * marginal[j]).sum(-1).mean() for i, j in pairs]).mean(),
        "kl": math.log(log_p.shape[2]) + (q * own).sum(-1).mean(),
    }


def _comparisons(bank: Axial, experts: Experts) -> Iterator[tuple[int, Axial]]:
    """Yield which view's draws are held against which posteriors, batch shape (m,) or (v m,)."""
    views = range(len(bank.loc))
    if experts == "product":
        whole = product_of_experts(bank)
        yield from ((i, whole) for i in views)
    elif experts == "mixture":
        every = _like(bank, bank.loc.flatten(0, 1), bank.concentration.flatten(0, 1))
        yield from ((i, every) for i in views)
    else:
        for j in views:
            one = _like(bank, bank.loc[j], bank.concentration[j])
            yield from ((i, one) for i in views if i != j)


def _between(draws: Tensor, p: Axial, i: int, j: int) -> Tensor:
    """Return log p(z^i | x^j) (s, n)."""
    # A product and a sum, not a matrix product: no reduced precision on any device.
    cosine = (precise(draws[:, i]) * precise(p.loc[j])).sum(-1)
    return _like(p, p.loc[j], p.concentration[j]).log_prob_at(_kept(cosine))


def _kept(cosine: Tensor) -> Tensor:
    """Keep cosines where a Power Spherical density has a logarithm, as `vi_simsiam` does."""
    return cosine.clamp(-1 + 1e-6, 1.0)


def _like(p: Axial, loc: Tensor, concentration: Tensor) -> Axial:
    return type(p)(loc, concentration, validate_args=False)


def _log_marginal(z: Tensor, bank: Axial) -> Tensor:
    """Return the mean over rows of z (q, d) of the log of the mean density (m,) there."""
    directions = precise(bank.loc).T
    total = torch.zeros((), dtype=bank.loc.dtype, device=z.device)
    for rows in z.split(max(1, _ELEMENTS // directions.shape[1])):
        log_p = bank.log_prob_at(_kept(precise(rows) @ directions))
        total = total + log_p.logsumexp(1).sum()
    return total / len(z) - math.log(directions.shape[1])


def _checked(p: Axial, z: Tensor, experts: str) -> Tensor:
    """Return the draws as (s, v, n, d)."""
    if experts not in get_args(Experts):
        raise ConfigError(
            f"Expected 'experts' to be one of {list(get_args(Experts))}, got {experts!r}."
        )
    shape = p.loc.shape
    if len(shape) != 3 or z.shape[-3:] != shape or (experts == "pairs" and len(p.loc) < 2):
        raise ConfigError(
            "Expected posteriors and latents of one shape (v, n, d), at least two views for pairs, "
            f"got {tuple(shape)} and {tuple(z.shape)}: stack views on axis 0."
        )
    return z.reshape(-1, *shape)
