r"""SimCLR: each view finds its image's other views among all views of the batch.

    h = encoder(x),   z = projector(h)
    L = mean over p != l and i of  -z_i^p . z_i^l / tau + log sum_k exp(z_i^p . z_k / tau)

over the unit rows z_k of both views but z_i^p itself (NT-Xent); `decoupled` leaves the positive out
of the sum, so that a pair that is close already pulls as hard as any other.

A Simple Framework for Contrastive Learning of Visual Representations (Chen, Kornblith, Norouzi and
Hinton, 2020), https://arxiv.org/abs/2002.05709.
Decoupled Contrastive Learning (Yeh et al., 2022), https://arxiv.org/abs/2110.06848.

The projector is that of section 2.1, W2 ReLU(W1 h), with batch normalisation before the ReLU. Every
view passes through the networks on its own. (The released code normalises both views together, and
once more, without a shift, after W2.) Every ordered pair of more than two views has the loss of
two. The method has no uncertainty of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from cognates.distributed import gather
from cognates.errors import ConfigError
from cognates.methods.base import Method, MethodConfig
from cognates.methods.registry import register
from cognates.networks.heads import hidden_mlp
from cognates.objectives import info_nce
from cognates.types import Batch, Embedding, Loss


class SimClr(Method):
    """SimCLR's networks and loss."""

    default_score = "view-disagreement"
    score_cost = "8 more forward passes per image"

    def __init__(self, encoder: nn.Module, *, width: int, config: SimClrConfig) -> None:
        """Put the projector on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projector = hidden_mlp(width, config.hidden, config.dim, layers=config.layers)

    def forward(self, batch: Batch) -> Loss:
        """Return NT-Xent over the global batch."""
        local = torch.stack([self.projector(self.encoder(view)) for view in batch.views], dim=1)
        # `gather` works along the images, (n, v, d); the objective wants the views first.
        z = gather(local).transpose(0, 1)
        terms = info_nce(z, temperature=self.config.temperature, decoupled=self.config.decoupled)
        return Loss(terms, monitored=z[0].detach())

    def embed(self, images: Tensor) -> Embedding:
        """Return h (n, width) in float32 or better, and no uncertainty."""
        h = self.encoder(images)
        return Embedding(h.to(torch.promote_types(h.dtype, torch.float32)), None)


@register
@dataclass(frozen=True, kw_only=True)
class SimClrConfig(MethodConfig):
    """SimCLR's hyperparameters; the defaults are the paper's for ImageNet."""

    name: ClassVar[str] = "simclr"
    paper: ClassVar[str] = (
        "A Simple Framework for Contrastive Learning of Visual Representations (Chen, Kornblith, "
        "Norouzi and Hinton, 2020), https://arxiv.org/abs/2002.05709"
    )

    dim: int = 128
    """Features of the projection."""
    hidden: int = 2048
    """Features between the projector's layers."""
    layers: int = 2
    """Linear maps in the projector."""
    temperature: float = 0.1
    """Of the softmax over cosines, above 0; the paper has .5 on CIFAR-10."""
    decoupled: bool = False
    """Whether the positive is left out of the sum (Yeh et al., 2022)."""

    def __post_init__(self) -> None:
        """Check sizes and the temperature."""
        for name in ("dim", "hidden", "layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Expected '{name}' of at least 1, got {getattr(self, name)}.")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"Expected a temperature above 0 and finite, got {self.temperature}.")

    def require_images(self, images: int) -> None:
        """Refuse a batch of one image, which has no other to be told from."""
        if images < 2:
            raise ConfigError(
                "Expected at least two images in each part of the batch (batch_size / accumulate), "
                f"got {images}: one image has no negatives; raise the batch size."
            )

    def build(self, encoder: nn.Module, *, width: int) -> SimClr:
        """Make the method around `encoder`, whose output is (n, width)."""
        return SimClr(encoder, width=width, config=self)
