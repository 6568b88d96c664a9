"""Two kinds of image in one space: the pass over both encoders of a method that pairs them.

The kinds are those that the first two entries of `views` make, for example colour and grey; the
test view of each is `Transform.kind`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from cognates.data.images import Images
from cognates.data.views import ViewSpec
from cognates.errors import ConfigError
from cognates.evaluation.features import Transform, chunks, features_of, require_eval
from cognates.evaluation.kind_retrieval import FIRST, SECOND
from cognates.evaluation.pairs import as_paired, reads_text
from cognates.methods.base import Method
from cognates.types import Features

Kind = Literal["first", "second"]


@runtime_checkable  # for shape checks, which look at every argument
class TwoKindsMethod(Protocol):
    """What this room asks of a method that pairs two kinds of image."""

    def project_images(self, images: Tensor) -> Tensor:
        """Return images of the first kind in the space that both share, (n, d)."""
        ...

    def project_second(self, images: Tensor) -> Tensor:
        """Return images of the second kind in that space, (n, d)."""
        ...


def pairs_kinds(method: Method) -> bool:
    """Return whether a method was built to pair two kinds of image."""
    return isinstance(method, TwoKindsMethod) and not reads_text(method)


def as_two_kinds(method: Method) -> TwoKindsMethod:
    """Return `method` as one that pairs two kinds of image.

    Raises:
        ConfigError: it does not, or a submodule is in training mode.
    """
    require_eval(method)
    if not pairs_kinds(method):
        raise ConfigError(
            f"Expected a method that pairs two kinds of image, got {type(method).__name__}: train "
            "clip with method.second=image, or on pairs:DIR for captions."
        )
    return cast(TwoKindsMethod, method)


def encoders(
    method: Method, views: Sequence[ViewSpec], transform: Transform
) -> dict[Kind, Callable[[Tensor], Tensor]]:
    """Return what takes stored images (n, c, s, s) of each kind into the shared space, (n, d).

    Raises:
        ConfigError: the method pairs no two kinds of image.
    """
    paired, (first, second) = as_two_kinds(method), _kinds_of(views)
    return {
        "first": lambda stored: paired.project_images(transform.kind(stored, first)),
        "second": lambda stored: paired.project_second(transform.kind(stored, second)),
    }


def encoder_of(
    method: Method, kind: str, views: Sequence[ViewSpec], transform: Transform
) -> Callable[[Tensor], Tensor]:
    """Return what takes stored images of one kind into the space of a method that pairs images.

    With captions there is one kind of image, and its test view is that of `Method.embed`.

    Raises:
        ConfigError: the method pairs images with nothing, or has no such kind.
    """
    if kind not in ("first", "second"):
        raise ConfigError(f"Expected the kind 'first' or 'second', got '{kind}'.")
    if reads_text(method):
        paired = as_paired(method)
        if kind == "second":
            raise ConfigError(
                "Expected the first kind of a method that pairs images with captions, got "
                "'second': embed_text embeds the captions."
            )
        return lambda stored: paired.project_images(transform.view(stored))
    return encoders(method, views, transform)[kind]


@torch.no_grad()
def kind_features(
    method: Method | None,
    images: Images,
    *,
    views: Sequence[ViewSpec],
    transform: Transform,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> tuple[Features, Features]:
    """Embed images as both kinds in the space that these share.

    Args:
        method: in eval mode, on `device`; None: the pixels, both kinds in the smaller size.
        images: one split.
        views: the two kinds, as in training.
        transform: how the images become input.
        device: where the method is.
        batch_size: images per forward pass; the result does not depend on it.

    Returns:
        Features (n, d) of the first kind and of the second, in the order of `images`.

    Raises:
        ConfigError: the method pairs no two kinds of image.
        DataError: there is no image.
    """
    if method is None:
        place, layer = "cpu", "pixels"
        encode = _pixels(views, Transform.of(transform.size))
    else:
        place, layer = device, "shared"
        encode = encoders(method, views, transform)
    found = {kind: [] for kind in encode}
    for chunk in chunks(images, batch_size, place):
        for kind, read in encode.items():
            found[kind].append(read(chunk).float().cpu().numpy())
    first, second = (
        features_of(images, np.concatenate(parts), layer=f"{layer}-{kind}")
        for kind, parts in found.items()
    )
    return first, second


def kind_passes(
    method: Method | None,
    images: Images,
    *,
    views: Sequence[ViewSpec],
    transform: Transform,
    device: torch.device | str,
    batch_size: int,
) -> Mapping[str, Callable[[], Features]]:
    """Return what makes each of the two features of `kind_features`; one pass makes both."""
    kind = {"views": views, "transform": transform, "device": device, "batch_size": batch_size}
    make = functools.cache(lambda: kind_features(method, images, **kind))
    return {FIRST: lambda: make()[0], SECOND: lambda: make()[1]}


def _pixels(
    views: Sequence[ViewSpec], transform: Transform
) -> dict[Kind, Callable[[Tensor], Tensor]]:
    specs = _kinds_of(views)
    size = min(view.size for view in specs)  # vectors of two lengths have no cosine
    first, second = (replace(view, size=size) for view in specs)
    return {
        "first": lambda stored: transform.kind(stored, first).flatten(1),
        "second": lambda stored: transform.kind(stored, second).flatten(1),
    }


def _kinds_of(views: Sequence[ViewSpec]) -> tuple[ViewSpec, ViewSpec]:
    return views[0], views[1 % len(views)]  # one entry: a method of one's own may draw it twice
