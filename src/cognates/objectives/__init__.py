"""Objectives: pure functions of tensors that return named, weighted terms to be minimised."""

from cognates.objectives.dependence import ssl_hsic
from cognates.objectives.siamese import negative_cosine
from cognates.objectives.variational import vi_simsiam

__all__ = ["negative_cosine", "ssl_hsic", "vi_simsiam"]
