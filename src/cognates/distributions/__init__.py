"""Distributions on the unit sphere, as ordinary `torch.distributions`."""

from cognates.distributions import kl as _kl  # noqa: F401  (registers the divergences)
from cognates.distributions.power_spherical import PowerSpherical
from cognates.distributions.spherical import SphericalUniform, concentration_score, log_area
from cognates.distributions.von_mises_fisher import VonMisesFisher

__all__ = [
    "PowerSpherical",
    "SphericalUniform",
    "VonMisesFisher",
    "concentration_score",
    "log_area",
]
