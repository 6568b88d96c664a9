"""BYOL, VICReg and DINO as modules: what they compute, what moves, what they embed and refuse."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from cognates.errors import ConfigError
from cognates.methods import get, names
from cognates.methods.byol import ByolConfig
from cognates.methods.dino import DinoConfig
from cognates.methods.vicreg import VicRegConfig
from cognates.objectives import byol, dino, vicreg
from cognates.random import generator
from cognates.testing import check_method
from cognates.types import Batch

F64 = torch.float64
BYOL = ByolConfig(dim=6, hidden=8, predictor_hidden=7)
VICREG = VicRegConfig(dim=6, hidden=8)
DINO = DinoConfig(dim=6, hidden=8, prototypes=11)
KINDS = {"byol": ByolConfig, "vicreg": VicRegConfig, "dino": DinoConfig}


def build(config, *, width=9):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(32, width), nn.ReLU())
        return config.build(encoder, width=width).double()


def batch(v=2, n=6, step=0):
    gen = generator(0, "batch")
    views = tuple(torch.randn(n, 2, 4, 4, generator=gen, dtype=F64) for _ in range(v))
    return Batch(views=views, index=torch.arange(n), step=step, seed=0)


@pytest.mark.parametrize(
    ("config", "views"),
    [
        (BYOL, 2),
        (BYOL, 3),
        (VICREG, 2),
        (dataclasses.replace(VICREG, layers=1, covariance=0.0), 3),
        (DINO, 2),
        (dataclasses.replace(DINO, batch_norm=True, global_views=1), 3),
    ],
)
def test_the_standard_tests_of_a_method_hold(config, views):
    check_method(config, views=views)


def test_the_methods_are_registered_and_their_defaults_are_the_papers():
    assert {name: get(name) for name in KINDS} == KINDS
    assert set(KINDS) <= set(names())
    assert all("https://arxiv.org/abs/" in kind.paper for kind in KINDS.values())
    assert dataclasses.astuple(ByolConfig()) == (256, 4096, None, 0.996)
    assert dataclasses.astuple(VicRegConfig()) == (8192, 8192, 3, 25.0, 25.0, 1.0)
    own = DinoConfig()
    assert (own.dim, own.hidden, own.prototypes, own.batch_norm) == (256, 2048, 65536, False)
    assert (own.student_temperature, own.teacher_start, own.teacher_temperature) == (
        0.1,
        0.04,
        0.07,
    )


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (ByolConfig, "dim", 0),
        (ByolConfig, "predictor_hidden", 0),
        (ByolConfig, "target_decay", 1.5),
        (VicRegConfig, "layers", 0),
        (VicRegConfig, "variance", -1.0),
        (VicRegConfig, "covariance", math.inf),
        (DinoConfig, "prototypes", 0),
        (DinoConfig, "teacher_start", 0.0),
        (DinoConfig, "student_temperature", math.inf),
        (DinoConfig, "frozen", 1.5),
        (DinoConfig, "centre_decay", -0.1),
    ],
)
def test_bad_hyperparameters_are_refused_by_name(kind, field, value):
    with pytest.raises(ConfigError, match=field):
        kind(**{field: value})


def test_a_batch_of_one_image_is_refused_by_vicreg():
    VICREG.require_images(2)
    with pytest.raises(ConfigError, match="at least two images"):
        VICREG.require_images(1)


def test_a_teacher_of_more_views_than_there_are_is_refused():
    config = dataclasses.replace(DINO, global_views=3)
    assert config.completed(channels=3, image_size=8, views=3) is config
    with pytest.raises(ConfigError, match=r"'global_views' of at most the 2 view\(s\).*got 3"):
        config.completed(channels=3, image_size=8, views=2)


@pytest.mark.parametrize("v", [2, 3])
def test_the_methods_compute_their_objectives_view_by_view(v):
    data = batch(v)
    one, two, three = (build(config).eval() for config in (BYOL, VICREG, DINO))
    three.centre.normal_()
    z = [one.projector(one.encoder(x)) for x in data.views]
    p = [one.predictor(x) for x in z]
    # the target starts as a copy
    expected = [byol(torch.stack(p), torch.stack(z))]
    expected.append(vicreg(torch.stack([two.expander(two.encoder(x)) for x in data.views])))
    logits = torch.stack([three.head(three.encoder(x)) for x in data.views])
    expected.append(dino(logits, logits[:2], three.centre, teacher_temperature=0.07))
    for method, terms in zip((one, two, three), expected, strict=True):
        loss = method(data)
        assert list(loss.terms) == list(terms)
        for name, term in terms.items():
            torch.testing.assert_close(loss.terms[name], term, rtol=1e-12, atol=1e-12)
        assert not loss.monitored.requires_grad


def moved(method, steps=3):
    """Take steps of gradient descent, each followed by what does not learn by gradient."""
    extra = {}
    for step in range(steps):
        method(batch(step=step)).total.backward()
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.1 * parameter.grad)
                    parameter.grad = None
        extra = method.after_step(step)
    return extra


@pytest.mark.parametrize(("config", "name"), [(BYOL, "target"), (DINO, "teacher")])
def test_the_slow_copy_is_the_average_of_the_weights_with_a_rising_decay(config, name):
    method = build(dataclasses.replace(config, target_decay=0.9)).train()
    method.total_steps = 4
    expected = [p.clone() for p in getattr(method, name).parameters()]
    online = [method.encoder, method.projector if name == "target" else method.head]
    for step in range(3):
        extra = moved(method, 1) if step == 0 else None
        if extra is None:
            extra = method.after_step(step)
        decay = 1 - 0.1 * (1 + math.cos(math.pi * step / 4)) / 2
        assert extra["target_decay"] == pytest.approx(decay)
        now = [p for module in online for p in module.parameters()]
        expected = [decay * a + (1 - decay) * b for a, b in zip(expected, now, strict=True)]
    for a, b in zip(getattr(method, name).parameters(), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        assert not a.requires_grad


def test_dinos_centre_is_the_average_of_the_teachers_mean_logits_and_waits_for_the_step():
    method = build(dataclasses.replace(DINO, centre_decay=0.75, global_views=2)).train()
    data = batch(3)
    means = []
    for part in (slice(0, 2), slice(2, 6)):  # two parts of an accumulated step
        some = data._replace(views=tuple(x[part] for x in data.views), index=data.index[part])
        method(some)
        logits = [method.teacher["head"](method.teacher["encoder"](x)) for x in some.views[:2]]
        means.append(torch.cat(logits).mean(0))
    assert not method.centre.any()
    method.after_step(0)
    torch.testing.assert_close(method.centre, 0.25 * torch.stack(means).mean(0))
    method.eval()(data)
    before = method.centre.clone()
    method.after_step(1)
    assert torch.equal(method.centre, before)  # an evaluation leaves no trace


def test_dinos_temperature_rises_over_its_share_of_the_run_and_prototypes_wait_for_theirs():
    method = build(dataclasses.replace(DINO, teacher_warmup=0.5, frozen=0.25)).train()
    method.total_steps = 8
    seen = [method.after_step(step)["teacher_temperature"] for step in range(8)]
    assert seen[:5] == pytest.approx([0.04, 0.0475, 0.055, 0.0625, 0.07])
    assert seen[4:] == [0.07] * 4
    for step in range(4):
        (slope,) = torch.autograd.grad(method(batch(step=step)).total, method.head.prototypes)
        assert bool(slope.any()) == (step >= 2)
    for step, temperature in ((0, 0.04), (2, 0.055), (7, 0.07)):
        data = batch(3, step=step)
        logits = torch.stack([method.head(method.encoder(x)) for x in data.views])
        wanted = dino(logits, logits[:2], method.centre, teacher_temperature=temperature)
        for name, term in method(data).terms.items():
            torch.testing.assert_close(term, wanted[name], rtol=1e-10, atol=1e-12)


def test_the_length_of_a_prototype_does_not_matter():
    head = build(DINO).head
    h = torch.randn(3, 9, dtype=F64)
    before = head(h)
    with torch.no_grad():
        head.prototypes.mul_(torch.rand(11, 1, dtype=F64) + 0.5)
    torch.testing.assert_close(head(h), before, rtol=1e-12, atol=1e-12)
    assert before.abs().max() <= 1 + 1e-12


@pytest.mark.parametrize("config", [BYOL, VICREG, DINO], ids=lambda config: config.name)
def test_a_finished_method_embeds_by_the_network_that_the_paper_keeps(config):
    method = build(config).train()
    moved(method)
    x = batch().views[0]
    encoder = method.teacher["encoder"] if config is DINO else method.encoder
    expected = encoder(x).detach().clone()
    method.finish()
    method.eval()
    found = method.embed(x)
    torch.testing.assert_close(found.representation, expected, rtol=1e-12, atol=1e-12)
    assert not [name for name in method.state_dict() if name.startswith(("target", "teacher"))]
    assert all(parameter.requires_grad for parameter in method.encoder.parameters())
    if config is DINO:
        logits = method.head(expected) - method.centre
        entropy = torch.distributions.Categorical((logits / 0.07).softmax(-1)).entropy()
        torch.testing.assert_close(found.uncertainty, entropy)
        assert method.default_score == "assignment-entropy"
    else:
        assert found.uncertainty is None
        assert method.default_score == "view-disagreement"


@pytest.mark.parametrize("config", [BYOL, VICREG, DINO], ids=lambda config: config.name)
def test_gradient_descent_lowers_the_loss(config):
    method = build(dataclasses.replace(config, **({"prototypes": 4} if config is DINO else {})))
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.02)
    gen, values = generator(0, "descent"), []
    x = torch.randn(32, 2, 4, 4, generator=gen, dtype=F64)
    for step in range(30):
        views = tuple(x + 0.3 * torch.randn(x.shape, generator=gen, dtype=F64) for _ in range(2))
        loss = method(Batch(views=views, index=torch.arange(32), step=step, seed=0))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        values.append(next(iter(loss.terms.values())).item())
    assert sum(values[-5:]) < sum(values[:5])
