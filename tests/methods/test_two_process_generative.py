"""Two processes with different images give the generative methods' value and gradient of one."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from torch import nn

from cognates.distributed import average, gather, world_size
from cognates.distributions import DiagonalNormal, GroupNormal, NormalImage
from cognates.methods.beta_vae import BetaVAEConfig
from cognates.methods.cr_vae import CRVAEConfig
from cognates.methods.simve import SimVEConfig
from cognates.methods.vae import VAEConfig
from cognates.networks.image_model import ImageModelConfig
from cognates.networks.norm import synchronise
from cognates.objectives import consistency_elbo, group_elbo
from cognates.types import Batch

F64 = torch.float64
IMAGES, SPLIT = 8, 3  # 3 and 5 rows: uneven on purpose
MODEL = ImageModelConfig(latent_dim=3, channels=2, image_size=3)
CONFIGS = {
    "simve": SimVEConfig(model=MODEL, between=0.9),
    "simve-flat": SimVEConfig(model=MODEL, between=0.9, prior="flat"),
    "simve-released": SimVEConfig(model=MODEL, between=0.9, parity="head"),
    "vae": VAEConfig(model=MODEL),
    "beta-vae": BetaVAEConfig(model=MODEL),
    "cr-vae": CRVAEConfig(model=MODEL, weight=0.5),
}


def _method(config, images, rows, *, train):
    torch.manual_seed(1)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(18, 5), nn.ReLU())
    method = synchronise(config.build(encoder, width=5).double()).train(train)
    views = tuple(view[rows] for view in images)
    loss = method(Batch(views=views, index=torch.arange(IMAGES)[rows], step=0, seed=0))
    # squared: then the gradient depends on the value of the whole batch
    (loss.total**2 / 1e4).backward()
    grads = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    terms = {name: value.detach() for name, value in loss.terms.items()}
    return {"monitored": loss.monitored, **{f"term {k}": v for k, v in terms.items()}, **grads}


def _objectives(x, rows):
    """The objectives on gathered rows: what a method with coupled images would do."""
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
    return {"loss": total.detach(), "weight": weight.grad, "q": q.mean.detach()}


def _answers(rank, world):
    """Return terms and gradients, these averaged over the processes as DistributedDataParallel."""
    rows = [slice(None)] if world == 1 else [slice(None, SPLIT), slice(SPLIT, None)]
    torch.manual_seed(0)
    images = torch.rand(3, IMAGES, 2, 3, 3, dtype=F64)  # three views
    found = {"objectives": _objectives(images, rows[rank])}
    for name, config in CONFIGS.items():
        for train in (False, True):
            found[f"{name}, train={train}"] = _method(config, images, rows[rank], train=train)
    if world > 1:
        assert world_size() == world
        for values in found.values():
            for part in sorted(values.keys() - {"loss", "monitored", "q"}):
                if not part.startswith("term "):
                    dist.all_reduce(values[part])
                    values[part] /= world
    return found


@pytest.mark.ddp
def test_two_processes_give_the_value_and_gradient_of_one(run_processes):
    expected = _answers(0, 1)
    assert len(expected) == 13
    for found in run_processes(_answers):
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert values.keys() == found[name].keys()
            assert len(values) >= 3
            for part, value in values.items():
                # float64, added in another order
                same = torch.allclose(found[name][part], value, rtol=1e-9, atol=1e-11)
                assert same, f"{name}: {part}"


def test_the_average_in_one_process_is_the_value_itself():
    values = {"a": torch.tensor(2.0), "b": torch.tensor(-1.0)}
    assert average(values, 3) is values
    assert average(values, 3, total=True) is values
