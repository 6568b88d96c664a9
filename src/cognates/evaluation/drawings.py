r"""Pictures that a generative method draws: reconstructions, views of one image, samples, mixtures.

With the model's group prior, sigma^2 within and gamma^2 between groups:

    reconstruction: mean of p(x | m),   m = mean of q(z | x)
    view:           psi ~ p(psi | m),   z ~ N(psi, sigma^2 I)
    sample:         psi ~ N(0, gamma^2 I),   z ~ N(psi, sigma^2 I)
    mixture:        z on the line between the m of two images

Every picture is the expected image, without the likelihood's noise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cognates.distributions import DiagonalNormal, GroupNormal
from cognates.errors import ConfigError
from cognates.evaluation.features import require_eval
from cognates.methods.base import Method
from cognates.networks.image_model import ImageModel
from cognates.random import generator


class Drawings(NamedTuple):
    """Rows of pictures, all in [0, 1]."""

    images: Tensor
    """(n, c, h, w) what was given."""
    reconstructions: Tensor
    """(n, c, h, w)"""
    views: Tensor
    """(n, k, c, h, w) views drawn from the common mean that each image tells of."""
    samples: Tensor
    """(k, c, h, w) drawn from the prior."""
    mixtures: Tensor
    """(n - 1, k, c, h, w) from each image to the next one, both reconstructions included."""


@torch.no_grad()
def draw_all(
    method: Method, images: Tensor, prior: GroupNormal, *, count: int, seed: int
) -> Drawings:
    r"""Draw what a generative method makes of images, and what it makes without any.

    Args:
        method: with an `ImageModel` as `model`, in eval mode.
        images: (n, c, h, w) in [0, 1], n at least 2, on the method's device.
        prior: of one latent, `GroupNormal(1, d, within, between)`, `between` finite and above 0.
        count: k, pictures per row, at least 2.
        seed: of the draws, which do not depend on the device.

    Returns:
        The pictures; see `Drawings`.

    Raises:
        ConfigError: the method draws no images, or an argument is out of its range.
    """
    require_eval(method)
    model = getattr(method, "model", None)
    if not isinstance(model, ImageModel):
        raise ConfigError(
            f"Expected a method that draws images, got {type(method).__name__}: train simve, vae, "
            "beta-vae or cr-vae."
        )
    if len(images) < 2 or count < 2 or prior.views != 1 or prior.flat:
        raise ConfigError(
            "Expected at least two images, two pictures per row and a prior of one latent that can "
            f"be drawn from, got {len(images)}, {count} and {prior}."
        )
    model.stack([images])
    mean = method.embed(images).representation
    told = prior.common_mean(mean[:, None])
    psi = _draw(told, count, seed, "view mean")
    within = torch.full_like(psi, prior.within).log()
    views = _draw(DiagonalNormal(psi, within), 1, seed, "view")[0]
    samples = prior.sample((count,), generator=generator(seed, "drawings", "prior"))[:, 0]
    share = torch.linspace(0, 1, count, dtype=mean.dtype, device=mean.device)[:, None, None]
    mixed = mean[:-1] + share * (mean[1:] - mean[:-1])
    return Drawings(
        images,
        _pictures(model, mean[None])[0],
        _pictures(model, views).transpose(0, 1),
        _pictures(model, samples[None].to(mean))[0],
        _pictures(model, mixed).transpose(0, 1),
    )


def _pictures(model: ImageModel, z: Tensor) -> Tensor:
    return model.likelihood(z).mean


def _draw(normal: DiagonalNormal, count: int, seed: int, what: str) -> Tensor:
    """Draw on the CPU, so that a seed means the same pictures everywhere."""
    shape = (count, *normal.loc.shape)
    noise = torch.randn(shape, generator=generator(seed, "drawings", what))
    return normal.place(noise.to(normal.loc))
