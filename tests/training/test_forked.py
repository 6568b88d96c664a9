"""Forked processes answer in rank order, and what goes wrong in one is said."""

import os

import pytest
import torch

from cognates.distributed import gather, rank, world_size
from cognates.errors import CognatesError
from cognates.training.forked import forked


def _rows(place, world, factor):
    assert (rank(), world_size()) == (place, world)
    return gather(factor * torch.arange(place + 1))


def _fails(place, world):
    if place == 1:
        raise ValueError("the second one fails")


def _dies(place, world):
    os._exit(3)


@pytest.mark.ddp
def test_every_process_computes_with_the_others_and_answers_in_rank_order():
    found = forked(_rows, (2,), world=3)
    assert [x.tolist() for x in found] == [[0, 0, 2, 0, 2, 4]] * 3
    assert world_size() == 1


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("function", "sentence"),
    [(_fails, "Process 1 raised ValueError: the second one fails"), (_dies, "without an answer")],
)
def test_a_process_that_fails_is_named(function, sentence):
    with pytest.raises(CognatesError, match=sentence):
        forked(function, (), world=2)
