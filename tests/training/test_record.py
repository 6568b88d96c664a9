import errno
import json
import os
import sys

import pytest
import torch

from cognates.config import TrainingConfig
from cognates.errors import StorageError
from cognates.training import record
from cognates.training.checkpoint import Progress
from cognates.training.monitors import Reading
from cognates.training.record import Record

PLAN = TrainingConfig(epochs=5, batch_size=32)
MEASURED = {"learning_rate": 0.1, "spread": 0.9, "effective_rank": 5.0, "extra": {}}


def make(run, *, step=0, main=True, show=True):
    return Record(run, PLAN, Progress(step, seconds=100.0), per_epoch=10, main=main, show=show)


def add(log, step):
    log.metrics(
        Reading(step, {"a": 1.0, "b": 0.5, "gradient_norm": 2.0}), ["a", "b"], 0.0, **MEASURED
    )


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_line_holds_the_loss_as_the_sum_of_its_terms(tmp_path, capsys):
    with make(tmp_path) as log:
        add(log, 10)
    (line,) = lines(tmp_path)
    assert line["loss"] == 1.5
    assert line["terms"] == {"a": 1.0, "b": 0.5}
    assert line["gradient_norm"] == 2.0
    assert line["epoch"] == 1.0
    assert line["time"] >= 100.0
    assert capsys.readouterr().err == ""  # ten seconds have not passed


def test_lines_after_the_checkpoint_and_half_lines_are_cut(tmp_path):
    with make(tmp_path) as log:
        for step in (10, 20, 30):
            add(log, step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    with make(tmp_path, step=20) as log:
        add(log, 30)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]


def test_where_there_is_no_terminal_a_line_comes_every_ten_seconds(tmp_path, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(record.time, "monotonic", lambda: now[0])
    with make(tmp_path) as log:
        for step in range(1, 51):
            now[0] += 1.0
            log.tick(step)
            if step % 5 == 0:
                add(log, step)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "40 steps to go at 32 images/s: about 40 s."
    assert [line.split("  ")[0] for line in said[1:]] == [
        f"epoch {epoch}.0/5" for epoch in (1, 2, 3, 4, 5)
    ]
    assert said[2].endswith("a 1  b 0.5  spread 0.90  32 images/s  waiting 0%  30 s to go")


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with make(tmp_path) as log:
        log.log("hello")
        for step in range(1, 21):
            log.tick(step)
        add(log, 20)
    said = capsys.readouterr().err
    assert "hello" in said
    assert "20/50" in said
    assert "spread 0.90" in said


def test_only_the_first_process_records(tmp_path, capsys):
    with make(tmp_path, main=False) as log:
        log.log("hello")
        log.tick(10)
        add(log, 10)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_what_is_not_shown_is_still_in_the_log_with_the_error_that_ended_the_run(tmp_path, capsys):
    def fail():
        with make(tmp_path, show=False) as log:
            log.log("hello")
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fail()
    assert capsys.readouterr() == ("", "")
    text = (tmp_path / "log.txt").read_text()
    assert "Z hello\n" in text
    assert "ValueError: bad" in text


def test_a_full_disk_is_a_sentence_that_says_how_to_go_on(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with make(tmp_path) as log:
        monkeypatch.setattr(type(tmp_path), "open", full)
        with pytest.raises(StorageError, match=r"No space left.*cognates train --resume") as caught:
            add(log, 10)
        monkeypatch.undo()
    assert caught.value.exit_code == 4


def test_the_environment_says_what_a_run_depended_on():
    found = record.environment(device="cpu", devices=2)
    assert found["torch"] == torch.__version__
    assert found["devices"] == 2
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"]
    assert found["commit"] is None or len(found["commit"]) == 40
    assert set(found) == {
        "cognates", "python", "torch", "numpy", "platform", "cpu", "cores", "threads", "device",
        "devices", "commit", "command",
    }  # fmt: skip
