"""Batch norm sees one view at a time, in targets too, and uses the batch's own statistics."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from cognates.recipes import method_config
from cognates.types import Batch
from tests.small import SMALL

IMAGES, VIEWS = 6, 3
METHODS = {  # by name the submodules with a batch norm, and how many views each of them sees
    "simsiam": {"encoder": 3, "projector": 3, "predictor": 3},
    "vi-simsiam": {"encoder": 3, "projector": 3, "predictor": 3, "concentration": 3},
    "byol": {"encoder": 3, "projector": 3, "predictor": 3, "target": 3},
    "vicreg": {"encoder": 3, "expander": 3},
    "simclr": {"encoder": 3, "projector": 3},
    "dino": {"encoder": 3, "head": 3, "teacher": 2},  # the teacher sees the global views
    "combined": {"encoder": 3, "projector": 3, "predictor": 3},
}


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_norm_sees_the_images_of_one_view_at_a_time(name):
    assert len(METHODS) == 7
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(32, 5), nn.BatchNorm1d(5), nn.ReLU())
    config = method_config(name, **SMALL, batch_norm=True)
    complete = config.completed(channels=2, image_size=4, views=VIEWS)
    method, seen = complete.build(encoder, width=5).train(), []

    def note(part):
        def hook(module, arguments, output):
            seen.append(part)
            assert len(arguments[0]) == IMAGES
            assert module.training
            centred = (output - module.bias if module.affine else output).mean(0)
            assert centred.abs().max() < 1e-5  # by this batch's mean, not by a running one

        return hook

    norms = {n: m for n, m in method.named_modules() if isinstance(m, nn.BatchNorm1d)}
    for place, norm in norms.items():
        norm.register_forward_hook(note(place))
    # views of other means and sizes: statistics over all of them would not centre one
    views = tuple(1 + i + (1 + i) * torch.randn(IMAGES, 2, 4, 4) for i in range(VIEWS))
    method(Batch(views=views, index=torch.arange(IMAGES), step=0, seed=0))
    counts = Counter(seen)
    assert counts.keys() == norms.keys()
    assert {place.split(".")[0] for place in counts} == set(METHODS[name])
    for place, count in counts.items():
        assert count == METHODS[name][place.split(".")[0]], place
