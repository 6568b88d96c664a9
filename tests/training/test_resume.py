"""Runs in processes of their own that are killed, interrupted or share a batch."""

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from cognates.errors import CognatesError, ConfigError, Interrupted
from cognates.methods.registry import get, load_plugin
from cognates.training import loop

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def spawner():
    """A server that has imported the library: a run in a new process then starts at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "cognates.training.loop",
            "cognates.methods.vi_simsiam",
            "lightning_fabric",
            "torch._dynamo",
        ]
    )
    return context


def train(config, run, resume):
    torch.set_num_threads(1)
    loop.fit(config, run, resume=resume, progress=False)


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


def test_a_run_killed_at_random_moments_ends_with_the_weights_of_an_undisturbed_one(
    config, changed, tmp_path, spawner, weights, metrics
):
    config = changed(config, training__epochs=10, training__checkpoint_minutes=0.0)
    train(config, tmp_path / "whole", False)
    run, moments, killed = tmp_path / "killed", random.Random(0), 0
    for attempt in range(40):
        # a run that was killed before it had written its configuration starts anew
        arguments = (config, run, (run / "config.json").exists())
        process = spawner.Process(target=train, args=arguments)
        process.start()
        # some kills fall into the start, others into steps and into writing a checkpoint
        if attempt % 4:
            before = (run / "checkpoint" / "state.json").exists() and run.stat().st_mtime_ns
            wait_until(
                lambda p=process, b=before: (
                    not p.is_alive() or (run.exists() and run.stat().st_mtime_ns != b)
                )
            )
        time.sleep(moments.uniform(0.0, 0.25))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode == 0 or (run / "model" / "model.json").exists():
            break
        killed += 1
        if killed == 5:
            break
    assert killed >= 3
    if not (run / "model" / "model.json").exists():
        process = spawner.Process(target=train, args=(config, run, (run / "config.json").exists()))
        process.start()
        process.join()
        assert process.exitcode == 0
    whole, parts = weights(tmp_path / "whole"), weights(run)
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name
    a, b = metrics(tmp_path / "whole"), metrics(run)
    assert [line["step"] for line in a] == [line["step"] for line in b]
    assert [line["terms"] for line in a] == [line["terms"] for line in b]
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "checkpoint", "model", "metrics.jsonl"} <= names


def command(config, run, path):
    """What the command line does with a run: print the sentence, exit with the code."""
    sys.stderr = path.open("w")
    torch.set_num_threads(1)
    try:
        loop.fit(config, run)
    except CognatesError as error:
        sys.exit(print(error, file=sys.stderr, flush=True) or error.exit_code)


@pytest.mark.parametrize(
    ("number", "code", "devices"),
    [
        (signal.SIGINT, 130, 1),
        (signal.SIGTERM, 143, 1),
        pytest.param(signal.SIGINT, 130, 2, marks=pytest.mark.ddp),
    ],
)
def test_a_signal_ends_a_run_with_its_exit_code_and_how_to_resume(
    config, changed, tmp_path, spawner, number, code, devices, metrics
):
    config = changed(config, training__epochs=5000, training__devices=devices)
    run, said = tmp_path / "run", tmp_path / "said.txt"
    process = spawner.Process(target=command, args=(config, run, said))
    process.start()
    wait_until(lambda: (run / "metrics.jsonl").exists() and len(metrics(run)) > 3)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == code
    *before, last = said.read_text().splitlines()
    step = json.loads((run / "checkpoint" / "state.json").read_text())["step"]
    assert 10 < step < 20_000
    assert last == (
        f"Stopped after step {step} of 20000 and saved: go on with `cognates train --resume {run}`."
    )
    if devices == 1:  # after ten steps a run says how long it will take; workers print elsewhere
        assert any("images/s: about" in line for line in before)


def share_a_batch(config, changed, tmp_path, capfd, metrics, precision, **fields):
    """Train on one and on two processes and return both run directories."""
    config = changed(
        config,
        training__epochs=5,
        training__precision=precision,
        method__hidden=24,
        optimiser__learning_rate=1.0,
        **fields,
    )
    capfd.readouterr()
    for devices in (1, 2):
        several = changed(config, training__devices=devices)
        loop.fit(several, tmp_path / f"{precision}-{devices}", progress=False)
    output, error = capfd.readouterr()
    assert output == ""
    assert error == ""
    runs = tmp_path / f"{precision}-1", tmp_path / f"{precision}-2"
    assert [line["step"] for line in metrics(runs[0])][-1] == 20
    return runs


@pytest.mark.ddp
def test_two_processes_equal_one_in_float64_and_come_close_in_float32(
    config, changed, tmp_path, capfd, record_property, weights, metrics
):
    runs = share_a_batch(
        config,
        changed,
        tmp_path,
        capfd,
        metrics,
        "64-true",
        encoder__name="convnet",
        encoder__width=4,
    )
    assert "num_batches_tracked" in " ".join(weights(runs[0]))
    for one, two in zip(*map(metrics, runs), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-9)
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], abs=1e-8)
        assert two["spread"] == pytest.approx(one["spread"], abs=1e-6)  # measured in float32
    a, b = map(weights, runs)
    assert a.keys() == b.keys()
    assert all(value.dtype != torch.float32 for value in a.values())
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-8)

    runs = share_a_batch(
        config,
        changed,
        tmp_path,
        capfd,
        metrics,
        "32-true",
        encoder__name="convnet",
        encoder__width=4,
    )
    losses = max(
        abs(one["loss"] - two["loss"]) for one, two in zip(*map(metrics, runs), strict=True)
    )
    a, b = map(weights, runs)
    moved = max(float((a[name] - b[name]).abs().max()) for name in a)
    record_property("float32 difference of the loss", losses)
    record_property("float32 difference of the weights", moved)
    with capfd.disabled():
        print(f"\nfloat32, 2 processes against 1, 20 steps: loss {losses:.2e}, weights {moved:.2e}")
    assert losses < 0.1  # rounding, which batch norm over few images amplifies


@pytest.mark.ddp
def test_a_run_of_two_processes_resumes_on_one_and_a_plug_in_reaches_both(
    config, changed, tmp_path, capfd, metrics
):
    example = REPOSITORY / "examples" / "my_method.py"
    name = load_plugin(example)[0]
    config = changed(config, method=get(name)(), plugin=str(example), training__epochs=100)
    run = tmp_path / "run"

    def interrupt():
        # this process listens from before the first step until the last one
        wait_until(lambda: (run / "metrics.jsonl").exists() and metrics(run))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Interrupted):
        loop.fit(changed(config, training__devices=2), run, progress=False)
    stopped = json.loads((run / "checkpoint" / "state.json").read_text())["step"]
    assert 0 < stopped < 400
    assert not (run / "model").exists()
    before, found = metrics(run), json.loads((run / "environment.json").read_text())
    assert found["devices"] == 2

    loop.fit(config, run, resume=True, progress=False)
    assert capfd.readouterr() == ("", "")
    assert json.loads((run / "checkpoint" / "state.json").read_text())["step"] == 400
    assert (run / "model" / "model.json").exists()
    assert metrics(run)[: len(before)] == before
    steps = [line["step"] for line in metrics(run)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 400
    assert json.loads((run / "environment.json").read_text())["devices"] == 1


@pytest.mark.ddp
def test_an_error_in_one_of_two_processes_reaches_the_caller_as_a_sentence(
    config, changed, tmp_path
):
    config = changed(config, training__devices=2, training__epochs=200)
    run = tmp_path / "run"
    run.mkdir()
    # the first process cannot record, the second one knows nothing of it
    (run / "metrics.jsonl").mkdir()
    with pytest.raises(OSError, match=r"Cannot write '.*metrics\.jsonl'") as caught:
        loop.fit(config, run, progress=False)
    assert type(caught.value).__name__ == "StorageError"


def test_a_device_that_is_not_there_is_said_so(config, changed, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="got 0: use --device cpu"):
        loop.fit(changed(config, training__device="cuda"), tmp_path / "run", progress=False)
