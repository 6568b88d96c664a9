r"""Exponential moving averages of weights: targets to predict, and weights to evaluate.

References:
    Bootstrap Your Own Latent (Grill et al., 2020), https://arxiv.org/abs/2006.07733, section 3.2.
"""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """Return a deep copy whose parameters do not learn; it shares nothing with `module`.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> other = frozen_copy(net)
        >>> torch.equal(net.weight, other.weight), other.weight.requires_grad
        (True, False)
    """
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, *, decay: float) -> None:
    r"""Move the parameters of `average` towards those of `module`; buffers stay.

    Formula: w <- decay w + (1 - decay) v.

    Args:
        average: whose parameters change.
        module: of the same architecture.
        decay: in [0, 1]; 0 copies, 1 changes nothing.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> other = frozen_copy(net)
        >>> _ = nn.init.zeros_(other.weight), nn.init.ones_(net.weight)
        >>> follow(other, net, decay=0.75)
        >>> other.weight.item()
        0.25
    """
    for w, v in zip(average.parameters(), module.parameters(), strict=True):
        w.lerp_(v, 1 - decay)


def cosine_decay(step: int, *, start: float, total: int | None) -> float:
    r"""Return the decay of a target's average at a step: half a cosine from `start` to 1.

    Formula: 1 - (1 - start) (1 + cos(pi step / total)) / 2.

    Args:
        step: zero-based, at most `total`.
        start: the decay at step 0, in [0, 1].
        total: steps of the run; None: not known, and the decay stays at `start`.

    References:
        Bootstrap Your Own Latent (Grill et al., 2020), https://arxiv.org/abs/2006.07733, section
        3.2

    Example:
        >>> [cosine_decay(step, start=0.9, total=4) for step in (0, 2, 4)]
        [0.9, 0.95, 1.0]
    """
    if total is None:
        return start
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / total)) / 2


def debiased_decay(step: int, *, decay: float, total: int | None) -> float:
    r"""Return the decay with which an average that begins with no weight at all takes a step.

    Formula: decay' (1 - decay'^t) / (1 - decay'^(t+1)) for the t = step averaged before; then
    `follow` keeps sum_i decay'^(t-i) v_i / sum_i decay'^(t-i), without its start. decay' is
    min(decay, 1 - 10/total): the average reaches back over a tenth of a short run at most, else
    it would hold the weights of the beginning.

    Args:
        step: zero-based.
        decay: in [0, 1).
        total: steps of the run; None: not known, and `decay` is taken as it is.

    References:
        Adam (Kingma and Ba, 2015), https://arxiv.org/abs/1412.6980, section 3

    Example:
        >>> [round(debiased_decay(step, decay=0.5, total=None), 4) for step in (0, 1, 2)]
        [0.0, 0.3333, 0.4286]
    """
    if total is not None:
        decay = min(decay, max(0.0, 1 - 10 / total))
    return decay * (1 - decay**step) / (1 - decay ** (step + 1))
