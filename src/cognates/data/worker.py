"""Decoding processes: they are sent paths or bytes and write pixels straight into the cache file.

Plain child processes and not `multiprocessing`: that would import the user's main script again in
every child, and a ten-line script without a `__main__` guard would start itself over and over.
A child that dies on an image (a decoder that crashes, the memory's end) costs that image only.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from cognates.data.decode import Item, UnreadableError, decode
from cognates.errors import StorageError

# The child takes over the parent's module path before it imports anything of ours.
_START = (
    "import sys, pickle; sys.path[:] = pickle.load(sys.stdin.buffer);"
    " from cognates.data.worker import serve; serve()"
)


class Job(NamedTuple):
    """Consecutive images."""

    first: int
    """The row of the first one in the cache file."""
    items: Sequence[Item] | np.ndarray


class Done(NamedTuple):
    """What became of a job."""

    first: int
    number: int
    """Images in the job."""
    unreadable: list[tuple[int, str]]
    """(row, reason)"""


@dataclass(frozen=True)
class Target:
    """The file that rows are written to."""

    file: str
    offset: int
    """Bytes before the first row."""
    size: int
    channels: int


def fill(target: Target, job: Job) -> list[tuple[int, str]]:
    """Decode a job's images into their rows.

    Returns:
        (row, reason) of the images that could not be decoded; their rows are not written.

    Raises:
        OSError: the file cannot be written, the disk being full for one.
    """
    unreadable: list[tuple[int, str]] = []
    each = target.channels * target.size**2
    with Path(target.file).open("r+b", buffering=0) as file:
        for row, item in enumerate(job.items, job.first):
            try:
                pixels = decode(item, size=target.size, channels=target.channels)
            except UnreadableError as error:
                unreadable.append((row, str(error)))
                continue
            file.seek(target.offset + row * each)
            write_all(file, pixels.data.cast("B"))
    return unreadable


def write_all(file: IO[bytes], data: memoryview) -> None:
    """Write all of `data` to an unbuffered file, which may take less than it is given."""
    while data:
        data = data[file.write(data) :]


def run(jobs: Iterable[Job], target: Target, workers: int) -> Generator[Done, None, None]:
    """Yield the outcome of every job as it is done, in no particular order.

    Args:
        jobs: consumed lazily, a job at a time per process.
        target: where the pixels go.
        workers: processes; 0 decodes in this one.

    Raises:
        OSError: the file cannot be written.
        StorageError: a process could not be started.
    """
    if workers == 0:
        for job in jobs:
            yield Done(job.first, len(job.items), fill(target, job))
        return
    crew = _Crew(jobs, target, workers)
    try:
        yield from crew.results()
    finally:
        crew.stop()


class _Crew:
    """One thread per process; each hands over a job and waits for its outcome."""

    def __init__(self, jobs: Iterable[Job], target: Target, workers: int) -> None:
        self._jobs = iter(jobs)
        self._target = target
        self._lock = threading.Lock()
        self._stopped = False
        self._children: set[subprocess.Popen[bytes]] = set()
        self._results: queue.Queue[Done | BaseException | None] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._work, name=f"cognates-decode-{i}", daemon=True)
            for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def results(self) -> Iterator[Done]:
        working = len(self._threads)
        while working:
            # With a time limit, as an unlimited wait cannot be interrupted on Windows.
            try:
                result = self._results.get(timeout=0.5)
            except queue.Empty:
                continue
            if result is None:
                working -= 1
            elif isinstance(result, BaseException):
                raise result
            else:
                yield result

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            children = list(self._children)
        for child in children:
            child.kill()
        for thread in self._threads:
            thread.join()

    def _next(self) -> Job | None:
        with self._lock:
            return None if self._stopped else next(self._jobs, None)

    def _work(self) -> None:
        child: subprocess.Popen[bytes] | None = None
        try:
            while (job := self._next()) is not None:
                child = child if child is not None else self._start()
                done = _ask(child, job)
                if done is None and not self._stopped:
                    self._finish(child)
                    child, done = None, self._one_by_one(job)
                if done is None:
                    break
                self._results.put(done)
        except BaseException as error:
            # Raised again in the thread that reads the results.
            self._results.put(error)
        finally:
            if child is not None:
                self._finish(child)
            self._results.put(None)

    def _one_by_one(self, job: Job) -> Done | None:
        """Do a job that killed a process again, one by one, to find the image that does it."""
        unreadable: list[tuple[int, str]] = []
        child: subprocess.Popen[bytes] | None = None
        try:
            for row, item in enumerate(job.items, job.first):
                child = child if child is not None else self._start()
                done = _ask(child, Job(row, [item]))
                if self._stopped:
                    return None
                if done is not None:
                    unreadable += done.unreadable
                    continue
                unreadable.append((row, "its decoder crashed"))
                self._finish(child)
                child = None
        finally:
            if child is not None:
                self._finish(child)
        return Done(job.first, len(job.items), unreadable)

    def _start(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            # -P: the working directory is not searched for modules.
            [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        with self._lock:
            self._children.add(child)
            stopped = self._stopped
        if stopped:
            child.kill()
        with contextlib.suppress(OSError):
            pickle.dump(list(sys.path), _pipe(child.stdin))
            pickle.dump(self._target, _pipe(child.stdin))
            _pipe(child.stdin).flush()
        if _receive(child) != "ready" and not self._stopped:
            self._finish(child)
            raise StorageError(
                f"Expected a decoding process to start with '{sys.executable}', got none: pass"
                " workers=0 to decode in one process."
            )
        return child

    def _finish(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._children.discard(child)
        child.kill()
        for stream in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                _pipe(stream).close()
        child.wait()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _receive(child: subprocess.Popen[bytes]) -> object:
    """Return the child's next message, or None when it has died."""
    try:
        return pickle.load(_pipe(child.stdout))
    except (EOFError, OSError, pickle.UnpicklingError):
        return None


def _ask(child: subprocess.Popen[bytes], job: Job) -> Done | None:
    """Send a job and wait for its outcome; None when the child has died."""
    try:
        pickle.dump(job, _pipe(child.stdin), protocol=pickle.HIGHEST_PROTOCOL)
        _pipe(child.stdin).flush()
    except OSError:
        return None
    answer = _receive(child)
    if isinstance(answer, OSError):
        raise answer
    return Done(job.first, len(job.items), answer) if isinstance(answer, list) else None


def serve() -> None:
    """Run as a decoding process: read jobs from standard input, answer on standard output."""
    import signal

    # Ctrl-C reaches every process of the terminal; the parent decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = sys.stdin.buffer
    # Decoding libraries that print would garble the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    target: Target = pickle.load(requests)
    _answer(answers, "ready")
    while True:
        try:
            job: Job = pickle.load(requests)
        except EOFError:
            return
        try:
            _answer(answers, fill(target, job))
        except OSError as error:
            _answer(answers, error)


def _answer(answers: IO[bytes], message: object) -> None:
    pickle.dump(message, answers)
    answers.flush()
