"""A trained model: images in, representation and uncertainty out."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cognates.data.cache import stored_size
from cognates.data.decode import Item, UnreadableError, decode
from cognates.data.tokens import Tokenizer
from cognates.errors import ConfigError, DataError
from cognates.evaluation import drawings, pairs
from cognates.evaluation.features import Transform, by_views, score_views
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
        self.quantiles = loaded.quantiles
        self.device = device
        self._tokenizer = loaded.tokenizer
        data = loaded.config.data
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

    def embed(
        self,
        images: np.ndarray | Tensor | Sequence[str | Path | Image.Image] | str,
        *,
        batch_size: int = 256,
    ) -> Embedding:
        r"""Return the representation and the uncertainty of images.

        Args:
            images: a uint8 array or tensor (n, c, h, w), a list of paths or PIL images of any size,
                or a SOURCE, whose images come in its order, without those that cannot be read.
            batch_size: images per forward pass; the result does not depend on it.

        Returns:
            Embedding(representation (n, d) float32, uncertainty (n,) float64) on the CPU. The
            uncertainty is the method's default score: larger is less certain.

        Raises:
            DataError: an image cannot be read, or the array is not uint8 (n, c, h, w).
        """
        parts, scores = [], []
        for pixels in self._chunks(images, batch_size):
            representation, uncertainty = self.embed_stored(pixels)
            parts.append(representation)
            scores.append(uncertainty)
        if not parts:
            raise DataError("Expected at least one image to embed, got none.")
        return Embedding(
            torch.from_numpy(np.concatenate(parts)), torch.from_numpy(np.concatenate(scores))
        )

    def embed_stored(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embed images as the cache stores them, (n, c, s, s) uint8, in one pass."""
        spec = self.config.views[0] if by_views(self.method) else None
        chunk = torch.from_numpy(np.array(pixels)).to(self.device)
        representation, scores = score_views(
            self.method, chunk, spec=spec, transform=self._transform, further=False
        )
        return representation, scores[self.default_score]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The encoding of captions that the run has learnt.

        Raises:
            ConfigError: the method reads no captions.
            MissingExtraError: the package `tokenizers` is not installed.
        """
        if self._tokenizer is None:
            raise ConfigError(
                f"Expected a method that reads captions, got '{self.config.method.name}': train "
                "clip on pairs:DIR."
            )
        return Tokenizer.from_json(self._tokenizer)

    def embed_text(self, captions: Sequence[str]) -> Tensor:
        """Return captions in the space that they share with images.

        Args:
            captions: any text; what exceeds the run's length is cut off.

        Returns:
            (m, d) float32 of length 1 on the CPU: a product with `embed_paired` is the cosine.

        Raises:
            ConfigError: the method reads no captions.
        """
        tokenizer = self.tokenizer
        if not captions:
            raise DataError("Expected at least one caption to embed, got none.")
        paired = pairs.as_paired(self.method)
        return _unit(pairs.read(paired, list(captions), tokenizer, device=self.device))

    @torch.no_grad()
    def embed_paired(
        self,
        images: np.ndarray | Tensor | Sequence[str | Path | Image.Image] | str,
        *,
        batch_size: int = 256,
    ) -> Tensor:
        """Return images in the space that they share with captions.

        Args:
            images: as for `embed`.
            batch_size: images per forward pass.

        Returns:
            (n, d) float32 of length 1 on the CPU.

        Raises:
            ConfigError: the method reads no captions.
            DataError: an image cannot be read, or there is none.
        """
        paired = pairs.as_paired(self.method)
        parts = []
        for pixels in self._chunks(images, batch_size):
            view = self._transform.view(torch.from_numpy(np.array(pixels)).to(self.device))
            parts.append(paired.project_images(view).float().cpu().numpy())
        if not parts:
            raise DataError("Expected at least one image to embed, got none.")
        return _unit(np.concatenate(parts))

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
        for pixels in self._chunks(images, batch_size):
            view = self._transform.view(torch.from_numpy(np.array(pixels)).to(self.device))
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
        pixels = next(self._chunks([like], 1))
        view = self._transform.view(torch.from_numpy(np.array(pixels)).to(self.device))
        prior = drawing.config.prior_of(1)
        return drawings.views_like(self.method, view, prior, count=count, seed=seed)[0].cpu()

    def percentile(self, uncertainty: Tensor | np.ndarray) -> np.ndarray:
        """Return the percentile in [0, 100] of uncertainties (n,) among the training images.

        At 99 only one training image in a hundred is less certain: that is a threshold for "do not
        trust" which means the same for every method.
        """
        values = np.asarray(uncertainty, dtype=np.float64)
        # Among equal quantiles (many images with one score) interpolation is ambiguous: the middle.
        low = np.searchsorted(self.quantiles, values, side="left")
        high = np.searchsorted(self.quantiles, values, side="right")
        between = np.interp(values, self.quantiles, np.linspace(0, 100, len(self.quantiles)))
        middle = (low + high - 1) / 2 * 100 / (len(self.quantiles) - 1)
        return np.where(high > low, middle, between).clip(0, 100)

    def _chunks(self, images: Any, batch_size: int) -> Iterator[np.ndarray]:  # noqa: ANN401
        if isinstance(images, str):
            from cognates.data import cache

            data = self.config.data
            images = cache.load(
                images,
                "all",
                image_size=data.image_size,
                channels=data.channels,
                max_unreadable=data.max_unreadable,
                progress=False,
            ).pixels
        elif isinstance(images, np.ndarray | Tensor):
            images = self._array(images)
        for start in range(0, len(images), batch_size):
            chunk = images[start : start + batch_size]
            yield chunk if isinstance(chunk, np.ndarray) else self._decoded(chunk)

    def _array(self, images: np.ndarray | Tensor) -> Any:  # noqa: ANN401
        """Return pixels as they are where none need resizing, else a list of images to resize."""
        array = images.detach().cpu().numpy() if isinstance(images, Tensor) else images
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1] not in (1, 3):
            raise DataError(
                f"Expected a uint8 array (n, c, h, w) with 1 or 3 channels, got {array.dtype} "
                f"{array.shape}: multiply values in [0, 1] by 255, and put the channels first."
            )
        size = self.config.data.image_size
        if array.shape[1:] == (self.config.data.channels, size, size):
            return array
        return list(np.moveaxis(array, 1, -1))

    def _decoded(self, items: Sequence[Any]) -> np.ndarray:
        data = self.config.data
        arrays = []
        for number, item in enumerate(items):
            shape = item.shape[:2] if isinstance(item, np.ndarray) else ()
            # As for array data in the cache: their own size is their shorter side.
            native = min(shape) if shape else None
            size = stored_size(data.image_size, native)
            try:
                arrays.append(decode(_item(item), size=size, channels=data.channels))
            except UnreadableError as error:
                name = item if isinstance(item, str | Path) else f"number {number}"
                raise DataError(f"Cannot read the image '{name}': {error}.") from error
        return np.stack(arrays)


def _unit(rows: np.ndarray) -> Tensor:
    return nn.functional.normalize(torch.from_numpy(rows), dim=1)


def _item(image: object) -> Item:
    """Return what the decoder takes; a PIL image of any mode goes through a lossless file."""
    if isinstance(image, np.ndarray | bytes):
        return image
    if isinstance(image, str | Path):
        return str(image)
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        raise DataError(
            f"Expected paths or PIL images, got a {type(image).__name__}: see Model.embed."
        )
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("L", "RGB"):
        return np.asarray(upright)
    buffer = io.BytesIO()
    upright.save(buffer, "TIFF")
    return buffer.getvalue()
