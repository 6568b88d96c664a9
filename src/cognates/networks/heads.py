"""Heads on top of an encoder: projectors, predictors, and heads of distributions.

References:
    Exploring Simple Siamese Representation Learning (Chen and He, 2020),
    https://arxiv.org/abs/2011.10566, section 3.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cognates.errors import ConfigError

LOG_VARIANCES = (-20.0, 10.0)
"""The range in which `PosteriorHead` holds the log variances of latents."""
Activation = Literal["softplus", "exp"]
"""From a head's output to a concentration in units of d - 1."""
_LARGEST_LOGARITHM = 15.0
"""Of kappa / (d - 1) under exp: the expected cosine is then 1 - 3e-7, beyond which float32 has no
more of them."""


def projection_mlp(
    width: int, hidden: int, out: int, *, layers: int = 3, last_affine: bool = False
) -> nn.Sequential:
    r"""Make SimSiam's projector: linear maps without bias, each followed by batch normalisation.

    Formula: (Linear - BN - ReLU) x (layers - 1) - Linear - BN; the last BN is followed by no ReLU.

    Args:
        width: features of the input, at least 1.
        hidden: features between the layers, at least 1; not used if `layers` is 1.
        out: features of the output, at least 1.
        layers: linear maps, at least 1 (the paper: 3 on ImageNet, 2 on CIFAR).
        last_affine: whether the last batch normalisation has a scale and a shift.

    Returns:
        A module (n, width) -> (n, out).

    Raises:
        ConfigError: a size is below 1.

    Example:
        >>> projection_mlp(8, 16, 4)(torch.randn(5, 8)).shape
        torch.Size([5, 4])
    """
    _at_least_one(width=width, hidden=hidden, out=out, layers=layers)
    sizes = [width, *[hidden] * (layers - 1), out]
    modules: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(sizes)):
        last = i == layers - 1
        modules.append(nn.Linear(before, after, bias=False))
        modules.append(nn.BatchNorm1d(after, affine=last_affine or not last))
        if not last:
            modules.append(nn.ReLU(inplace=True))
    return nn.Sequential(*modules)


def prediction_mlp(width: int, hidden: int) -> nn.Sequential:
    r"""Make SimSiam's predictor: a bottleneck whose last layer has a bias and no normalisation.

    Formula: Linear - BN - ReLU - Linear + b.

    Args:
        width: features of input and output, at least 1.
        hidden: features of the bottleneck, at least 1 (the paper: width / 4).

    Returns:
        A module (n, width) -> (n, width).

    Raises:
        ConfigError: a size is below 1.

    Example:
        >>> prediction_mlp(8, 2)(torch.randn(5, 8)).shape
        torch.Size([5, 8])
    """
    _at_least_one(width=width, hidden=hidden)
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, width),
    )


