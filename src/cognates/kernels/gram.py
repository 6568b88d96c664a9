r"""Kernels: similarities of the points of two sets, as functions that return a Gram matrix.

    linear   x.y
    rbf      exp(-|x - y|^2 / (2 s^2))
    imq      s / sqrt(s^2 + |x - y|^2), the inverse multiquadric

On the unit sphere all three are 1 for equal points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cognates.errors import ConfigError

_LEAST_SCALE = 1e-9  # its square, 1e-18, is a normal number in float32, and so is 1 over it


@dataclass(frozen=True, eq=False)
class Kernel:
    r"""A kernel with its scale; called with two sets of points it returns their Gram matrix.

    Made by `linear`, `rbf` and `imq`.

    Args:
        name: linear, rbf or imq.
        scale: s > 0, a number or a scalar tensor; the linear kernel has none.

    Raises:
        ConfigError: an unknown name, or a number as scale that is not finite and above 0.
    """

    name: str
    scale: float | Tensor = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no kernel; a tensor's value is not read, because a GPU would wait."""
        if self.name not in ("linear", "rbf", "imq"):
            raise ConfigError(f"Expected a kernel linear, rbf or imq, got {self.name!r}.")
        require_scale(self.scale)

    def __call__(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        """Return k(x_i, y_j), in float32 or better whatever autocast says."""
        if self.name == "linear":
            with torch.autocast(x.device.type, enabled=False):
                x, y = precise(x), precise(y)
                return x @ y.T
        return self.of_squared(squared_distances(x, y))

    def of_squared(self, squared: Tensor) -> Tensor:
        """Return the kernel at squared distances of any shape.

        Raises:
            ConfigError: the kernel is linear, which is no function of the distance.
        """
        with torch.autocast(squared.device.type, enabled=False):
            squared, s = precise(squared), self.scale
            if self.name == "imq":
                return s * torch.rsqrt(s * s + squared)
            if self.name == "rbf":
                return torch.exp(squared * (-0.5 / (s * s)))
        raise ConfigError("Expected a kernel of the distance, got the linear one: use rbf or imq.")


def linear() -> Kernel:
    r"""Return the linear kernel k(x, y) = x.y.

    Example:
        >>> linear()(torch.eye(2), torch.tensor([[3.0, 4.0]]))
        tensor([[3.],
                [4.]])
    """
    return Kernel("linear")


def rbf(scale: float | Tensor = 1.0) -> Kernel:
    r"""Return the Gaussian kernel k(x, y) = exp(-|x - y|^2 / (2 scale^2)).

    Args:
        scale: above 0.

    Raises:
        ConfigError: the scale is a number that is not finite and above 0.

    Example:
        >>> rbf()(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        tensor([[1.0000, 0.3679]])
    """
    return Kernel("rbf", scale)


def imq(scale: float | Tensor = 1.0) -> Kernel:
    r"""Return the inverse multiquadric k(x, y) = scale / sqrt(scale^2 + |x - y|^2).

    Args:
        scale: above 0.

    Raises:
        ConfigError: the scale is a number that is not finite and above 0.

    References:
        Self-Supervised Learning with Kernel Dependence Maximization (Li, Pogodin, Sutherland,
        Gretton, 2021), https://arxiv.org/abs/2106.08320, whose code has this kernel alone.

    Example:
        >>> imq()(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
        tensor([[1.0000, 0.5000]])
    """
    return Kernel("imq", scale)


def squared_distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    r"""Return the squared distance of every x to every y.

    Formula: max(0, |x|^2 + |y|^2 - 2 x.y): one matrix product instead of n m differences.

    Args:
        x: points.
        y: points in the same space.

    Returns:
        At least 0, in float32 or better whatever autocast says. For points of unit length the
        absolute error is a few units of rounding (1e-7 in float32), also where points are equal.

    Example:
        >>> squared_distances(torch.eye(2), torch.zeros(1, 2))
        tensor([[1.],
                [1.]])
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y = precise(x), precise(y)
        lengths = x.square().sum(1)[:, None] + y.square().sum(1)[None]
        return torch.addmm(lengths, x, y.T, alpha=-2).clamp_min(0)


def precise(x: Tensor) -> Tensor:
    """Return `x` in float32 or better."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def require_scale(scale: float | Tensor) -> None:
    """Refuse a scale that cannot be used.

    Raises:
        ConfigError: a number that is not finite and at least 1e-9, or a tensor with axes.
    """
    if isinstance(scale, Tensor):
        if scale.ndim:
            raise ConfigError(f"Expected a scalar scale, got a tensor {tuple(scale.shape)}.")
    elif not (math.isfinite(scale) and scale >= _LEAST_SCALE):
        raise ConfigError(
            f"Expected a finite kernel scale above 0, of at least {_LEAST_SCALE:g}, got {scale}."
        )
