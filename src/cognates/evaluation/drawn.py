"""The passes behind `generation` and `generated-views`: pictures are drawn and encoded again.

Samples are encoded by a reference encoder, together with real images that come to it in the same
way; views of one psi by the model itself. What is left are features, which the protocols read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from cognates.data.images import Images
from cognates.data.views import ViewSpec
from cognates.errors import ConfigError
from cognates.evaluation import likelihood
from cognates.evaluation.drawings import (
    as_drawing,
    draws_images,
    pictures,
    posterior_of,
    require_samples,
    require_shared,
    sample_latents,
    view_latents,
)
from cognates.evaluation.features import Transform, require_eval
from cognates.evaluation.generation import (
    GROUP,
    GROUPS,
    LIMIT,
    OF_PIXELS,
    REFERENCE_TEST,
    REFERENCE_TRAIN,
    SEEDS,
    VIEWS,
    generated,
)
from cognates.evaluation.store import check, weights_digest
from cognates.methods.base import Method
from cognates.networks.convnet import ConvNet
from cognates.random import fold_in, generator
from cognates.types import Features

RANDOM = "random-convnet"
GENERATIVE = ("reconstruction", "elbo", "generation", "generated-views")
"""Protocols of methods that draw images."""


def drawable(
    method: Method, *, only: Sequence[str] | None, reference: Reference | None
) -> tuple[str, ...]:
    """Return those protocols of `GENERATIVE` that a method allows.

    Raises:
        ConfigError: one of `only` needs what the method does not have, or the reference is the
            method itself.
    """
    wanted = set(GENERATIVE if only is None or "generative" in only else only) & set(GENERATIVE)
    by_name = set(only or ()) & set(GENERATIVE)
    if not wanted or (only is None and not draws_images(method)):
        return ()
    prior = as_drawing(method).config.prior_of(1)
    if prior.flat:
        if "generation" in by_name:
            require_samples(as_drawing(method))
        wanted.discard("generation")
    if prior.between == 0:
        if "generated-views" in by_name:
            require_shared(as_drawing(method))
        wanted.discard("generated-views")
    if reference is not None:
        require_other(reference, method)
    return tuple(name for name in GENERATIVE if name in wanted)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A fixed, named encoder that pictures are compared by."""

    name: str
    """Part of the metric's name: values are comparable within it alone."""
    digest: str
    """Of its weights."""
    encode: Callable[[Tensor], Tensor]
    """(n, c, s, s) in [0, 1] to (n, d)."""
    device: torch.device | str


def random_reference(channels: int, device: torch.device | str = "cpu") -> Reference:
    """Return the convolutional encoder of this library with fixed random weights.

    Its convolutions are drawn by He's rule from a seed of their own, the same for every run and
    machine, and its batch norm is as it starts. It was trained on nothing, so it favours no method;
    it sees edges and textures and no meaning. An encoder that another run has trained sees more
    (`reference_of`).

    Args:
        channels: of the images, at least 1.
        device: where it computes.
    """
    encoder = ConvNet(channels=channels).eval()
    draws = generator(0, RANDOM)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.Conv2d):
                weight = torch.randn(module.weight.shape, generator=draws)
                module.weight.copy_(weight * (2 / module.weight[0].numel()) ** 0.5)
    digest = weights_digest(encoder)
    encoder.to(device)
    return Reference(
        name=RANDOM,
        digest=digest,
        # Grey is 0, black and white are -1 and 1.
        encode=lambda images: encoder(2 * images - 1),
        device=device,
    )


def reference_of(
    method: Method, *, method_name: str, transform: Transform, device: torch.device | str
) -> Reference:
    """Return the encoder of another run as a reference: `METHOD-DIGEST`.

    Args:
        method: in eval mode, on `device`.
        method_name: its registered name.
        transform: of its run; pictures have to be of its size or larger.
        device: where the method is.
    """
    require_eval(method)
    digest = weights_digest(method)

    def encode(images: Tensor) -> Tensor:
        return method.embed(transform.view(images)).representation

    # 32 bits: two of a hundred encoders fall together with probability 1e-6.
    return Reference(
        name=f"{method_name}-{digest[:8]}", digest=digest, encode=encode, device=device
    )


def require_other(reference: Reference, method: Method) -> None:
    """Raise a `ConfigError` if the reference is the encoder under test."""
    if reference.digest == weights_digest(method):
        raise ConfigError(
            "Expected another run as the reference, got the one that is evaluated: an encoder "
            "rewards its own invariances."
        )


@torch.no_grad()
def reference_pass(
    reference: Reference,
    images: Images,
    *,
    transform: Transform,
    batch_size: int = 512,
    limit: int = LIMIT,
    seed: int = 0,
) -> Features:
    """Return the reference's features of at most `limit` random images' test views.

    `transform` is that of the run which is evaluated, so that real images come as drawn ones do.
    """
    order = np.random.default_rng(fold_in(seed, "reference")).permutation(len(images))
    rows = np.sort(order[:limit])
    parts = []
    for start in range(0, len(rows), batch_size):
        stored = torch.from_numpy(np.array(images.pixels[rows[start : start + batch_size]]))
        parts.append(_array(reference.encode(transform.view(stored.to(reference.device)))))
    return _features(np.concatenate(parts), rows, images, reference.name)


