"""Runs of a method with a target, a second optimiser and averaged weights, from start to model."""

import json

import pytest
import torch
from safetensors.torch import load_file

from cognates.errors import CollapseError, CollapseWarning, ConfigError, Interrupted, NonFiniteError
from cognates.methods.registry import get
from cognates.training import checkpoint, loop
from cognates.training.checkpoint import read_model


def weights(run, folder="checkpoint"):
    return load_file(run / folder / "weights.safetensors")


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def hsic(config, changed):
    """Return a function that makes the configuration of a tiny run of ssl-hsic."""

    def make(*, method=(), **fields):
        small = {"dim": 8, "hidden": 16, **dict(method)}
        return changed(config, method=get("ssl-hsic")(**small), **fields)

    return make


@pytest.mark.parametrize("form", ["exact", "features"])
def test_a_stopped_and_resumed_run_equals_an_undisturbed_one(
    hsic, tmp_path, stop_at, monkeypatch, form
):
    config = hsic(method={"exact_up_to": 8192 if form == "exact" else 0, "features": 8})
    loop.fit(config, tmp_path / "whole", progress=False)
    run, stopped = tmp_path / "parts", 0
    for step in (3, 1, 5):
        stop_at(step)
        with pytest.raises(Interrupted):
            loop.fit(config, run, resume=stopped > 0, progress=False)
        stopped += step
        assert checkpoint.recorded(run).step == stopped
    stop_at(1000)
    loop.fit(config, run, resume=True, progress=False)
    for folder in ("checkpoint", "model"):
        a, b = weights(tmp_path / "whole", folder), weights(run, folder)
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), name
    whole, parts = metrics(tmp_path / "whole"), metrics(run)
    for key in ("step", "terms", "spread", "gradient_norm", "extra"):
        assert [line[key] for line in whole] == [line[key] for line in parts]
    kept = weights(run)
    # the second optimiser's state and both averages are in the checkpoint
    assert kept["scale_moments"][1] > 0
    assert {"target", "average", "average_log_scale"} <= {name.split(".")[0] for name in kept}


def test_the_log_has_the_terms_the_scale_and_the_target_on_its_way_to_one(hsic, tmp_path):
    loop.fit(hsic(), tmp_path / "run", progress=False)
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [4, 8, 10, 12, 16]
    for line in lines:
        assert set(line["terms"]) == {"dependence", "variance"}
        assert line["loss"] == pytest.approx(sum(line["terms"].values()))
        assert set(line["extra"]) == {"kernel_scale", "target_decay"}
    assert lines[-1]["extra"]["kernel_scale"] != 1.0
    decays = [line["extra"]["target_decay"] for line in lines]
    assert decays == sorted(decays)
    assert 0.99 < decays[0] < 0.995 < decays[-1] < 1  # step 15 of 16


def test_the_model_keeps_the_averaged_encoder_and_nothing_of_training(hsic, tmp_path):
    run = tmp_path / "run"
    loop.fit(hsic(), run, progress=False)
    whole, kept = weights(run), weights(run, "model")
    assert {n.split(".")[0] for n in kept} == {"encoder", "projector", "log_scale", "scale_moments"}
    averaged = [name for name in whole if name.startswith("average.encoder")]
    parameters = [n for n in averaged if "running" not in n and "num_batches" not in n]
    assert len(parameters) >= 2
    for name in parameters:
        assert torch.equal(kept[name.removeprefix("average.")], whole[name])
    loaded = read_model(run)
    assert loaded.default_score == "kernel-disagreement"
    assert (loaded.bank.scores[loaded.default_score] >= 0).all()
    assert loaded.quantiles[-1] > 0


