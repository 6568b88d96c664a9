r"""BYOL: predict a slowly moving copy's projection of another view.

    h = encoder(x),   z = projector(h),   p = predictor(z);   z_target from a copy of both
    L = 2 mean over i != j of |unit(p^i) - sg(unit(z_target^j))|^2

Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning (Grill et al., 2020),
https://arxiv.org/abs/2006.07733.

The target is a moving average of encoder and projector, in training mode, with batch statistics of
its own; its decay goes from `target_decay` to 1 by a cosine. Every view passes through the networks
on its own. What embeds is the online encoder, as in the paper; the method has no uncertainty of its
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from cognates.distributed import gather
from cognates.errors import ConfigError
from cognates.methods.base import Method, MethodConfig
from cognates.methods.registry import register
from cognates.networks.ema import cosine_decay, follow, frozen_copy
from cognates.networks.heads import hidden_mlp
from cognates.objectives import byol
from cognates.types import Batch, Embedding, Loss


class Byol(Method):
    """BYOL's networks and loss."""

    default_score = "view-disagreement"
    score_cost = "8 more forward passes per image"

    def __init__(self, encoder: nn.Module, *, width: int, config: ByolConfig) -> None:
        """Put the heads on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projector = hidden_mlp(width, config.hidden, config.dim)
        hidden = config.predictor_hidden or config.hidden
        self.predictor: nn.Module | None = hidden_mlp(config.dim, hidden, config.dim)
        self.target: nn.ModuleDict | None = frozen_copy(self._network())

    def forward(self, batch: Batch) -> Loss:
        """Return the squared distances over the global batch."""
        predictor, target = self.predictor, self.target
        assert predictor is not None, "a finished method only embeds"
        assert target is not None
        projections = [self.projector(self.encoder(view)) for view in batch.views]
        predictions = [predictor(z) for z in projections]
        with torch.no_grad():
            targets = [target["projector"](target["encoder"](view)) for view in batch.views]
        # `gather` works along the images, (n, v, d); the objective wants the views first.
        prediction = gather(torch.stack(predictions, dim=1)).transpose(0, 1)
        stopped = gather(torch.stack(targets, dim=1)).transpose(0, 1)
        return Loss(byol(prediction, stopped), monitored=gather(projections[0].detach()))

    def embed(self, images: Tensor) -> Embedding:
        """Return h (n, width) in float32 or better, and no uncertainty."""
        h = self.encoder(images)
        return Embedding(h.to(torch.promote_types(h.dtype, torch.float32)), None)

    def after_step(self, step: int) -> Mapping[str, float | Tensor]:
        """Move the target and return its decay."""
        assert self.target is not None
        decay = cosine_decay(step, start=self.config.target_decay, total=self.total_steps)
        follow(self.target, self._network(), decay=decay)
        return {"target_decay": decay}

    def finish(self) -> None:
        """Drop what only training needs."""
        self.predictor = self.target = None

    def _network(self) -> nn.ModuleDict:
        return nn.ModuleDict({"encoder": self.encoder, "projector": self.projector})


@register
@dataclass(frozen=True, kw_only=True)
class ByolConfig(MethodConfig):
    """BYOL's hyperparameters; the defaults are the paper's for ImageNet and 1000 epochs."""

    name: ClassVar[str] = "byol"
    paper: ClassVar[str] = (
        "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning (Grill et al., "
        "2020), https://arxiv.org/abs/2006.07733"
    )

    dim: int = 256
    """Features of the projection."""
    hidden: int = 4096
    """Features of the projector's hidden layer."""
    predictor_hidden: int | None = None
    """Features of the predictor's hidden layer; None: as the projector's."""
    target_decay: float = 0.996
    """Of the target's average at the start; it goes to 1 by a cosine. Shorter runs want less: the
    paper has .99 for 300 epochs."""

    def __post_init__(self) -> None:
        """Check sizes and ranges."""
        for name in ("dim", "hidden", "predictor_hidden"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"Expected '{name}' of at least 1, got {value}.")
        if not 0 <= self.target_decay <= 1:
            raise ConfigError(f"Expected 'target_decay' in [0, 1], got {self.target_decay}.")

    def build(self, encoder: nn.Module, *, width: int) -> Byol:
        """Make the method around `encoder`, whose output is (n, width)."""
        return Byol(encoder, width=width, config=self)
