"""CLIP as a method: its promises, its wiring, and one loss on any number of processes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.distributed as dist
from torch import nn

from cognates.distributed import world_size
from cognates.errors import ConfigError
from cognates.methods.clip import ClipConfig
from cognates.methods.registry import get
from cognates.networks.norm import synchronise
from cognates.objectives import clip
from cognates.testing import check_method
from cognates.types import END, START, Batch

F64 = torch.float64
SMALL = {
    "dim": 6,
    "vocabulary": 12,
    "length": 5,
    "text_width": 8,
    "text_layers": 1,
    "text_heads": 2,
}
KINDS = {"text": ClipConfig(**SMALL), "image": ClipConfig(**SMALL, second="image")}
IMAGES, SPLIT = 8, 3  # 3 and 5 rows: uneven on purpose


def made(config):
    torch.manual_seed(1)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(18, 5), nn.BatchNorm1d(5), nn.ReLU())
    return config.build(encoder, width=5).double()


def batch_of(kind, rows=slice(None), views=2):
    torch.manual_seed(0)
    images = torch.randn(views, IMAGES, 2, 3, 3, dtype=F64)
    words = torch.randint(3, 12, (IMAGES, 3))
    edge = torch.ones(IMAGES, 1, dtype=torch.int64)
    tokens = torch.cat([START * edge, words, END * edge], dim=1)
    return Batch(
        views=tuple(view[rows] for view in images),
        index=torch.arange(IMAGES)[rows],
        step=0,
        seed=0,
        text=tokens[rows] if kind == "text" else None,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_clip_keeps_every_promise_of_a_method(kind):
    assert get("clip") is ClipConfig
    check_method(KINDS[kind])


def test_the_loss_pairs_each_view_with_the_caption():
    method, batch = made(KINDS["text"]), batch_of("text", views=3)
    method.eval()
    text = method.project_text(batch.text)
    t = torch.exp(-method.log_scale)
    found = method(batch)
    each = [clip(method.project_images(v), text, temperature=t) for v in batch.views]
    assert found.terms.keys() == each[0].keys()
    for name in found.terms:
        mean = sum(terms[name] for terms in each) / 3
        torch.testing.assert_close(found.terms[name], mean, rtol=1e-12, atol=0)


def test_several_captions_are_each_paired_with_the_image():
    method, one = made(KINDS["text"]), batch_of("text")
    method.eval()
    further = one.text.flip(0)
    t = torch.exp(-method.log_scale)
    found = method(one._replace(text=torch.stack([one.text, further], dim=1)))
    pairs = [
        clip(method.project_images(view), method.project_text(text), temperature=t)
        for view in one.views
        for text in (one.text, further)
    ]
    assert len(pairs) == 4
    for name, value in found.terms.items():
        mean = sum(terms[name] for terms in pairs) / 4
        torch.testing.assert_close(value, mean, rtol=1e-12, atol=0)
    config = dataclasses.replace(KINDS["text"], captions=2, omitted=0.1, text_pooling="mean")
    assert (config.text.captions, config.text.omitted) == (2, 0.1)
    check_method(config)
    with pytest.raises(ConfigError, match="'omitted'"):
        dataclasses.replace(config, omitted=1.0)


def test_image_and_image_go_through_encoders_of_their_own():
    method, batch = made(KINDS["image"]), batch_of("image")
    loss = method(batch)
    loss.total.backward()
    first = method.encoder[1].weight
    second = method.second.encoder[1].weight
    assert first is not second
    assert first.grad is not None
    assert not torch.equal(first.grad, second.grad)
    with pytest.raises(ConfigError, match="two views"):
        KINDS["image"].completed(channels=3, image_size=8, views=3)
    with pytest.raises(ConfigError, match="at least 2 pairs"):
        KINDS["image"].require_images(1)


def test_the_terms_of_image_and_image_are_the_objectives_under_names_without_text():
    method, batch = made(KINDS["image"]).eval(), batch_of("image")
    first, second = method.project_images(batch.views[0]), method.project_second(batch.views[1])
    want = clip(first, second, temperature=torch.exp(-method.log_scale))
    found = method(batch).terms
    assert [*found] == ["first_to_second", "second_to_first"]
    assert not torch.isclose(*found.values())
    for name, of in (("first_to_second", "image_to_text"), ("second_to_first", "text_to_image")):
        torch.testing.assert_close(found[name], want[of], rtol=1e-12, atol=0)


def test_the_temperature_is_learnt_logged_and_held_at_a_hundredth():
    method = made(KINDS["text"])
    assert method.after_step(0)["temperature"].item() == pytest.approx(0.07, rel=1e-6)
    method(batch_of("text")).total.backward()
    assert method.log_scale.grad.item() != 0
    with torch.no_grad():
        method.log_scale.fill_(math.log(1000.0))
    assert method.after_step(1)["temperature"].item() == pytest.approx(0.01, rel=1e-6)


def test_a_batch_without_captions_and_numbers_out_of_range_are_refused():
    batch = batch_of("image")
    with pytest.raises(ConfigError, match="pairs:DIR"):
        made(KINDS["text"])(batch)
    for change in ({"temperature": 0.001}, {"dim": 0}, {"captions": 0}):
        with pytest.raises(ConfigError, match="at least"):
            dataclasses.replace(KINDS["text"], **change)


def _answers(rank, world):
    rows = [slice(None)] if world == 1 else [slice(None, SPLIT), slice(SPLIT, None)]
    found = {}
    for kind, config in KINDS.items():
        method = synchronise(made(config)).train()
        loss = method(batch_of(kind, rows[rank]))
        loss.total.backward()
        grads = {name: p.grad for name, p in method.named_parameters()}
        if world > 1:
            assert world_size() == world
            for grad in grads.values():
                dist.all_reduce(grad)
                grad /= world
        found[kind] = {"loss": loss.total.detach(), "monitored": loss.monitored, **grads}
    return found


@pytest.mark.ddp
def test_clip_on_two_processes_has_the_value_and_gradient_of_one(run_processes):
    expected = _answers(0, 1)
    assert len(expected) == 2
    for found in run_processes(_answers):
        for kind, values in expected.items():
            assert values.keys() == found[kind].keys()
            assert len(values) > 8
            for name, value in values.items():
                # float64, added in another order.
                same = torch.allclose(found[kind][name], value, rtol=1e-10, atol=1e-12)
                assert same, f"{kind}: {name}"
