"""Frozen features: one pass over the encoder in eval mode, in data-set order, nothing dropped.

Every number of the evaluation is computed from what is made here. Uncertainty means the same
everywhere: one finite float per image, larger is less certain, free of the batch and of the order
in which an image comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cognates.data import augment
from cognates.data.images import Images
from cognates.data.views import ViewSpec, changing
from cognates.errors import ConfigError, DataError, NonFiniteError
from cognates.evaluation.store import cache_key, check, load, save
from cognates.methods.base import Method
from cognates.random import generator
from cognates.types import Features

__all__ = [
    "Transform",
    "by_views",
    "cache_key",
    "check",
    "chunks",
    "extract",
    "features_of",
    "load",
    "pixels",
    "require_eval",
    "save",
    "score_views",
    "view_pair",
    "view_pixels",
]

NORM = "norm"
DISAGREEMENT = "view-disagreement"
DISAGREEMENT_VIEWS = 8  # design.md: 8 views whose parameter sets are fixed and shared by all images

Progress = Callable[[int, int], None]
"""Called with (images done, images in all) after every chunk."""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """How stored images become the encoder's input."""

    size: int
    """Height and width of the test view."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @classmethod
    def of(
        cls, size: int, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> Transform:
        """Make a transform from sequences of any kind."""
        return cls(
            size=size,
            mean=None if mean is None else tuple(float(value) for value in mean),
            std=None if std is None else tuple(float(value) for value in std),
        )

    def view(self, images: Tensor) -> Tensor:
        """Return the test view: centre crop, no augmentation, normalised."""
        return augment.test_view(images, size=self.size, mean=self.mean, std=self.std)

    def kind(self, images: Tensor, spec: ViewSpec) -> Tensor:
        """Return the test view of the kind of image that `spec` makes (`augment.certain`).

        It shows what `view` shows, in the size of `spec`, and normalised likewise.
        """
        n, _, height, width = images.shape
        sure = augment.certain(spec, centre=self.size, height=height, width=width)
        return augment.apply(
            *(images, sure.expand(n)),
            size=spec.size,
            mean=self.mean,
            std=self.std,
        )

    def augmented(self, images: Tensor, parameters: augment.ViewParameters) -> Tensor:
        """Return the view that `parameters` describe, normalised."""
        return augment.apply(
            images, parameters, size=self.size, mean=self.mean, std=self.std, dtype=torch.float32
        )


def extract(
    method: Method,
    images: Images,
    *,
    views: Sequence[ViewSpec],
    size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    view_disagreement: bool | None = None,
    progress: Progress | None = None,
) -> Features:
    r"""Embed the test view of every image, with every uncertainty that needs the model.

    Formula: `norm` = -|h|; `view-disagreement` = 1 - mean over pairs of views of cos(h, h'), over 8
    views whose parameters are fixed and shared by all images; the method's own score under its
    name `own`, from the test view or (`Method.disagreement`) from the same 8 views.

    Args:
        method: in eval mode, on `device`.
        images: one split.
        views: the training views; `view-disagreement` is about the first that crops (`changing`).
        size: height and width of the test view in pixels.
        mean: per channel in [0, 1], or None for no normalisation.
        std: per channel.
        device: where the method is.
        batch_size: images per forward pass; the result does not depend on it.
        view_disagreement: whether to spend 8 more passes on that score, and on the method's own if
            it is of several views; None: only if the method's default needs them.
        progress: called after every chunk.

    Returns:
        Features in the order of `images`: representation (n, d) float32, scores float64.

    Raises:
        ConfigError: a submodule is in training mode.
        DataError: there is no image.
        NonFiniteError: the method gives a NaN or an infinity.
    """
    require_eval(method)
    transform = Transform.of(size, mean, std)
    if view_disagreement is None:
        view_disagreement = by_views(method)
    if view_disagreement and not views:
        raise ConfigError("Expected at least one view for 'view-disagreement', got none.")
    parts, scores = [], []
    for chunk in chunks(images, batch_size, device, progress):
        spec = changing(views) if view_disagreement else None
        representation, own = score_views(method, chunk, spec=spec, transform=transform)
        parts.append(representation)
        scores.append(own)
    default = method.default_score
    return features_of(
        images,
        np.concatenate(parts),
        scores={name: np.concatenate([part[name] for part in scores]) for name in scores[0]},
        default_score=default if default in scores[0] else None,
    )


@torch.no_grad()
def score_views(
    method: Method,
    images: Tensor,
    *,
    spec: ViewSpec | None,
    transform: Transform,
    further: bool = True,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    r"""Embed one chunk of images and return its representation and its scores.

    Args:
        method: in eval mode.
        images: (n, c, h, w) uint8, or float in [0, 1], on the method's device.
        spec: the view that `view-disagreement` is about; None: without scores of several views.
        transform: how the images become input.
        further: whether to compute the scores that stand beside the method's own.

    Returns:
        representation (n, d) float32 and the scores by name, each (n,) float64.
    """
    view = transform.view(images)
    embedding = method.embed(view)
    representation = _array(embedding.representation)
    norms = np.linalg.norm(representation.astype(np.float64), axis=1)
    scores = {NORM: -norms}
    if embedding.uncertainty is not None:
        scores[method.own] = _array(embedding.uncertainty, np.float64)
    if further:
        scores |= {k: _array(u, np.float64) for k, u in method.further_scores(view).items()}
    if spec is not None:
        scores |= _disagreement(method, images, spec, transform)
    if not all(np.isfinite(values).all() for values in (representation, *scores.values())):
        raise NonFiniteError(
            "Expected finite features, got a NaN or an infinity from the encoder: "
            "the run has diverged."
        )
    return representation, scores


def by_views(method: Method) -> bool:
    """Return whether the method's own score is one of several views of an image."""
    own = type(method).disagreement is not Method.disagreement
    return own or method.own == DISAGREEMENT


def pixels(images: Images, size: int, *, batch_size: int = 4096) -> Features:
    """Return the raw-pixel baseline: the flattened test view in [0, 1], float32, without scores."""
    transform = Transform.of(size)
    parts = [_flat(transform.view(chunk)) for chunk in chunks(images, batch_size, "cpu", None)]
    return features_of(images, np.concatenate(parts), layer="pixels")


def view_pair(
    method: Method,
    images: Images,
    *,
    views: Sequence[ViewSpec],
    size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    seed: int = 0,
    progress: Progress | None = None,
    read: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Features, Features]:
    """Embed two independent training views of every image, drawn from a fixed seed.

    The same seed gives the same views to every encoder, and to `view_pixels`. Arguments as in
    `extract`; `read` takes something else of a normalised view than the representation.
    """
    require_eval(method)
    transform = Transform.of(size, mean, std)

    @torch.no_grad()
    def embed(view: Tensor) -> np.ndarray:
        return _array(method.embed(view).representation if read is None else read(view))

    return _pair(images, views, transform, embed, "backbone", device, batch_size, seed, progress)


def view_pixels(
    images: Images, *, views: Sequence[ViewSpec], size: int, seed: int = 0, batch_size: int = 1024
) -> tuple[Features, Features]:
    """Return the pixels of the views that `view_pair` embeds, flattened, in [0, 1]."""
    return _pair(images, views, Transform.of(size), _flat, "pixels", "cpu", batch_size, seed, None)


def require_eval(module: nn.Module) -> None:
    """Raise a `ConfigError` that names the first submodule in training mode.

    Batch norm in training mode makes an image's features depend on its batch (lightly #1440).
    """
    for name, part in module.named_modules():
        if part.training:
            raise ConfigError(
                f"Expected every submodule in eval mode, got '{name or type(module).__name__}' in "
                "training mode: call .eval() on the method first."
            )


def _pair(
    images: Images,
    views: Sequence[ViewSpec],
    transform: Transform,
    embed: Callable[[Tensor], np.ndarray],
    layer: str,
    device: torch.device | str,
    batch_size: int,
    seed: int,
    progress: Progress | None,
) -> tuple[Features, Features]:
    n, _, height, width = images.pixels.shape
    sides = []
    for number, spec in enumerate((views[0], views[1 % len(views)])):
        # parameters of all images are drawn at once, so that no chunk size can change them
        drawn = augment.draw(
            spec, n, height=height, width=width, generator=generator(seed, "view-retrieval", number)
        )
        parts, start = [], 0
        for chunk in chunks(images, batch_size, device, progress):
            parts.append(embed(transform.augmented(chunk, drawn.rows(start, start + len(chunk)))))
            start += len(chunk)
        sides.append(features_of(images, np.concatenate(parts), layer=f"{layer}-view{number + 1}"))
    return sides[0], sides[1]


def _disagreement(
    method: Method, images: Tensor, spec: ViewSpec, transform: Transform
) -> dict[str, np.ndarray]:
    """1 - mean pairwise cosine of h over the fixed views; float64, for near 0 terms cancel.

    With it the method's own score of the same views, if it has one.
    """
    n, _, height, width = images.shape
    fixed = augment.fixed_draws(spec, DISAGREEMENT_VIEWS, height=height, width=width)
    seen, total = [], None
    for shared in fixed:
        view = transform.augmented(images, shared.expand(n))
        seen.append(method.embed(view).representation)
        h = _array(seen[-1], np.float64)
        z = h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        total = z if total is None else total + z
    assert total is not None
    v = DISAGREEMENT_VIEWS
    # |sum of z|^2 = v + sum over ordered pairs of distinct views
    scores = {DISAGREEMENT: 1 - ((total * total).sum(axis=1) - v) / (v * (v - 1))}
    own = method.disagreement(torch.stack(seen))
    if own is not None:
        scores[method.own] = own.detach().double().cpu().numpy()
    return scores


def chunks(
    images: Images,
    batch_size: int,
    device: torch.device | str,
    progress: Progress | None = None,
) -> Iterator[Tensor]:
    """Yield the images (b, c, s, s) uint8 on `device`, in their order.

    Raises:
        DataError: there is no image.
    """
    n = len(images)
    if not n:
        raise DataError(f"Expected images in the split '{images.split}', got none.")
    for start in range(0, n, batch_size):
        # np.array copies: torch cannot wrap a read-only memory map
        chunk = torch.from_numpy(np.array(images.pixels[start : start + batch_size]))
        yield chunk.to(device)
        if progress is not None:
            progress(min(start + batch_size, n), n)


def features_of(
    images: Images,
    representation: np.ndarray,
    *,
    scores: dict[str, np.ndarray] | None = None,
    default_score: str | None = None,
    layer: str = "backbone",
) -> Features:
    """Return checked features of `images`, with all that is known about these."""
    return check(
        Features(
            representation=representation,
            index=np.arange(len(images), dtype=np.int64),
            path=images.path,
            targets=dict(images.targets),
            target_names=dict(images.target_names),
            scores=scores or {},
            default_score=default_score,
            dataset=images.dataset,
            split=images.split,
            layer=layer,
        )
    )


def _array(tensor: Tensor, dtype: type[np.floating] = np.float32) -> np.ndarray:
    return tensor.detach().float().cpu().numpy().astype(dtype)


def _flat(view: Tensor) -> np.ndarray:
    return _array(view.flatten(start_dim=1))
