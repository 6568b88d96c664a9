"""A run that starts from another run's weights: what it is compared with, and where they may go."""

import shutil

import numpy as np
import pytest

import cognates

TINY = ("method.dim=16", "method.hidden=16", "method.predictor_hidden=8")


def train(out, source, **options):
    return cognates.train(
        "vi-simsiam",
        data=source,
        out=out,
        encoder="mlp",
        epochs=2,
        batch_size=16,
        device="cpu",
        settings=TINY,
        progress=False,
        **options,
    )


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("COGNATES_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for name, n in (("train", 64), ("test", 32)):
        images = generator.integers(0, 256, (n, 12, 12, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(n) % 2)
    return f"npz:{tmp_path}"


def untrained_spread(run):
    results = cognates.evaluate(run, only=["spread"], device="cpu")
    (found,) = (
        r.value for r in results if (r.metric, r.subject) == ("effective-rank", "untrained")
    )
    return found


def test_the_untrained_baseline_is_freshly_drawn_even_after_init_and_the_init_may_move(
    source, tmp_path
):
    first = train(tmp_path / "first", source)
    second = train(tmp_path / "second", source, init=first.path)
    shutil.move(first.path, tmp_path / "moved")
    same_seed = train(tmp_path / "plain", source)
    assert untrained_spread(second) == untrained_spread(same_seed)
    trained = {
        r.value
        for run in (second, same_seed)
        for r in cognates.evaluate(run, only=["spread"], device="cpu")
        if (r.metric, r.subject) == ("effective-rank", "trained")
    }
    assert len(trained) == 2
