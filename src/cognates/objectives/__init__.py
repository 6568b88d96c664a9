"""Objectives: pure functions of tensors that return named, weighted terms to be minimised."""

from cognates.objectives.categorical import dino
from cognates.objectives.contrastive import info_nce, mc_info_nce
from cognates.objectives.dependence import ssl_hsic
from cognates.objectives.generative import (
    consistency_elbo,
    elbo,
    group_elbo,
    importance_weighted_bound,
    squared_error,
)
from cognates.objectives.inference import (
    categorical_terms,
    j_align,
    j_kl,
    j_uniform,
    log_eta,
    product_of_experts,
    variational_terms,
)
from cognates.objectives.loss_prediction import loss_prediction
from cognates.objectives.multimodal import clip
from cognates.objectives.redundancy import vicreg
from cognates.objectives.siamese import byol, negative_cosine
from cognates.objectives.variational import vi_simsiam

__all__ = [
    "byol",
    "categorical_terms",
    "clip",
    "consistency_elbo",
    "dino",
    "elbo",
    "group_elbo",
    "importance_weighted_bound",
    "info_nce",
    "j_align",
    "j_kl",
    "j_uniform",
    "log_eta",
    "loss_prediction",
    "mc_info_nce",
    "negative_cosine",
    "product_of_experts",
    "squared_error",
    "ssl_hsic",
    "variational_terms",
    "vi_simsiam",
    "vicreg",
]
