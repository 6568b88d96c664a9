"""Objectives: pure functions of tensors that return named, weighted terms to be minimised."""

from cognates.objectives.categorical import dino
from cognates.objectives.dependence import ssl_hsic
from cognates.objectives.generative import (
    consistency_elbo,
    elbo,
    group_elbo,
    importance_weighted_bound,
)
from cognates.objectives.redundancy import vicreg
from cognates.objectives.siamese import byol, negative_cosine
from cognates.objectives.variational import vi_simsiam

__all__ = [
    "byol",
    "consistency_elbo",
    "dino",
    "elbo",
    "group_elbo",
    "importance_weighted_bound",
    "negative_cosine",
    "ssl_hsic",
    "vi_simsiam",
    "vicreg",
]
