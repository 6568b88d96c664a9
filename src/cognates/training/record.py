"""What a run tells while it learns: metrics.jsonl, log.txt, environment.json and the terminal."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cognates.errors import StorageError
from cognates.training import storage

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from cognates.config import TrainingConfig
    from cognates.training.checkpoint import Progress
    from cognates.training.monitors import Reading

LOG_STEPS = 10
"""Steps between two lines of metrics.jsonl; the last step of an epoch has one as well."""
_QUIET_SECONDS = 10.0  # between two lines where there is no terminal for a moving bar


class Record:
    """Writes the record of one run and shows it; on any process but the first it does nothing.

    Args:
        run: the run directory.
        plan: its epochs and batch size.
        begun: how far it is; metrics after that are cut, they will be written again.
        per_epoch: steps of an epoch.
        main: whether this process records.
        show: whether anything is printed.
    """

    def __init__(
        self,
        run: Path,
        plan: TrainingConfig,
        begun: Progress,
        *,
        per_epoch: int,
        main: bool,
        show: bool,
    ) -> None:
        """Open nothing yet."""
        self._run, self._main, self._show = run, main, main and show
        self._total, self._per_epoch = per_epoch * plan.epochs, per_epoch
        self._batch_size, self._first, self._before = plan.batch_size, begun.step, begun.seconds
        self._bar: Bar | None = None
        self._start_clock()

    def __enter__(self) -> Record:
        """Cut what a killed run wrote after its checkpoint and start the display."""
        if self._main:
            try:
                _cut_metrics(self._run / "metrics.jsonl", self._first)
            except OSError as error:
                raise _cannot_write(self._run / "metrics.jsonl", error) from error
        if self._show and sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
            self._bar.add_task("", total=self._total, completed=self._first, text="")
        self._start_clock()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the display and log what ended the run."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._main and error is not None and not isinstance(error, StorageError):
            # Whoever catches the error prints it; a full disk cannot be written to.
            log(self._run, f"{type(error).__name__}: {error}", show=False)

    @property
    def seconds(self) -> float:
        """Time spent training, summed over resumptions."""
        return self._before + time.monotonic() - self._began

    def log(self, text: str) -> None:
        """Add a line to log.txt and print it."""
        if self._main:
            log(self._run, text, show=self._show and self._bar is None)
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)

    def tick(self, step: int) -> None:
        """Move the display to `step` (steps done); after ten steps say how long it will take."""
        if not self._main:
            return
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step)
        if step - self._first == 1:
            self._warm = time.monotonic()  # the first step warms up and would mislead
        if step - self._first == 10:
            per_step = (time.monotonic() - self._warm) / 9
            self.log(
                f"{self._total - step} steps to go at {self._batch_size / per_step:,.0f} images/s: "
                f"about {duration(per_step * (self._total - step))}."
            )

    def metrics(
        self,
        reading: Reading,
        terms: list[str],
        wait_seconds: float,
        **measured: Any,  # noqa: ANN401  (JSON data)
    ) -> None:
        """Add a line to metrics.jsonl and show it.

        Args:
            reading: the step and its numbers.
            terms: which of the numbers add up to the loss.
            wait_seconds: time spent waiting for data since the loop began.
            measured: learning_rate, spread, effective_rank, extra (floats or scalar tensors); at an
                epoch's end theory.
        """
        if not self._main:
            return
        now = time.monotonic()
        step, values = reading
        if "extra" in measured:
            measured["extra"] = {name: float(value) for name, value in measured["extra"].items()}
        first, then, waited = self._window
        self._window = (step, now, wait_seconds)
        elapsed = max(now - then, 1e-9)
        line = {
            "step": step,
            "epoch": step / self._per_epoch,
            "time": round(self.seconds, 3),
            "loss": sum(values[name] for name in terms),
            "terms": {name: values.pop(name) for name in terms},
            **values,
            **measured,
            "images_per_second": round((step - first) * self._batch_size / elapsed, 1),
            "data_wait": round(min(1.0, (wait_seconds - waited) / elapsed), 4),
        }
        path = self._run / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise _cannot_write(path, error) from error
        self._display(step, line, now)

    def _start_clock(self) -> None:
        self._began = self._shown = self._warm = time.monotonic()
        self._window = (self._first, self._began, 0.0)

    def _display(self, step: int, line: Mapping[str, Any], now: float) -> None:
        terms = "  ".join(f"{name} {value:.4g}" for name, value in line["terms"].items())
        left = (now - self._began) / max(1, step - self._first) * (self._total - step)
        text = (
            f"epoch {line['epoch']:.1f}/{self._total // self._per_epoch}  {terms}  "
            f"spread {line['spread']:.2f}  {line['images_per_second']:,.0f} images/s  "
            f"waiting {line['data_wait']:.0%}"
        )
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], text=text)
        elif self._show and (now - self._shown >= _QUIET_SECONDS or step == self._total):
            self._shown = now
            print(f"{text}  {duration(left)} to go", file=sys.stderr, flush=True)


def log(run: Path, text: str, *, show: bool) -> None:
    """Add a line with the time to the run's log.txt, and print the text if `show`."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    path = run / "log.txt"
    try:
        with path.open("a", encoding="utf8") as file:
            file.write(f"{stamp} {text}\n")
    except OSError as error:
        raise _cannot_write(path, error) from error
    if show:
        print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return a time in words.

    Example:
        >>> duration(4), duration(250), duration(7260)
        ('4 s', '4 min 10 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def environment(*, device: str, devices: int) -> dict[str, Any]:
    """Return what a run depends on besides its configuration: versions, machine, command."""
    import numpy as np
    import torch

    import cognates

    return {
        "cognates": cognates.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "devices": devices,
        "commit": _commit(),
        "command": shlex.join(sys.argv),
    }


def write_environment(run: Path, found: Mapping[str, Any], **more: Any) -> None:  # noqa: ANN401  (JSON data)
    """Replace the run's environment.json by `found` and `more`."""
    text = json.dumps({**found, **more}, indent=2) + "\n"
    storage.write_atomic(run / "environment.json", text.encode())


def _cut_metrics(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue  # half a line, written while the process was killed
    storage.write_atomic(path, "".join(kept).encode())


def _cannot_write(path: Path, error: OSError) -> StorageError:
    if isinstance(error, StorageError):
        return error
    return StorageError(
        f"Cannot write '{path}' ({error.strerror}): the last checkpoint is intact; free some "
        f"space, then {storage.resume_command(path.parent)}."
    )


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=Console(stderr=True),
        refresh_per_second=4,  # drawing takes time from the training step
    )


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of the working tree that this file belongs to, None outside of one."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
