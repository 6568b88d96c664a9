"""A data set of a few tiny images and the configuration of a run that takes a second on it."""

import dataclasses
import json
import signal
import textwrap

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cognates.config import DataConfig, EncoderConfig, OptimiserConfig, RunConfig, TrainingConfig
from cognates.data.views import ViewSpec, crop_and_flip
from cognates.methods.registry import get, load_plugin
from cognates.training import loop

SIZE = 8


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COGNATES_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path):
    """80 images of 8 x 8 grey pixels, of which 64 are for training."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (80, SIZE, SIZE), dtype=np.uint8)
    np.savez(tmp_path / "tiny.npz", images=images)
    return f"npz:{tmp_path / 'tiny.npz'}"


@pytest.fixture
def config(source):
    """Four steps of 16 images per epoch; fields are changed by `changed`."""
    return RunConfig(
        method=get("vi-simsiam")(dim=8, hidden=16, layers=2, predictor_hidden=4),
        encoder=EncoderConfig(name="mlp", width=16),
        data=DataConfig(source=source, image_size=SIZE, channels=1),
        views=(crop_and_flip(SIZE), ViewSpec(size=SIZE, blur=0.5, solarise=0.2)),
        optimiser=OptimiserConfig(learning_rate=0.5, warmup_epochs=1.0),
        training=TrainingConfig(epochs=4, batch_size=16, device="cpu"),
    )


@pytest.fixture
def changed():
    """Return a function that changes fields by dotted name: changed(config, training__seed=3)."""

    def change(config, **fields):
        for name, value in fields.items():
            part, _, field = name.partition("__")
            inner = dataclasses.replace(getattr(config, part), **{field: value}) if field else value
            config = dataclasses.replace(config, **{part: inner})
        return config

    return change


@pytest.fixture
def fit():
    """Return a function that trains in silence: fit(config, run, resume=True)."""
    return lambda config, run, **options: loop.fit(config, run, progress=False, **options)


@pytest.fixture
def weights():
    """Return a function that reads the weights of a run's checkpoint."""
    return lambda run: load_file(run / "checkpoint" / "weights.safetensors")


@pytest.fixture
def metrics():
    """Return a function that reads the lines of a run's metrics.jsonl."""
    return lambda run: [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.fixture
def assert_same_weights(weights):
    """Return a function that compares the weights of two runs bit by bit."""

    def check(run, other):
        a, b = weights(run), weights(other)
        assert a.keys() == b.keys()
        assert len(a) >= 4
        for name in a:
            assert torch.equal(a[name], b[name]), name

    return check


PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from cognates.methods import register
from cognates.methods.base import Method, MethodConfig
from cognates.types import Embedding, Loss


class {kind}(Method):
    default_score = "norm"

    def __init__(self, encoder, width):
        super().__init__()
        # the tests need an encoder without batch norm
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.GELU())
        self.projector = nn.Linear(width, 8)

    def forward(self, batch):
        a, b = (self.projector(self.encoder(view)) for view in batch.views)
        {loss}
        return Loss(terms, a.detach())

    def embed(self, images):
        return Embedding(self.encoder(images), None)

    def after_step(self, step):
        return {{"steps_seen": float(step)}}


@register
@dataclass(frozen=True, kw_only=True)
class {kind}Config(MethodConfig):
    name: ClassVar[str] = "{name}"
    paper: ClassVar[str] = "none"

    def build(self, encoder, *, width):
        return {kind}(encoder, width)
"""

LOSSES = {
    # nothing stops the gradient and nothing keeps images apart: every image may go to one point
    "collapsing": 'terms = {"alignment": (functional.normalize(a, dim=1)'
    " - functional.normalize(b, dim=1)).square().sum(1).mean()}",
    # no term couples images: the mean over parts is the mean over the batch
    "separable": 'terms = {"alignment": (a - b).square().mean(), "size": 0.1 * a.square().mean()}',
    # every image is compared with all others
    "coupled": 'terms = {"alignment": (a - b).square().mean(),'
    ' "apart": (a.double() @ b.double().T).square().mean().sqrt().to(a.dtype)}',
    "not-finite": 'terms = {"alignment": (a - b).square().mean(),'
    ' "variance": a.square().mean() * (float("nan") if batch.step >= 6 else 1.0)}',
    "noisy": 'terms = {"alignment": (a - functional.dropout(b, 0.5)).square().mean()}',
}


@pytest.fixture
def plugin(tmp_path, config, changed):
    """Return a function that makes the configuration of a run of one of the methods above."""

    def make(name, **fields):
        path = tmp_path / f"{name}.py"
        kind = name.title().replace("-", "")
        path.write_text(textwrap.dedent(PLUGIN).format(kind=kind, name=name, loss=LOSSES[name]))
        load_plugin(path)
        return changed(config, method=get(name)(), plugin=str(path), **fields)

    return make


class StopAt:
    """Signals that stop a run after so many looks."""

    def __init__(self, step):
        self._left = step

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def received(self):
        self._left -= 1
        return signal.SIGTERM if self._left <= 0 else 0


@pytest.fixture
def stop_at(monkeypatch):
    """Return a function that makes the next runs stop after so many steps."""
    return lambda step: monkeypatch.setattr(
        "cognates.training.launch.Signals", lambda: StopAt(step)
    )
