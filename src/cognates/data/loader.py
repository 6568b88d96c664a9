"""Which images make up a step, and reading them ahead of time.

The order of the images is a function of (seed, epoch) and the step's images one of (seed, step), so
a resumed run reads what the undisturbed one would have read.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cognates.data.images import Images
from cognates.data.tokens import TokenTable
from cognates.errors import ConfigError
from cognates.random import fold_in

# Micro-batches read ahead: one that is being used up and one in reserve.
_AHEAD = 2
_POLL_SECONDS = 0.1


class LoadedBatch(NamedTuple):
    """One process's share of one micro-batch."""

    step: int
    part: int
    """Which of the step's micro-batches, from 0."""
    pixels: Tensor
    """(n, c, s, s) uint8 on the device."""
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride] - hides tuple.index
    """(n,) int64 on the CPU: positions in the training set."""
    start: int
    """Position of the first image in the global batch."""
    text: Tensor | None = None
    """(n, l) or (n, c, l) int64 on the device: one or c captions per image, where they are read."""


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Return the number of whole batches in `n` images; the rest of an epoch is left out.

    Raises:
        ConfigError: the batch is larger than the data set.

    Example:
        >>> steps_per_epoch(1000, 256)
        3
    """
    if batch_size < 1 or batch_size > n:
        raise ConfigError(
            f"Expected a batch size between 1 and the {n} training images, got {batch_size}:"
            " choose a smaller batch or give more images."
        )
    return n // batch_size


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """Return the order of `n` images in an epoch, (n,) int64: a function of (seed, epoch) alone.

    Example:
        >>> order = permutation(0, 3, 5)
        >>> sorted(order.tolist())
        [0, 1, 2, 3, 4]
    """
    return np.random.default_rng(fold_in(seed, "order", epoch)).permutation(n)


def batches(
    images: Images,
    *,
    seed: int,
    start_step: int,
    stop_step: int,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    part: int = 0,
    parts: int = 1,
    device: torch.device | str = "cpu",
    pin: bool = False,
    captions: TokenTable | None = None,
) -> Batches:
    """Read the batches of steps [start_step, stop_step) ahead of time, in one thread.

    The global batch of a step is cut into `parts` contiguous micro-batches, and each of these into
    `world` contiguous slices: what is gathered in rank order is a slice of the global batch.

    Args:
        images: the training images.
        seed: of the run.
        start_step: first step, from 0 at the start of training.
        stop_step: one after the last step.
        batch_size: images per step over all processes and micro-batches.
        rank: this process, in [0, world).
        world: number of processes.
        part: micro-batch to begin with at `start_step`.
        parts: micro-batches per step (gradient accumulation).
        device: where pixels are put.
        pin: copy through pinned memory; only for a GPU.
        captions: of the training images, some of which are drawn for each image; None: none are.

    Returns:
        An iterator of `LoadedBatch`, `parts` per step; close it, or use it in a `with` statement.

    Raises:
        ConfigError: the batch is larger than the data set or not divisible by parts x world.
    """
    per_epoch = steps_per_epoch(len(images), batch_size)
    if batch_size % (parts * world):
        raise ConfigError(
            f"Expected a batch size divisible by {parts} micro-batches x {world} processes,"
            f" got {batch_size}."
        )
    order = _Order(seed, len(images), batch_size, per_epoch)
    plan = _Plan(order, start_step, stop_step, rank, world, part, parts, batch_size)
    return Batches(images.pixels, plan, torch.device(device), pin, captions)


class Batches:
    """An iterator of `LoadedBatch` with a thread that reads ahead."""

    def __init__(
        self,
        pixels: np.ndarray,
        plan: _Plan,
        device: torch.device,
        pin: bool,
        captions: TokenTable | None = None,
    ) -> None:
        """Start reading."""
        self.wait_seconds = 0.0
        """Seconds that the consumer has spent waiting for data so far."""
        self._device = device
        self._pin = pin
        self._captions, self._seed = captions, plan.order.seed
        self._queue: queue.Queue[_Read | BaseException | None] = queue.Queue(maxsize=_AHEAD)
        self._stop = threading.Event()
        # The thread does not know this object: once it is dropped, the thread is stopped.
        self._thread = threading.Thread(
            target=_read_ahead,
            args=(pixels, plan, pin, self._queue, self._stop),
            name="cognates-loader",
            daemon=True,
        )
        self._finish = weakref.finalize(self, _halt, self._queue, self._stop, self._thread)
        self._thread.start()

    def __iter__(self) -> Batches:
        """Return itself."""
        return self

    def __next__(self) -> LoadedBatch:
        """Return the next micro-batch; raises what the reading thread raised."""
        if self._stop.is_set():
            raise StopIteration
        begin = time.perf_counter()
        read = self._queue.get()
        self.wait_seconds += time.perf_counter() - begin
        if read is None:
            self.close()
            raise StopIteration
        if isinstance(read, BaseException):
            self.close()
            raise read
        pixels = read.pixels.to(self._device, non_blocking=self._pin)
        text = None
        if self._captions is not None:
            drawn = self._captions.draw(read.index, seed=self._seed, step=read.step)
            text = drawn.to(self._device)
        return LoadedBatch(read.step, read.part, pixels, read.index, read.start, text)

    def close(self) -> None:
        """Stop the thread and wait for its end; closing twice does nothing."""
        self._finish()

    def __enter__(self) -> Batches:
        """Return itself; the end of the `with` statement closes it."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()


