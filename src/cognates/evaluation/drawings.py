r"""Pictures that a generative method draws: reconstructions, views of one image, samples, mixtures.

With the model's group prior, sigma^2 within and gamma^2 between groups:

    reconstruction: mean of p(x | m),   m = mean of q(z | x)
    view:           psi ~ p(psi | m),   z ~ N(psi, sigma^2 I)
    sample:         psi ~ N(0, gamma^2 I),   z ~ N(psi, sigma^2 I)
    mixture:        z on the line between the m of two images

Where views share nothing (gamma = 0: vae, beta-vae, cr-vae) there is no psi, and a view of an image
is z ~ q(z | x). A flat prior of psi has views and no samples. Every picture is the expected image,
without the likelihood's noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from cognates.data.images import Images
from cognates.distributions import DiagonalNormal, GroupNormal
from cognates.errors import ConfigError
from cognates.evaluation.features import Transform, require_eval
from cognates.evaluation.store import replace
from cognates.methods.base import Method
from cognates.networks.image_model import ImageModel
from cognates.random import fold_in, generator, normal_of

SHOWN, WIDTH = 8, 8
"""Images that a run's page shows, and pictures in a row of it."""
_AT_ONCE = 512
"""Pictures that are drawn in one pass."""


class Drawings(NamedTuple):
    """Rows of pictures, all in [0, 1]."""

    images: Tensor
    """(n, c, h, w) what was given."""
    reconstructions: Tensor
    """(n, c, h, w)"""
    views: Tensor
    """(n, k, c, h, w) views drawn from the common mean that each image tells of."""
    samples: Tensor
    """(k, c, h, w) drawn from the prior; (0, c, h, w) if it is flat."""
    mixtures: Tensor
    """(n - 1, k, c, h, w) from each image to the next one, both reconstructions included."""


@runtime_checkable  # for shape checks, which look at every argument
class DrawingConfig(Protocol):
    """The configuration of a method that draws images."""

    name: str

    def prior_of(self, views: int) -> GroupNormal:
        """Return the joint density of so many latents of one image."""
        ...


@runtime_checkable
class DrawingMethod(Protocol):
    """What the functions of this room ask of a method that draws images."""

    encoder: nn.Module
    model: ImageModel
    config: DrawingConfig


def draws_images(method: Method) -> bool:
    """Return whether a method has a decoder of images and a prior of their latents."""
    model, config = getattr(method, "model", None), getattr(method, "config", None)
    return isinstance(model, ImageModel) and hasattr(config, "prior_of")


def as_drawing(method: Method) -> DrawingMethod:
    """Return `method` as one that draws images.

    Raises:
        ConfigError: it draws none, or a submodule is in training mode.
    """
    require_eval(method)
    if not draws_images(method):
        raise ConfigError(
            f"Expected a method that draws images, got {type(method).__name__}: train simve, vae, "
            "beta-vae or cr-vae."
        )
    return cast("DrawingMethod", cast("Any", method))


@torch.no_grad()
def draw_all(
    method: Method, images: Tensor, prior: GroupNormal, *, count: int, seed: int
) -> Drawings:
    r"""Draw what a generative method makes of images, and what it makes without any.

    Args:
        method: with an `ImageModel` as `model`, in eval mode.
        images: (n, c, h, w) in [0, 1], n at least 2, on the method's device.
        prior: of one latent, `GroupNormal(1, d, within, between)`; see the module for `between` of
            0 and infinity.
        count: k, pictures per row, at least 2.
        seed: of the draws, which do not depend on the device.

    Returns:
        The pictures; see `Drawings`.

    Raises:
        ConfigError: the method draws no images, or an argument is out of its range.
    """
    model = as_drawing(method).model
    if len(images) < 2 or count < 2 or prior.views != 1:
        raise ConfigError(
            "Expected at least two images, two pictures per row and a prior of one latent, got "
            f"{len(images)}, {count} and a prior of {prior.views}."
        )
    mean = posterior_of(method, images).mean
    samples = images[:0]
    if not prior.flat:
        samples = pictures(model, sample_latents(prior, count, seed=seed).to(mean))
    share = torch.linspace(0, 1, count, dtype=mean.dtype, device=mean.device)[:, None, None]
    mixed = mean[:-1] + share * (mean[1:] - mean[:-1])
    return Drawings(
        images,
        pictures(model, mean),
        views_like(method, images, prior, count=count, seed=seed),
        samples,
        _rows(model, mixed.transpose(0, 1)),
    )


@torch.no_grad()
def reconstruct(method: Method, images: Tensor) -> Tensor:
    """Return the expected images (n, c, h, w) at the posterior means of `images`; see `draw_all`.

    Raises:
        ConfigError: the method draws no images, or these do not fit its decoder.
    """
    return pictures(as_drawing(method).model, posterior_of(method, images).mean)


@torch.no_grad()
def views_like(
    method: Method, images: Tensor, prior: GroupNormal, *, count: int, seed: int
) -> Tensor:
    """Return (n, k, c, h, w) views that share what each image tells; arguments as in `draw_all`.

    Raises:
        ConfigError: the method draws no images, or these do not fit its decoder.
    """
    q = posterior_of(method, images)
    latents = view_latents(q, prior, torch.arange(len(images)), count=count, seed=seed)
    return _rows(as_drawing(method).model, latents)


