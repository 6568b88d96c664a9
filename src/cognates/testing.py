"""Standard tests for the author of a new method: one call, the first failure in a sentence."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json

import torch
from torch import Tensor, nn

from cognates.config import decode, encode
from cognates.distributed import all_reduce_sum
from cognates.errors import CognatesError, ConfigError, MethodCheckError
from cognates.evaluation.features import DISAGREEMENT, NORM, by_views
from cognates.evaluation.relative import SCORES as RELATIVE_SCORES
from cognates.methods import Method, MethodConfig, load_plugin, names
from cognates.methods.registry import plugin_of
from cognates.networks.norm import synchronise
from cognates.training.forked import forked
from cognates.types import END, PADDING, START, Batch, Embedding

_IMAGES, _WIDTH = 8, 8
_SPLIT = 3  # of two processes the first one has 3 images and the second 5


def check_method(config: MethodConfig, *, views: int = 2, processes: int = 2) -> None:
    r"""Check that a method keeps the promises that training and evaluation rely on.

    With a tiny encoder for 3 x 16 x 16 images, in this order:

    - the configuration is registered, frozen, names its paper and survives JSON;
    - the terms are finite scalars, their sum is what is minimised, and no label is in the batch;
    - the loss is a function of (weights, batch, seed, step);
    - in float32 and in bfloat16 autocast loss and gradients are finite, every trainable parameter
      gets a gradient;
    - what `after_step` moves (a target behind a stopped gradient) gets none;
    - an embedding does not depend on the other images of its batch, and the method has the
      uncertainty that it names;
    - the state dict holds all that the embedding and the next step depend on;
    - two processes with different numbers of images give the terms, the gradients and the state
      after the step of one process with all of them, in float64 to 1e-9.

    Args:
        config: the configuration of a registered method; small sizes make it quick.
        views: views per image, at least 1.
        processes: 2, or 1 to leave out the last of these checks. It takes two more processes:
            forked, or, on a machine with a GPU, new ones that import the configuration's module.

    Raises:
        ConfigError: `config` is no configuration (but its class, say), or a number is out of range.
        MethodCheckError: a promise is broken; the message says which and how to keep it.

    Example:
        >>> from cognates.methods.simsiam import SimSiamConfig
        >>> check_method(SimSiamConfig(dim=16, hidden=16, predictor_hidden=4))
    """
    if not isinstance(config, MethodConfig):
        raise ConfigError(
            f"Expected the configuration of a method, got {config!r}: pass an instance, as in "
            "check_method(MyMethodConfig(dim=16))."
        )
    if views < 1 or processes not in (1, 2):
        raise ConfigError(
            f"Expected at least one view and 1 or 2 processes, got {views} and {processes}."
        )
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
        _check_next_step(config, views)
        if processes > 1:
            _check_processes(config, views)


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
    _require(bool(loss.terms), "the loss has terms: there is nothing to minimise")
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
    further = method.further_scores(images[:2])
    for name, score in further.items():
        fine = score.shape == (2,) and bool(score.isfinite().all())
        _require(fine, f"the score '{name}' is (n,) and finite, got {tuple(score.shape)}")
    _check_score(method, whole, set(further))
    for name, all_rows, row in zip(Embedding._fields, whole, alone, strict=True):
        if all_rows is not None and row is not None:
            _require(bool(all_rows.isfinite().all()), f"the {name} is finite")
            # 1e-5: float32 sums in another order for another batch size.
            same = torch.allclose(all_rows[:1], row, rtol=1e-5, atol=1e-5)
            _require(same, f"the {name} of an image in eval mode is free of its batch")


def _check_score(method: Method, embedding: Embedding, further: set[str]) -> None:
    """Check that the scores which the method names are there, as `train` asks for them."""
    h, u = embedding
    named = bool(getattr(method, "default_score", ""))
    _require(named, "default_score names the uncertainty that the method stands for")
    with torch.no_grad():
        seen = method.disagreement(torch.stack([h, h.flip(0), h.roll(1, 0)]))
    if seen is not None:
        fine = seen.shape == (len(h),) and bool(seen.isfinite().all())
        _require(fine, f"disagreement gives finite scores (n,), got {tuple(seen.shape)}")
    given = {NORM, *further}
    if u is not None or seen is not None:
        given.add(method.own)
    if by_views(method):
        given.add(DISAGREEMENT)
    _require(
        method.own in given,
        f"somebody gives the uncertainty '{method.own}': return it from embed, or name "
        f"'{DISAGREEMENT}' or '{NORM}' as the default score",
    )
    known = method.default_score in given | set(RELATIVE_SCORES)
    _require(known, f"the default score '{method.default_score}' is one that the method has")


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
    pairs = [(a, b) for a, b in zip(one, two, strict=True) if a is not None and b is not None]
    same = all(torch.equal(a, b) for a, b in pairs)
    _require(same, "a finished method embeds as its state dict says, and can be loaded")


def _check_next_step(config: MethodConfig, views: int) -> None:
    torch.manual_seed(5)
    method, batch = _build(config, views).train(), _batch(config, views)
    torch.manual_seed(6)
    other = _build(config, views).train()
    method(batch).total.backward()
    _descend(method)
    before = {name: parameter.clone() for name, parameter in method.named_parameters()}
    method.after_step(batch.step)
    for name, parameter in method.named_parameters():
        stopped = not parameter.requires_grad or torch.equal(parameter, before[name])
        _require(
            stopped,
            f"'{name}', which after_step moves, gets no gradient: make it a frozen_copy of "
            "cognates.networks.ema",
        )
    other.load_state_dict(method.state_dict())
    following = batch._replace(step=batch.step + 1)
    one, two = (
        {name: term.item() for name, term in each(following).terms.items()}
        for each in (method, other)
    )
    sentence = "the state dict holds all that the next step depends on: keep it in buffers"
    _require(one == two, f"{sentence}; got {one}, and {two} after loading")


def _check_processes(config: MethodConfig, views: int) -> None:
    plugin = plugin_of(config)
    where = (None if plugin is None else str(plugin.path), type(config).__module__)
    text = json.dumps(encode(config))
    alone = _together(0, 1, text, where, views)
    try:
        found = forked(_together, (text, where, views), world=2)
    except CognatesError as error:
        raise MethodCheckError(f"Expected two processes to train together: {error}") from error
    for rank, values in enumerate(found):
        _require(values.keys() == alone.keys(), "two processes log and train what one does")
        for name, value in alone.items():
            # 1e-9: float64 sums in another order; of gradients, relative to the largest
            got, wanted = values[name].double(), value.double()
            size = max(1.0, float(wanted.abs().max())) if value.numel() else 1.0
            same = got.shape == wanted.shape
            same = same and torch.allclose(got, wanted, rtol=1e-9, atol=1e-9 * size)
            _require(
                same,
                f"the {name} is the same in two processes (here process {rank}) as in one: gather "
                "what the objective couples, or average what it does not "
                "(cognates.distributed)",
            )


def _together(
    rank: int, world: int, text: str, where: tuple[str | None, str], views: int
) -> dict[str, Tensor]:
    """Return terms, gradients and the state after a step of one of `world` processes, by name."""
    raw = json.loads(text)
    if raw["name"] not in names():  # a process that was not forked
        load_plugin(where[0]) if where[0] else importlib.import_module(where[1])
    config = decode(MethodConfig, raw, "method")
    torch.manual_seed(7)
    method = synchronise(_build(config, views).double()).train()
    assert isinstance(method, Method)
    batch = _batch(config, views)
    rows = slice(None) if world == 1 else (slice(_SPLIT), slice(_SPLIT, None))[rank]
    mine = tuple(view[rows].double() for view in batch.views)
    said = None if batch.text is None else batch.text[rows]
    loss = method(batch._replace(views=mine, index=batch.index[rows], text=said))
    loss.total.backward()
    found = {f"term '{name}'": term.detach() for name, term in loss.terms.items()}
    found["'monitored' rows"] = loss.monitored
    for name, parameter in method.named_parameters():
        if parameter.grad is not None:
            parameter.grad = all_reduce_sum(parameter.grad) / world
            found[f"gradient of '{name}'"] = parameter.grad.clone()
    _descend(method)
    method.after_step(batch.step)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    return found | {f"state '{name}' after a step": value for name, value in state.items()}


@torch.no_grad()
def _descend(method: Method) -> None:
    for parameter in method.parameters():
        if parameter.grad is not None:
            parameter.sub_(0.01 * parameter.grad)
            parameter.grad = None


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
    length, several = min(6, config.text.length), config.text.captions
    shape = (_IMAGES,) if several == 1 else (_IMAGES, several)
    tokens = torch.randint(3, config.text.vocabulary, (*shape, length))
    place = torch.arange(length)
    end = torch.randint(2, length, (*shape, 1))
    tokens = torch.where(place < end, tokens, torch.where(place == end, END, PADDING))
    return torch.where(place == 0, START, tokens)


def _require(kept: bool, promise: str) -> None:
    if not kept:
        raise MethodCheckError(f"Expected that {promise}.")