@pytest.mark.ddp
@pytest.mark.parametrize("form", ["exact", "features"])
def test_two_processes_equal_one_in_float64(hsic, changed, tmp_path, form):
    config = hsic(
        method={"exact_up_to": 8192 if form == "exact" else 0, "features": 64},
        training__precision="64-true",
        encoder__name="convnet",
        encoder__width=4,
        optimiser__learning_rate=1.0,
    )
    for devices in (1, 2):
        loop.fit(
            changed(config, training__devices=devices), tmp_path / str(devices), progress=False
        )
    one, two = tmp_path / "1", tmp_path / "2"
    assert len(metrics(one)) == 5
    for a, b in zip(metrics(one), metrics(two), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-9)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], abs=1e-8)
        assert b["extra"] == pytest.approx(a["extra"], abs=1e-12)
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-8)


def test_initial_weights_reach_the_target_and_the_average_too(hsic, changed, tmp_path):
    loop.fit(hsic(), tmp_path / "first", progress=False)
    on = hsic(encoder__init=str(tmp_path / "first"), training__epochs=1)
    on = changed(on, optimiser__learning_rate=1e-12, optimiser__weight_decay=0.0)
    loop.fit(on, tmp_path / "on", progress=False)
    first, found = weights(tmp_path / "first", "model"), weights(tmp_path / "on")
    for part in ("", "target.", "average."):
        name = "encoder.0.weight" if "encoder.0.weight" in first else _first_matrix(first)
        torch.testing.assert_close(found[f"{part}{name}"], first[name], rtol=0, atol=1e-6)


def _first_matrix(tensors):
    return next(n for n, t in tensors.items() if n.startswith("encoder") and t.ndim > 1)


# On images of noise, whose views share little, 1e8 overflows and 100 collapses.
@pytest.mark.parametrize(
    ("rate", "error", "said"),
    [(100.0, CollapseError, "collapsed"), (1e8, NonFiniteError, "Expected finite numbers")],
)
def test_a_rate_that_is_too_high_does_not_pass_in_silence(hsic, tmp_path, rate, error, said):
    config = hsic(
        method={"target": False, "average": 0.0},
        optimiser__learning_rate=rate,
        optimiser__warmup_epochs=0.0,
        training__epochs=12,
        training__stop_on_collapse=True,
    )
    with pytest.raises(error, match=said) as caught:
        loop.fit(config, tmp_path / "run", progress=False)
    assert caught.value.exit_code == 3
    assert said in (tmp_path / "run" / "log.txt").read_text()


def test_a_collapse_in_a_run_too_short_for_three_readings_is_warned_of(hsic, tmp_path):
    # The wiring of the recipes: a target, and an average whose weights are kept. The predictor's
    # batch norm holds points apart at rates that collapse without a target.
    config = hsic(optimiser__learning_rate=1e4, optimiser__warmup_epochs=0.0, training__epochs=7)
    assert config.method.target
    assert config.method.average > 0
    with pytest.warns(CollapseWarning, match="collapsed: .* at the last step, 28"):
        loop.fit(config, tmp_path / "run", progress=False)
    assert "collapsed" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize("fields", [{"batch_size": 8}, {"accumulate": 2}])
def test_a_batch_in_which_a_collapse_has_the_lower_loss_is_refused_before_a_folder_exists(
    hsic, tmp_path, fields
):
    run = tmp_path / "run"
    config = hsic(**{f"training__{name}": value for name, value in fields.items()})
    with pytest.raises(ConfigError, match=r"gamma\^2 \+ 1 = 10 images in each part.* got 8"):
        loop.fit(config, run, progress=False)
    assert not run.exists()
    loop.fit(hsic(method={"gamma": 2.0}, training__accumulate=2), run, progress=False)


def test_a_collapse_is_warned_of_where_the_run_is_not_to_stop(hsic, tmp_path):
    config = hsic(
        method={"target": False},
        optimiser__learning_rate=100.0,
        optimiser__warmup_epochs=0.0,
        training__epochs=12,
    )
    with pytest.warns(CollapseWarning, match="collapsed"):
        loop.fit(config, tmp_path / "run", progress=False)
