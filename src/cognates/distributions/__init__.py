"""Distributions on the sphere, of latents and of images, as ordinary `torch.distributions`."""

from cognates.distributions import kl as _kl  # noqa: F401  (registers the divergences)
from cognates.distributions.group import GroupNormal
from cognates.distributions.likelihoods import (
    BernoulliImage,
    ContinuousBernoulliImage,
    ImageLikelihood,
    NormalImage,
    TemperedBernoulliImage,
)
from cognates.distributions.normal import DiagonalNormal
from cognates.distributions.power_spherical import PowerSpherical
from cognates.distributions.spherical import SphericalUniform, concentration_score, log_area
from cognates.distributions.von_mises_fisher import VonMisesFisher

__all__ = [
    "BernoulliImage",
    "ContinuousBernoulliImage",
    "DiagonalNormal",
    "GroupNormal",
    "ImageLikelihood",
    "NormalImage",
    "PowerSpherical",
    "SphericalUniform",
    "TemperedBernoulliImage",
    "VonMisesFisher",
    "concentration_score",
    "log_area",
]
