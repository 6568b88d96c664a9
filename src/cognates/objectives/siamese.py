r"""Objectives of predictor methods: each view predicts the stopped projection of every other.

References:
    Exploring Simple Siamese Representation Learning (Chen and He, 2021),
    https://arxiv.org/abs/2011.10566, equations 1 and 4.
    Bootstrap Your Own Latent (Grill et al., 2020), https://arxiv.org/abs/2006.07733, equation 2.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cognates.errors import ConfigError
from cognates.types import Terms

# The floor of torch.nn.CosineSimilarity: far below any norm a network gives, and a zero vector gets
# a finite value and gradient.
_SMALLEST_NORM = 1e-8


def negative_cosine(
    prediction: Float[Tensor, "v n d"], projection: Float[Tensor, "v n d"]
) -> Terms:
    r"""Return SimSiam's objective: the negative cosine of predictions and stopped projections.

    Formula: L = -1/(v (v-1)) sum_{i != j} mean_n cos(p^i, sg(z^j)); for two views half of each
    direction, as in the paper.

    Args:
        prediction: p, the predictor's output for each view; v at least 2.
        projection: z, the projector's output; no gradient passes through it.

    Returns:
        `alignment`: in [-1, 1], no unit; a mean over images and ordered pairs of views. Computed in
        float32 or better, whatever autocast says.

    Raises:
        ConfigError: the shapes differ or there are fewer than two views.

    Notes:
        -1 is reached by agreement and by collapse alike: watch the spread of z.

    References:
        Exploring Simple Siamese Representation Learning (Chen and He, 2021),
        https://arxiv.org/abs/2011.10566, equations 1 and 4.

    Example:
        >>> z = torch.eye(4).expand(2, 4, 4)
        >>> negative_cosine(3 * z, z)
        {'alignment': tensor(-1.)}
    """
    with torch.autocast(prediction.device.type, enabled=False):
        return {"alignment": -pair_cosines(prediction, projection).mean()}


def byol(prediction: Float[Tensor, "v n d"], projection: Float[Tensor, "v n d"]) -> Terms:
    r"""Return BYOL's objective: squared distances of unit predictions to unit target projections.

    Formula: L = 2/(v (v-1)) sum_{i != j} mean_n |p^i/|p^i| - sg(z^j/|z^j|)|^2 = 4 + 4 L_cos with
    L_cos = `negative_cosine`; for two views the sum of both directions, as in the paper.

    Args:
        prediction: p, the predictor's output for each view; v at least 2.
        projection: z, the target network's projection; no gradient passes through it.

    Returns:
        `alignment`: in [0, 8], no unit; twice a mean over images and ordered pairs of views.
        Computed in float32 or better, whatever autocast says.

    Raises:
        ConfigError: the shapes differ or there are fewer than two views.

    Notes:
        0 is reached by agreement and by collapse alike; the predictor and the slow target are what
        keeps images apart. The gradient is four times that of `negative_cosine`.

    References:
        Bootstrap Your Own Latent (Grill et al., 2020), https://arxiv.org/abs/2006.07733, equation
        2 and the symmetric loss below it.

    Example:
        >>> z = torch.eye(4).expand(2, 4, 4)
        >>> byol(3 * z, z), byol(z, -z)
        ({'alignment': tensor(0.)}, {'alignment': tensor(8.)})
    """
    with torch.autocast(prediction.device.type, enabled=False):
        return {"alignment": 4 - 4 * pair_cosines(prediction, projection).mean()}


def pair_cosines(
    prediction: Float[Tensor, "v n d"], projection: Float[Tensor, "v n d"]
) -> Float[Tensor, "v others n"]:
    """Return cos(p^i, sg(z^j)) at [i, :, image], for the v - 1 views j != i in order.

    Raises:
        ConfigError: the shapes differ or there are fewer than two views.
    """
    if prediction.shape != projection.shape or prediction.ndim != 3 or len(prediction) < 2:
        raise ConfigError(
            "Expected prediction and projection of one shape (v, n, d) with at least two views, "
            f"got {tuple(prediction.shape)} and {tuple(projection.shape)}: stack views on axis 0."
        )
    return cosines_between(unit(prediction), unit(projection.detach()))


def cosines_between(
    mu: Float[Tensor, "v n d"], target: Float[Tensor, "v n d"]
) -> Float[Tensor, "v others n"]:
    """Return mu^i . t^j of unit vectors at [i, :, image], for the v - 1 views j != i in order."""
    # A product and a sum, not a matrix product: no reduced precision on any device.
    return torch.stack(
        [(mu[i] * torch.cat([target[:i], target[i + 1 :]])).sum(-1) for i in range(len(mu))]
    )


def unit(x: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes d"]:
    """Return rows of unit length in float32 or better; a row of zeros stays one."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(_SMALLEST_NORM)
