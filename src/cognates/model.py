"""A trained model: images in, representation and uncertainty out."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cognates.data.incoming import Incoming
from cognates.data.tokens import Tokenizer
from cognates.data.views import changing
from cognates.errors import ConfigError, DataError
from cognates.evaluation import decisions, drawings, kinds, pairs, selection
from cognates.evaluation.decisions import Ranking, Rejection
from cognates.evaluation.features import NORM, Transform, by_views, score_views
from cognates.evaluation.gallery import percentiles
from cognates.evaluation.knn import DISTANCE
from cognates.evaluation.relative import PLACED, SCORES, against, offered, place
from cognates.evaluation.uncertainty import require_offered
from cognates.training import prepare
from cognates.training.checkpoint import LoadedModel, read_model
from cognates.types import Embedding

if TYPE_CHECKING:
    from PIL import Image


class Model:
    """A trained method, ready to embed: `representation, uncertainty = model.embed(images)`.

    Args:
        loaded: what a run directory keeps.
        device: "cpu" or "cuda".
    """

    def __init__(self, loaded: LoadedModel, device: str = "cpu") -> None:
        """Move the method to the device; nothing is computed yet."""
        self.config = loaded.config
        self.method = loaded.method.to(device)
        self.default_score = loaded.default_score
        self.bank = loaded.bank
        self.own_score = loaded.own_score
        self.quantiles = loaded.quantiles
        self.device = device
        self._tokenizer = loaded.tokenizer
        data = loaded.config.data
        self._incoming = Incoming(
            image_size=data.image_size, channels=data.channels, max_unreadable=data.max_unreadable
        )
        self._transform = Transform(size=data.image_size, mean=data.mean, std=data.std)

    @classmethod
    def read(
        cls, path: str | Path, *, device: str = "auto", plugin: str | Path | None = None
    ) -> Model:
        """Read the model of a run directory; see `cognates.load`."""
        if not Path(path).is_dir():
            raise ConfigError(f"Expected the folder of a run, got '{path}': no such folder.")
        loaded = read_model(path, plugin=plugin)
        training = replace(loaded.config.training, device=device, devices=1)
        return cls(loaded, prepare.torch_device(replace(loaded.config, training=training)))

    @property
    def encoder(self) -> nn.Module:
        """The trained encoder, a plain module (n, c, h, w) -> (n, d) on normalised test views."""
        return self.method.encoder

    @property
    def scores(self) -> tuple[str, ...]:
        """The uncertainties that `embed` can give, the default one first."""
        return tuple(dict.fromkeys([self.default_score, *offered(self.bank, self.own_score)]))

    def embed(
        self,
        images: np.ndarray | Tensor | Sequence[str | Path | Image.Image] | str,
        *,
        score: str | None = None,
        batch_size: int = 256,
    ) -> Embedding:
        r"""Return the representation and the uncertainty of images.

        Args:
            images: a uint8 array or tensor (n, c, h, w), a list of paths or PIL images of any size,
                or a SOURCE, whose images come in its order, without those that cannot be read.
            score: one of `scores`; None: the default one, which the model was saved with.
            batch_size: images per forward pass; the result does not depend on it.

        Returns:
            Embedding(representation (n, d) float32, uncertainty (n,) float64) on the CPU. The
            uncertainty is larger for the less certain.

        Raises:
            ConfigError: the model has no such score.
            DataError: an image cannot be read, or the array is not uint8 (n, c, h, w).
        """
        parts, scores = [], []
        self.require_score(score)
        for pixels in self._incoming.chunks(images, batch_size):
            representation, uncertainty = self.embed_stored(pixels, score=score)
            parts.append(representation)
            scores.append(uncertainty)
        if not parts:
            raise DataError("Expected at least one image to embed, got none.")
        return Embedding(
            torch.from_numpy(np.concatenate(parts)), torch.from_numpy(np.concatenate(scores))
        )

    def embed_stored(
        self, pixels: np.ndarray, *, score: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embed images as the cache stores them, (n, c, s, s) uint8, in one pass."""
        name = self.require_score(score)
        placed = name in PLACED and name != self.own_score
        views = by_views(self.method) and not placed
        compared = self.bank is not None and name in (*SCORES, DISTANCE)
        representation, scores = score_views(
            self.method,
            self._on_device(pixels),
            spec=changing(self.config.views) if views else None,
            transform=self._transform,
            further=not compared and name not in (self.own_score, NORM),
        )
        if compared:
            assert self.bank is not None
            if placed:
                scores |= place(self.bank, representation)
            else:
                scores |= against(self.bank, representation, scores, parts=True)
        return representation, scores[name]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The encoding of captions that the run has learnt.

        Raises:
            ConfigError: the method reads no captions.
            MissingExtraError: the package `tokenizers` is not installed.
        """
        pairs.as_paired(self.method)
        assert self._tokenizer is not None
        return Tokenizer.from_json(self._tokenizer)

    def embed_text(self, captions: Sequence[str]) -> Tensor:
        """Return captions in the space that they share with images.

        Args:
            captions: any text; what exceeds the run's length is cut off.

        Returns:
            (m, d) float32 of length 1 on the CPU: a product with `embed_paired` is the cosine.

        Raises:
            ConfigError: the method reads no captions.
            DataError: there is no caption, or something else than a sequence of texts.
        """
        tokenizer, texts = self.tokenizer, pairs.require_texts(captions)
        found = pairs.read(pairs.as_paired(self.method), texts, tokenizer, device=self.device)
        return nn.functional.normalize(torch.from_numpy(found), dim=1)

    @torch.no_grad()
    def embed_paired(
        self,
        images: np.ndarray | Tensor | Sequence[str | Path | Image.Image] | str,
        *,
        kind: kinds.Kind = "first",
        batch_size: int = 256,
    ) -> Tensor:
        """Return images in the space that they share with captions, or with another kind of image.

        Args:
            images: as for `embed`, whatever the kind: colour pictures are made grey here.
            kind: which entry of `views` they are seen as, by an encoder of its own: in its size,
                with what is certain in it (`data.draws.certain`); with captions "first".
            batch_size: images per forward pass.

        Returns:
            (n, d) float32 of length 1 on the CPU: a product with the other half is the cosine.

        Raises:
            ConfigError: the method pairs images with nothing, or has no such kind.
            DataError: an image cannot be read, or there is none.
        """
        encode = kinds.encoder_of(self.method, kind, self.config.views, self._transform)
        parts = [
            encode(self._on_device(pixels)).float().cpu()
            for pixels in self._incoming.chunks(images, batch_size)
        ]
        if not parts:
            raise DataError("Expected at least one image to embed, got none.")
        return nn.functional.normalize(torch.cat(parts), dim=1)

    def _on_device(self, pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(pixels)).to(self.device)

    def _seen(self, pixels: np.ndarray) -> Tensor:
        return self._transform.view(self._on_device(pixels))

    def reconstruct(
        self,
        images: np.ndarray | Tensor | Sequence[str | Path | Image.Image] | str,
        *,
        batch_size: int = 256,
    ) -> tuple[Tensor, Tensor]:
        """Return images as the model sees them, and what it draws from their latents.

        Args:
            images: as for `embed`.
            batch_size: images per forward pass.

        Returns:
            Both (n, c, h, w) float32 in [0, 1] on the CPU.

        Raises:
            ConfigError: the method draws no images.
            DataError: an image cannot be read, or there is none.
        """
        drawings.as_drawing(self.method)
        seen, drawn = [], []
        for pixels in self._incoming.chunks(images, batch_size):
            view = self._seen(pixels)
            seen.append(view.cpu())
            drawn.append(drawings.reconstruct(self.method, view).cpu())
        if not seen:
            raise DataError("Expected at least one image to reconstruct, got none.")
        return torch.cat(seen), torch.cat(drawn)

    def generate(
        self,
        count: int = 64,
        *,
        seed: int = 0,
        like: str | Path | Image.Image | None = None,
    ) -> Tensor:
        r"""Draw pictures.

        Formula: z ~ p(z), or z ~ N(psi, sigma^2 I) with one psi for all that are alike; methods
        whose views share no psi (vae, beta-vae, cr-vae) draw z ~ q(z | x) where an image is given.

        Args:
            count: pictures, at least 1.
            seed: the same one gives the same pictures.
            like: None: samples from the prior; "views": groups of eight with one psi from the
                prior each, the last one cut to `count`; else an image or its path: views of it,
                whose psi it tells of.

        Returns:
            (count, c, h, w) float32 in [0, 1] on the CPU: expected images, without pixel noise.

        Raises:
            ConfigError: the method draws no images, its views share no latent (for "views"), its
                prior is flat (without an image), or `count` is below 1.
            DataError: the image cannot be read.
        """
        drawing = drawings.as_drawing(self.method)
        if count < 1:
            raise ConfigError(f"Expected at least one picture to draw, got {count}.")
        if like is None:
            return drawings.samples_of(self.method, count=count, seed=seed).cpu()
        if isinstance(like, str) and like == "views":
            width = drawings.WIDTH
            groups = -(-count // width)
            found = drawings.groups_of(self.method, count=groups, width=width, seed=seed)
            return found.flatten(0, 1)[:count].cpu()
        pixels = next(self._incoming.chunks([like], 1))
        view = self._seen(pixels)
        prior = drawing.config.prior_of(1)
        return drawings.views_like(self.method, view, prior, count=count, seed=seed)[0].cpu()

    def rank(
        self,
        images: np.ndarray | Tensor | Sequence[str | Path | Image.Image] | str,
        *,
        score: str | None = None,
    ) -> Ranking:
        """Order images by their uncertainty, the least certain first.

        Args:
            images: as for `embed`.
            score: one of `scores`; None: the default one.

        Raises:
            ConfigError: the model has no such score.
            DataError: an image cannot be read, or there is none.
        """
        u = _numbers(self.embed(images, score=score))
        return Ranking(decisions.least_certain_first(u), u, self.percentile(u, score=score))

    def select(
        self,
        images: np.ndarray | Tensor | Sequence[str | Path | Image.Image] | str,
        budget: int,
        *,
        strategy: str = selection.DEFAULT,
        seed: int = 0,
        score: str | None = None,
    ) -> np.ndarray:
        """Return which images to label first, (budget,) positions in the order to label them in.

        Args:
            images: as for `embed`.
            budget: images to choose, at least 1 and at most all.
            strategy: a key of `evaluation.selection.STRATEGIES`.
            seed: of what is drawn.
            score: for the strategies that read one ("certain", "spread"); None: the default one.

        Raises:
            ConfigError: an unknown strategy or score, one that is not read, or a budget out of
                range.
            DataError: an image cannot be read, or there is none.
        """
        selection.require(strategy, budget, score)
        if strategy not in selection.BY_UNCERTAINTY and NORM in self.scores:
            score = NORM  # what is not read should not cost views
        found = self.embed(images, score=score)
        h, u = found.representation.numpy(), _numbers(found)
        return selection.select(h, u, budget=budget, strategy=strategy, seed=seed)

    def reject(
        self,
        images: np.ndarray | Tensor | Sequence[str | Path | Image.Image] | str,
        coverage: float = 0.9,
        *,
        against: Literal["data", "training"] = "data",
        score: str | None = None,
    ) -> Rejection:
        """Keep the images that are certain enough.

        Args:
            images: as for `embed`.
            coverage: a share in (0, 1].
            against: whose share that is. "data": at least that share of these images is kept;
                "training": the threshold keeps that share of the training images, and of these
                images fewer, the stranger they are.
            score: one of `scores`; None: the default one.

        Raises:
            ConfigError: the coverage is out of range, the model has no such score, or keeps
                nothing of its training images to compare with.
            DataError: an image cannot be read, or there is none.
        """
        decisions.require_coverage(coverage)
        if against not in ("data", "training"):
            raise ConfigError(f"Expected 'data' or 'training' to reject against, got '{against}'.")
        quantiles = self.quantiles_of(score)
        if against == "training" and quantiles is None:
            raise ConfigError(
                "Expected a model that keeps scores of training images, got one without: "
                "reject against the data."
            )
        u = _numbers(self.embed(images, score=score))
        if against == "data" or quantiles is None:
            threshold = decisions.threshold_of(u, coverage)
        else:
            threshold = float(np.interp(100 * coverage, np.arange(101), quantiles))
        return Rejection(u <= threshold, threshold, u, self.percentile(u, score=score))

    def percentile(
        self, uncertainty: Tensor | np.ndarray, *, score: str | None = None
    ) -> np.ndarray:
        """Return the percentile in [0, 100] of uncertainties (n,) among the training images.

        At 99 only one training image in a hundred is less certain: that is a threshold for "do not
        trust" which means the same for every method and every score.

        Args:
            uncertainty: values of one score.
            score: its name; None: the default score.

        Returns:
            (n,) float64; NaN where the model keeps nothing to compare that score with.
        """
        values = np.asarray(uncertainty, dtype=np.float64)
        quantiles = self.quantiles_of(score)
        return np.full(len(values), np.nan) if quantiles is None else percentiles(values, quantiles)

    def quantiles_of(self, score: str | None = None) -> np.ndarray | None:
        """Return the percentiles 0 to 100 (101,) of a score among the training images."""
        name = self.require_score(score)
        if self.bank is None:
            return self.quantiles if name == self.own_score else None
        return np.quantile(self.bank.scores[name], np.linspace(0, 1, 101))

    def require_score(self, score: str | None) -> str:
        """Return the name of the score that is meant; None: the default one.

        Raises:
            ConfigError: the model has no such score.
        """
        return self.default_score if score is None else require_offered(score, self.scores)


def _numbers(embedding: Embedding) -> np.ndarray:
    assert embedding.uncertainty is not None
    return embedding.uncertainty.numpy()