@torch.no_grad()
def samples_of(method: Method, *, count: int, seed: int) -> Tensor:
    """Return (count, c, h, w) pictures drawn from the prior, on the method's device.

    Raises:
        ConfigError: the method draws no images, or its prior is flat.
    """
    drawing = as_drawing(method)
    prior = require_samples(drawing)
    weight = next(drawing.model.parameters())
    return pictures(drawing.model, sample_latents(prior, count, seed=seed).to(weight))


@torch.no_grad()
def groups_of(method: Method, *, count: int, width: int, seed: int) -> Tensor:
    """Return (count, width, c, h, w): groups of views, each of one psi drawn from the prior.

    Raises:
        ConfigError: the method draws no images, its views share no latent, or its prior is flat.
    """
    drawing = as_drawing(method)
    require_samples(drawing)
    require_shared(drawing)
    draws = generator(seed, "drawings", "groups")
    latents = drawing.config.prior_of(width).sample((count,), generator=draws)
    return _rows(drawing.model, latents.to(next(drawing.model.parameters())))


def require_samples(drawing: DrawingMethod) -> GroupNormal:
    """Return the prior of one latent.

    Raises:
        ConfigError: it is flat and cannot be drawn from.
    """
    prior = drawing.config.prior_of(1)
    if prior.flat:
        raise ConfigError(
            "Expected a prior that can be drawn from, got the flat one (method.prior flat): draw "
            "views of an image, or train with the normal prior."
        )
    return prior


def require_shared(drawing: DrawingMethod) -> None:
    """Raise a `ConfigError` if the views of an image share no latent."""
    if drawing.config.prior_of(1).between == 0:
        raise ConfigError(
            f"Expected a method whose views share a latent, got {drawing.config.name}: train simve."
        )


def posterior_of(method: Method, images: Tensor) -> DiagonalNormal:
    """Return q(z | x), batch shape (n,), of images (n, c, h, w) in [0, 1].

    Raises:
        ConfigError: the method draws no images, or these do not fit its decoder.
    """
    drawing = as_drawing(method)
    drawing.model.stack([images])
    q = drawing.model.posterior(drawing.encoder(images), views=1)
    return DiagonalNormal(q.loc[0], q.log_variance[0], validate_args=False)


def view_latents(
    posterior: DiagonalNormal, prior: GroupNormal, index: Tensor, *, count: int, seed: int
) -> Tensor:
    """Return (n, count, d) latents of further views of images, from one psi for each image.

    The draws depend on `index` (n,) and `seed` alone. Without a common mean they are of the
    posterior.
    """
    centre = posterior.mean
    if prior.between == 0:
        noise = _noise(index, centre, count, seed=fold_in(seed, "drawings", "posterior"))
        wide = (part[:, None].expand(noise.shape) for part in (centre, posterior.log_variance))
        return DiagonalNormal(*wide, validate_args=False).place(noise)
    told = prior.common_mean(centre[:, None])
    psi = told.place(_noise(index, centre, 1, seed=fold_in(seed, "drawings", "mean"))[:, 0])
    own = _noise(index, centre, count, seed=fold_in(seed, "drawings", "view"))
    return psi[:, None] + prior.within**0.5 * own


def sample_latents(prior: GroupNormal, count: int, *, seed: int) -> Tensor:
    """Return (count, d) latents drawn from the prior, on the CPU."""
    return prior.sample((count,), generator=generator(seed, "drawings", "prior"))[:, 0]


def pictures(model: ImageModel, z: Tensor) -> Tensor:
    """Return the expected images (n, c, h, w) of latents (n, d), n at least 1."""
    # In parts: 10,000 pictures at once would not fit into every memory.
    return torch.cat([model.likelihood(part[None]).mean[0] for part in z.split(_AT_ONCE)])


def write_drawings(
    path: str | Path,
    method: Method,
    images: Images,
    transform: Transform,
    *,
    seed: int,
    device: torch.device | str,
) -> bool:
    """Write what a generative method makes of eight random images to an npz file, atomically.

    Arrays: the fields of `Drawings` as uint8, with 64 samples, and `shared`: whether views share a
    latent.

    Returns:
        Whether a file was written: not for a method that draws nothing, nor for fewer than two
        images.

    Raises:
        StorageError: the file cannot be written.
    """
    if not draws_images(method) or len(images) < 2:
        return False
    order = np.random.default_rng(fold_in(seed, "drawings")).permutation(len(images))
    chosen = torch.from_numpy(np.array(images.pixels[np.sort(order[:SHOWN])])).to(device)
    prior = as_drawing(method).config.prior_of(1)
    found = draw_all(method, transform.view(chosen), prior, count=WIDTH, seed=seed)
    if not prior.flat:
        found = found._replace(samples=samples_of(method, count=SHOWN * WIDTH, seed=seed))
    arrays = {name: to_bytes(part) for name, part in found._asdict().items()}
    arrays["shared"] = np.array(prior.between > 0)
    replace(path, lambda file: np.savez(file, allow_pickle=False, **arrays))
    return True


def to_bytes(images: Tensor) -> np.ndarray:
    """Return images in [0, 1] as uint8, rounded to the nearest."""
    return (images.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()


def _rows(model: ImageModel, z: Tensor) -> Tensor:
    """Return (n, k, c, h, w) for latents (n, k, d)."""
    return pictures(model, z.flatten(0, 1)).unflatten(0, z.shape[:2])


def _noise(index: Tensor, like: Tensor, count: int, *, seed: int) -> Tensor:
    """Return (n, count, d) numbers of each image: the same in any batch and on any device."""
    numbers = normal_of(index.cpu(), count, like.shape[-1], seed=seed)
    return numbers.to(like)