class _Read(NamedTuple):
    step: int
    part: int
    pixels: Tensor
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride] - hides tuple.index
    start: int


class _Order:
    """The images of each step; the permutation of an epoch is made once."""

    def __init__(self, seed: int, n: int, batch_size: int, per_epoch: int) -> None:
        self.seed, self._n = seed, n
        self._batch_size, self._per_epoch = batch_size, per_epoch
        self._epoch = -1
        self._permutation = np.empty(0, np.int64)

    def of_step(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, self._per_epoch)
        if epoch != self._epoch:
            self._permutation, self._epoch = permutation(self.seed, epoch, self._n), epoch
        start = position * self._batch_size
        return self._permutation[start : start + self._batch_size]


class _Plan(NamedTuple):
    order: _Order
    start_step: int
    stop_step: int
    rank: int
    world: int
    first_part: int
    parts: int
    batch_size: int


def _read_ahead(
    pixels: np.ndarray,
    plan: _Plan,
    pin: bool,
    out: queue.Queue[_Read | BaseException | None],
    stop: threading.Event,
) -> None:
    try:
        count = plan.batch_size // (plan.parts * plan.world)
        for step in range(plan.start_step, plan.stop_step):
            index = plan.order.of_step(step)
            for part in range(plan.first_part if step == plan.start_step else 0, plan.parts):
                start = (part * plan.world + plan.rank) * count
                rows = index[start : start + count]
                read = _Read(
                    step, part, gather(pixels, rows, pin=pin), torch.from_numpy(rows.copy()), start
                )
                if not _put(out, read, stop):
                    return
        _put(out, None, stop)
    except BaseException as error:
        # Raised again in the consumer.
        _put(out, error, stop)


def gather(pixels: np.ndarray, rows: np.ndarray, *, pin: bool = False) -> Tensor:
    """Copy rows of a (n, c, h, w) uint8 array, often a memory map, into a tensor of their own."""
    batch = torch.empty((len(rows), *pixels.shape[1:]), dtype=torch.uint8, pin_memory=pin)
    # `clip` is the mode in which numpy writes to `out` without a copy in between.
    np.take(pixels, rows, axis=0, out=batch.numpy(), mode="clip")
    return batch


def _put(
    out: queue.Queue[_Read | BaseException | None],
    item: _Read | BaseException | None,
    stop: threading.Event,
) -> bool:
    while not stop.is_set():
        try:
            out.put(item, timeout=_POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False


def _halt(
    out: queue.Queue[_Read | BaseException | None], stop: threading.Event, thread: threading.Thread
) -> None:
    stop.set()
    while not out.empty():
        out.get_nowait()
    if thread is not threading.current_thread():
        thread.join()
