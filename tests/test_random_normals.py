"""Normal numbers by image: what they depend on, and that they are normal and independent."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest

from cognates.random import _mix, fold_in, normal_of

F64 = torch.float64


def test_the_mixing_function_is_splitmix64():
    # The first three outputs of splitmix64 for the seed 1234567, from its published test vector.
    mask, step = 2**64 - 1, 0x9E3779B97F4A7C15
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    seeds = [(1234567 + k * step) & mask for k in range(3)]
    signed = [seed - 2**64 if seed >= 2**63 else seed for seed in seeds]
    found = [value & mask for value in _mix(torch.tensor(signed)).tolist()]
    assert found == expected


def test_an_image_has_the_same_numbers_in_any_batch_and_others_at_any_other_seed():
    index = torch.tensor([5, 0, 2**40, 123])
    whole = normal_of(index, 2, 3, seed=fold_in(0, "noise", 1))
    assert whole.shape == (4, 2, 3)
    assert whole.dtype == torch.float32
    for row in range(4):
        alone = normal_of(index[row : row + 1], 2, 3, seed=fold_in(0, "noise", 1))
        assert torch.equal(alone[0], whole[row])
    assert len(set(whole.flatten().tolist())) == 24
    other = normal_of(index, 2, 3, seed=fold_in(0, "noise", 2))
    assert not (whole == other).any()


def test_what_torchs_generators_hold_does_not_matter():
    values = []
    for state in (1, 2):
        torch.manual_seed(state)
        values.append(normal_of(torch.arange(3), 4, seed=7))
    assert torch.equal(*values)


@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_the_numbers_are_standard_normal_and_uncorrelated_between_images_and_elements(seed):
    n, d = 4000, 16
    x = normal_of(torch.arange(n), d, seed=seed, dtype=F64)
    assert x.isfinite().all()
    assert kstest(x.flatten().numpy(), "norm").pvalue > 1e-3
    error = 4.5 / math.sqrt(n)  # 4.5 standard errors: the largest of 256 numbers
    covariance = x.T @ x / n
    assert (covariance - torch.eye(d, dtype=F64)).abs().max() < error * math.sqrt(2)
    neighbours = (x[1:] * x[:-1]).mean(0)  # of consecutive indices
    assert neighbours.abs().max() < error
    squares = ((x[1:] ** 2 - 1) * (x[:-1] ** 2 - 1)).mean(0) / 2
    assert squares.abs().max() < error
    following = normal_of(torch.arange(n), d, seed=seed + 1, dtype=F64)  # nearly the same states
    assert not (x[1:] == following[:-1]).all()
