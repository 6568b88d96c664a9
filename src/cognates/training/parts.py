r"""A batch in parts: which parts of a method see them, and what that changes.

Averaged accumulation lets the method see a part at a time and averages the losses. A loss that
couples the images of a batch is then another objective, with fewer images to compare.

Exact accumulation lets only the encoder see a part at a time. Its outputs h are put together, heads
and loss see the whole batch, and the chain rule goes back the same way:

    dL/dtheta = sum over parts of (dh_part/dtheta)' dL/dh_part

where dh_part is computed again, part by part, when its gradient is due: two passes instead of one,
and the activations of one part in memory instead of the whole batch's. This is the large batch's
gradient for every method, heads with batch norm and targets included. Two things are not the large
batch's: the statistics of batch norm inside the encoder, which are those of a part, and random
numbers that an encoder draws itself (dropout). Views of the whole batch, and what the heads keep,
must fit in memory.

References:
    Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup (Gao, Zhang, Han and
    Callan, 2021), https://arxiv.org/abs/2101.06983 (the cached gradient of h).
    Training Deep Nets with Sublinear Memory Cost (Chen, Xu, Zhang and Guestrin, 2016),
    https://arxiv.org/abs/1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cognates.config import TrainingConfig


def shared_out(plan: TrainingConfig) -> tuple[int, int]:
    """Return how many batches of its own a step has, and in how many parts each is encoded.

    Example:
        >>> plan = TrainingConfig(epochs=1, accumulate=4)
        >>> exact = TrainingConfig(epochs=1, accumulate=4, accumulation="exact")
        >>> shared_out(plan), shared_out(exact)
        ((4, 1), (1, 4))
    """
    exact = plan.accumulation == "exact"
    return (1, plan.accumulate) if exact else (plan.accumulate, 1)


@contextmanager
def encoded_in(method: nn.Module, pieces: int) -> Iterator[None]:
    """Let the encoders of a method work on a batch in parts while the block lasts.

    Those are the submodules called `encoder`: the method's own, the copies in its targets, and one
    of another kind of input.
    Backward belongs outside of the block, or inside; it makes no difference.

    Args:
        method: whose encoders; it may be wrapped.
        pieces: parts of about equal size, at least 1; 1 changes nothing.
    """
    found = _encoders(method) if pieces > 1 else set()
    for encoder in found:
        # An attribute of the instance hides the class's method: hooks still run once.
        encoder.forward = _in_parts(encoder, encoder.forward, pieces)
    try:
        yield
    finally:
        for encoder in found:
            del encoder.forward


def _encoders(method: nn.Module) -> set[nn.Module]:
    """Return the submodules called `encoder`, without those inside of another."""
    found = {
        child
        for module in method.modules()
        for name, child in module.named_children()
        if name == "encoder"
    }
    return found - {inner for one in found for inner in one.modules() if inner is not one}


def _in_parts(
    encoder: nn.Module, forward: Callable[[Tensor], Tensor], pieces: int
) -> Callable[[Tensor], Tensor]:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _unmoved_statistics(encoder)

    def encode(images: Tensor) -> Tensor:
        # At least two images in each: batch norm cannot do with one.
        count = max(1, min(pieces, len(images) // 2))
        parts = images.tensor_split(count)
        if not torch.is_grad_enabled():
            return torch.cat([forward(part) for part in parts])
        return torch.cat(
            [checkpoint(forward, part, use_reentrant=False, context_fn=contexts) for part in parts]
        )

    return encode


@contextmanager
def _unmoved_statistics(encoder: nn.Module) -> Iterator[None]:
    """Leave running statistics as they are: the first pass has counted these images."""
    norms: list[Any] = [m for m in encoder.modules() if hasattr(m, "num_batches_tracked")]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = count
