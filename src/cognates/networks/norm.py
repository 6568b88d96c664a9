"""Batch normalisation over all processes, on any device and with uneven batches.

`torch.nn.SyncBatchNorm` refuses CPU tensors. This one is built on `distributed.all_reduce_sum`; two
processes with different images equal one process with all of them, in value and in gradient.

References:
    Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift
    (Ioffe and Szegedy, 2015), https://arxiv.org/abs/1502.03167.
    Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (Chan, Golub and
    LeVeque, 1979), equation 2.1: how counts, means and squared deviations are merged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from cognates.distributed import all_reduce_sum, rank, world_size
from cognates.errors import ConfigError

# Axes that the inputs of each built-in module may have.
_AXES = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}


class SynchronisedBatchNorm(nn.Module):
    r"""Batch normalisation whose training statistics are those of the batch of all processes.

    Formula: y = gamma (x - m) / sqrt(s^2 + eps) + beta, m and s^2 over the images and positions of
    all processes. In one process, and in eval mode, it is `torch.nn.functional.batch_norm`.

    Made by `synchronise` from a built-in module, whose parameters, buffers and flags it takes over.

    Args:
        source: a `BatchNorm1d`, `BatchNorm2d` or `BatchNorm3d`, or a subclass that only adds the
            submodules `drop` and `act` to be applied afterwards (as timm's BatchNormAct2d does).

    Raises:
        ConfigError: `source` is another kind of module.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    drop: nn.Module
    act: nn.Module

    def __init__(self, source: _BatchNorm) -> None:
        """Take over the state of `source`; see the class."""
        super().__init__()
        kind = next((k for k in _AXES if isinstance(source, k)), None)
        after = {name: getattr(source, name, None) for name in ("drop", "act")}
        followed = all(isinstance(module, nn.Module) for module in after.values())
        if kind is None or not (type(source) is kind or followed):
            raise ConfigError(
                "Expected batch normalisation of torch.nn to synchronise, got "
                f"{type(source).__name__}: choose another encoder, train in one process, or switch "
                "'sync_batchnorm' off."
            )
        self.axes = _AXES[kind]
        self.num_features = source.num_features
        self.eps = source.eps
        self.momentum = source.momentum
        self.affine = source.affine
        self.track_running_stats = source.track_running_stats
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(source, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(source, name))
        if followed:
            for name, module in after.items():
                self.add_module(name, module)
        self.train(source.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (n, c, ...) normalised per channel."""
        if x.ndim not in self.axes:
            raise ConfigError(f"Expected an input with {self.axes} axes, got {x.ndim}.")
        if world_size() == 1 or not (self.training or self.running_mean is None):
            y = self._built_in(x)
        else:
            y = self._synchronised(x)
        return self.act(self.drop(y)) if hasattr(self, "act") else y

    def extra_repr(self) -> str:
        """Return what `print` shows."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )

    def _built_in(self, x: Tensor) -> Tensor:
        share = self._count() if self.training and self.running_mean is not None else 0.0
        return functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            share,
            self.eps,
        )

    def _synchronised(self, x: Tensor) -> Tensor:
        mean, var, total = _statistics(x.detach())
        if x.numel() // x.shape[1] < 2 and total.item() < 2:
            raise ConfigError(
                "Expected more than one value per channel when training: use more images."
            )
        if self.training and self.running_mean is not None and self.running_var is not None:
            share = self._count()
            with torch.no_grad():
                unbiased = var * (total / (total - 1))
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
        return _Normalise.apply(x, self.weight, self.bias, mean, var, total, self.eps)

    def _count(self) -> float:
        """Count this batch and return its share in the running statistics."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # a plain average over all batches
                return 1.0 / float(self.num_batches_tracked)
        return self.momentum or 0.0


def synchronise(module: nn.Module) -> nn.Module:
    """Replace every batch normalisation inside `module`, in place, by the synchronised one.

    Parameters and buffers are the same objects under the same names, so optimisers and state
    dictionaries made before stay valid; a module used in two places stays one module.

    Args:
        module: any module; if it is itself a batch normalisation, the replacement is returned.

    Returns:
        `module`, or its replacement.

    Raises:
        ConfigError: one of them is of a kind that cannot be replaced; nothing changes.

    Example:
        >>> net = synchronise(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
        >>> type(net[1]).__name__, sorted(net.state_dict())[:2]
        ('SynchronisedBatchNorm', ['0.bias', '0.weight'])
    """
    replacements = {
        old: SynchronisedBatchNorm(old) for old in module.modules() if isinstance(old, _BatchNorm)
    }
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, replacements[child])
    return replacements[module] if isinstance(module, _BatchNorm) else module


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  (torch types its context so)
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        total: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, total)
        ctx.eps = eps
        return functional.batch_norm(x, *_cast(weight, mean, var), weight, bias, False, 0.0, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (the decorator hides names)
        ctx: Any,  # noqa: ANN401
        *grads: Tensor,
    ) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, total = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=_format(x))
        mean_, var_ = _cast(weight, mean, var)
        if x.numel():
            # Sums over this process of grad * x_hat and of grad, in one pass over memory.
            _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, mean_, var_, None, None, False, ctx.eps, [False, True, True]
            )
        else:  # the kernel divides by the number of images and dies of it
            grad_weight, grad_bias = torch.zeros_like(mean_), torch.zeros_like(mean_)
        grad_x = None
        if ctx.needs_input_grad[0]:
            sums = all_reduce_sum(torch.stack([grad_weight, grad_bias]).to(mean.dtype)) / total
            shape = [1, -1] + [1] * (x.ndim - 2)
            inverse = torch.rsqrt(var + ctx.eps)
            scale = inverse if weight is None else inverse * weight
            # dx = scale (grad - mean(grad) - x_hat mean(grad x_hat)), means over all processes
            grad_x = (x - mean.view(shape)).mul_((-scale * inverse * sums[0]).view(shape))
            grad_x.sub_((scale * sums[1]).view(shape)).addcmul_(grad, scale.view(shape))
            grad_x = grad_x.to(x.dtype)
        return (
            grad_x,
            grad_weight if ctx.needs_input_grad[1] else None,
            grad_bias if ctx.needs_input_grad[2] else None,
            *[None] * 4,
        )


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (c,), biased variance (c,) and values per channel, over all processes."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    channels, others = x.shape[1], [axis for axis in range(x.ndim) if axis != 1]
    count = x.numel() // channels
    shape = [1, -1] + [1] * (x.ndim - 2)
    # Two passes: torch.var_mean is 5 times slower on a CPU (measured with 128 x 64 x 16 x 16).
    mean = x.sum(others) / max(count, 1)
    squares = (x - mean.view(shape)).square_().sum(others)
    # Each process fills its row of an otherwise zero matrix: the sum is a gather in one collective.
    rows = x.new_zeros(world_size(), 2 * channels + 1)
    rows[rank()] = torch.cat([mean, squares, mean.new_full((1,), count)])
    means, deviations, counts = all_reduce_sum(rows).split([channels, channels, 1], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    var = (deviations + counts * (means - mean).square()).sum(0) / total
    return mean, var, total


def _cast(weight: Tensor | None, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    # The kernels want statistics of the parameters' dtype.
    return (mean, var) if weight is None else (mean.to(weight.dtype), var.to(weight.dtype))


def _format(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
