"""A lock between processes that the system releases when its holder dies."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PAUSE_SECONDS = 0.1


@contextlib.contextmanager
def locked(path: Path, *, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock file `path`, waiting for another process to release it.

    Args:
        path: created if need be, and removed in the end.
        waiting: called once if another process holds the lock.

    Yields:
        Whether the lock is held for sure. Where the file system has no locks, and on Windows, there
        is none: the lock saves work and leftovers, the data are safe without it.
    """
    handle, held = _acquire(path, waiting)
    try:
        yield held
    finally:
        # Removed while held; who waits for this very file sees that and makes a new one. Windows
        # does not remove open files.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def _acquire(path: Path, waiting: Callable[[], None]) -> tuple[int, bool]:
    said = False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        held = _try(handle)
        if held is None:
            return handle, False
        if held and _is_file_of(handle, path):
            return handle, True
        os.close(handle)
        if not held:
            if not said:
                waiting()
                said = True
            time.sleep(_PAUSE_SECONDS)


def _is_file_of(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _try(handle: int) -> bool | None:
    """Return whether the lock was free, or None where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
