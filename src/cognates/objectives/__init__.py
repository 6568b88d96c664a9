"""Objectives: pure functions of tensors that return named, weighted terms to be minimised."""

from cognates.objectives.generative import (
    consistency_elbo,
    elbo,
    group_elbo,
    importance_weighted_bound,
)
from cognates.objectives.siamese import negative_cosine
from cognates.objectives.variational import vi_simsiam

__all__ = [
    "consistency_elbo",
    "elbo",
    "group_elbo",
    "importance_weighted_bound",
    "negative_cosine",
    "vi_simsiam",
]