@torch.no_grad()
def sample_pass(
    method: Method,
    reference: Reference,
    images: Images,
    *,
    number: int,
    batch_size: int = 512,
    limit: int = LIMIT,
    seed: int = 0,
) -> Features:
    """Return the reference's features of as many samples from the prior as there are images.

    Args:
        method: that draws images, in eval mode, on the reference's device.
        reference: which encodes them.
        images: the test images, of which only the number matters.
        number: which draw; each has samples of its own.
        batch_size: images per forward pass; the result does not depend on it.
        limit: samples at most.
        seed: of the samples.

    Raises:
        ConfigError: the method draws no images, or its prior is flat.
    """
    drawing = as_drawing(method)
    count = min(limit, len(images))
    latents = sample_latents(
        require_samples(drawing), count, seed=fold_in(seed, "generation", number)
    )
    weight = next(drawing.model.parameters())
    parts = [
        _array(reference.encode(_as_stored(pictures(drawing.model, z.to(weight)))))
        for z in latents.split(batch_size)
    ]
    return _features(np.concatenate(parts), np.arange(count), images, reference.name)


@torch.no_grad()
def view_pass(
    method: Method,
    images: Images,
    *,
    source: str,
    transform: Transform,
    pixels: bool = False,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    limit: int = GROUPS,
    seed: int = 0,
) -> Features:
    """Return the model's own features of views drawn from one psi each, four of every psi.

    Args:
        method: that draws images and whose views share a latent, in eval mode, on `device`.
        images: the test images.
        source: "image": psi that random images tell of; "prior": psi from the prior.
        transform: of the run, without normalisation.
        pixels: whether to return the pixels of the very same views instead.
        device: where the method is.
        batch_size: pictures per forward pass; the result does not depend on it.
        limit: psi at most.
        seed: of the images and the draws.

    Raises:
        ConfigError: the method draws no images, its views share no latent, or its prior is flat
            where psi come from it.
    """
    drawing = as_drawing(method)
    one = require_samples(drawing) if source == "prior" else drawing.config.prior_of(1)
    require_shared(drawing)
    order = np.random.default_rng(fold_in(seed, "generated views")).permutation(len(images))
    rows = np.sort(order[:limit])
    drawn = None
    if source == "prior":
        draws = generator(seed, "generated views", "prior")
        drawn = drawing.config.prior_of(GROUP).sample((len(rows),), generator=draws)
        rows = np.arange(len(rows))
    weight = next(drawing.model.parameters())
    step = max(1, batch_size // GROUP)
    parts = []
    for start in range(0, len(rows), step):
        chosen = rows[start : start + step]
        if drawn is None:
            stored = torch.from_numpy(np.array(images.pixels[chosen])).to(device)
            q = posterior_of(method, transform.view(stored))
            z = view_latents(q, one, torch.from_numpy(chosen), count=GROUP, seed=seed)
        else:
            z = drawn[start : start + step].to(weight)
        made = pictures(drawing.model, z.flatten(0, 1))
        seen = _as_stored(made)
        parts.append(_array(seen.flatten(1) if pixels else method.embed(seen).representation))
    layer = "pixels" if pixels else "backbone"
    return _features(np.concatenate(parts), np.repeat(rows, GROUP), images, layer)


def drawn_passes(
    method: Method,
    test: Images,
    names: Sequence[str],
    *,
    views: Sequence[ViewSpec],
    transform: Transform,
    device: torch.device | str,
    batch_size: int,
    seed: int,
) -> dict[str, Callable[[], Features]]:
    """Return what makes the features that the protocols `names` read of one method, by name."""
    model: _Drawing = {
        "transform": transform, "device": device, "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
    makers: dict[str, Callable[[], Features]] = {}
    if "reconstruction" in names:
        makers[likelihood.RECONSTRUCTION] = lambda: likelihood.reconstruction_pass(
            method, test, **model
        )
    if "elbo" in names:
        makers[likelihood.BOUND] = lambda: likelihood.bound_pass(method, test, views=views, **model)
    if "generated-views" in names:
        flat = as_drawing(method).config.prior_of(1).flat
        for source in ("image",) if flat else ("image", "prior"):
            for ending in ("", OF_PIXELS):
                makers[VIEWS[source] + ending] = lambda source=source, ending=ending: view_pass(
                    method, test, source=source, pixels=bool(ending), **model
                )
    return makers


def comparison_passes(
    method: Method,
    train: Images,
    test: Images,
    reference: Reference,
    *,
    transform: Transform,
    batch_size: int,
    seed: int,
) -> dict[str, tuple[Images, bool, Callable[[], Features]]]:
    """Return what makes a reference's features of real images and of samples, by name.

    With each stand the images that it depends on, and whether it depends on the method.
    """
    options = {"batch_size": batch_size, "seed": seed}
    found: dict[str, tuple[Images, bool, Callable[[], Features]]] = {}
    for name, images in ((REFERENCE_TRAIN, train), (REFERENCE_TEST, test)):
        found[name] = (
            *(images, False),
            lambda images=images: reference_pass(reference, images, transform=transform, **options),
        )
    for number in range(SEEDS):
        found[generated(number)] = (
            *(test, True),
            lambda number=number: sample_pass(method, reference, test, number=number, **options),
        )
    return found


class _Drawing(TypedDict):
    transform: Transform
    device: torch.device | str
    batch_size: int
    seed: int


def _as_stored(drawn: Tensor) -> Tensor:
    """Round pictures to grey values of 8 bits, which is what real images have."""
    return (drawn.clamp(0, 1) * 255).round() / 255


def _features(rows: np.ndarray, index: np.ndarray, images: Images, layer: str) -> Features:
    return check(
        Features(
            representation=rows,
            index=index,
            dataset=images.dataset,
            split=images.split,
            layer=layer,
        )
    )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
