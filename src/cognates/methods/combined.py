r"""Combined: terms of several objectives, each with a weight of its own, on one encoder.

    h = encoder(x),   z = projector(h),   p = predictor(z),   x' = decoder(h)
    L = sum over terms k of  w_k L_k(z, p, x, x'),   w_k of at least 0

An objective here is a pure function of representations, so any two can be added. The default is
SimSiam's cosine, a tenth of SSL-HSIC's variance term and a tenth of a reconstruction:

    cosine               -mean over i != j of cos(p^i, sg(z^j))                           SimSiam
    hsic_dependence      -HSIC(Z, Y), kernel imq of scale 1 between unit rows             SSL-HSIC
    hsic_variance        sqrt(HSIC(Z, Z)), smallest where all images are one point        SSL-HSIC
    nce_alignment        -mean over p != l of z^p . z^l / tau, unit rows                  SimCLR
    nce_uniformity       mean of log sum over the other rows k of exp(z . z_k / tau)      SimCLR
    vicreg_invariance    mean of (z^p - z^l)^2 over pairs of views and features           VICReg
    vicreg_variance      mean of max(0, 1 - std z)                                        VICReg
    vicreg_covariance    2 (sum of squared covariances of features) / d                   VICReg
    decoder              mean of (x - x')^2 over pixels of the normalised view            a decoder

SimSiam: Exploring Simple Siamese Representation Learning (Chen and He, 2021),
https://arxiv.org/abs/2011.10566. SSL-HSIC (Li et al., 2021), https://arxiv.org/abs/2106.08320.
SimCLR (Chen et al., 2020), https://arxiv.org/abs/2002.05709. VICReg (Bardes, Ponce and LeCun,
2022), https://arxiv.org/abs/2105.04906.

A term of weight 0 is not computed, and the heads that only it needs are not made. With `cosine` the
projector is SimSiam's, whose last layer is batch normalisation and so holds `vicreg_variance` near
0; without it there is none at the end, as in SimCLR and VICReg. Every view passes through the
networks on its own. Terms that need a moving copy of the network (BYOL, DINO) or a posterior
(VI-SimSiam, the VAE family) are not here. The weights of the default are not tuned. The method has
no uncertainty of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from cognates.distributed import average, gather
from cognates.errors import ConfigError
from cognates.kernels import imq
from cognates.methods.base import Method, MethodConfig
from cognates.methods.registry import register
from cognates.networks.decoders import build_decoder
from cognates.networks.heads import hidden_mlp, prediction_mlp, projection_mlp
from cognates.objectives import info_nce, negative_cosine, squared_error, ssl_hsic, vicreg
from cognates.objectives.dependence import unit_rows
from cognates.types import Batch, Embedding, Loss, Terms


class _Seen(NamedTuple):
    """What an objective of several views may read, of the global batch."""

    projection: Tensor
    """(v, n, d)"""
    prediction: Tensor | None
    """(v, n, d), where there is a predictor."""
    temperature: float


def _cosine(seen: _Seen) -> Terms:
    assert seen.prediction is not None
    return negative_cosine(seen.prediction, seen.projection)


_OBJECTIVES: tuple[tuple[Callable[[_Seen], Terms], dict[str, str]], ...] = (
    (_cosine, {"cosine": "alignment"}),
    (
        lambda seen: ssl_hsic(unit_rows(seen.projection), kernel=imq(1.0), gamma=1.0),
        {"hsic_dependence": "dependence", "hsic_variance": "variance"},
    ),
    (
        lambda seen: info_nce(seen.projection, temperature=seen.temperature),
        {"nce_alignment": "alignment", "nce_uniformity": "uniformity"},
    ),
    (
        lambda seen: vicreg(seen.projection, invariance=1.0, variance=1.0, covariance=1.0),
        {
            "vicreg_invariance": "invariance",
            "vicreg_variance": "variance",
            "vicreg_covariance": "covariance",
        },
    ),
)
"""Every objective of several views at weight 1, and its terms by the names of their weights."""


class Combined(Method):
    """The encoder, the heads that the terms need, and the sum of the terms."""

    default_score = "view-disagreement"
    score_cost = "8 more forward passes per image"

    def __init__(self, encoder: nn.Module, *, width: int, config: CombinedConfig) -> None:
        """Put the heads on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.predictor: nn.Module | None = None
        self.decoder: nn.Module | None = None
        if config.weights.cosine > 0:
            self.projector = projection_mlp(
                width, config.hidden, config.dim, layers=config.layers, last_affine=False
            )
            self.predictor = prediction_mlp(config.dim, config.predictor_hidden)
        else:
            self.projector = hidden_mlp(width, config.hidden, config.dim, layers=config.layers)
        if config.weights.decoder > 0:
            if config.channels is None or config.image_size is None:
                raise ConfigError(
                    "Expected the decoder's 'channels' and 'image_size', got none: give them, or "
                    "call completed(...) on the configuration."
                )
            self.decoder = build_decoder(
                config.decoder,
                channels=config.channels,
                image_size=config.image_size,
                latent_dim=width,
            )

    def forward(self, batch: Batch) -> Loss:
        """Return the weighted terms over the global batch."""
        projections, predictions, drawn = [], [], []
        for view in batch.views:
            h = self.encoder(view)
            z = self.projector(h)
            projections.append(z)
            if self.predictor is not None:
                predictions.append(self.predictor(z))
            if self.decoder is not None:
                drawn.append(self.decoder(h))
        # `gather` works along the images, (n, v, d); the objectives want the views first.
        projection = gather(torch.stack(projections, dim=1)).transpose(0, 1)
        prediction = None
        if predictions:
            prediction = gather(torch.stack(predictions, dim=1)).transpose(0, 1)
        terms = self._terms(_Seen(projection, prediction, self.config.temperature))
        if drawn:
            terms |= self._reconstruction(batch, drawn)
        return Loss(terms, monitored=projection[0].detach())

    def embed(self, images: Tensor) -> Embedding:
        """Return h (n, width) in float32 or better, and no uncertainty."""
        h = self.encoder(images)
        return Embedding(h.to(torch.promote_types(h.dtype, torch.float32)), None)

    def finish(self) -> None:
        """Drop what only training needs."""
        self.predictor = self.decoder = None

    def _terms(self, seen: _Seen) -> Terms:
        found = {}
        for objective, names in _OBJECTIVES:
            weights = {name: getattr(self.config.weights, name) for name in names}
            if any(weights.values()):
                terms = objective(seen)
                found |= {
                    name: weight * terms[names[name]]
                    for name, weight in weights.items()
                    if weight > 0
                }
        return found

    def _reconstruction(self, batch: Batch, drawn: list[Tensor]) -> Terms:
        sizes = {tuple(view.shape[1:]) for view in batch.views}
        if sizes != {tuple(drawn[0].shape[1:])}:
            raise ConfigError(
                f"Expected views of the shape {tuple(drawn[0].shape[1:])} that the decoder draws, "
                f"got {sorted(sizes)}: give all views one size, or set method.weights.decoder=0."
            )
        error = squared_error(torch.stack(batch.views), torch.stack(drawn))["reconstruction"]
        # Images are not coupled here, so the term travels and they do not.
        return average({"decoder": self.config.weights.decoder * error}, len(batch.index))


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weight of every term, finite and at least 0; a term of weight 0 is left out."""

    cosine: float = 1.0
    hsic_dependence: float = 0.0
    hsic_variance: float = 0.1
    nce_alignment: float = 0.0
    nce_uniformity: float = 0.0
    vicreg_invariance: float = 0.0
    vicreg_variance: float = 0.0
    vicreg_covariance: float = 0.0
    decoder: float = 0.1

    def __post_init__(self) -> None:
        """Check ranges, and that there is something that views share."""
        values = dataclasses.asdict(self)
        for name, value in values.items():
            if not 0 <= value < math.inf:
                raise ConfigError(
                    f"Expected the weight '{name}' of at least 0 and finite, got {value}."
                )
        del values["decoder"]
        if not any(values.values()):
            raise ConfigError(
                f"Expected a weight above 0 for at least one of {', '.join(values)}, got none: "
                "an image's views would share nothing; for a decoder alone train 'vae'."
            )


_DEFAULT = Weights()


@register
@dataclass(frozen=True, kw_only=True)
class CombinedConfig(MethodConfig):
    """The weights of the terms, and the sizes of the heads that they share."""

    name: ClassVar[str] = "combined"
    paper: ClassVar[str] = (
        "Exploring Simple Siamese Representation Learning (Chen and He, 2021), "
        "https://arxiv.org/abs/2011.10566, with terms of other papers"
    )

    weights: Weights = _DEFAULT
    """Of the terms: method.weights.cosine, hsic_dependence, hsic_variance, nce_alignment,
    nce_uniformity, vicreg_invariance, vicreg_variance, vicreg_covariance, decoder."""
    dim: int = 2048
    """Features of the projection."""
    hidden: int = 2048
    """Features between the projector's layers."""
    layers: int = 3
    """Linear maps in the projector."""
    predictor_hidden: int = 512
    """Features in the predictor's bottleneck, which only `cosine` needs."""
    temperature: float = 0.1
    """Of the softmax over cosines in the terms `nce_...`, above 0."""
    decoder: Literal["convnet", "mlp", "resnet"] = "convnet"
    """The network that draws a view from its h."""
    channels: int | None = None
    """Channels that the decoder draws; None: those of the data."""
    image_size: int | None = None
    """Height and width that the decoder draws; None: those of the views."""

    def __post_init__(self) -> None:
        """Check sizes and the temperature."""
        for name in ("dim", "hidden", "layers", "predictor_hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Expected '{name}' of at least 1, got {getattr(self, name)}.")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"Expected a temperature above 0 and finite, got {self.temperature}.")

    @property
    def has_predictor(self) -> bool:
        """Only where the term `cosine` needs it."""
        return self.weights.cosine > 0

    def completed(self, *, channels: int, image_size: int, views: int) -> CombinedConfig:
        """Return the configuration with the data's sizes where none is given."""
        del views
        return dataclasses.replace(
            self,
            channels=channels if self.channels is None else self.channels,
            image_size=image_size if self.image_size is None else self.image_size,
        )

    def require_images(self, images: int) -> None:
        """Refuse a batch of one image, which has no other to be told from."""
        if images < 2:
            raise ConfigError(
                "Expected at least two images in each part of the batch (batch_size / accumulate), "
                f"got {images}: raise the batch size."
            )

    def build(self, encoder: nn.Module, *, width: int) -> Combined:
        """Make the method around `encoder`, whose output is (n, width)."""
        return Combined(encoder, width=width, config=self)
