"""A head that predicts one positive number per image, such as a loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from cognates.errors import ConfigError


class PositiveHead(nn.Module):
    r"""Predict a positive number from a representation.

    Formula: u = softplus(a(h)) with a = Linear - BN - ReLU - Linear, the shape of the
    concentration head; at the start u is `start` for every image, up to small random deviations.

    Args:
        width: features of the representation, at least 1.
        hidden: features of the hidden layer, at least 1.
        start: above 0.

    Returns:
        From `forward`: (n,) above 0 in float32, or float64 if the head is, also under autocast.

    Raises:
        ConfigError: a size is below 1 or `start` is not above 0.

    Example:
        >>> head = PositiveHead(8, 2, start=0.5).eval()
        >>> [round(u, 2) for u in head(torch.zeros(2, 8)).tolist()]
        [0.5, 0.5]
    """

    def __init__(self, width: int, hidden: int, *, start: float) -> None:
        """Make the head; see the class for the arguments."""
        super().__init__()
        if width < 1 or hidden < 1:
            raise ConfigError(f"Expected sizes of at least 1, got {width} and {hidden}.")
        if not 0.0 < start < math.inf:
            raise ConfigError(f"Expected 'start' above 0 and finite, got {start}.")
        self.first = nn.Linear(width, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.last = nn.Linear(hidden, 1)
        # a = O(0.01) around its bias whatever the width: not zero, else `first` would not learn.
        nn.init.normal_(self.last.weight, std=0.01 / math.sqrt(hidden))
        # The inverse of softplus, log(exp(start) - 1), in a form that does not overflow.
        nn.init.constant_(self.last.bias, start + math.log(-math.expm1(-start)))

    def forward(self, representation: Tensor) -> Tensor:
        """Return u (n,) of representations (n, width)."""
        with torch.autocast(representation.device.type, enabled=False):
            given = representation.to(self.last.weight.dtype)
            hidden = functional.relu(self.norm(self.first(given)))
            logit = self.last(hidden).squeeze(-1)
            return functional.softplus(logit.to(torch.promote_types(logit.dtype, torch.float32)))
