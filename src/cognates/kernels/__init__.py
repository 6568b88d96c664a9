"""Kernels of two sets of points, their random features, and measures of dependence."""

from cognates.kernels.dependence import cka, hsic, mmd
from cognates.kernels.gram import Kernel, imq, linear, rbf, squared_distances
from cognates.kernels.random_features import RandomFeatures
from cognates.kernels.scale import steepness, steepness_slope

__all__ = [
    "Kernel",
    "RandomFeatures",
    "cka",
    "hsic",
    "imq",
    "linear",
    "mmd",
    "rbf",
    "squared_distances",
    "steepness",
    "steepness_slope",
]
