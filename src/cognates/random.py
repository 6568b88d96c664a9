"""Random numbers that are derived, never carried.

A run is a function of (configuration, step): each use of randomness folds what it is for into the
run's seed and makes a fresh generator, so resuming needs no saved state and the order in which
things happen cannot change a draw.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


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


def normal_of(index: Tensor, *shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Return standard normal numbers that depend on each image's index and on `seed` alone.

    However a batch is shared out, over processes or over parts, an image gets the same numbers. No
    number leaves the device.

    Formula: sqrt(-2 log(1 - u)) cos(2 pi u') of two uniform numbers of `uniform_of` (Box and
    Muller, 1958).

    Args:
        index: (n,) int64, positions in the training set.
        shape: of what each image gets.
        seed: from `fold_in`, so that steps and uses differ.
        dtype: of the result; the numbers are made in float64 and rounded to it.

    Returns:
        (n, *shape) on the device of `index`. Images with one index get the same numbers.

    References:
        Fast Splittable Pseudorandom Number Generators (Steele, Lea and Flood, 2014),
        https://doi.org/10.1145/2714064.2660195, figure 16 (the mixing function).

    Example:
        >>> noise = normal_of(torch.tensor([7, 3]), 2, 4, seed=fold_in(0, "simve", 5))
        >>> noise.shape, bool((noise[1:] == normal_of(torch.tensor([3]), 2, 4, seed=fold_in(
        ...     0, "simve", 5))).all())
        (torch.Size([2, 2, 4]), True)
    """
    count = math.prod(shape)
    # The largest is below 1, so the logarithm is finite.
    uniform = uniform_of(index, 2 * count, seed=seed)
    radius, angle = uniform[:, :count], uniform[:, count:]
    numbers = (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)
    return numbers.to(dtype).view(len(index), *shape)


def uniform_of(index: Tensor, *shape: int, seed: int) -> Tensor:
    r"""Return uniform numbers in [0, 1) that depend on each image's index and on `seed` alone.

    Formula: u_e = mix(mix(mix(index) + seed) + e step) / 2^64 with splitmix64's mix and step.

    Args:
        index: (n,) int64, positions in the training set.
        shape: of what each image gets.
        seed: from `fold_in`, so that steps and uses differ.

    Returns:
        (n, *shape) float64 on the device of `index`. Images with one index get the same numbers.

    References:
        Fast Splittable Pseudorandom Number Generators (Steele, Lea and Flood, 2014),
        https://doi.org/10.1145/2714064.2660195, figure 16 (the mixing function).

    Example:
        >>> uniform_of(torch.tensor([7, 3, 7]), seed=5).unique().shape
        torch.Size([2])
    """
    element = torch.arange(math.prod(shape), device=index.device, dtype=torch.int64)
    state = _mix(_mix(index.to(torch.int64)) + seed)[:, None] + element * _STEP
    # 53 bits: what a float64 holds.
    numbers = ((_mix(state) >> 11) & (2**53 - 1)).to(torch.float64) * 2.0**-53
    return numbers.view(len(index), *shape)


_STEP = -7046029254386353131
"""The odd increment 0x9E3779B97F4A7C15 of splitmix64, 2^64 over the golden ratio, as an int64."""


def _mix(x: Tensor) -> Tensor:
    """Return splitmix64's mixing of int64 numbers, whose products wrap around."""
    x = x + _STEP
    # `>>` keeps the sign of an int64; the mask makes it the logical shift that is meant.
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ ((x >> 31) & (2**33 - 1))
