"""A few short-lived processes that compute one thing together: what a check of a method needs.

`launch` is for runs. These processes are forked where that is possible, which takes a tenth of a
second instead of several and lets them know classes that no module can be imported for.
"""

from __future__ import annotations

import io
import multiprocessing
import tempfile
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from cognates.errors import CognatesError


def forked(
    function: Callable[..., Any], arguments: tuple[Any, ...], *, world: int, timeout: float = 60.0
) -> list[Any]:
    """Return [function(rank, world, *arguments) for every rank], computed in `world` processes.

    The processes are joined by gloo on the CPU. They are forked; where there is a GPU, which a fork
    breaks, or no fork, they are started anew.

    Args:
        function: a function of a module.
        arguments: picklable.
        world: processes, at least 1.
        timeout: seconds until all must have answered.

    Raises:
        CognatesError: a process raised an error, ended, or took too long; with its sentence.
    """
    fork = "fork" in multiprocessing.get_all_start_methods() and not torch.cuda.is_available()
    context: Any = multiprocessing.get_context("fork" if fork else "spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "rendezvous").as_uri()
        pipes = [context.Pipe(duplex=False) for _ in range(world)]
        processes = [
            context.Process(
                target=_child, args=(pipe, meeting, function, rank, world, arguments), daemon=True
            )
            for rank, (_, pipe) in enumerate(pipes)
        ]
        with warnings.catch_warnings():
            # Python 3.12 warns of threads, of which a child here uses none.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            for process, (_, pipe) in zip(processes, pipes, strict=True):
                process.start()
                pipe.close()
        try:
            return _collect([reader for reader, _ in pipes], timeout)
        finally:
            for process, (reader, _) in zip(processes, pipes, strict=True):
                process.join(timeout=5.0)
                process.kill()
                process.join()
                reader.close()


def _collect(readers: list[Connection], timeout: float) -> list[Any]:
    answers: dict[int, Any] = {}
    while len(answers) < len(readers):
        left = [reader for rank, reader in enumerate(readers) if rank not in answers]
        ready = wait(left, timeout=timeout)
        if not ready:
            raise CognatesError(f"Expected {len(readers)} processes to answer in {timeout:g} s.")
        for reader in ready:
            assert isinstance(reader, Connection)
            rank = readers.index(reader)
            try:
                fine, data = reader.recv()
            except EOFError as error:
                raise CognatesError(f"Process {rank} ended without an answer.") from error
            if not fine:
                raise CognatesError(f"Process {rank} raised {data}")
            answers[rank] = torch.load(io.BytesIO(data), weights_only=False)
    return [answers[rank] for rank in range(len(readers))]


def _child(
    pipe: Connection,
    meeting: str,
    function: Callable[..., Any],
    rank: int,
    world: int,
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    try:
        distributed.init_process_group(
            "gloo",
            init_method=meeting,
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=30),
        )
        answer = io.BytesIO()
        torch.save(function(rank, world, *arguments), answer)
        pipe.send((True, answer.getvalue()))
        # A rank that leaves early would break the others' last collective.
        distributed.barrier()
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
