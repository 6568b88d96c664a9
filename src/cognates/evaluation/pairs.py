"""Images and captions in one space: the pass over both encoders of a method that reads text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from cognates.data.images import Images
from cognates.data.tokens import Tokenizer, trimmed
from cognates.errors import ConfigError, DataError
from cognates.evaluation.caption_retrieval import IMAGES, TEXTS
from cognates.evaluation.features import Transform, chunks, features_of, require_eval
from cognates.evaluation.store import check
from cognates.methods.base import Method
from cognates.types import Features


@runtime_checkable  # for shape checks, which look at every argument
class PairedMethod(Protocol):
    """What this room asks of a method that reads captions."""

    def project_images(self, images: Tensor) -> Tensor:
        """Return images in the space that both kinds share, (n, d)."""
        ...

    def project_text(self, tokens: Tensor) -> Tensor:
        """Return token ids (n, l) in that space, (n, d)."""
        ...


def reads_text(method: Method) -> bool:
    """Return whether a method was built to read captions."""
    config = getattr(method, "config", None)
    return isinstance(method, PairedMethod) and getattr(config, "text", None) is not None


def as_paired(method: Method) -> PairedMethod:
    """Return `method` as one that reads captions.

    Raises:
        ConfigError: it reads none, or a submodule is in training mode.
    """
    require_eval(method)
    if not reads_text(method):
        raise ConfigError(
            f"Expected a method that reads captions, got {type(method).__name__}: train clip on "
            "pairs:DIR."
        )
    return cast(PairedMethod, method)


def pair_features(
    method: Method,
    images: Images,
    tokenizer: Tokenizer,
    *,
    transform: Transform,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> tuple[Features, Features]:
    """Embed images and all of their captions in the space that they share.

    Args:
        method: in eval mode, on `device`.
        images: one split with captions.
        tokenizer: the run's.
        transform: how the images become input.
        device: where the method is.
        batch_size: images, or captions, per forward pass; the result does not depend on it.

    Returns:
        Features of the images (n, d), and of the captions (m, d), whose `index` is the position of
        the image that each belongs to.

    Raises:
        ConfigError: the method reads no captions.
        DataError: the images have none.
    """
    paired = as_paired(method)
    if images.captions is None:
        raise DataError(f"Expected captions of '{images.dataset}', got none: give pairs:DIR.")
    with torch.no_grad():
        seen = [
            paired.project_images(transform.view(chunk)).float().cpu().numpy()
            for chunk in chunks(images, batch_size, device)
        ]
    every = [caption for several in images.captions for caption in several]
    owner = np.repeat(np.arange(len(images)), [len(several) for several in images.captions])
    texts = Features(
        representation=read(paired, every, tokenizer, device=device, batch_size=batch_size),
        index=owner.astype(np.int64),
        dataset=images.dataset,
        split=images.split,
        layer="text",
    )
    return features_of(images, np.concatenate(seen), layer="shared"), check(texts)


def pair_passes(
    method: Method,
    images: Images,
    tokenizer: Tokenizer,
    *,
    transform: Transform,
    device: torch.device | str,
    batch_size: int,
) -> dict[str, Callable[[], Features]]:
    """Return what makes each of the two features of `pair_features`; one pass makes both."""
    make = functools.cache(
        lambda: pair_features(
            method, images, tokenizer, transform=transform, device=device, batch_size=batch_size
        )
    )
    return {IMAGES: lambda: make()[0], TEXTS: lambda: make()[1]}


def require_texts(captions: Iterable[object]) -> list[str]:
    """Return what a caller hands over as captions.

    Raises:
        DataError: there is no caption, or something else than a sequence of texts.
    """
    found = [] if isinstance(captions, str) else list(captions)
    texts = [one for one in found if isinstance(one, str)]
    if isinstance(captions, str) or len(texts) < len(found):
        # One text is a sequence too, of its letters.
        raise DataError('Expected a list of captions, got another: for example ["a red boat"].')
    if not texts:
        raise DataError("Expected at least one caption to embed, got none.")
    return texts


@torch.no_grad()
def read(
    method: PairedMethod,
    captions: list[str],
    tokenizer: Tokenizer,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> np.ndarray:
    """Return captions in the shared space, (m, d) float32."""
    tokens = tokenizer.encode(captions)
    parts = [
        method.project_text(trimmed(part).to(device)).float().cpu().numpy()
        for part in tokens.split(batch_size)
    ]
    return np.concatenate(parts)
