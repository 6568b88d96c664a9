"""What a self-supervised method is: a module with a loss, an embedding and nothing about labels.

A method is one file: its paper, its module, its configuration, its registration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

from torch import Tensor, nn

from cognates.types import Batch, Embedding, Loss


class Latents(NamedTuple):
    """What a method with posteriors of its own says of n views: p(z|x), and the point of q(z|x)."""

    prediction: Tensor
    """(n, d) the direction of p(z|x), of any length."""
    target: Tensor
    """(n, d) the point of q(z|x), of any length."""
    concentration: Tensor
    """(n,) kappa of p(z|x)."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How the captions that a method reads become token ids."""

    vocabulary: int
    """Most tokens of the encoding that is learnt from the training captions."""
    length: int
    """Tokens that a caption is cut to."""
    captions: int = 1
    """Captions of each image that a step reads, at least 1."""
    omitted: float = 0.0
    """Probability that a step leaves out a token of a caption, in [0, 1)."""


class Method(nn.Module, ABC):
    """A self-supervised method: abstract here, final in its own file.

    Subclasses set `encoder` (a plain module (n, c, h, w) -> (n, d)) and `default_score`.
    """

    encoder: nn.Module
    default_score: ClassVar[str]
    """The uncertainty the method stands for, by its name in `docs/architecture.md`: its own, or one
    of `evaluation.relative` that compares its own with those of training images."""
    own_score: ClassVar[str] = ""
    """The name of what `embed` or `disagreement` gives, where that is not the default score."""
    score_cost: ClassVar[str] = "free"
    """What the default score costs, in words."""
    total_steps: int | None = None
    """Steps of the whole run, for schedules; set before the first step, None outside of a run."""

    @property
    def own(self) -> str:
        """The name of the uncertainty that the method itself gives."""
        return self.own_score or self.default_score

    @abstractmethod
    def forward(self, batch: Batch) -> Loss:
        """Return the loss over the *global* batch: gather representations before the objective."""

    @abstractmethod
    def embed(self, images: Tensor) -> Embedding:
        """Return representation (n, d) and uncertainty (n,) of normalised test views.

        The uncertainty is None if the method has no score of its own and `default_score` is one
        that the library derives for any method (`view-disagreement`), or if `disagreement` gives
        it.
        """

    def further_scores(self, images: Tensor) -> dict[str, Tensor]:
        """Return uncertainties (n,) by name that stand beside that of `embed`; none by default.

        They are computed for the evaluation, not by `Model.embed`.
        """
        del images
        return {}

    def latents(self, images: Tensor) -> Latents | None:
        """Return the posteriors of normalised views; None: the method has none on a sphere."""
        del images
        return None

    def disagreement(self, representations: Tensor) -> Tensor | None:
        """Return the default score (n,) of images from the representations (v, n, d) of v views.

        None: the method has no such score. The views' parameters are the same for all images.
        """
        del representations
        return None

    def after_step(self, step: int) -> Mapping[str, float | Tensor]:
        """Update what does not learn by gradient (EMA targets, queues) and return what to log.

        Whatever it needs at the next step lies in buffers, which a checkpoint holds; a scalar
        tensor is read only where it is logged, so that a GPU need not wait at every step.
        """
        del step
        return {}

    def finish(self) -> None:
        """Become what `model/` keeps: averaged weights in place, without targets and queues.

        Called once before the weights are written, and on a new method before they are read.
        Afterwards only `embed` and `disagreement` are used.
        """


@dataclass(frozen=True, kw_only=True)
class MethodConfig(ABC):
    """The hyperparameters of one method; a frozen dataclass whose `build` makes the module."""

    name: ClassVar[str]
    """The registered name, for example `vi-simsiam`."""
    paper: ClassVar[str]
    """Title (authors, year), URL."""
    models_pixels: ClassVar[bool] = False
    """Whether the method draws images, and so sees them in [0, 1]: without normalisation."""

    @classmethod
    def migrated(cls, fields: Mapping[str, object]) -> dict[str, object]:
        """Return the fields of a record, those of an earlier version under today's names.

        By default as they are; a name that is not known afterwards is an error.
        """
        return dict(fields)

    @property
    def text(self) -> TextConfig | None:
        """How captions become the token ids of `Batch.text`; None: the method reads no text."""
        return None

    @property
    def has_predictor(self) -> bool:
        """Whether the method has a submodule `predictor`, whose rate some recipes keep up."""
        return hasattr(self, "predictor_hidden")

    def completed(self, *, channels: int, image_size: int, views: int) -> Self:
        """Return the configuration with what follows from the run filled in; by default itself.

        Args:
            channels: of the images.
            image_size: height and width of a view in pixels.
            views: views per image.
        """
        del channels, image_size, views
        return self

    def require_images(self, images: int) -> None:
        """Refuse a batch that the loss cannot learn from; by default any will do.

        Args:
            images: that the loss sees at once, over all processes: batch_size / accumulate, or
                all of them where accumulation is exact.

        Raises:
            ConfigError: there are too few.
        """
        del images

    @abstractmethod
    def build(self, encoder: nn.Module, *, width: int) -> Method:
        """Make the method around `encoder`, whose output is (n, width)."""
