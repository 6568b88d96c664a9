"""Standard tests for the author of a new method: one call, the first failure in a sentence."""

from __future__ import annotations

import copy
import dataclasses
import json

import torch
from torch import Tensor, nn

from cognates.config import decode, encode
from cognates.errors import ConfigError, MethodCheckError
from cognates.methods import Method, MethodConfig, names
from cognates.types import END, PADDING, START, Batch, Embedding

_IMAGES, _WIDTH = 8, 8


def check_method(config: MethodConfig, *, views: int = 2) -> None:
    r"""Check that a method keeps the promises that training and evaluation rely on.

    With a tiny encoder for 3 x 16 x 16 images: the configuration's record, a step and its gradients
    in float32 and in bfloat16 autocast, its determinism, the embedding, the state.

    Args:
        config: the configuration of a registered method; small sizes make it quick.
        views: views per image, at least 1.

    Raises:
        MethodCheckError: a promise is broken; the message says which and how to keep it.

    Example:
        >>> from cognates.methods.simsiam import SimSiamConfig
        >>> check_method(SimSiamConfig(dim=16, hidden=16, predictor_hidden=4))
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _check_config(config)
        method = _build(config, views)
        batch = _batch(config, views)
        _check_step(method, batch)
        _check_determinism(method, batch)
        _check_gradients(method, batch, autocast=False)
        _check_gradients(method, batch, autocast=True)
        _check_embedding(method, batch.views[0])
        _check_state(config, method, batch)


def _check_config(config: MethodConfig) -> None:
    kind = type(config).__name__
    known = getattr(config, "name", None) in names()
    _require(known, f"{kind} is registered under its name: decorate it with @register")
    _require(bool(getattr(config, "paper", "")), f"{kind}.paper says which paper this is")
    frozen = dataclasses.is_dataclass(config) and config.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    _require(frozen, f"{kind} is a frozen dataclass: @dataclass(frozen=True, kw_only=True)")
    try:
        back = decode(MethodConfig, json.loads(json.dumps(encode(config))), "method")
    except (TypeError, ConfigError) as error:
        raise MethodCheckError(f"Expected that {kind} survives JSON, got: {error}") from error
    _require(back == config, f"{kind} survives JSON: read back it is {back}, not {config}")


def _check_step(method: Method, batch: Batch) -> None:
    _require("label" not in " ".join(Batch._fields), "a batch carries no label")
    loss = copy.deepcopy(method).train()(batch)
    for name, term in loss.terms.items():
        fine = term.shape == () and bool(term.isfinite())
        _require(fine, f"term '{name}' is a finite scalar on random views, got {term}")
    total = sum(term.item() for term in loss.terms.values())
    _require(abs(loss.total.item() - total) <= 1e-6 * (1 + abs(total)), "the total sums the terms")
    seen = loss.monitored
    _require(seen.ndim == 2 and len(seen) == _IMAGES, f"'monitored' is (n, d), got {seen.shape}")
    _require(not seen.requires_grad, "'monitored' is detached: call .detach()")
    extra = method.after_step(batch.step)
    fine = all(isinstance(x, float) or getattr(x, "shape", None) == () for x in extra.values())
    _require(fine, "after_step returns floats, or scalar tensors, by name")


def _check_determinism(method: Method, batch: Batch) -> None:
    values = []
    for state in (1, 2):
        torch.manual_seed(state)  # what the global generator holds must not matter
        loss = copy.deepcopy(method).train()(batch)
        values.append({name: term.item() for name, term in loss.terms.items()})
    sentence = "the loss depends on (weights, batch, seed, step) only: draw with cognates.random"
    _require(values[0] == values[1], f"{sentence}; got {values[0]}, then {values[1]}")


def _check_gradients(method: Method, batch: Batch, *, autocast: bool) -> None:
    method = copy.deepcopy(method).train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        total = method(batch).total
    total.backward()
    when = "in bfloat16 autocast" if autocast else "in float32"
    _require(bool(total.isfinite()), f"the loss is finite {when}, got {total}")
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            _require(parameter.grad is not None, f"the trainable '{name}' gets a gradient {when}")
        grad = torch.zeros(()) if parameter.grad is None else parameter.grad
        _require(bool(grad.isfinite().all()), f"the gradient of '{name}' is finite {when}")


def _check_embedding(method: Method, images: Tensor) -> None:
    method = copy.deepcopy(method).eval()
    with torch.no_grad():
        whole, alone = method.embed(images), method.embed(images[:1])
    h, u, n = whole.representation, whole.uncertainty, len(images)
    _require(h.ndim == 2 and len(h) == n, f"embed gives h (n, d), got {tuple(h.shape)}")
    _require(u is None or u.shape == (n,), "embed gives an uncertainty (n,) or None")
    for name, score in method.further_scores(images[:2]).items():
        fine = score.shape == (2,) and bool(score.isfinite().all())
        _require(fine, f"the score '{name}' is (n,) and finite, got {tuple(score.shape)}")
    named = bool(getattr(method, "default_score", ""))
    _require(named, "default_score names the uncertainty that the method stands for")
    for name, all_rows, row in zip(Embedding._fields, whole, alone, strict=True):
        if all_rows is not None and row is not None:
            _require(bool(all_rows.isfinite().all()), f"the {name} is finite")
            # 1e-5: float32 sums in another order for another batch size.
            same = torch.allclose(all_rows[:1], row, rtol=1e-5, atol=1e-5)
            _require(same, f"the {name} of an image in eval mode is free of its batch")


def _check_state(config: MethodConfig, method: Method, batch: Batch) -> None:
    torch.manual_seed(3)
    images = batch.views[0]
    other = _build(config, len(batch.views))
    other.load_state_dict(method.state_dict())
    with torch.no_grad():
        one, two = method.eval().embed(images), other.eval().embed(images)
    pairs = [(a, b) for a, b in zip(one, two, strict=True) if a is not None and b is not None]
    same = all(torch.equal(a, b) for a, b in pairs)
    _require(same, "the state dict holds all that the embedding depends on")
    for each in (method, other):
        each.finish()
    torch.manual_seed(4)
    third = _build(config, len(batch.views))
    third.finish()
    third.load_state_dict(method.state_dict())
    with torch.no_grad():
        one, two = method.eval().embed(images), third.eval().embed(images)
    same = torch.equal(one.representation, two.representation)
    _require(same, "a finished method embeds as its state dict says, and can be loaded")


def _build(config: MethodConfig, views: int) -> Method:
    encoder = nn.Sequential(
        nn.Conv2d(3, _WIDTH, 3, stride=2, bias=False),
        nn.BatchNorm2d(_WIDTH),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    complete = config.completed(channels=3, image_size=16, views=views)
    return complete.build(encoder, width=_WIDTH)


def _batch(config: MethodConfig, views: int) -> Batch:
    draw = torch.rand if config.models_pixels else torch.randn
    made = tuple(draw(_IMAGES, 3, 16, 16) for _ in range(views))
    return Batch(views=made, index=torch.arange(_IMAGES), step=5, seed=1, text=_text(config))


def _text(config: MethodConfig) -> Tensor | None:
    """Return made-up captions of 3 to 6 tokens, START and END included."""
    if config.text is None:
        return None
    length = min(6, config.text.length)
    tokens = torch.randint(3, config.text.vocabulary, (_IMAGES, length))
    place = torch.arange(length)
    end = torch.randint(2, length, (_IMAGES, 1))
    tokens = torch.where(place < end, tokens, torch.where(place == end, END, PADDING))
    return torch.where(place == 0, START, tokens)


def _require(kept: bool, promise: str) -> None:
    if not kept:
        raise MethodCheckError(f"Expected that {promise}.")
