"""Objectives on rows gathered from two processes have the value and the gradient of one.

The methods themselves are in tests/distributed/test_every_method.py.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist

from cognates.distributed import average, gather, world_size
from cognates.distributions import DiagonalNormal, GroupNormal, NormalImage
from cognates.kernels import RandomFeatures, imq
from cognates.objectives import (
    consistency_elbo,
    group_elbo,
    negative_cosine,
    ssl_hsic,
    vi_simsiam,
)
from cognates.objectives.dependence import unit_rows
from cognates.random import generator

F64 = torch.float64
IMAGES, SPLIT = 8, 3  # 3 and 5 rows: uneven on purpose


def _hsic(x, rows, form):
    torch.manual_seed(3)
    weight = (torch.randn(18, 6, dtype=F64) / 4).requires_grad_()
    z = unit_rows(gather(x[:, rows].transpose(0, 1) @ weight).transpose(0, 1))
    draws = [
        RandomFeatures.draw(imq(), 6, 12, generator=generator(0, "draw", name), dtype=F64)
        for name in "AB"
    ]
    features = None if form == "exact" else (draws[0], draws[1])
    total = sum(ssl_hsic(z, features=features).values()) ** 2
    total.backward()
    return {"loss": total.detach(), "monitored": z.detach(), "weight": weight.grad}


def _objectives(x, rows):
    torch.manual_seed(2)
    weight = (torch.randn(18, 4, dtype=F64) / 4).requires_grad_()
    other = (torch.randn(18, 1, dtype=F64) / 4).requires_grad_()
    mine = x[:, rows].transpose(0, 1)
    p = gather(mine @ weight).transpose(0, 1)
    kappa = gather((mine @ other).squeeze(-1).exp()).transpose(0, 1)
    target = gather(mine[..., :4]).transpose(0, 1)
    # Squared: then the gradient depends on the value of the whole batch, not on its own rows only.
    total = negative_cosine(p, target)["alignment"] + vi_simsiam(p, kappa, target)["alignment"] ** 2
    total.backward()
    return {"loss": total.detach(), "weight": weight.grad, "other": other.grad}


def _bounds(x, rows):
    torch.manual_seed(2)
    weight = (torch.randn(18, 6, dtype=F64) / 4).requires_grad_()
    mine = x[:, rows].transpose(0, 1)  # (n, v, p): gathered along the images
    both = gather(mine.flatten(2) @ weight).transpose(0, 1)
    images = gather(mine).transpose(0, 1)
    q = DiagonalNormal(*both.chunk(2, dim=-1), validate_args=False)
    drawn = NormalImage(images.logit(eps=0.1) * q.mean.mean(-1)[..., None, None, None], 0.1)
    terms = group_elbo(images, drawn, q, q.mean, prior=GroupNormal(3, 3, 0.2, math.inf))
    total = sum(terms.values()) + sum(consistency_elbo(images, drawn, q, None).values())
    total.backward()
    return {"loss": total.detach(), "monitored": q.mean.detach(), "weight": weight.grad}


def _answers(rank, world):
    """Return losses and gradients, these averaged over the processes as DistributedDataParallel."""
    rows = [slice(None)] if world == 1 else [slice(None, SPLIT), slice(SPLIT, None)]
    torch.manual_seed(0)
    images = torch.randn(3, IMAGES, 2, 3, 3, dtype=F64)  # three views
    found = {"objectives": _objectives(images.flatten(2), rows[rank])}
    for form in ("exact", "features"):
        found[f"hsic, {form}"] = _hsic(images.flatten(2), rows[rank], form)
    found["bounds"] = _bounds(images.sigmoid(), rows[rank])
    if world > 1:
        assert world_size() == world
        for values in found.values():
            for part in sorted(values.keys() - {"loss", "monitored"}):
                dist.all_reduce(values[part])
                values[part] /= world
    return found


@pytest.mark.ddp
def test_two_processes_give_the_value_and_gradient_of_one(run_processes):
    expected = _answers(0, 1)
    assert len(expected) == 4
    for found in run_processes(_answers):
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert values.keys() == found[name].keys()
            assert len(values) >= 3
            for part, value in values.items():
                # float64, added in another order.
                same = torch.allclose(found[name][part], value, rtol=1e-10, atol=1e-12)
                assert same, f"{name}: {part}"


def test_the_average_in_one_process_is_the_value_itself():
    values = {"a": torch.tensor(2.0), "b": torch.tensor(-1.0)}
    assert average(values, 3) is values
    assert average(values, 3, total=True) is values
