r"""Learning a kernel's scale: where the kernel is steepest at the distances that there are.

A kernel whose scale is far from the distances of the points is flat there and tells nothing apart.
The released code of SSL-HSIC therefore learns the scale beside the network, by an objective of its
own that no gradient of the loss reaches.

References:
    Self-Supervised Learning with Kernel Dependence Maximization (Li, Pogodin, Sutherland, Gretton,
    2021), https://arxiv.org/abs/2106.08320; its code,
    https://github.com/google-deepmind/ssl_hsic at d7ea38d.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cognates.errors import ConfigError
from cognates.kernels.gram import Kernel, precise

_FLOOR = 1e-14  # of the squared slope, in the released code


def steepness(kernel: Kernel, squared: Float[Tensor, "*pairs"]) -> Float[Tensor, ""]:
    r"""Return how steep a kernel is at given distances; its scale is chosen to maximise this.

    Formula: mean of (1/2) log max(1e-14, (dk/du)^2) over the squared distances u. For imq with
    scale c it is mean of log(c/2) - (3/2) log(u + c^2), and largest where mean of k^2 is 1/3; for
    rbf with scale s it is mean of -log(2 s^2) - u/(2 s^2), and largest where s^2 is mean of u / 2.

    Args:
        kernel: imq or rbf; a tensor as its scale may require a gradient.
        squared: squared distances, at least 0.

    Returns:
        Nats, a mean over the pairs.

    Raises:
        ConfigError: the kernel is linear.

    Example:
        >>> from cognates.kernels import imq
        >>> two = torch.full((3,), 2.0)  # orthogonal unit vectors
        >>> [round(steepness(imq(c), two).item(), 4) for c in (0.9, 1.0, 1.1)]
        [-2.3483, -2.3411, -2.3472]
    """
    with torch.autocast(squared.device.type, enabled=False):
        return _log_slope(kernel, precise(squared)).clamp_min(0.5 * math.log(_FLOOR)).mean()


def steepness_slope(kernel: Kernel, squared: Float[Tensor, "*pairs"]) -> Float[Tensor, ""]:
    r"""Return the derivative of `steepness` in the logarithm of the scale, in closed form.

    Formula: imq: mean of 1 - 3 c^2/(u + c^2); rbf: mean of u/s^2 - 2; pairs at the floor count 0.

    Args:
        kernel: imq or rbf.
        squared: squared distances, at least 0.

    Returns:
        Nats per unit of log scale: positive where a larger scale is steeper.

    Raises:
        ConfigError: the kernel is linear.

    Example:
        >>> from cognates.kernels import imq
        >>> round(steepness_slope(imq(1.0), torch.tensor([2.0, 2.0])).item(), 6)
        0.0
    """
    with torch.autocast(squared.device.type, enabled=False):
        u, s = precise(squared), kernel.scale
        above = _log_slope(kernel, u) > 0.5 * math.log(_FLOOR)
        slope = 1 - 3 * s * s / (u + s * s) if kernel.name == "imq" else u / (s * s) - 2
        return torch.where(above, slope, torch.zeros_like(slope)).mean()


def _log_slope(kernel: Kernel, u: Tensor) -> Tensor:
    """Return log |dk/du| of each pair."""
    if kernel.name == "linear":
        raise ConfigError("Expected a kernel with a scale, got the linear one: use rbf or imq.")
    s = torch.as_tensor(kernel.scale, dtype=u.dtype, device=u.device)
    if kernel.name == "imq":
        return torch.log(s / 2) - 1.5 * torch.log(u + s * s)
    return -torch.log(2 * s * s) - u / (2 * s * s)
