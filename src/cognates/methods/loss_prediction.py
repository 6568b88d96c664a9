r"""Loss prediction: SimSiam with a head that learns how large an image's own loss will be.

    h = encoder(x),   z = projector(h),   p = predictor(z),   u = softplus(a(sg(h)))
    l^i = 1 - mean over j != i of cos(p^i, sg(z^j))
    L = mean over views and images of [ l^i - 1 + weight (u^i - sg(l^i))^2 ]

Pretrained Visual Uncertainties (Kirchhof, Collier, Oh and Kasneci, 2024),
https://arxiv.org/abs/2402.16569, after Learning Loss for Active Learning (Yoo and Kweon, 2019),
https://arxiv.org/abs/1905.03677.

The head sees the representation behind a stopped gradient, for its gradient would be at odds with
the encoder's: encoder and projections are those of SimSiam to the bit (unless `clip` bounds the
gradient of all weights together). The uncertainty of an image is the loss predicted from its test
view, `predicted-loss`. The paper predicts the loss of a classifier; to predict SimSiam's is a
choice made here, and needs no label.
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
from cognates.networks.heads import prediction_mlp, projection_mlp
from cognates.networks.positive_head import PositiveHead
from cognates.objectives import loss_prediction, negative_cosine
from cognates.objectives.siamese import pair_cosines
from cognates.types import Batch, Embedding, Loss

# In the middle of what losses are: 1 for random projections, near 0 at the end of training.
_START = 0.5


class LossPrediction(Method):
    """SimSiam's networks, the head and their losses."""

    default_score = "predicted-loss"

    def __init__(self, encoder: nn.Module, *, width: int, config: LossPredictionConfig) -> None:
        """Put the heads on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projector = projection_mlp(
            width, config.hidden, config.dim, layers=config.layers, last_affine=False
        )
        self.predictor = prediction_mlp(config.dim, config.predictor_hidden)
        # Made last: the weights before it are drawn as SimSiam's.
        self.head = PositiveHead(width, config.head_hidden or max(width // 4, 1), start=_START)

    def forward(self, batch: Batch) -> Loss:
        """Return the negative cosine and the head's squared error over the global batch."""
        projections, predictions, predicted = [], [], []
        for view in batch.views:
            h = self.encoder(view)
            z = self.projector(h)
            projections.append(z.detach())
            predictions.append(self.predictor(z))
            predicted.append(self.head(h.detach()))
        # `gather` works along the images, (n, v, ...); the objectives want the views first.
        projection = gather(torch.stack(projections, dim=1)).transpose(0, 1)
        prediction = gather(torch.stack(predictions, dim=1)).transpose(0, 1)
        guess = gather(torch.stack(predicted, dim=1)).transpose(0, 1)
        terms = negative_cosine(prediction, projection)
        with torch.no_grad(), torch.autocast(projection.device.type, enabled=False):
            losses = 1 - pair_cosines(prediction, projection).mean(1)
        terms |= loss_prediction(guess, losses, weight=self.config.weight)
        return Loss(terms, monitored=projection[0])

    def embed(self, images: Tensor) -> Embedding:
        """Return h (n, width) in float32 or better, and the loss (n,) to expect, above 0."""
        h = self.encoder(images)
        return Embedding(h.to(torch.promote_types(h.dtype, torch.float32)), self.head(h))


@register
@dataclass(frozen=True, kw_only=True)
class LossPredictionConfig(MethodConfig):
    """The hyperparameters; the networks' defaults are SimSiam's for ImageNet."""

    name: ClassVar[str] = "loss-prediction"
    paper: ClassVar[str] = (
        "Pretrained Visual Uncertainties (Kirchhof, Collier, Oh and Kasneci, 2024), "
        "https://arxiv.org/abs/2402.16569"
    )

    dim: int = 2048
    """Features of the projection."""
    hidden: int = 2048
    """Features between the projector's layers."""
    layers: int = 3
    """Linear maps in the projector; SimSiam has 2 on CIFAR."""
    predictor_hidden: int = 512
    """Features in the predictor's bottleneck; SimSiam has dim / 4."""
    head_hidden: int | None = None
    """Features between the head's layers; None: a quarter of the encoder's width."""
    weight: float = 1.0
    """Of the squared error, at least 0; with SGD it acts as a learning rate of the head alone."""

    def __post_init__(self) -> None:
        """Check sizes and ranges."""
        for name in ("dim", "hidden", "layers", "predictor_hidden", "head_hidden"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"Expected '{name}' of at least 1, got {value}.")
        if not 0.0 <= self.weight < math.inf:
            raise ConfigError(f"Expected a finite 'weight' of at least 0, got {self.weight}.")

    def build(self, encoder: nn.Module, *, width: int) -> LossPrediction:
        """Make the method around `encoder`, whose output is (n, width)."""
        return LossPrediction(encoder, width=width, config=self)
