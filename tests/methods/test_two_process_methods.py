"""Two processes with different data give the value and the gradient of one process."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from cognates.distributed import gather, world_size
from cognates.kernels import RandomFeatures, imq
from cognates.methods.loss_prediction import LossPredictionConfig
from cognates.methods.mc_info_nce import McInfoNceConfig
from cognates.methods.post_hoc import PostHocConfig
from cognates.methods.simsiam import SimSiamConfig
from cognates.methods.ssl_hsic import SslHsicConfig
from cognates.methods.vi_simsiam import ViSimSiamConfig
from cognates.networks.norm import synchronise
from cognates.objectives import negative_cosine, ssl_hsic, vi_simsiam
from cognates.objectives.dependence import unit_rows
from cognates.random import generator
from cognates.types import Batch

F64 = torch.float64
IMAGES, SPLIT = 8, 3  # 3 and 5 rows: uneven on purpose
SMALL = {"dim": 6, "hidden": 7, "predictor_hidden": 5}
CONFIGS = {
    "simsiam": SimSiamConfig(**SMALL),
    "vi-simsiam": ViSimSiamConfig(**SMALL),
    "vi-simsiam-vmf": ViSimSiamConfig(**SMALL, family="von-mises-fisher"),
    "vi-simsiam-cosine": ViSimSiamConfig(**SMALL, coupling="cosine"),
    "vi-simsiam-beta": ViSimSiamConfig(**SMALL, coupling="beta-nll", activation="exp"),
    "vi-simsiam-sampled": ViSimSiamConfig(
        **SMALL, posterior="sampled", concentration_input="projection"
    ),
    "mc-info-nce": McInfoNceConfig(dim=6, hidden=7, samples=3),
    "loss-prediction": LossPredictionConfig(**SMALL),
    "post-hoc": PostHocConfig(),
    "ssl-hsic": SslHsicConfig(**SMALL),
    "ssl-hsic-features": SslHsicConfig(**SMALL, target=False, exact_up_to=0, features=16),
}


def _method(config, images, rows, *, train):
    torch.manual_seed(1)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(18, 5), nn.ReLU())
    method = synchronise(config.build(encoder, width=5).double()).train(train)
    views = tuple(view[rows] for view in images)
    loss = method(Batch(views=views, index=torch.arange(IMAGES)[rows], step=0, seed=0))
    loss.total.backward()
    grads = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    found = {"loss": loss.total.detach(), "monitored": loss.monitored, **grads}
    # compared, averaged over the processes like the gradients
    method.after_step(0)
    return found | {f"moved {name}": value for name, value in _moved(method).items()}


def _moved(method):
    """Return what `after_step` has moved, by name."""
    return {
        name: value.detach().clone()
        for name, value in method.state_dict().items()
        if name.startswith(("log_scale", "target.", "average")) and value.is_floating_point()
    }


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


def _answers(rank, world):
    """Return losses and gradients, these averaged over the processes as DistributedDataParallel."""
    rows = [slice(None)] if world == 1 else [slice(None, SPLIT), slice(SPLIT, None)]
    torch.manual_seed(0)
    images = torch.randn(3, IMAGES, 2, 3, 3, dtype=F64)  # three views
    found = {"objectives": _objectives(images.flatten(2), rows[rank])}
    for form in ("exact", "features"):
        found[f"hsic, {form}"] = _hsic(images.flatten(2), rows[rank], form)
    for name, config in CONFIGS.items():
        for train in (False, True):
            found[f"{name}, train={train}"] = _method(config, images, rows[rank], train=train)
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
    assert len(expected) == 25
    for found in run_processes(_answers, timeout=180.0):
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert values.keys() == found[name].keys()
            assert len(values) >= 3
            for part, value in values.items():
                # float64, added in another order.
                same = torch.allclose(found[name][part], value, rtol=1e-10, atol=1e-12)
                assert same, f"{name}: {part}"
