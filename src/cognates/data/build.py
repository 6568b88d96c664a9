"""Building one cache entry: aside, whole, and only then under its name."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from cognates.data.arrays import ArrayReader
from cognates.data.splits import Reader
from cognates.data.worker import Job, Target, run, write_all
from cognates.errors import DataError, StorageError

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[int], None]
"""What a progress bar is to the code that works: a function of the number of images done."""

# Files per job: small, so that the bar moves and the last process does not work alone for long.
_FILES_PER_JOB = 32
# Array images per block: 1,024 of 64x64x3 are 12 MB.
_ARRAYS_PER_BLOCK = 1024
# Below this, decoding takes less time than starting a process (0.3 s measured).
_FEW_FILES = 128
_MOST_WORKERS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What an entry holds and how it is made."""

    reader: Reader
    rows: np.ndarray
    size: int
    """Stored height and width in pixels."""
    channels: int
    workers: int | None
    progress: bool
    what: str
    """For a person: data set and split."""

    @property
    def image_bytes(self) -> int:
        """Bytes of one stored image."""
        return self.channels * self.size**2


def build(entry: Path, plan: Plan, *, alone: bool) -> None:
    """Decode a plan's images and put the finished folder at `entry`.

    Args:
        entry: absent, or of no use any more.
        plan: what to put there.
        alone: whether no other process can be building the same entry.

    Raises:
        DataError: not one image can be read.
        StorageError: the disk has too little space.
        OSError: the disk cannot be written.
    """
    if alone:
        _sweep(entry)
    needed = len(plan.rows) * plan.image_bytes
    free = shutil.disk_usage(entry.parent).free
    if needed > free:
        raise StorageError(
            f"Expected {_in_words(needed)} free in '{entry.parent}' for the image cache, got"
            f" {_in_words(free)}: free some space or set COGNATES_CACHE to a folder on another"
            " disk."
        )
    if plan.progress:
        console().print(
            f"Image cache of {plan.what}: {len(plan.rows):,} images of"
            f" {plan.channels}x{plan.size}x{plan.size}, {_in_words(needed)} in {entry.parent}"
            f" ({_in_words(free)} free).",
            highlight=False,
        )
    aside = entry.with_name(f"{entry.name}.{uuid.uuid4().hex[:8]}.new")
    aside.mkdir()
    try:
        dropped = _fill(aside / "pixels.npy", plan)
        if len(dropped) == len(plan.rows):
            raise _nothing_readable(plan, dropped)
        _write_records(aside, plan, dropped)
        _put(aside, entry)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def console() -> Console:
    """Return the console on standard error that progress is printed to."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True)


def _in_words(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(count, 1e5) / 1e6:.1f} MB"


def _sweep(entry: Path) -> None:
    """Remove what a killed builder of the same entry left; its lock is ours now."""
    for leftover in entry.parent.glob(f"{entry.name}.*.new"):
        shutil.rmtree(leftover, ignore_errors=True)
    # Not whole, or it would have been used: a crash of the machine, or somebody's hand.
    shutil.rmtree(entry, ignore_errors=True)


def _nothing_readable(plan: Plan, dropped: list[tuple[int, str]]) -> DataError:
    some = ", ".join(
        f"{plan.reader.name(int(plan.rows[at]))} ({reason})" for at, reason in dropped[:5]
    )
    return DataError(
        f"Expected at least one readable image in {plan.what}, got none among"
        f" {len(plan.rows)} files: {some}; check the folder."
    )


def _fill(file: Path, plan: Plan) -> list[tuple[int, str]]:
    """Write `pixels.npy`; return (position in the split, reason) of what is missing, sorted."""
    header = _npy_header(len(plan.rows), plan)
    with file.open("wb") as out:
        out.write(header)
    dropped: list[tuple[int, str]] = []
    with _progress_bar(plan) as advance:
        if _stored_as_they_are(plan):
            _copy(file, len(header), plan, advance)
        else:
            target = Target(str(file), len(header), plan.size, plan.channels)
            jobs, workers = _jobs(plan), _workers(plan)
            with contextlib.closing(run(jobs, target, workers)) as outcomes:
                for done in outcomes:
                    dropped += done.unreadable
                    advance(done.number)
    dropped.sort()
    with file.open("r+b", buffering=0) as out:
        kept = len(plan.rows) - len(dropped)
        _close_gaps(out, len(header), [at for at, _ in dropped], plan)
        out.truncate(len(header) + kept * plan.image_bytes)
        out.seek(0)
        final = _npy_header(kept, plan)
        assert len(final) == len(header)
        write_all(out, memoryview(final))
        os.fsync(out.fileno())
    return dropped


def _npy_header(count: int, plan: Plan) -> bytes:
    """Return a .npy header; numpy leaves room in it for a first axis of any length."""
    stream = io.BytesIO()
    shape = (count, plan.channels, plan.size, plan.size)
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def _jobs(plan: Plan) -> Iterator[Job]:
    first = 0
    for items in plan.reader.batches(plan.rows, _FILES_PER_JOB):
        yield Job(first, items)
        first += len(items)


def _workers(plan: Plan) -> int:
    if plan.workers is not None:
        return plan.workers
    # Small arrays are resized faster than they are sent to another process.
    if len(plan.rows) < _FEW_FILES or not sys.executable:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, _MOST_WORKERS)


def _stored_as_they_are(plan: Plan) -> bool:
    if not isinstance(plan.reader, ArrayReader):
        return False
    return all(
        min(part.shape[1:3]) == plan.size and (len(part.shape) == 3 or part.shape[3] in (1, 3))
        for part in plan.reader.parts
    )


def _copy(file: Path, offset: int, plan: Plan, advance: Advance) -> None:
    """Write array images of the right size, block by block."""
    with file.open("r+b", buffering=0) as out:
        out.seek(offset)
        for block in plan.reader.batches(plan.rows, _ARRAYS_PER_BLOCK):
            pixels = _channels_first(np.asarray(block), plan)
            write_all(out, np.ascontiguousarray(pixels).data.cast("B"))
            advance(len(pixels))


def _channels_first(block: np.ndarray, plan: Plan) -> np.ndarray:
    height, width = block.shape[1:3]
    top, left = (height - plan.size) // 2, (width - plan.size) // 2
    block = block[:, top : top + plan.size, left : left + plan.size]
    if block.ndim == 3:
        block = block[..., None]
    if plan.channels == 1 and block.shape[3] == 3:
        # Pillow's luma (ITU-R BT.601 in 16-bit integers), so that arrays and files agree.
        weights = np.array([19595, 38470, 7471], np.uint32)
        block = ((block @ weights + 0x8000) >> 16).astype(np.uint8)[..., None]
    block = block.transpose(0, 3, 1, 2)
    return np.broadcast_to(block, (len(block), plan.channels, plan.size, plan.size))


def _close_gaps(out: IO[bytes], offset: int, gaps: list[int], plan: Plan) -> None:
    """Move the rows behind each missing one forward."""
    if not gaps:
        return
    each = plan.image_bytes
    block = max(1, (8 << 20) // each)
    position = gaps[0]
    for gap, following in zip(gaps, [*gaps[1:], len(plan.rows)], strict=True):
        for start in range(gap + 1, following, block):
            count = min(block, following - start)
            out.seek(offset + start * each)
            data = out.read(count * each)
            out.seek(offset + position * each)
            write_all(out, memoryview(data))
            position += count


def _write_records(folder: Path, plan: Plan, dropped: list[tuple[int, str]]) -> None:
    record = {
        "what": plan.what,
        "images": len(plan.rows) - len(dropped),
        "size": plan.size,
        "channels": plan.channels,
        "unreadable": dropped,
    }
    lines = [f"{reason}\t{plan.reader.name(int(plan.rows[at]))}\n" for at, reason in dropped]
    for name, text in (
        ("entry.json", json.dumps(record, indent=1)),
        ("unreadable.txt", "".join(lines)),
    ):
        with (folder / name).open("w", encoding="utf8", errors="surrogateescape") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())


def _put(aside: Path, entry: Path) -> None:
    try:
        aside.rename(entry)
    except OSError:
        # Without a working lock another process may have been first; its entry is as good.
        if not (entry / "entry.json").is_file():
            raise


@contextlib.contextmanager
def _progress_bar(plan: Plan) -> Iterator[Advance]:
    if not plan.progress:
        yield lambda count: None
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task("Decoding", total=len(plan.rows), rate="")

        def advance(count: int) -> None:
            bar.advance(task, count)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:,.0f} images/s" if speed else "")

        yield advance
