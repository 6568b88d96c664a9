r"""Objectives of generative models with latents: bounds on the likelihood of images.

All of them are negative bounds in nats, summed over views, dimensions and pixels and averaged over
groups (a group is an image with its v views). Their terms:

    reconstruction = -E_q[ log p(x | z) ],   entropy = -H(q(z | x)),   prior = -E_q[ log p(z) ]

Views come first, (v, n, ...), as everywhere in the library; the released code of SimVE keeps the
views of a group together, z_here = z_code.reshape(n, v, d).transpose(0, 1).

References:
    A Probabilistic Model behind Self-Supervised Learning (Bizeul, Schoelkopf and Allen, 2024),
    https://arxiv.org/abs/2402.01399.
    Auto-Encoding Variational Bayes (Kingma and Welling, 2013), https://arxiv.org/abs/1312.6114.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import kl_divergence

from cognates.distributions import DiagonalNormal, GroupNormal, ImageLikelihood
from cognates.distributions.normal import LOG_2_PI
from cognates.errors import ConfigError
from cognates.types import Terms

Parity = Literal["head", "first"]
"""A commit of the released code of SimVE: the head (c7368de) or the first one (f7fbb57)."""


def group_elbo(
    images: Float[Tensor, "v n c h w"],
    likelihood: ImageLikelihood,
    posterior: DiagonalNormal,
    z: Float[Tensor, "v n d"] | None,
    *,
    prior: GroupNormal,
    parity: Parity | None = None,
    training_images: int = 1,
) -> Terms:
    r"""Return SimVE's objective: the negative bound on the joint likelihood of an image's views.

    Formula: -log p(x^1 .. x^v) <= mean over n of
    -sum_j [ log p(x^j | z^j) + H(q(z^j | x^j)) ] - log p(z^1 .. z^v),
    the common mean psi of a group integrated out of p(z^1 .. z^v).

    Args:
        images: x in [0, 1], v at least 1 (the method asks for 2).
        likelihood: p(x | z) of the decoder at `z`, batch shape (v, n).
        posterior: q(z | x), batch shape (v, n), d coordinates.
        z: one draw of the posterior, which the decoder was given; None: the prior term is its exact
            expectation under the posterior, which has less variance.
        prior: of the v latents of a group.
        parity: the form of the released code, not a bound: sums over groups, no constants, and
            head: the entropy term is -pi sum s (weight 2 pi, evidently a slip for log 2 pi e + s),
            first: -(1/2) sum (s + 1), s the log variances.
        training_images: only for parity with a flat prior, whose term carries -n d log of this
            number at the head and +n d log of it at the first commit.

    Returns:
        `reconstruction`, `entropy` and `prior`: nats per group. Float32 or better, whatever
        autocast says.

    Raises:
        ConfigError: shapes do not fit, views stand on another axis, or `parity` is unknown.

    References:
        A Probabilistic Model behind Self-Supervised Learning (Bizeul, Schoelkopf and Allen, 2024),
        https://arxiv.org/abs/2402.01399; the bound in this form is derived here.

    Example:
        >>> from cognates.distributions import NormalImage
        >>> x, z = torch.full((2, 4, 1, 8, 8), 0.5), torch.zeros(2, 4, 3)
        >>> q, p = DiagonalNormal(z, z), GroupNormal(2, 3)
        >>> terms = group_elbo(x, NormalImage(0 * x, 1.0), q, z, prior=p)
        >>> {name: round(value.item(), 4) for name, value in terms.items()}
        {'reconstruction': 117.6241, 'entropy': -8.5136, 'prior': 3.8162}
    """
    if parity not in (None, "head", "first"):
        raise ConfigError(f"Expected 'parity' to be None, 'head' or 'first', got {parity!r}.")
    _check(images, likelihood, posterior, z)
    if len(images) != prior.views:
        raise ConfigError(
            f"Expected {prior.views} views on the first axis, got images of shape "
            f"{tuple(images.shape)}: stack views as (v, n, c, h, w)."
        )
    with torch.autocast(images.device.type, enabled=False):
        groups = _views_last(posterior)
        latents = None if z is None else z.transpose(0, 1)
        if parity is not None:
            return _as_released(images, likelihood, groups, latents, prior, parity, training_images)
        log_prior = prior.expected_log_prob(groups) if latents is None else prior.log_prob(latents)
        return {
            "reconstruction": -likelihood.log_prob(images).sum(0).mean(),
            "entropy": -posterior.entropy().sum(0).mean(),
            "prior": -log_prior.mean(),
        }


def elbo(
    images: Float[Tensor, "v n c h w"],
    likelihood: ImageLikelihood,
    posterior: DiagonalNormal,
    z: Float[Tensor, "v n d"] | None,
    *,
    beta: float = 1.0,
) -> Terms:
    r"""Return the objective of a VAE, or of a beta-VAE: every view is an image of its own.

    Formula: mean over n of sum_j [ -log p(x^j | z^j) + beta KL(q(z^j | x^j) || N(0, I)) ], the
    divergence split into `entropy` = -beta H(q) and `prior` = beta E_q[(|z|^2 + d log 2 pi) / 2].

    Args:
        images: x in [0, 1], v at least 1.
        likelihood: p(x | z) of the decoder at a draw of the posterior, batch shape (v, n).
        posterior: q(z | x), batch shape (v, n).
        z: None: the divergence in closed form; else that draw, at which the prior term is taken (as
            the released code of SimVE does for its VAE).
        beta: at least 0; 1 is the VAE.

    Returns:
        `reconstruction`, `entropy` and `prior`: nats per group of views. Float32 or better.

    Raises:
        ConfigError: shapes do not fit, or `beta` is negative.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2013),
        https://arxiv.org/abs/1312.6114, equations 7 and 10.
        beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins
        et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl, equation 4.

    Example:
        >>> from cognates.distributions import NormalImage
        >>> x, z = torch.full((1, 4, 1, 8, 8), 0.5), torch.zeros(1, 4, 3)
        >>> terms = elbo(x, NormalImage(0 * x, 1.0), DiagonalNormal(z, z), None)
        >>> {name: round(value.item(), 4) for name, value in terms.items()}
        {'reconstruction': 58.8121, 'entropy': -4.2568, 'prior': 4.2568}
    """
    if not 0 <= beta < math.inf:
        raise ConfigError(f"Expected 'beta' of at least 0 and finite, got {beta}.")
    _check(images, likelihood, posterior, z)
    with torch.autocast(images.device.type, enabled=False):
        square = posterior.mean.square() + posterior.variance if z is None else z.square()
        return {
            "reconstruction": -likelihood.log_prob(images).sum(0).mean(),
            "entropy": -beta * posterior.entropy().sum(0).mean(),
            "prior": beta * 0.5 * (square + LOG_2_PI).sum((0, -1)).mean(),
        }


def consistency_elbo(
    images: Float[Tensor, "v n c h w"],
    likelihood: ImageLikelihood,
    posterior: DiagonalNormal,
    z: Float[Tensor, "v n d"] | None,
    *,
    weight: float = 1e-3,
) -> Terms:
    r"""Return CR-VAE's objective: a VAE on an image and its views, whose posteriors should agree.

    Formula: mean over n of sum_j ELBO-loss(x^j) + weight sum_{j >= 1} KL(q(z | x^j) || q(z | x^0)),
    x^0 the image itself; per coordinate, with means m and log variances s,
    KL = (1/2) [ s_0 - s_j - 1 + (exp s_j + (m_j - m_0)^2) / exp s_0 ].

    Args:
        images: x in [0, 1]; the first view is the image, the others are augmented; v at least 2.
        likelihood: p(x | z) of the decoder at a draw of the posterior, batch shape (v, n).
        posterior: q(z | x), batch shape (v, n).
        z: see `elbo`.
        weight: lambda, at least 0; 1e-3 in the released code.

    Returns:
        `reconstruction`, `entropy`, `prior` and `consistency`: nats per group. Float32 or better.

    Raises:
        ConfigError: shapes do not fit, there is only one view, or the weight is negative.

    Notes:
        The released code takes exp(s) for a standard deviation in this divergence; here it is the
        variance that it is everywhere else.

    References:
        Consistency Regularization for Variational Auto-Encoders (Sinha and Dieng, 2021),
        https://arxiv.org/abs/2105.14859.

    Example:
        >>> from cognates.distributions import NormalImage
        >>> x, z = torch.full((2, 4, 1, 8, 8), 0.5), torch.zeros(2, 4, 3)
        >>> q = DiagonalNormal(torch.stack([z[0], z[1] + 1]), z)
        >>> terms = consistency_elbo(x, NormalImage(0 * x, 1.0), q, None, weight=0.1)
        >>> round(terms["consistency"].item(), 4)
        0.15
    """
    if not 0 <= weight < math.inf:
        raise ConfigError(f"Expected 'weight' of at least 0 and finite, got {weight}.")
    terms = elbo(images, likelihood, posterior, z)
    if len(images) < 2:
        raise ConfigError(
            "Expected the image and at least one view of it, got one: stack them on axis 0, the "
            "image first."
        )
    with torch.autocast(images.device.type, enabled=False):
        mean, log_variance = posterior.loc, posterior.log_variance
        views = DiagonalNormal(mean[1:], log_variance[1:], validate_args=False)
        image = DiagonalNormal(mean[:1], log_variance[:1], validate_args=False)
        return {**terms, "consistency": weight * kl_divergence(views, image).sum(0).mean()}


def squared_error(images: Float[Tensor, "v n c h w"], drawn: Float[Tensor, "v n c h w"]) -> Terms:
    r"""Return how far drawn images lie from the real ones.

    Formula: L = mean over views, images, channels and pixels of (x - x')^2; up to a factor and a
    constant the negative log likelihood of normal pixels with one variance.

    Args:
        images: x, of any range.
        drawn: x', what a decoder made of their representations.

    Returns:
        `reconstruction`: at least 0, squared units of x, a mean over everything. Computed in
        float32 or better, whatever autocast says.

    Raises:
        ConfigError: the shapes differ or are not (v, n, c, h, w).

    Example:
        >>> x = torch.zeros(2, 3, 1, 4, 4)
        >>> squared_error(x, x + 0.5)
        {'reconstruction': tensor(0.2500)}
    """
    if images.ndim != 5 or images.shape != drawn.shape:
        raise ConfigError(
            "Expected real and drawn images of one shape (v, n, c, h, w), got "
            f"{tuple(images.shape)} and {tuple(drawn.shape)}: stack the views on axis 0."
        )
    with torch.autocast(images.device.type, enabled=False):
        kind = torch.promote_types(drawn.dtype, torch.float32)
        return {"reconstruction": (drawn.to(kind) - images).square().mean()}


def importance_weighted_bound(log_weights: Float[Tensor, "s ..."]) -> Float[Tensor, "s ..."]:
    r"""Return the importance-weighted bound on log p(x) for 1, 2, ... nested samples.

    Formula: L_k = log (1/k) sum_{i <= k} exp w_i,   w = log p(x | z) + log p(z) - log q(z | x).

    Args:
        log_weights: (s, ...) w for s draws of the posterior.

    Returns:
        Nats (s, ...), entry k - 1 for the first k draws. In expectation it rises with k, from the
        usual bound towards log p(x).

    References:
        Importance Weighted Autoencoders (Burda, Grosse and Salakhutdinov, 2015),
        https://arxiv.org/abs/1509.00519, theorem 1.

    Example:
        >>> importance_weighted_bound(torch.tensor([0.0, 0.0, math.log(4.0)]))
        tensor([0.0000, 0.0000, 0.6931])
    """
    count = torch.arange(1, len(log_weights) + 1, device=log_weights.device)
    shape = (-1, *[1] * (log_weights.ndim - 1))
    return log_weights.logcumsumexp(0) - count.to(log_weights.dtype).log().view(shape)


def _as_released(
    images: Tensor,
    likelihood: ImageLikelihood,
    posterior: DiagonalNormal,
    z: Tensor | None,
    prior: GroupNormal,
    parity: Parity,
    training_images: int,
) -> Terms:
    """Return the terms of the released code: sums over groups, and no constants."""
    energy = prior.expected_energy(posterior) if z is None else prior.energy(z)
    s = posterior.log_variance
    constant = 0.0
    if prior.flat:
        sign = -1.0 if parity == "head" else 1.0
        constant = sign * len(energy) * prior.dim * math.log(training_images)
    return {
        "reconstruction": likelihood.energy(images).sum(),
        "entropy": -math.pi * s.sum() if parity == "head" else -0.5 * (s + 1).sum(),
        "prior": energy.sum() + constant,
    }


def _check(
    images: Tensor, likelihood: ImageLikelihood, posterior: DiagonalNormal, z: Tensor | None
) -> None:
    """Require one order of axes everywhere; images and likelihood check each other."""
    if images.ndim != 5:
        raise ConfigError(
            f"Expected images of shape (v, n, c, h, w), got {tuple(images.shape)}: stack the views "
            "on axis 0."
        )
    rows = images.shape[:2]
    if likelihood.batch_shape != rows or posterior.batch_shape != rows:
        raise ConfigError(
            f"Expected likelihood and posterior with the images' views and rows {tuple(rows)}, got "
            f"{tuple(likelihood.batch_shape)} and {tuple(posterior.batch_shape)}: views come first."
        )
    if z is not None and z.shape != posterior.loc.shape:
        raise ConfigError(
            f"Expected a draw of the posterior's shape {tuple(posterior.loc.shape)}, got "
            f"{tuple(z.shape)}: views come first."
        )


def _views_last(posterior: DiagonalNormal) -> DiagonalNormal:
    """Return the posterior with batch shape (n, v)."""
    parts = (posterior.loc.transpose(0, 1), posterior.log_variance.transpose(0, 1))
    return DiagonalNormal(*parts, validate_args=False)
