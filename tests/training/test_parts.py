"""Exact accumulation has the large batch's gradient; averaged accumulation another objective."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cognates.config import EncoderConfig
from cognates.methods import registry
from cognates.networks.norm import synchronise
from cognates.recipes import method_config
from cognates.training.parts import encoded_in
from cognates.types import END, START, Batch
from tests.small import SMALL

F64 = torch.float64


class Counting(nn.Module):
    """An encoder without batch norm that notes how many images it sees at a time."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(32, 9), nn.Tanh(), nn.Linear(9, 5))
        self.seen = []

    def forward(self, images):
        self.seen.append(len(images))
        return self.layers(images)


def build(name, encoder=None):
    torch.manual_seed(1)
    config = method_config(name, **SMALL).completed(channels=2, image_size=4, views=3)
    return config.build(Counting() if encoder is None else encoder, width=5).double().train()


def made_pair(config):
    torch.manual_seed(1)
    return config.build(Counting(), width=5).double().train()


def batch(n=9):
    images = torch.rand(3, n, 2, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    words = torch.randint(
        3, SMALL["vocabulary"], (n, 3), generator=torch.Generator().manual_seed(1)
    )
    edge = torch.ones(n, 1, dtype=torch.int64)
    text = torch.cat([START * edge, words, END * edge], dim=1)  # most methods read none
    return Batch(views=tuple(images), index=torch.arange(n), step=0, seed=7, text=text)


def step(method, data, pieces):
    """Return the terms, the gradients and the state after a step, by name."""
    with encoded_in(method, pieces):
        loss = method(data)
    loss.total.backward()
    gradients = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    method.after_step(0)
    return loss.terms | gradients | {f"state {k}": v for k, v in method.state_dict().items()}


def averaged(method, data, sizes):
    """Return the gradients of the mean loss of batches of their own."""
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        part = data._replace(views=tuple(x[rows] for x in data.views), index=data.index[rows])
        (method(part).total * size / sum(sizes)).backward()
        start += size
    return {n: p.grad for n, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", sorted(registry._BUILTIN))
def test_a_batch_encoded_in_parts_has_the_gradient_of_the_whole_for_every_method(name):
    whole, parts = build(name), build(name)
    expected, found = step(whole, batch(), 1), step(parts, batch(), 4)
    assert found.keys() == expected.keys()
    assert len(found) > 10
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=1e-9, atol=1e-11), key
    # never the whole batch at once, and once more for the backward pass of an encoder that learns
    passes = 1 + any(parameter.requires_grad for parameter in whole.encoder.parameters())
    assert max(parts.encoder.seen) < max(whole.encoder.seen)
    assert sum(parts.encoder.seen) == passes * sum(whole.encoder.seen)
    assert "forward" not in vars(parts.encoder)


@pytest.mark.parametrize("name", ["ssl-hsic", "vicreg"])
def test_averaged_parts_are_another_objective_for_losses_that_couple_images(name):
    expected = step(build(name), batch(8), 1)
    found = averaged(build(name), batch(8), (4, 4))
    weight = "encoder.layers.3.weight"
    difference = (found[weight] - expected[weight]).norm() / expected[weight].norm()
    assert difference > 0.05


def test_every_method_that_is_registered_is_tested():
    assert len(registry._BUILTIN) == 16
    assert {"clip", "simclr"} <= set(registry._BUILTIN)


def test_the_encoder_of_the_other_half_of_a_pair_works_in_parts_as_well():
    config = method_config("clip", **SMALL, second="image")
    data = batch()._replace(views=batch().views[:2], text=None)
    whole, parts = made_pair(config), made_pair(config)
    expected, found = step(whole, data, 1), step(parts, data, 4)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-11)
    assert max(parts.second.encoder.seen) == 3


def test_averaged_parts_are_the_whole_where_no_term_couples_images():
    expected = step(build("vae"), batch(8), 1)
    for name, gradient in averaged(build("vae"), batch(8), (3, 5)).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_count_each_part_once(replaced, momentum):
    norm = nn.BatchNorm1d(5, momentum=momentum)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(32, 5), norm, nn.ReLU())
    method = build("vicreg", synchronise(encoder) if replaced else encoder)
    alone, data = copy.deepcopy(method.encoder), batch(9)
    for view in data.views:
        for part in view.tensor_split(3):
            alone(part)
    with encoded_in(method, 3):
        method(data).total.backward()
    found = method.encoder.state_dict()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)
    assert found["2.num_batches_tracked"] == 9
    assert method.encoder[2].momentum == momentum


def test_a_part_has_at_least_two_images_and_an_error_leaves_the_encoder_as_it_was():
    method = build("vicreg")
    with encoded_in(method, 100):
        method(batch(5)).total.backward()
    assert method.encoder.seen[:2] == [3, 2]
    with pytest.raises(KeyError), encoded_in(method, 2):
        raise KeyError
    assert "forward" not in vars(method.encoder)


def test_only_the_outermost_encoder_works_in_parts():
    inner = Counting()
    outer = nn.Module()
    outer.encoder, outer.forward = inner, inner.forward  # pyright: ignore
    method = build("vicreg", outer)
    with encoded_in(method, 3):
        assert "forward" not in vars(inner)


def test_a_run_with_exact_accumulation_is_the_run_of_the_whole_batch(
    plugin, fit, tmp_path, changed
):
    config = plugin("coupled", training__epochs=1, training__precision="64-true")
    runs = {
        "whole": config,
        "exact": changed(config, training__accumulate=4, training__accumulation="exact"),
        "averaged": changed(config, training__accumulate=4),
    }
    found = {}
    for name, each in runs.items():
        fit(each, tmp_path / name)
        found[name] = load_file(tmp_path / name / "checkpoint" / "weights.safetensors")
    assert len(found["whole"]) >= 4
    apart = 0.0
    for name, value in found["whole"].items():
        torch.testing.assert_close(found["exact"][name], value, rtol=1e-9, atol=1e-11)
        apart = max(apart, float((found["averaged"][name] - value).abs().max()))
    assert apart > 1e-4


@pytest.mark.ddp
@pytest.mark.slow
def test_exact_accumulation_on_two_processes_is_the_whole_batch_as_well(
    fit, config, tmp_path, changed
):
    config = changed(
        config,
        method=method_config("vicreg", **SMALL),
        encoder=EncoderConfig(name="vae-mlp"),
        training__epochs=1,
        training__precision="64-true",
    )
    fit(config, tmp_path / "whole")
    shared = {"training__devices": 2, "training__accumulate": 4, "training__accumulation": "exact"}
    fit(changed(config, **shared), tmp_path / "shared")
    one, two = (
        load_file(tmp_path / name / "checkpoint" / "weights.safetensors")
        for name in ("whole", "shared")
    )
    assert len(one) >= 4
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-9, atol=1e-11)
