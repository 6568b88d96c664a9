"""Decoding processes: the same pixels, and a crash costs one image."""

import io
import os
import threading

import numpy as np
import pytest
from PIL import Image

from cognates.data import worker
from cognates.data.decode import decode
from cognates.data.worker import Job, Target, run
from cognates.errors import StorageError


def encoded(value):
    stream = io.BytesIO()
    Image.new("L", (6, 6), value).save(stream, "PNG")
    return stream.getvalue()


def jobs(items, size=4):
    for start in range(0, len(items), size):
        yield Job(start, items[start : start + size])


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "pixels"
    path.write_bytes(b"head")
    return Target(str(path), 4, 8, 3)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_rows_are_written_in_order_whatever_the_number_of_processes(target, workers, picture):
    root = os.path.dirname(target.file)  # noqa: PTH120
    from pathlib import Path

    files = [str(picture(Path(root) / f"{i}.jpg", seed=i)) for i in range(10)]
    arrays = np.random.default_rng(0).integers(0, 256, (10, 9, 9, 3), dtype=np.uint8)
    items = [*files, *(encoded(20 * i) for i in range(10)), *arrays]
    done = list(run(jobs(items), target, workers))
    assert sum(part.number for part in done) == 30
    assert all(not part.unreadable for part in done)
    data = np.frombuffer(Path(target.file).read_bytes()[4:], np.uint8).reshape(30, 3, 8, 8)
    expected = np.stack([decode(item, size=8, channels=3) for item in items])
    np.testing.assert_array_equal(data, expected)


def test_unreadable_rows_are_reported_with_their_position(target):
    items = [encoded(1), b"text", encoded(2), b"", encoded(3)]
    done = list(run(jobs(items, 2), target, 2))
    found = sorted(item for part in done for item in part.unreadable)
    assert found == [(1, "not an image"), (3, "empty file")]


def test_a_process_that_dies_costs_the_image_that_kills_it(target, monkeypatch):
    # A child whose decoder ends the process at an image that says so.
    deadly = (
        "import sys, pickle, os; sys.path[:] = pickle.load(sys.stdin.buffer);"
        " import cognates.data.worker as w; real = w.decode\n"
        "def decode(item, **options):\n"
        "    if item == b'deadly': os._exit(7)\n"
        "    return real(item, **options)\n"
        "w.decode = decode; w.serve()"
    )
    monkeypatch.setattr(worker, "_START", deadly)
    items = [encoded(i) for i in range(12)]
    items[5] = b"deadly"
    done = list(run(jobs(items), target, 2))
    assert sum(part.number for part in done) == 12
    assert [item for part in done for item in part.unreadable] == [(5, "its decoder crashed")]
    from pathlib import Path

    data = np.frombuffer(Path(target.file).read_bytes()[4:], np.uint8).reshape(12, 3, 8, 8)
    assert data[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 10, 11]


def test_a_process_that_does_not_start_is_a_clear_error(target, monkeypatch):
    monkeypatch.setattr(worker, "_START", "raise SystemExit(1)")
    with pytest.raises(StorageError, match="pass workers=0"):
        list(run(jobs([encoded(1)]), target, 1))


def test_an_error_of_the_writer_or_of_the_jobs_reaches_the_caller(target):
    missing = target.__class__("/nowhere/pixels", 4, 8, 3)
    with pytest.raises(FileNotFoundError):
        list(run(jobs([encoded(1)]), missing, 2))

    def broken():
        yield Job(0, [encoded(1)])
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        list(run(broken(), target, 2))


def test_stopping_early_ends_threads_and_processes(target):
    before = threading.active_count()
    outcomes = run(jobs([encoded(i % 200) for i in range(400)], 2), target, 3)
    next(outcomes)
    assert threading.active_count() > before
    outcomes.close()
    assert threading.active_count() == before


def test_the_working_directory_is_not_searched_for_modules(target, tmp_path, monkeypatch):
    (tmp_path / "pickle.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    assert len(list(run(jobs([encoded(1)]), target, 1))) == 1
