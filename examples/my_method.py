r"""A self-supervised method in one file: redundancy reduction, as in Barlow Twins.

Train it, evaluate it and compare it like a method of the library:

    cognates train my-method --plugin examples/my_method.py --data fashion-mnist-mini --out runs/my
    cognates evaluate runs/my --plugin runs/my/plugin.py

The idea: the same feature of two views should correlate perfectly, and different features not at
all. With C the (d, d) correlation matrix between the views' features over the batch,

    invariance = mean over i of (1 - C_ii)^2
    redundancy = weight x (sum over i != j of C_ij^2) / d

Barlow Twins: Self-Supervised Learning via Redundancy Reduction (Zbontar et al., 2021),
https://arxiv.org/abs/2103.03230. The twist: both terms are divided by d, so that one learning rate
fits every dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor, nn

from cognates.distributed import gather
from cognates.errors import ConfigError
from cognates.methods import Method, MethodConfig, register
from cognates.networks.heads import projection_mlp
from cognates.types import Batch, Embedding, Loss, Terms


# 1. The objective: a pure function of the whole batch. It returns named terms, already weighted;
#    what is minimised is their sum, and each one appears in the log under its name.
def redundancy_reduction(first: Tensor, second: Tensor, *, weight: float) -> Terms:
    """Return the two terms for projections (n, d) of two views of the same n images."""
    n, d = first.shape
    # Delicate arithmetic runs in float32, whatever the precision of the training.
    with torch.autocast(first.device.type, enabled=False):
        correlation = _standardised(first.float()).T @ _standardised(second.float()) / n
        on = correlation.diagonal()
        invariance = (1 - on).square().mean()
        redundancy = weight * (correlation.square().sum() - on.square().sum()) / d
    return {"invariance": invariance, "redundancy": redundancy}


def _standardised(z: Tensor) -> Tensor:
    # 1e-4: the variance below which a feature counts as constant; keeps the gradient finite.
    return (z - z.mean(0)) / (z.var(0, correction=0) + 1e-4).sqrt()


# 2. The method: an encoder and whatever stands on top of it. `forward` sees views, an index, the
#    step and the seed; a batch has no labels. (If you need random numbers in it, draw them with
#    `cognates.random.generator(batch.seed, "my-method", batch.step)`: runs can then be resumed.)
class MyMethod(Method):
    """An encoder with a projector."""

    # No uncertainty of its own: the library measures how much an image's views disagree.
    default_score = "view-disagreement"
    score_cost = "8 more forward passes per image"

    def __init__(self, encoder: nn.Module, *, width: int, config: MyMethodConfig) -> None:
        """Put the projector on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projector = projection_mlp(width, config.hidden, config.dim, layers=2)

    def forward(self, batch: Batch) -> Loss:
        """Return the two terms over the global batch, averaged over pairs of views."""
        # The objective couples the images of a batch: gather the rows of all processes first (in
        # one process `gather` does nothing).
        z = [gather(self.projector(self.encoder(view))) for view in batch.views]
        found = [
            redundancy_reduction(first, second, weight=self.config.weight)
            for first, second in combinations(z, 2)
        ]
        terms = {name: torch.stack([pair[name] for pair in found]).mean() for name in found[0]}
        return Loss(terms, monitored=z[0].detach())

    def embed(self, images: Tensor) -> Embedding:
        """Return the encoder's output, in float32, and no uncertainty."""
        return Embedding(self.encoder(images).float(), None)


# 3. The configuration: every hyperparameter with its default, recorded with each run. Registering
#    it makes the method known under `name`.
@register
@dataclass(frozen=True, kw_only=True)
class MyMethodConfig(MethodConfig):
    """The method's hyperparameters."""

    name: ClassVar[str] = "my-method"
    paper: ClassVar[str] = (
        "Barlow Twins: Self-Supervised Learning via Redundancy Reduction (Zbontar et al., 2021), "
        "https://arxiv.org/abs/2103.03230"
    )

    dim: int = 512
    """Features of the projection."""
    hidden: int = 512
    """Features between the projector's two layers."""
    weight: float = 5e-3
    """Of the redundancy term; the paper's lambda, section 4."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, with a sentence."""
        if self.weight < 0:
            raise ConfigError(f"Expected 'weight' of at least 0, got {self.weight}.")

    def build(self, encoder: nn.Module, *, width: int) -> MyMethod:
        """Make the method around `encoder`, whose output is (n, width)."""
        return MyMethod(encoder, width=width, config=self)
