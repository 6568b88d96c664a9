r"""CLIP: two encoders, and which half of a pair belongs to which.

    h = encoder(image),   t = text(caption),   s_ij = cos(W h_i, V t_j) / temperature
    L = mean over rows and columns of the cross-entropy of s against the diagonal

Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021),
https://arxiv.org/abs/2103.00020, section 2 and figure 3.

The second half of a pair is a caption (`second="text"`), read by a Transformer of its own, or
another view of the image (`second="image"`), seen by a copy of the encoder that goes its own way:
two kinds of image, as the two entries of `views` describe them. With several views or captions of
an image every view is paired with every caption and the losses are averaged: where the image
encoder is what costs, further captions are further pairs for little.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from cognates.distributed import gather
from cognates.errors import ConfigError
from cognates.methods.base import Method, MethodConfig, TextConfig
from cognates.methods.registry import register
from cognates.networks.text import TextTransformer
from cognates.objectives import clip
from cognates.types import Batch, Embedding, Loss

_LARGEST_SCALE = math.log(100.0)
"""Section 2.5: logits are never scaled by more than 100."""
_OF_KINDS = {"image_to_text": "first_to_second", "text_to_image": "second_to_first"}
"""What the objective's terms are where the second half is no text."""


class Clip(Method):
    """CLIP's networks and loss."""

    default_score = "view-disagreement"
    score_cost = "8 more forward passes per image"

    def __init__(self, encoder: nn.Module, *, width: int, config: ClipConfig) -> None:
        """Put a second encoder beside `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        if config.second == "text":
            second: nn.Module = TextTransformer(
                vocabulary=config.vocabulary,
                length=config.length,
                width=config.text_width,
                layers=config.text_layers,
                heads=config.text_heads,
                pooling=config.text_pooling,
            )
        else:
            second = copy.deepcopy(encoder)
        self.image_projection = nn.Linear(width, config.dim, bias=False)
        second_width = config.text_width if config.second == "text" else width
        self.second = _Projected(second, second_width, config.dim)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def forward(self, batch: Batch) -> Loss:
        """Return the cross-entropies of both directions over the global batch.

        Their names are the objective's, and `first_to_second` and `second_to_first` for two images.
        """
        if self.config.second == "text":
            text = _text_of(batch)
            views, other = batch.views, self.project_text(text.flatten(0, -2))
            other = other.view(len(text), -1, other.shape[-1])
        else:
            views, other = batch.views[:1], self.project_second(batch.views[1])[:, None]
        image = torch.stack([self.project_images(view) for view in views], dim=1)
        # `gather` works along the images, (n, v, d) and (n, c, d).
        image, other = gather(image), gather(other)
        temperature = torch.exp(-self.log_scale)
        found = [
            clip(view, caption, temperature=temperature)
            for view in image.unbind(1)
            for caption in other.unbind(1)
        ]
        names = _OF_KINDS if self.config.second == "image" else {name: name for name in found[0]}
        terms = {
            names[name]: torch.stack([terms[name] for terms in found]).mean() for name in found[0]
        }
        return Loss(terms, monitored=image[:, 0].detach())

    def project_images(self, images: Tensor) -> Tensor:
        """Return images (n, c, h, w) in the space that both kinds share, (n, d), not normalised."""
        return self.image_projection(self.encoder(images))

    def project_text(self, tokens: Tensor) -> Tensor:
        """Return captions, token ids (n, l), in the space that both kinds share, (n, d)."""
        return self.second(tokens)

    def project_second(self, images: Tensor) -> Tensor:
        """Return images of the second kind (n, c, h', w') in that space, (n, d)."""
        return self.second(images)

    def embed(self, images: Tensor) -> Embedding:
        """Return h (n, width) in float32 or better, and no uncertainty."""
        h = self.encoder(images)
        return Embedding(h.to(torch.promote_types(h.dtype, torch.float32)), None)

    @torch.no_grad()
    def after_step(self, step: int) -> Mapping[str, float | Tensor]:
        """Hold the temperature at .01 or above; it is logged."""
        del step
        self.log_scale.clamp_(max=_LARGEST_SCALE)
        return {"temperature": torch.exp(-self.log_scale)}


class _Projected(nn.Module):
    """An encoder of the second kind and its projection; that name lets it work in parts."""

    def __init__(self, encoder: nn.Module, width: int, dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.encoder(x))


def _text_of(batch: Batch) -> Tensor:
    if batch.text is None:
        raise ConfigError(
            "Expected a batch with captions for 'clip', got none: train on a source with captions "
            "(pairs:DIR), or set method.second=image."
        )
    return batch.text


@register
@dataclass(frozen=True, kw_only=True)
class ClipConfig(MethodConfig):
    """CLIP's hyperparameters; the defaults are the paper's base text encoder."""

    name: ClassVar[str] = "clip"
    paper: ClassVar[str] = (
        "Learning Transferable Visual Models From Natural Language Supervision (Radford et al., "
        "2021), https://arxiv.org/abs/2103.00020"
    )

    second: Literal["text", "image"] = "text"
    """What an image is paired with: a caption, or its second view."""
    dim: int = 512
    """Features of the space that both kinds share."""
    temperature: float = 0.07
    """At the start, at least .01; it is learnt as its logarithm."""
    vocabulary: int = 49152
    """Most tokens; a few thousand captions give fewer."""
    length: int = 76
    """Most tokens of a caption."""
    captions: int = 1
    """Captions of an image that a step reads, at least 1."""
    omitted: float = 0.0
    """Probability that a step leaves out a token of a caption, in [0, 1): an augmentation."""
    text_width: int = 512
    """Features of the text encoder."""
    text_layers: int = 12
    text_heads: int = 8
    text_pooling: Literal["end", "mean"] = "end"
    """Whose features are the caption's: those of the token END, or the mean of all tokens, with
    which the text encoder starts as a bag of words."""

    def __post_init__(self) -> None:
        """Check sizes and the temperature."""
        sizes = ("dim", "vocabulary", "length", "captions")
        for name in (*sizes, "text_width", "text_layers", "text_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Expected '{name}' of at least 1, got {getattr(self, name)}.")
        if not 0 <= self.omitted < 1:
            raise ConfigError(f"Expected 'omitted' in [0, 1), got {self.omitted}.")
        if not math.exp(-_LARGEST_SCALE) <= self.temperature < math.inf:
            raise ConfigError(f"Expected 'temperature' of at least .01, got {self.temperature}.")

    @property
    def text(self) -> TextConfig | None:
        """How captions become token ids."""
        if self.second != "text":
            return None
        return TextConfig(
            vocabulary=self.vocabulary,
            length=self.length,
            captions=self.captions,
            omitted=self.omitted,
        )

    def completed(self, *, channels: int, image_size: int, views: int) -> Self:
        """Return the configuration; refuse views that it cannot pair."""
        del channels, image_size
        if self.second == "image" and views != 2:
            raise ConfigError(
                f"Expected two views for 'clip' of image and image, got {views}: give two entries "
                "of 'views', or set method.second=text."
            )
        return self

    def require_images(self, images: int) -> None:
        """Refuse a batch of one pair, which has nothing to tell it from."""
        if images < 2:
            raise ConfigError(f"Expected at least 2 pairs at once for 'clip', got {images}.")

    def build(self, encoder: nn.Module, *, width: int) -> Clip:
        """Make the method around `encoder`, whose output is (n, width)."""
        return Clip(encoder, width=width, config=self)
