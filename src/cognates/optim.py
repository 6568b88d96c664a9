r"""Optimisers, parameter groups and the learning rate as a function of the step.

LARS divides the scale out of each layer's gradient, so that one learning rate serves all layers at
large batches; SGD and AdamW are torch's own.

References:
    Large Batch Training of Convolutional Networks (You, Gitman, Ginsburg, 2017),
    https://arxiv.org/abs/1708.03888
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cognates.errors import ConfigError, nearest

_NAMES = ("sgd", "adamw", "lars")


class LARS(Optimizer):
    r"""Momentum SGD whose gradients are rescaled layer by layer (layer-wise adaptive rate scaling).

    Formula, for a parameter w with gradient g, weight decay c and learning rate r:

        g <- g + c w
        g <- eta |w| / |g| g           only if w has more than one axis; unchanged if a norm is 0
        b <- momentum b + g
        w <- w - r b

    The learning rate stands outside the buffer, so a schedule acts at once on the whole momentum.

    Args:
        params: parameters or groups of them.
        lr: learning rate r >= 0.
        momentum: in [0, 1).
        weight_decay: c >= 0; `parameter_groups` sets it to 0 for norms and biases.
        trust: eta > 0.

    Notes:
        This is the form of BYOL's and SSL-HSIC's code: no Nesterov step, and norms and biases are
        neither decayed nor rescaled.

    References:
        Large Batch Training of Convolutional Networks (You, Gitman, Ginsburg, 2017),
        https://arxiv.org/abs/1708.03888, algorithm 1; constants of Bootstrap Your Own Latent
        (Grill et al., 2020), https://arxiv.org/abs/2006.07733, section 3.2

    Example:
        >>> w = nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> w.grad = torch.tensor([[0.0, 2.0]])
        >>> LARS([w], lr=1.0, trust=0.1).step()
        >>> w.detach()
        tensor([[3.0000, 3.5000]])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,  # You et al. 2017, section 4; kept by BYOL and SSL-HSIC
    ) -> None:
        """Keep the hyperparameters as defaults of the groups."""
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch overloads it
        """Take one step with the gradients that the parameters hold."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                g = w.grad.add(w, alpha=group["weight_decay"])
                if w.ndim > 1:
                    g = g * _trust_ratio(w, g, group["trust"])
                state = self.state[w]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(w)
                buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(g)
                w.sub_(buffer, alpha=group["lr"])
        return loss


def parameter_groups(
    module: nn.Module, *, weight_decay: float, constant_rate: Sequence[str] = ()
) -> list[dict[str, Any]]:
    r"""Split the parameters by whether they are decayed and whether their rate is scheduled.

    Parameters with at most one axis (biases, scales and shifts of norms) get no weight decay.

    Args:
        module: whose parameters; those without `requires_grad` are left out.
        weight_decay: for the parameters with more than one axis, at least 0.
        constant_rate: dotted names of submodules whose learning rate stays at its peak.

    Returns:
        One to four groups for an optimiser with the entries "params", "weight_decay" and "constant"
        (whether the rate stays); empty groups are left out; every parameter is in one.

    Raises:
        ConfigError: `constant_rate` names no submodule; the nearest one is offered.

    References:
        Exploring Simple Siamese Representation Learning (Chen and He, 2021),
        https://arxiv.org/abs/2011.10566, section 4.2 (constant rate of the predictor)

    Example:
        >>> groups = parameter_groups(nn.Linear(3, 2), weight_decay=0.1)
        >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
        [(1, 0.1), (1, 0.0)]
    """
    modules = dict(module.named_modules())
    for name in constant_rate:
        if not name or name not in modules:
            # Of one depth: an encoder alone has a hundred submodules.
            alike = [known for known in modules if known and known.count(".") == name.count(".")]
            offered = nearest(name, alike)
            raise ConfigError(f"Expected the name of a submodule, got '{name}': {offered}.")
    constant = {id(p) for name in constant_rate for p in modules[name].parameters()}
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        key = (id(parameter) in constant, parameter.ndim <= 1)
        if key not in groups:
            decay = 0.0 if key[1] else weight_decay
            groups[key] = {"params": [], "weight_decay": decay, "constant": key[0]}
        groups[key]["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def build(
    name: str,
    groups: list[dict[str, Any]],
    *,
    learning_rate: float,
    momentum: float,
    eps: float = 1e-8,
) -> Optimizer:
    r"""Make the optimiser called `name`.

    Args:
        name: "sgd" (momentum, decay added to the gradient), "adamw" (decoupled decay) or "lars".
        groups: from `parameter_groups`.
        learning_rate: at least 0.
        momentum: of SGD and LARS; beta_1 of AdamW, whose beta_2 is 0.999.
        eps: of AdamW, above 0; torch's default. A loss divided by n takes the same steps with
            eps / n.

    Returns:
        The optimiser over `groups`.

    Raises:
        ConfigError: there is no optimiser of this name; the nearest one is offered.

    Example:
        >>> groups = parameter_groups(nn.Linear(3, 2), weight_decay=0.1)
        >>> type(build("lars", groups, learning_rate=0.1, momentum=0.9)).__name__
        'LARS'
    """
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=(momentum, 0.999), eps=eps)
    if name == "lars":
        return LARS(groups, lr=learning_rate, momentum=momentum)
    raise ConfigError(f"Expected the name of an optimiser, got '{name}': {nearest(name, _NAMES)}.")


def warmup_cosine(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    r"""Return the learning rate of a step: linear from 0 to the peak, then half a cosine to 0.

    Formula: peak * step / warmup_steps for step < warmup_steps, else
    peak / 2 * (1 + cos(pi (step - warmup_steps) / (total_steps - warmup_steps))).

    Args:
        step: zero-based, in [0, total_steps].
        peak: the largest rate.
        warmup_steps: in [0, total_steps]; 0: no warm-up.
        total_steps: at least 1.

    Returns:
        The rate; 0 at `total_steps`, which is one after the last step.

    References:
        SGDR (Loshchilov and Hutter, 2017), https://arxiv.org/abs/1608.03983, eq. 5

    Example:
        >>> [warmup_cosine(s, peak=2.0, warmup_steps=2, total_steps=6) for s in (0, 1, 2, 4, 6)]
        [0.0, 1.0, 2.0, 1.0, 0.0]
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    share = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak / 2 * (1.0 + math.cos(math.pi * share))


def _trust_ratio(w: Tensor, g: Tensor, trust: float) -> Tensor:
    # torch.where instead of a Python branch: reading the norms would make a GPU wait.
    weight, gradient = torch.linalg.vector_norm(w), torch.linalg.vector_norm(g)
    defined = (weight > 0) & (gradient > 0)
    safe = torch.where(defined, gradient, torch.ones_like(gradient))
    return torch.where(defined, trust * weight / safe, torch.ones_like(weight))
