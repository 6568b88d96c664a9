"""Objectives: pure functions of tensors that return named, weighted terms to be minimised."""

from cognates.objectives.siamese import negative_cosine
from cognates.objectives.variational import vi_simsiam

__all__ = ["negative_cosine", "vi_simsiam"]
