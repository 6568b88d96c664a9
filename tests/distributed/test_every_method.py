"""Every registered method on two and three processes is the method on one: exactly, step by step.

The images, and how many of them a process has, differ; two steps of gradient descent are taken with
what `after_step` does, and then everything is compared: losses, gradients, weights, targets,
centres and running statistics.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.distributed as dist
from torch import nn

from cognates.methods import get, registry
from cognates.methods.combined import Weights
from cognates.networks.norm import synchronise
from cognates.recipes import method_config
from cognates.types import END, START, Batch
from tests.small import SMALL

ROWS = {1: (9,), 2: (3, 6), 3: (4, 2, 3)}
LAST = {1: (7,), 2: (3, 4), 3: (2, 2, 3)}  # the last batch of an epoch: fewer, and as uneven
STEPS, RATE = 2, 0.05
SCHEDULED = {
    **SMALL,
    "frozen": 0.4,  # of two steps: the prototypes wait for one
    "teacher_warmup": 0.6,
}
VARIANTS = {
    "clip": ({"captions": 2, "text_pooling": "mean"}, {"second": "image"}),
    "combined": (
        {"weights": Weights(**dict.fromkeys(Weights.__annotations__, 0.5))},
        {"weights": Weights(cosine=0.0, nce_alignment=1.0, hsic_dependence=1.0, decoder=0.0)},
    ),
    "dino": ({"batch_norm": True, "global_views": 1},),
    "simclr": ({"decoupled": True},),
    "ssl-hsic": ({"target": False, "exact_up_to": 0, "features": 16}, {"kernel": "linear"}),
    "vi-simsiam": (
        {"family": "von-mises-fisher", "coupling": "joint"},
        {"coupling": "beta-nll", "activation": "exp"},
        {"posterior": "sampled", "concentration_input": "projection"},
    ),
    "simve": ({"prior": "flat"}, {"parity": "head"}),
}


def _configs():
    for name in sorted(registry._BUILTIN):
        for number, variant in enumerate(({}, *VARIANTS.get(name, ()))):
            yield f"{name} {number}", method_config(name, **{**SCHEDULED, **variant})


def _build(config, views, dtype):
    torch.manual_seed(1)
    encoder = nn.Sequential(
        nn.Conv2d(2, 3, 2, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 5)
    )
    complete = config.completed(channels=2, image_size=4, views=views)
    method = synchronise(complete.build(encoder, width=5).to(dtype)).train()
    method.total_steps = STEPS
    return method


def _batch(config, rank, world, step, views, dtype):
    counts = (LAST if step == STEPS - 1 else ROWS)[world]
    rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    draw = torch.Generator().manual_seed(step)
    images = torch.rand if config.models_pixels else torch.randn
    n = sum(counts)
    x = images(views, n, 2, 4, 4, dtype=torch.float64, generator=draw).to(dtype)
    index = torch.randperm(100, generator=draw)[:n]
    text = _captions(config.text.captions, n, draw)[rows] if config.text else None
    return Batch(views=tuple(x[:, rows]), index=index[rows], step=step, seed=7, text=text)


def _captions(several, n, draw):
    """Return token ids (n, 5), or (n, several, 5), of captions of two and of three words."""
    shape = (n,) if several == 1 else (n, several)
    words = torch.randint(3, SCHEDULED["vocabulary"], (*shape, 3), generator=draw)
    words[::2, ..., 2] = END
    edge = torch.ones((*shape, 1), dtype=torch.int64)
    return torch.cat([START * edge, words, END * edge], dim=-1)


def _averaged(method, world):
    """Return the gradients by name, averaged over the processes as the engine does."""
    mine = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    flat = torch.cat([gradient.flatten() for gradient in mine.values()])
    if world > 1:
        dist.all_reduce(flat)
        flat /= world
    parts = flat.split([gradient.numel() for gradient in mine.values()])
    return {
        name: part.view_as(gradient).clone()
        for (name, gradient), part in zip(mine.items(), parts, strict=True)
    }


def _run(config, rank, world, dtype):
    """Return by name all that a run of two steps gives."""
    views = 2 if getattr(config, "second", "text") == "image" else 3
    method, found = _build(config, views, dtype), {}
    for step in range(STEPS):
        loss = method(_batch(config, rank, world, step, views, dtype))
        loss.total.backward()
        found[f"{step} loss"] = loss.total.detach()
        found |= {f"{step} term {name}": term.detach() for name, term in loss.terms.items()}
        found[f"{step} monitored"] = loss.monitored
        for name, gradient in _averaged(method, world).items():
            found[f"{step} gradient {name}"] = gradient
        with torch.no_grad():
            for name, parameter in method.named_parameters():
                if parameter.grad is not None:
                    parameter.sub_(RATE * found[f"{step} gradient {name}"])
                    parameter.grad = None
        extra = method.after_step(step)
        found |= {f"{step} extra {name}": torch.as_tensor(value) for name, value in extra.items()}
    state = {f"state {name}": value.clone() for name, value in method.state_dict().items()}
    return found | state


def _answers(rank, world):
    torch.set_num_threads(1)
    return {
        (name, dtype): _run(config, rank, world, dtype)
        for name, config in _configs()
        for dtype in (torch.float64, torch.float32)
    }


@pytest.fixture(scope="module")
def alone():
    return _answers(0, 1)


def test_all_registered_methods_are_here():
    for name, variants in VARIANTS.items():  # a setting that a method does not have is left out
        known = {field.name for field in dataclasses.fields(get(name))}
        assert all(variant.keys() <= known for variant in variants)
    names = [name for name, _ in _configs()]
    assert {name.split()[0] for name in names} == set(registry._BUILTIN)
    assert len(registry._BUILTIN) == 16
    assert len(names) == len(registry._BUILTIN) + sum(map(len, VARIANTS.values()))
    assert all(get(name).name == name for name in registry._BUILTIN)


@pytest.mark.ddp
@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_give_the_values_gradients_and_state_of_one(world, run_processes, alone):
    everyone = run_processes(_answers, world=world, timeout=120.0)
    assert len(everyone) == world
    for rank, found in enumerate(everyone):
        assert len(found) == len(alone) == 2 * len(list(_configs()))
        for name, dtype in found:
            expected = alone[name, dtype]
            got, first = found[name, dtype], everyone[0][name, dtype]
            assert got.keys() == expected.keys()
            assert len(got) > 20
            # sums in another order, relative to the largest number
            tolerance = 1e-9 if dtype == torch.float64 else 1e-5
            for part, value in expected.items():
                where = f"{name}, {dtype}, rank {rank} of {world}: {part}"
                size = max(1.0, float(value.double().abs().max())) if value.numel() else 1.0
                # in float32 a second step starts from weights that differ by rounding
                if dtype == torch.float64 or part.startswith("0 "):
                    torch.testing.assert_close(
                        got[part],
                        value,
                        rtol=tolerance,
                        atol=tolerance * size,
                        msg=lambda m, w=where: f"{w}\n{m}",
                    )
                # targets, centres and weights: to the last bit, or ranks would drift apart
                if part.startswith("state "):
                    assert torch.equal(got[part], first[part]), where
