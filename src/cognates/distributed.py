r"""The differentiable collectives of the library; in one process each is the identity.

Convention: every process computes the *same* loss of the *global* batch, and the gradients of the
parameters are averaged over the processes (DistributedDataParallel does). A collective whose
backward is its true adjoint then gives exactly the gradient of one process with the whole batch:
each of the w processes contributes its own copy of the loss, so the sum over processes counts the
loss w times and the average undoes that. A gather that returns only its own part of the gradient
has the right value and 1/w of the gradient; this is why objectives do not communicate themselves.

Processes must call the collectives in the same order, backward included: a tensor that requires a
gradient on one process has to require it on all of them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cognates.errors import ConfigError


def rank() -> int:
    """Return this process's number, 0 outside torch.distributed.

    Example:
        >>> rank()
        0
    """
    return dist.get_rank() if _initialised() else 0


def world_size() -> int:
    """Return the number of processes, 1 outside torch.distributed.

    Example:
        >>> world_size()
        1
    """
    return dist.get_world_size() if _initialised() else 1


def gather(x: Tensor) -> Tensor:
    r"""Concatenate the tensors of all processes along axis 0 in rank order, differentiably.

    Formula: y = [x_0; x_1; ...; x_{w-1}]; backward: dL/dx_r = the rows of rank r of
    sum_p dL_p/dy, the sum over all processes p.

    Args:
        x: (n_r, ...) this process's rows; n_r may differ between processes and may be 0, the other
            axes and the dtype may not. Integers and booleans are gathered without a gradient.

    Returns:
        (n_0 + ... + n_{w-1}, ...), equal on every process; `x` itself in one process.

    Raises:
        ConfigError: `x` is a scalar.

    Example:
        >>> gather(torch.arange(3))
        tensor([0, 1, 2])
    """
    if x.ndim == 0:
        raise ConfigError("Expected rows to gather, got a scalar tensor: add an axis with x[None].")
    if world_size() == 1:
        return x
    return _Gather.apply(x)


def all_reduce_sum(x: Tensor) -> Tensor:
    r"""Sum a tensor over all processes, differentiably.

    Formula: y = sum_p x_p; backward: dL/dx_r = sum_p dL_p/dy. Half-precision numbers are added in
    float32.

    Args:
        x: any shape, the same on every process.

    Returns:
        The sum with the shape and dtype of `x`, equal on every process; `x` itself in one process.

    Example:
        >>> all_reduce_sum(torch.ones(2))
        tensor([1., 1.])
    """
    if world_size() == 1:
        return x
    return _AllReduceSum.apply(x)


def average(values: dict[str, Tensor], rows: int, *, total: bool = False) -> dict[str, Tensor]:
    r"""Turn scalars over this process's rows into those over all rows, differentiably.

    For losses that are means over images and couple none: the images themselves need not travel.

    Formula: sum_r n_r y_r / sum_r n_r for means y_r over n_r rows.

    Args:
        values: scalars by name, the same names on every process.
        rows: n_r, at least 1.
        total: the scalars are sums over rows; return sum_r y_r.

    Returns:
        Scalars by name, equal on every process; `values` itself in one process.

    Example:
        >>> average({"loss": torch.tensor(2.0)}, 3)
        {'loss': tensor(2.)}
    """
    if world_size() == 1:
        return values
    parts = torch.stack(list(values.values()))
    weight = 1 if total else rows
    sums = all_reduce_sum(torch.cat([weight * parts, parts.new_full((1,), float(rows))]))
    found = sums[:-1] if total else sums[:-1] / sums[-1]
    return dict(zip(values, found.unbind(), strict=True))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401  (torch types its context so)
        counts = _counts(len(x), x.device)
        ctx.start, ctx.length = sum(counts[: rank()]), len(x)
        return _all_gather(x.detach(), counts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ANN401
        # Through the public function, so that a second derivative is right as well.
        return all_reduce_sum(grads[0]).narrow(0, ctx.start, ctx.length)


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        del ctx
        half = x.dtype in (torch.float16, torch.bfloat16)
        total = x.detach().to(torch.float32 if half else x.dtype, copy=True)
        total = total.contiguous()
        dist.all_reduce(total)
        return total.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ANN401
        del ctx
        return all_reduce_sum(grads[0])


def _initialised() -> bool:
    return dist.is_available() and dist.is_initialized()


def _counts(n: int, device: torch.device) -> list[int]:
    own = torch.tensor([n], dtype=torch.int64, device=device)
    counts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(counts, own)
    return [int(count) for count in torch.cat(counts).tolist()]


def _all_gather(x: Tensor, counts: list[int]) -> Tensor:
    longest = max(counts)
    if longest == 0:
        return x.clone()
    # gloo has no collective for pieces of unequal length: pad to the longest and cut afterwards.
    padded = x.contiguous()
    if len(x) < longest:
        padded = torch.cat([padded, padded.new_zeros((longest - len(x), *x.shape[1:]))])
    # Moved as bytes, because the backends differ in the dtypes that they know (gloo lacks bool).
    own = padded.reshape(-1).view(torch.uint8)
    parts = [torch.empty_like(own) for _ in counts]
    dist.all_gather(parts, own)
    rows = [part.view(x.dtype).reshape(longest, *x.shape[1:]) for part in parts]
    return torch.cat([row[:count] for row, count in zip(rows, counts, strict=True)])
