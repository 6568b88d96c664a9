"""Random numbers that are derived, never carried.

A run is a function of (configuration, step): each use of randomness folds what it is for into the
run's seed and makes a fresh generator, so resuming needs no saved state and the order in which
things happen cannot change a draw.
"""

from __future__ import annotations

import hashlib

import torch


def fold_in(seed: int, *data: int | str) -> int:
    r"""Fold `data` into `seed` and return a new seed in [0, 2^63).

    Formula: the first 63 bits of BLAKE2b over the unambiguous encoding of (seed, *data).

    Args:
        seed: any integer.
        data: what the draw is for, for example ("views", step).

    Returns:
        An integer seed; equal arguments give equal seeds on every machine.

    Example:
        >>> fold_in(0, "views", 3) == fold_in(0, "views", 3)
        True
        >>> fold_in(0, "views", 3) == fold_in(0, "views", 4)
        False
    """
    encoded = "\x1f".join(f"{type(item).__name__}:{item}" for item in (int(seed), *data))
    return int.from_bytes(hashlib.blake2b(encoded.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *data: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device`, seeded with `fold_in(seed, *data)`.

    Parameters of views are drawn on the CPU whatever the device of the images, so that a run draws
    the same numbers everywhere.

    Example:
        >>> torch.rand(2, generator=generator(0, "views", 1)).shape
        torch.Size([2])
    """
    return torch.Generator(device=device).manual_seed(fold_in(seed, *data))
