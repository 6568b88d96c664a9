"""Moving averages of weights: what moves, what stays, and how fast."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cognates.networks.ema import cosine_decay, debiased_decay, follow, frozen_copy

F64 = torch.float64


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def test_a_copy_shares_nothing_and_does_not_learn():
    net = network()
    other = frozen_copy(net)
    assert [p.requires_grad for p in net.parameters()] == [True] * 6
    assert [p.requires_grad for p in other.parameters()] == [False] * 6
    before = [p.clone() for p in other.parameters()]
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), before, strict=True))


def test_parameters_move_by_the_decay_and_running_statistics_are_the_copys_own():
    net, other = network(), network()
    net(torch.randn(8, 3, dtype=F64))
    other(5 + torch.randn(8, 3, dtype=F64))
    buffers = {name: value.clone() for name, value in other.named_buffers()}
    assert len(buffers) == 3
    expected = [
        0.9 * w + 0.1 * v for w, v in zip(other.parameters(), net.parameters(), strict=True)
    ]
    theirs = [v.clone() for v in net.parameters()]
    follow(other, net, decay=0.9)
    for w, e in zip(other.parameters(), expected, strict=True):
        torch.testing.assert_close(w, e, rtol=1e-14, atol=1e-15)
    assert all(torch.equal(value, buffers[name]) for name, value in other.named_buffers())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), theirs, strict=True))


@pytest.mark.parametrize(("decay", "whose"), [(0.0, "net"), (1.0, "own")])
def test_a_decay_of_0_copies_and_of_1_changes_nothing(decay, whose):
    net, other = network(), network()
    expected = [p.clone() for p in (net if whose == "net" else other).parameters()]
    follow(other, net, decay=decay)
    for w, e in zip(other.parameters(), expected, strict=True):
        torch.testing.assert_close(w, e, rtol=0, atol=0)


def test_networks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="zip"):
        follow(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), decay=0.5)


def test_the_decay_rises_from_its_start_to_1_by_byols_cosine():
    values = [cosine_decay(step, start=0.996, total=100) for step in range(101)]
    assert len(values) == 101
    assert values[0] == 0.996
    assert values[-1] == 1.0
    assert values[25] == pytest.approx(1 - 0.004 * (math.cos(math.pi / 4) + 1) / 2, rel=1e-15)
    assert values == sorted(values)
    assert cosine_decay(7, start=0.99, total=None) == 0.99


@pytest.mark.parametrize("total", [None, 40])
def test_the_debiased_average_is_the_weighted_mean_without_the_start(total):
    decay = 0.9 if total is None else 1 - 10 / total
    net, other = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(other.weight, 1e6)  # must leave no trace
    seen = [float(step**2) for step in range(12)]
    for step, value in enumerate(seen):
        nn.init.constant_(net.weight, value)
        follow(other, net, decay=debiased_decay(step, decay=0.9, total=total))
    weights = [decay ** (len(seen) - 1 - i) for i in range(len(seen))]
    expected = sum(w * v for w, v in zip(weights, seen, strict=True)) / sum(weights)
    assert other.weight.item() == pytest.approx(expected, rel=1e-12)