def hidden_mlp(width: int, hidden: int, out: int, *, layers: int = 2) -> nn.Sequential:
    r"""Make the head of BYOL, SSL-HSIC, VICReg and SimCLR: no bias or normalisation at the end.

    Formula: (Linear + b - BN - ReLU) x (layers - 1) - Linear.

    Args:
        width: features of the input, at least 1.
        hidden: features of the hidden layers, at least 1 (BYOL: 4096, VICReg: 8192).
        out: features of the output, at least 1 (BYOL: 256, VICReg: 8192).
        layers: linear maps, at least 1 (BYOL: 2, VICReg's expander: 3).

    Returns:
        A module (n, width) -> (n, out).

    Raises:
        ConfigError: a size is below 1.

    References:
        Bootstrap Your Own Latent (Grill et al., 2020), https://arxiv.org/abs/2006.07733, section
        3.2; VICReg (Bardes et al., 2022), https://arxiv.org/abs/2105.04906, section 4.2

    Example:
        >>> hidden_mlp(8, 16, 4)(torch.randn(5, 8)).shape
        torch.Size([5, 4])
    """
    _at_least_one(width=width, hidden=hidden, out=out, layers=layers)
    modules: list[nn.Module] = []
    for before in [width, *[hidden] * (layers - 1)][: layers - 1]:
        modules += [nn.Linear(before, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
    last = hidden if layers > 1 else width
    return nn.Sequential(*modules, nn.Linear(last, out, bias=False))


class ConcentrationHead(nn.Module):
    r"""Predict the concentration kappa of a distribution on the sphere from a representation.

    Formula: kappa = (d - 1) f(a(h)) + 1e-3 with a = Linear - BN - ReLU - Linear and f softplus or
    exp. The factor d - 1 makes the expected cosine c = kappa / (kappa + d - 1) free of the
    dimension; at the start f(a) = c_0 / (1 - c_0), so that c = c_0 for every image.

    Args:
        width: features of the representation, at least 1.
        hidden: features of the hidden layer, at least 1.
        dim: d, the dimension of the space that the sphere lies in, at least 2.
        start: c_0 in (0, 1).
        activation: f. softplus grows like a, exp with it; exp holds a below 15, beyond which the
            gradient passes as if it did not.

    Returns:
        From `forward`: (n,) kappa > 0 in float32, or float64 if the head is, also under autocast.

    Raises:
        ConfigError: a size is too small, `start` is outside (0, 1), or the activation is unknown.

    Example:
        >>> head = ConcentrationHead(8, 2, 5).eval()
        >>> kappa = head(torch.zeros(3, 8))
        >>> [round(c, 2) for c in (kappa / (kappa + 4)).tolist()]
        [0.25, 0.25, 0.25]
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        dim: int,
        start: float = 0.25,
        *,
        activation: Activation = "softplus",
    ) -> None:
        """Make the head; see the class for the arguments."""
        super().__init__()
        _at_least_one(width=width, hidden=hidden)
        if dim < 2:
            raise ConfigError(f"Expected 'dim' of at least 2, got {dim}.")
        if not 0.0 < start < 1.0:
            raise ConfigError(f"Expected 'start' between 0 and 1 (a cosine), got {start}.")
        if activation not in ("softplus", "exp"):
            raise ConfigError(f"Expected 'activation' softplus or exp, got {activation!r}.")
        self.dim, self.activation = dim, activation
        self.first = nn.Linear(width, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.last = nn.Linear(hidden, 1)
        # a = O(0.01) around its bias whatever the width: not zero, else `first` would not learn.
        nn.init.normal_(self.last.weight, std=0.01 / math.sqrt(hidden))
        odds = start / (1.0 - start)
        # The inverse of softplus, log(exp(odds) - 1), in a form that does not overflow.
        inverse = odds + math.log(-math.expm1(-odds))
        nn.init.constant_(self.last.bias, inverse if activation == "softplus" else math.log(odds))

    def forward(self, representation: Tensor) -> Tensor:
        """Return kappa (n,) of representations (n, width)."""
        # kappa is O(d) and the loss takes lgamma of it: bfloat16 keeps three digits, too few.
        with torch.autocast(representation.device.type, enabled=False):
            hidden = functional.relu(
                self.norm(self.first(representation.to(self.last.weight.dtype)))
            )
            logit = self.last(hidden).squeeze(-1)
            logit = logit.to(torch.promote_types(logit.dtype, torch.float32))
            if self.activation == "softplus":
                return (self.dim - 1) * functional.softplus(logit) + 1e-3
            # A plain clamp has no gradient beyond its end: a concentration there could not fall.
            held = logit + (logit.clamp(max=_LARGEST_LOGARITHM) - logit).detach()
            return (self.dim - 1) * held.exp() + 1e-3


class PosteriorHead(nn.Module):
    r"""Predict the mean and the log variance of a normal latent from a representation.

    Formula: (m, s) = W h + b, the first d outputs and the last d; s is held in [-20, 10], beyond
    which its gradient passes as if it were not.

    Args:
        width: features of the representation, at least 1.
        dim: d, at least 1.

    Returns:
        From `forward`: two (n, d) in float32, or float64 if the head is, also under autocast.

    Raises:
        ConfigError: a size is below 1.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2013),
        https://arxiv.org/abs/1312.6114, appendix C.2. The range is chosen here: exp of its ends is
        exact in float32, and neither pixels nor priors ask for more.

    Example:
        >>> mean, log_variance = PosteriorHead(8, 3)(torch.zeros(5, 8))
        >>> mean.shape, log_variance.shape
        (torch.Size([5, 3]), torch.Size([5, 3]))
    """

    def __init__(self, width: int, dim: int) -> None:
        """Make the head; see the class for the arguments."""
        super().__init__()
        _at_least_one(width=width, dim=dim)
        self.linear = nn.Linear(width, 2 * dim)

    def forward(self, representation: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the log variance (n, d) of representations (n, width)."""
        with torch.autocast(representation.device.type, enabled=False):
            both = self.linear(representation.to(self.linear.weight.dtype))
            mean, free = both.to(torch.promote_types(both.dtype, torch.float32)).chunk(2, dim=1)
            # A plain clamp has no gradient outside: a variance there could never come back.
            return mean, free + (free.clamp(*LOG_VARIANCES) - free).detach()


def _at_least_one(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"Expected '{name}' of at least 1, got {size}.")
