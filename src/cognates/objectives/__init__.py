"""Objectives: pure functions of tensors that return named, weighted terms to be minimised."""

from cognates.objectives.dependence import ssl_hsic
from cognates.objectives.generative import (
    consistency_elbo,
    elbo,
    group_elbo,
    importance_weighted_bound,
)
from cognates.objectives.multimodal import clip
from cognates.objectives.siamese import negative_cosine
from cognates.objectives.variational import vi_simsiam

__all__ = [
    "clip",
    "consistency_elbo",
    "elbo",
    "group_elbo",
    "importance_weighted_bound",
    "negative_cosine",
    "ssl_hsic",
    "vi_simsiam",
]
