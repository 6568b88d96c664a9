r"""DINO's head: a projector to a sphere, and cosines with prototypes on it.

References:
    Emerging Properties in Self-Supervised Vision Transformers (Caron et al., 2021),
    https://arxiv.org/abs/2104.14294, section 3.2 and appendix C.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from cognates.errors import ConfigError


class PrototypeHead(nn.Module):
    r"""Project a representation to the unit sphere and compare it with k prototypes there.

    Formula: b = unit(W_3 gelu(W_2 gelu(W_1 h))), logits_j = b . unit(w_j), with biases in W_1 to
    W_3. A weight-normalised layer of gain 1: the length of w_j has no effect on the logits. It sets
    how fast w_j turns, for the gradient is divided by it: a step of SGD turns w_j by 1/|w_j|^2.

    Args:
        width: features of the representation, at least 1.
        hidden: features between the three linear maps, at least 1 (the paper: 2048).
        bottleneck: features of b, at least 1 (the paper: 256).
        prototypes: k, at least 1 (the paper: 65,536).
        batch_norm: whether batch normalisation stands before each gelu; the paper has none.

    Returns:
        From `forward`: logits (n, k) in [-1, 1].

    Raises:
        ConfigError: a size is below 1.

    References:
        Emerging Properties in Self-Supervised Vision Transformers (Caron et al., 2021),
        https://arxiv.org/abs/2104.14294, appendix C (projection head).

    Example:
        >>> head = PrototypeHead(8, hidden=16, bottleneck=4, prototypes=10)
        >>> logits = head(torch.randn(5, 8))
        >>> logits.shape, bool((logits.abs() <= 1 + 1e-6).all())
        (torch.Size([5, 10]), True)
    """

    def __init__(
        self,
        width: int,
        *,
        hidden: int,
        bottleneck: int,
        prototypes: int,
        batch_norm: bool = False,
    ) -> None:
        """Make the head; see the class for the arguments."""
        super().__init__()
        sizes = {"width": width, "hidden": hidden, "bottleneck": bottleneck}
        for name, size in {**sizes, "prototypes": prototypes}.items():
            if size < 1:
                raise ConfigError(f"Expected '{name}' of at least 1, got {size}.")
        modules: list[nn.Module] = []
        for before in (width, hidden):
            modules.append(nn.Linear(before, hidden))
            modules += [nn.BatchNorm1d(hidden)] if batch_norm else []
            modules.append(nn.GELU())
        self.projector = nn.Sequential(*modules, nn.Linear(hidden, bottleneck))
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        for module in self.projector:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)  # appendix C's code
                nn.init.zeros_(module.bias)
        # Directions spread evenly over the sphere, at the length that torch's linear layer, the
        # released code's, gives them: longer ones would hardly turn (see the class).
        nn.init.normal_(self.prototypes, std=1 / math.sqrt(3 * bottleneck))

    def project(self, representation: Tensor) -> Tensor:
        """Return b (n, bottleneck), of unit length, in float32 or better also under autocast."""
        b = self.projector(representation)
        return functional.normalize(b.to(torch.promote_types(b.dtype, torch.float32)), dim=-1)

    def compare(self, projection: Tensor, *, frozen: bool = False) -> Tensor:
        """Return the logits (n, k) of b.

        Args:
            projection: b.
            frozen: give the prototypes a gradient of zero. (Not none: several processes wait for
                one.)
        """
        weight = self.prototypes
        if frozen:
            weight = weight.detach() + 0 * weight
        return functional.linear(projection, functional.normalize(weight, dim=-1))

    def forward(self, representation: Tensor) -> Tensor:
        """Return the logits (n, k) of representations (n, width)."""
        return self.compare(self.project(representation))
