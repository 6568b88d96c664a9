"""The harness for authors of methods: good methods pass, what is wrong with others is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from cognates.distributed import gather, world_size
from cognates.errors import CognatesError, ConfigError, MethodCheckError
from cognates.methods import Method, MethodConfig, register, registry
from cognates.testing import check_method
from cognates.types import Embedding, Loss


class Plain(Method):
    """Pulls two views together; each fault breaks one promise."""

    default_score = "view-disagreement"

    def __init__(self, encoder: nn.Module, width: int, fault: str) -> None:
        super().__init__()
        self.encoder, self.fault = encoder, fault
        self.head = nn.Linear(width, 4)
        self.scale = torch.rand(())  # not in the state dict
        if fault == "parameter":
            self.idle = nn.Linear(2, 2)
        self.memory = 1.0
        if fault == "target":
            self.target = nn.Linear(4, 4)
        if fault == "unknown":
            self.default_score = "certainty"
        if fault == "unknown default":
            self.own_score, self.default_score = "norm", "certainty"

    def forward(self, batch):
        one, two = (self.head(self.encoder(view)) for view in batch.views)
        if self.fault == "own rows":
            one, two = (x / x.norm() for x in (one, two))
        one, two = gather(one), gather(two)
        if self.fault == "gradient of one":
            one = one.detach() * (1 - 1 / world_size()) + one / world_size()
        if self.fault == "target":
            one = self.target(one)
        value = (one - two).square().mean()
        if self.fault == "random":
            value = value + torch.rand(())
        value = value * self.memory
        if self.fault == "infinite":
            value = value / 0
        if self.fault == "vector":
            value = (one - two).square().mean(1)
        if self.fault == "bfloat16" and torch.is_autocast_enabled("cpu"):
            value = value * float("nan")
        if self.fault == "gradient":
            value = value + 0 * (one - one.detach()).abs().sum().sqrt()
        terms = {} if self.fault == "empty" else {"pull": value}
        return Loss(terms, one if self.fault == "attached" else one.detach())

    def embed(self, images):
        h = self.encoder(images)
        if self.fault == "batch":
            h = h - h.mean(0)
        if self.fault == "state":
            h = h * self.scale
        u = {"shape": h[:, :2], "nan": h[:, 0] * float("nan"), "own": h.norm(dim=1)}
        if self.fault == "finished" and not hasattr(self, "head"):
            u["finished"] = h[:, 0] * self.scale
        return Embedding(h.flatten() if self.fault == "flat" else h, u.get(self.fault))

    def disagreement(self, representations):
        z = representations.std(0)
        return {"pairs": z, "undefined": z[:, 0] / 0}.get(self.fault)

    def finish(self):
        if self.fault == "finished":
            del self.head

    def after_step(self, step):
        if self.fault == "memory":
            self.memory += 1
        if self.fault == "target":
            with torch.no_grad():
                self.target.weight.lerp_(self.head.weight[:, :4], 0.1)
        return {"step": step} if self.fault == "logged" else {}


@dataclass(frozen=True, kw_only=True)
class PlainConfig(MethodConfig):
    name: ClassVar[str] = "harness-plain"
    paper: ClassVar[str] = "none"
    fault: str = ""

    def build(self, encoder, *, width):
        return Plain(encoder, width, self.fault)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    register(PlainConfig)


@pytest.mark.parametrize("fault", ["", "own"])
def test_a_method_that_keeps_its_promises_passes(fault):
    check_method(PlainConfig(fault=fault))


FAULTS = {
    "random": "draw with cognates.random",
    "infinite": "finite scalar",
    "vector": "finite scalar",
    "empty": "the loss has terms",
    "parameter": "'idle.weight' gets a gradient",
    "gradient": "the gradient of .* is finite in float32",
    "bfloat16": "the loss is finite in bfloat16",
    "attached": "detached",
    "batch": "representation .* free of its batch",
    "state": "state dict",
    "shape": r"uncertainty \(n,\)",
    "nan": "uncertainty is finite",
    "flat": r"h \(n, d\)",
    "pairs": r"disagreement gives finite scores \(n,\), got \(8, 8\)",
    "undefined": "disagreement gives finite scores",
    "unknown": "somebody gives the uncertainty 'certainty'",
    "unknown default": "the default score 'certainty' is one that the method has",
    "finished": "a finished method embeds as its state dict says",
    "logged": "after_step",
    "target": "'target.weight', which after_step moves, gets no gradient",
    "memory": "all that the next step depends on",
    "own rows": "the term 'pull' is the same in two processes",
    "gradient of one": "the gradient of '.*' is the same in two processes",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_broken_promise_is_named(fault):
    assert len(FAULTS) == 23
    with pytest.raises(MethodCheckError, match=FAULTS[fault]) as caught:
        check_method(PlainConfig(fault=fault))
    assert isinstance(caught.value, CognatesError)
    assert isinstance(caught.value, AssertionError)
    assert str(caught.value).startswith("Expected that ")


def test_an_unregistered_or_unrecordable_configuration_is_named():
    @dataclass(frozen=True, kw_only=True)
    class Unknown(PlainConfig):
        name: ClassVar[str] = "harness-unknown"

    with pytest.raises(MethodCheckError, match="registered"):
        check_method(Unknown())

    @register
    @dataclass(frozen=True, kw_only=True)
    class Unrecordable(PlainConfig):
        name: ClassVar[str] = "harness-unrecordable"
        shapes: object = frozenset({3})

    with pytest.raises(MethodCheckError, match="survives JSON"):
        check_method(Unrecordable())


def test_the_check_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    check_method(PlainConfig())
    assert torch.equal(state, torch.get_rng_state())


def test_what_is_no_configuration_and_numbers_out_of_range_are_refused():
    for wrong in (PlainConfig, "harness-plain", None):
        with pytest.raises(ConfigError, match="pass an instance"):
            check_method(wrong)  # pyright: ignore[reportArgumentType]
    for numbers in ({"views": 0}, {"processes": 3}, {"processes": 0}):
        with pytest.raises(ConfigError, match="at least one view and 1 or 2 processes"):
            check_method(PlainConfig(), **numbers)
