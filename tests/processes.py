"""Run one function in several real processes joined by gloo and collect what it returns.

The parent writes the arguments to a folder and starts `python processes.py ...` once per rank; a
child loads the test file by its path, so nothing depends on how pytest names test modules.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path


def run(function, *arguments, world=2, timeout=60.0):
    """Return [function(rank, world, *arguments) for every rank], computed in `world` processes.

    `function` is a top-level function of a test file; arguments and results go through torch.save.
    """
    import torch

    assert "." not in function.__qualname__, "only top-level functions can be run"
    source = inspect.getsourcefile(function)
    assert source is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(arguments, folder / "arguments.pt")
        command = [sys.executable, "-W", "error", __file__, source, function.__name__, name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        logs = [(folder / f"{rank}.log").open("w+") for rank in range(world)]
        children = [
            subprocess.Popen(
                [*command, str(rank), str(world)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            for rank, log in enumerate(logs)
        ]
        try:
            codes = _wait(children, timeout)
        finally:
            for child, log in zip(children, logs, strict=True):
                child.kill()
                child.wait()
                log.close()
        if codes != [0] * world:
            output = "\n".join((folder / f"{rank}.log").read_text() for rank in range(world))
            raise AssertionError(f"exit codes by rank {codes} (None: did not end)\n{output}")
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _wait(children, timeout):
    """Wait for all to end, one to fail (the others would hang) or the time to be up."""
    end = time.monotonic() + timeout
    while True:
        codes = [child.poll() for child in children]
        if None not in codes or any(codes) or time.monotonic() > end:
            return codes
        time.sleep(0.02)


def _child(source, function, folder, rank, world):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder, rank, world = Path(folder), int(rank), int(world)
    sys.path.insert(0, str(Path(__file__).parents[1]))  # for `tests.small`, as in the parent
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=30),
    )
    try:
        spec = importlib.util.spec_from_file_location("test_file", source)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        arguments = torch.load(folder / "arguments.pt", weights_only=False)
        torch.save(getattr(module, function)(rank, world, *arguments), folder / f"{rank}.pt")
        # A rank that leaves early would break the others' last collective.
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    _child(*sys.argv[1:])
