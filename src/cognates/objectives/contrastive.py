r"""Contrastive objectives: a view finds its image's other view among those of other images.

    L = -mean over p != l of mean_i log [ exp(z_i^p . z_i^l / tau) / sum_k exp(z_i^p . z_k / tau) ]

References:
    Representation Learning with Contrastive Predictive Coding (van den Oord, Li and Vinyals, 2018),
    https://arxiv.org/abs/1807.03748, equation 4.
    A Simple Framework for Contrastive Learning of Visual Representations (Chen et al., 2020),
    https://arxiv.org/abs/2002.05709, equation 1.
    Decoupled Contrastive Learning (Yeh et al., 2022), https://arxiv.org/abs/2110.06848.
    Probabilistic Contrastive Learning Recovers the Correct Aleatoric Uncertainty of Ambiguous
    Inputs (Kirchhof, Kasneci and Oh, 2023), https://arxiv.org/abs/2302.02865.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cognates.distributions import PowerSpherical, VonMisesFisher
from cognates.errors import ConfigError
from cognates.types import Terms

Negatives = Literal["all", "cross"]

# As in `siamese`: a zero vector gets a finite value and gradient.
_SMALLEST_NORM = 1e-8


def info_nce(
    z: Float[Tensor, "v n d"],
    *,
    temperature: float = 0.1,
    negatives: Negatives = "all",
    decoupled: bool = False,
) -> Terms:
    r"""Return InfoNCE: how badly a view finds the other view of its image in the batch.

    Formula: with rows of unit length, for every ordered pair of views p != l and image i,

        L = -z_i^p . z_i^l / tau + log sum_{k in N} exp(z_i^p . z_k / tau)

    and the mean over pairs and images; N holds the n points of view l ("cross"), or those and the
    n - 1 other points of view p ("all", SimCLR's). Decoupled, N lacks the positive z_i^l.

    Args:
        z: projections; rows are normalised here. v at least 2, n at least 1.
        temperature: tau, above 0.
        negatives: what z_i^p is compared with; "all" has 2n - 1 terms and "cross" n, the positive
            among them.
        decoupled: whether the positive is left out of N; n is then at least 2.

    Returns:
        `alignment`, the first term, at least -1/tau, and `uniformity`, the second: nats, means over
        images and ordered pairs of views. Where all points are one their sum is log |N|; it is at
        least 0, and decoupled at least log |N| - 2/tau. Computed in float32 or better, whatever
        autocast says.

    Raises:
        ConfigError: z has not three axes, there are fewer than two views or no image (decoupled,
            fewer than two images), the temperature is not above 0 and finite, or `negatives` is
            unknown.

    Notes:
        v views give the mean over their ordered pairs of the objective of two. With a von
        Mises-Fisher p(z|x) of concentration 1/tau and the prior estimated from the N terms,
        J_align + J_uniform = log |N| - L. For tau to infinity L goes to log |N|; times tau it goes
        for tau to 0 to the mean gap between the nearest point and the positive.

    References:
        A Simple Framework for Contrastive Learning of Visual Representations (Chen et al., 2020),
        https://arxiv.org/abs/2002.05709, equation 1 ("all"); Representation Learning with
        Contrastive Predictive Coding (van den Oord et al., 2018), https://arxiv.org/abs/1807.03748,
        equation 4 ("cross"); Decoupled Contrastive Learning (Yeh et al., 2022),
        https://arxiv.org/abs/2110.06848 (`decoupled`).

    Example:
        >>> z = torch.eye(4).expand(2, 4, 4)  # four images with equal views, orthogonal
        >>> {name: round(term.item(), 4) for name, term in info_nce(z, temperature=0.5).items()}
        {'alignment': -2.0, 'uniformity': 2.5944}
    """
    _check(z.shape, temperature, negatives)
    if decoupled and z.shape[1] < 2:
        raise ConfigError(
            f"Expected at least two images for the decoupled objective, got {z.shape[1]}: one "
            "image has no negatives."
        )
    with torch.autocast(z.device.type, enabled=False):
        positive, against = _parts(_unit(z)[None], temperature, negatives, decoupled=decoupled)
        return {"alignment": -positive.mean(), "uniformity": against.mean()}


def mc_info_nce(
    posterior: VonMisesFisher | PowerSpherical,
    *,
    samples: int = 16,
    temperature: float = 0.1,
    negatives: Negatives = "all",
    generator: torch.Generator | None = None,
) -> Terms:
    r"""Return MCInfoNCE: InfoNCE of random latents, averaged before the logarithm.

    Formula: with z_s drawn from the posteriors of all views and images, and l_s the logarithm of
    the softmax that `info_nce` takes of them, for every ordered pair of views and image

        L = -log (1/S) sum_s exp(l_s)

    Args:
        posterior: batch shape (v, n), of the views of n images; v at least 2.
        samples: S, at least 1; the same for all images.
        temperature: tau, above 0: the inverse concentration of positive pairs.
        negatives: as for `info_nce`.
        generator: where the draws come from, on the posterior's device; None: torch's global state.

    Returns:
        `alignment` and `uniformity`, those of `info_nce` averaged over the samples, and `sampling`,
        at most 0: what averaging before the logarithm takes off. Nats, means over images and
        ordered pairs of views.

    Raises:
        ConfigError: as for `info_nce`, or there is no sample.

    Notes:
        For concentrations to infinity this is `info_nce` of the posteriors' directions, `sampling`
        0. Gradients pass through the reparametrised draws. With finitely many samples the estimate
        is biased upwards (Jensen's inequality); with one, `sampling` is 0. The paper normalises the
        denominator by its number of terms, which is a constant, and draws anew for every factor;
        here one draw of each image serves as anchor, positive and negative.

    References:
        Probabilistic Contrastive Learning Recovers the Correct Aleatoric Uncertainty of Ambiguous
        Inputs (Kirchhof, Kasneci and Oh, 2023), https://arxiv.org/abs/2302.02865, section 3.

    Example:
        >>> loc = torch.eye(4).expand(2, 4, 4)
        >>> sure = PowerSpherical(loc, torch.full((2, 4), 1e7))
        >>> terms = mc_info_nce(sure, temperature=0.5, generator=torch.Generator())
        >>> {name: round(abs(term.item()), 2) for name, term in terms.items()}
        {'alignment': 2.0, 'uniformity': 2.59, 'sampling': 0.0}
    """
    _check((*posterior.batch_shape, posterior.dim), temperature, negatives)
    if samples < 1:
        raise ConfigError(f"Expected at least one sample, got {samples}: 16 are usual.")
    with torch.autocast(posterior.loc.device.type, enabled=False):
        z = posterior.rsample((samples,), generator=generator)
        positive, against = _parts(z, temperature, negatives)
        each = positive - against  # (s, pairs, n) log softmax
        jointly = torch.logsumexp(each, dim=0) - math.log(samples)
        return {
            "alignment": -positive.mean(),
            "uniformity": against.mean(),
            "sampling": -(jointly - each.mean(0)).mean(),
        }


def _parts(
    z: Tensor, temperature: float, negatives: Negatives, *, decoupled: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the logits of positives and the log denominators, (s, pairs, n), of unit rows z."""
    s, v, n, _ = z.shape
    points = z.flatten(1, 2)
    logits = (points @ points.transpose(1, 2) / temperature).view(s, v, n, v, n)
    itself = torch.eye(n, dtype=torch.bool, device=z.device)
    # (s, v, n, v): of every point against each view; decoupled, against other images in it
    compared = logits.masked_fill(itself[:, None], -math.inf) if decoupled else logits
    against = torch.logsumexp(compared, dim=-1)
    same = logits.diagonal(dim1=2, dim2=4)  # (s, v, v, n)
    own = None
    if negatives == "all" and n > 1:
        inside = logits.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)  # (s, v, n, n)
        own = torch.logsumexp(inside.masked_fill(itself, -math.inf), dim=-1)
    positives, denominators = [], []
    for p in range(v):
        for other in range(v):
            if other == p:
                continue
            positives.append(same[:, p, other])
            across = against[:, p, :, other]
            denominators.append(across if own is None else torch.logaddexp(across, own[:, p]))
    return torch.stack(positives, 1), torch.stack(denominators, 1)


def _unit(z: Tensor) -> Tensor:
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return z / torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(_SMALLEST_NORM)


def _check(shape: tuple[int, ...], temperature: float, negatives: str) -> None:
    if len(shape) != 3 or shape[0] < 2 or shape[1] < 1:
        raise ConfigError(
            f"Expected at least two views of at least one image, (v, n, d), got {tuple(shape)}: "
            "stack views on axis 0."
        )
    if not 0 < temperature < math.inf:
        raise ConfigError(f"Expected a temperature above 0 and finite, got {temperature}.")
    if negatives not in ("all", "cross"):
        raise ConfigError(f"Expected 'negatives' all or cross, got {negatives!r}.")
