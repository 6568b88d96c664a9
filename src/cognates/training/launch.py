"""Processes, devices and signals: who does the work of a run, and how it is asked to stop.

One device runs in this process. Several get new processes that are made here, and not by running
the command line again: the same call then works from a script and from the command line.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from cognates.errors import CognatesError, Interrupted

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Precision = Literal["32-true", "bf16-mixed", "64-true"]

# Seconds that the other processes get to end by themselves after one of them has failed.
GRACE = 10.0
# What every process of a run needs; torch's optimisers import the last one.
_PRELOADED = ("cognates.training.loop", "lightning_fabric", "torch._dynamo")


class Signals:
    """Notes SIGINT and SIGTERM inside a `with` block instead of dying of them.

    The first signal is a request: whoever holds the object finishes the step, saves and stops. The
    second one acts as if nobody listened, unless the object is `patient` (in worker processes,
    which a terminal's Ctrl-C reaches twice: directly and through the parent).
    """

    def __init__(self, *, patient: bool = False) -> None:
        """Nothing is installed before the `with` block."""
        self.received = 0
        self._patient = patient
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        """Install the handlers in the main thread; Python refuses them in others."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the previous handlers back."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = self.received or number
        if not self._patient:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def launch(worker: Callable[..., None], arguments: tuple[Any, ...], *, devices: int) -> None:
    """Call `worker(signals, *arguments)` in this process, or in `devices` new ones.

    Args:
        worker: a function of a module, so that a new process can import it.
        arguments: picklable.
        devices: number of processes, at least 1.

    Raises:
        CognatesError: the first one that a process raised.
    """
    if devices == 1:
        with Signals() as signals:
            worker(signals, *arguments)
        return

    import torch
    from torch.multiprocessing.spawn import ProcessException, start_processes

    threads = max(1, torch.get_num_threads() // devices)
    # A fork server imports the library once for all processes and holds no GPU that a fork breaks.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(list(_PRELOADED))
    errors = context.SimpleQueue()
    place = (str(Path.cwd()), dict(os.environ), devices, _free_port(), threads)
    with Signals() as signals:
        processes = start_processes(
            _process,
            args=(worker, arguments, place, errors),
            nprocs=devices,
            join=False,
            daemon=True,
            start_method=method,
        )
        assert processes is not None
        try:
            _wait(processes, signals, errors)
        except ProcessException:
            # A process whose peer is gone fails in its next collective: the peer's error counts.
            if errors.empty():
                raise
    if not errors.empty():
        error = errors.get()
        if isinstance(error, Interrupted):
            error.exit_code = 128 + (signals.received or signal.SIGTERM)
        raise error
    if signals.received:
        raise Interrupted("Interrupted before the first step.", 128 + signals.received)


def engine(device: str, *, devices: int, precision: Precision) -> Fabric:
    """Return Lightning Fabric for this process: device, precision and its place among `devices`."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    if devices == 1:
        return Fabric(accelerator=device, devices=1, precision=precision)
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        precision=precision,
        strategy=DDPStrategy(),
        plugins=[LightningEnvironment()],  # never a cluster's: `launch` has made the processes
    )
    fabric.launch()
    return fabric


def agree(fabric: Fabric, stop: int, save: bool, *, measured: bool) -> tuple[int, bool]:
    """Return what all processes do after this step: a signal that reached one of them stops all.

    On several GPUs it is asked only where numbers are read anyway, because reading waits.
    """
    if fabric.world_size == 1:
        return stop, save
    if fabric.device.type == "cuda" and not measured:
        return 0, False

    import torch

    # The first process's clock decides when to save: it is the one that does.
    asked = torch.tensor([stop, int(save and fabric.is_global_zero)], device=fabric.device)
    torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
    return int(asked[0]), bool(asked[1])


def _process(
    rank: int,
    worker: Callable[..., None],
    arguments: tuple[Any, ...],
    place: tuple[str, dict[str, str], int, int, int],
    errors: Any,  # noqa: ANN401  (a SimpleQueue of a context has no public type)
) -> None:
    folder, environment, devices, port, threads = place
    with Signals(patient=True) as signals:
        import lightning_fabric  # noqa: F401  (sets the level that is raised below)
        import torch
        from torch import distributed

        # The server may be older than what the caller has changed since.
        os.chdir(folder)
        os.environ.update(environment)
        # Lightning Fabric reads its place among the processes from these variables.
        os.environ.update(LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        os.environ.update(WORLD_SIZE=str(devices), NODE_RANK="0")
        # Each process would announce itself on the terminal.
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        # A filter of one channel has two layouts that are the same: no reason to say so.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        torch.set_num_threads(threads)
        try:
            worker(signals, *arguments)
        except CognatesError as error:
            if rank == 0 or not isinstance(error, Interrupted):
                errors.put(error)
        finally:
            # Without this gloo now and then ends a rank with "terminate called".
            if distributed.is_initialized():
                distributed.destroy_process_group()


def _wait(processes: Any, signals: Signals, errors: Any) -> None:  # noqa: ANN401  (torch's and multiprocessing's private types)
    forwarded, failed = False, None
    while not processes.join(timeout=0.2):
        if signals.received and not forwarded:
            forwarded = True
            for process in processes.processes:
                if process.is_alive():
                    os.kill(process.pid, signal.SIGTERM)
        if not errors.empty():
            failed = failed or time.monotonic()
            if time.monotonic() - failed > GRACE:
                for process in processes.processes:
                    process.kill()
                return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
