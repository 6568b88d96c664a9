r"""What the variational reading says of the encoder at the end of each epoch, for any method.

J_align and J_uniform of the representation h of two training views of a few images, by the
definitions of the protocol `theory`; the one concentration is fitted on other images than those
that are measured.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cognates.evaluation.features import view_pair
from cognates.evaluation.splits import part_of
from cognates.evaluation.theory import fitted_concentration, view_terms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cognates.config import RunConfig
    from cognates.data.images import Images
    from cognates.methods.base import Method

MOST = 256
"""Most images: half of them fit the concentration, half are measured."""
SHARE = 60
"""At most every 60th image is read. Two passes forward of n/60 images stand against at least two
passes forward and backward, three times as long each, of n: about 0.6 % of an epoch."""
LEAST = 32
"""Fewer images are not read: their J_uniform, at most log 16, would say nothing."""


class TheoryMonitor:
    """Reads the terms of the variational reading from fixed views of fixed training images.

    Args:
        config: of the run.
        images: the training images, of which at most 256 and every 60th are kept.
        device: where the method is.
    """

    def __init__(self, config: RunConfig, images: Images, *, device: torch.device) -> None:
        """Choose the images; see the class for the arguments."""
        count = min(MOST, len(images) // SHARE)
        seed = config.training.seed
        self._images = part_of(images, count, seed=seed) if count >= LEAST else None
        self._config, self._device, self._seed = config, device, seed

    def read(self, method: Method) -> dict[str, dict[str, float]]:
        """Return `theory`: j-align, j-uniform, j (nats) and concentration; {} of small sets."""
        if self._images is None:
            return {}
        data = self._config.data
        dtype = next(method.parameters()).dtype

        def read(view: Tensor) -> Tensor:
            return method.embed(view.to(dtype)).representation

        with _evaluated(method):
            first, second = view_pair(
                method,
                self._images,
                views=self._config.views,
                size=data.image_size,
                mean=data.mean,
                std=data.std,
                device=self._device,
                seed=self._seed,
                read=read,
            )
        z = torch.from_numpy(np.stack([first.representation, second.representation]))
        kappa = fitted_concentration(z[:, ::2])
        return {"theory": view_terms(z[:, 1::2], kappa) | {"concentration": kappa}}


@contextmanager
def _evaluated(method: Method) -> Iterator[None]:
    """Put every submodule in eval mode, and back into the mode that it was in."""
    modes = [(module, module.training) for module in method.modules()]
    try:
        method.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
