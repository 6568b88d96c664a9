r"""Random Fourier features: phi with E[phi(x).phi(y)] = k(x, y), linear in the number of points.

    phi(x)_j = sqrt(2/D) cos(w_j.x / s + b_j),   b_j ~ U(0, 2 pi),   w_j ~ the kernel's spectrum

The spectrum of the Gaussian kernel is w ~ N(0, I). The inverse multiquadric is a mixture of
Gaussian kernels, 1/sqrt(1 + r^2) = E exp(-a^2 r^2 / 2) with a ~ N(0, 1), so its spectrum is
w = a g with one scalar a ~ N(0, 1) and g ~ N(0, I) per feature: exact in any dimension, without the
table of Bessel functions of the released code, which is cut at 100 and built for one dimension.

References:
    Random Features for Large-Scale Kernel Machines (Rahimi and Recht, 2007), algorithm 1.
    Self-Supervised Learning with Kernel Dependence Maximization (Li, Pogodin, Sutherland, Gretton,
    2021), https://arxiv.org/abs/2106.08320.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cognates.errors import ConfigError
from cognates.kernels.gram import Kernel, precise, require_scale


@dataclass(frozen=True, eq=False)
class RandomFeatures:
    r"""One draw of random features: a map from points to D features.

    Args:
        weight: (D, d) frequencies, not divided by the scale.
        phase: (D,) in [0, 2 pi).
        scale: s > 0; it divides the points.

    Raises:
        ConfigError: the shapes do not fit or the scale is not above 0.

    Example:
        >>> from cognates.kernels import imq
        >>> from cognates.random import generator
        >>> phi = RandomFeatures.draw(imq(0.5), 3, 4096, generator=generator(0, "example"))
        >>> x = torch.nn.functional.normalize(torch.ones(2, 3)) * torch.tensor([[1.0], [0.5]])
        >>> bool(((phi(x) @ phi(x).T - imq(0.5)(x, x)).abs() < 0.05).all())
        True
    """

    weight: Tensor
    phase: Tensor
    scale: float | Tensor = 1.0

    def __post_init__(self) -> None:
        """Check the shapes."""
        if self.weight.ndim != 2 or self.phase.shape != self.weight.shape[:1]:
            raise ConfigError(
                "Expected weights (D, d) and phases (D,), got "
                f"{tuple(self.weight.shape)} and {tuple(self.phase.shape)}."
            )
        if not len(self.weight):
            raise ConfigError("Expected at least one random feature, got none.")
        require_scale(self.scale)

    @staticmethod
    def draw(
        kernel: Kernel,
        dim: int,
        count: int,
        *,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> RandomFeatures:
        r"""Draw the features of a kernel.

        Args:
            kernel: rbf or imq; its scale is taken over.
            dim: d, the dimension of the points, at least 1.
            count: D, the number of features, at least 1.
            generator: numbers are drawn on its device; equal generators give equal draws, so that
                views and processes which must share a draw only share a seed.
            dtype: of the weights and phases.
            device: where they are put; None: where they were drawn.

        Raises:
            ConfigError: the kernel is linear, whose own points are its features, or a size is
                below 1.
        """
        if kernel.name == "linear":
            raise ConfigError(
                "Expected the kernel rbf or imq for random features, got the linear one, whose "
                "features are the points: use the exact form."
            )
        if dim < 1 or count < 1:
            raise ConfigError(f"Expected sizes of at least 1, got d = {dim} and D = {count}.")
        kind = {"generator": generator, "device": generator.device, "dtype": dtype}
        # One after the other from one stream, hence independent. The released code draws both from
        # one key, which under one of JAX's generators makes the phase a function of the weight.
        weight = torch.randn(count, dim, **kind)
        if kernel.name == "imq":
            weight = weight * torch.randn(count, 1, **kind)
        phase = torch.rand(count, **kind) * (2 * math.pi)
        where = generator.device if device is None else device
        return RandomFeatures(weight.to(where), phase.to(where), kernel.scale)

    def __call__(self, x: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes D"]:
        """Return phi(x), in float32 or better whatever autocast says.

        Raises:
            ConfigError: the points have another dimension than the draw.
        """
        if x.shape[-1] != self.weight.shape[1]:
            raise ConfigError(
                f"Expected points of dimension {self.weight.shape[1]}, got {x.shape[-1]}: draw "
                "features for this dimension."
            )
        with torch.autocast(x.device.type, enabled=False):
            x = precise(x)
            weight, phase = self.weight.to(x.dtype), self.phase.to(x.dtype)
            # Arguments reach |w|/s ~ 100, where half precision has no digit after the point.
            angle = torch.nn.functional.linear(x / self.scale, weight, phase)
            return math.sqrt(2 / len(weight)) * torch.cos(angle)
