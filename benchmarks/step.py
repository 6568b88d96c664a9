"""How much of a training step is not encoder, heads and optimiser.

    python benchmarks/step.py

The same `convnet` and heads take turns in two steps: the whole one, made of the functions of
`cognates.training.loop` (reading ahead, copies, views, loss, checks, records), and the bare one
(forward and backward of encoder and heads on views made before, a trivial loss, the optimiser).
What the whole step takes longer is the overhead. Training must keep it at 20 % or less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from record import write
from torch import Tensor

from cognates.config import EncoderConfig, RunConfig
from cognates.data import loader
from cognates.data.augment import make_views
from cognates.data.images import Images
from cognates.recipes.named import cifar10
from cognates.training import checkpoint, loop, monitors, prepare, record
from cognates.training.launch import agree, engine

TARGET = 0.20
IMAGES = 10_000
STATISTICS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Bench:
    """The parts of a run and the two kinds of step over them."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        """Set up what `loop.train` sets up."""
        pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, 32, 32), dtype=np.uint8)
        self.config = config
        self.images = Images(pixels=pixels, dataset="random", split="train")
        self.fabric = engine("cpu", devices=1, precision="32-true")
        self.method = prepare.build_method(config)
        self.optimiser = prepare.build_optimiser(config, self.method)
        self.model, self.stepper = self.fabric.setup(self.method, self.optimiser)
        self.readings = monitors.Readings(self.fabric.device)
        self.collapse = monitors.CollapseMonitor(stop=False)
        self.saver = checkpoint.Saver(folder, self.method, self.optimiser, minutes=5.0)
        self.per_epoch = IMAGES // config.training.batch_size
        begun = checkpoint.Progress()
        self.log = record.Record(
            folder, config.training, begun, per_epoch=self.per_epoch, main=True, show=False
        )
        self.micro_batches = loader.batches(
            self.images, seed=0, start_step=0, stop_step=10**6, batch_size=self._size
        )
        self.done = 0
        self.views = self._views()
        self.seconds = {"views": 0.0, "records": 0.0}

    @property
    def _size(self) -> int:
        return self.config.training.batch_size

    def _views(self) -> tuple[Tensor, ...]:
        pixels = torch.from_numpy(self.images.pixels[: self._size])
        mean, std = STATISTICS
        specs = self.config.views
        return make_views(
            pixels, specs, seed=0, step=0, n_global=self._size, start=0, mean=mean, std=std
        )

    def whole(self) -> None:
        """One step as `loop.train` does it, a record of metrics every ten steps included."""
        step = self.done
        terms, projections = loop.forward_backward(
            self.fabric, self.model, self.config, self.micro_batches
        )
        norm = loop.clip_gradients(self.method, most=self.config.optimiser.clip)
        rate = loop.set_learning_rate(self.config, self.optimiser, step, per_epoch=self.per_epoch)
        self.stepper.step()
        self.stepper.zero_grad()
        extra = self.method.after_step(step)
        self.done += 1
        began = time.perf_counter()
        measure = self.done % record.LOG_STEPS == 0
        agree(self.fabric, 0, self.saver.due(False), measured=measure)
        self.readings.push(self.done, {**terms, "gradient_norm": norm})
        arrived = self.readings.pop(everything=measure)
        for reading in arrived:
            monitors.require_finite(reading)
        self.log.tick(self.done)
        if measure:
            seen = monitors.measure(projections)
            waited = self.micro_batches.wait_seconds
            rest = {"learning_rate": rate, **seen, "extra": extra}
            self.log.metrics(arrived[-1], list(terms), waited, **rest)
            self.collapse.read(self.done, projections.shape, **seen)
        self.seconds["records"] += time.perf_counter() - began

    def bare(self) -> None:
        """Encoder, heads and optimiser alone, on views that are there, with a trivial loss."""
        loss = torch.zeros(())
        for view in self.views:
            h = self.method.encoder(view)
            p = self.method.predictor(self.method.projector(h))
            # The mean's gradient is as dense as that of a real loss.
            loss = loss + p.mean() + self.method.concentration(h).mean()
        loss.backward()
        self.stepper.step()
        self.stepper.zero_grad()

    def alone(self) -> float:
        """Return the seconds of making one step's views, nothing running beside it."""
        began = time.perf_counter()
        self._views()
        return time.perf_counter() - began


def main() -> None:
    """Measure, print a table and keep it."""
    options = _options()
    torch.set_num_threads(options.threads)
    config = cifar10("vi-simsiam")
    heads = {"dim": options.dim, "hidden": options.dim, "predictor_hidden": options.dim // 4}
    config = replace(
        config,
        method=replace(config.method, **heads),
        encoder=EncoderConfig(name="convnet"),
        data=replace(config.data, mean=STATISTICS[0], std=STATISTICS[1]),
        training=replace(config.training, batch_size=256, device="cpu"),
    )
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(config, Path(folder))
        with bench.log:
            for step in (bench.whole, bench.bare):
                _per_step(step, 3)
            bench.seconds["records"], warm = 0.0, bench.done
            pairs, views = [], []
            for _ in range(options.repeats):
                pairs.append(_interleaved(bench, options.steps))
                views.append(statistics.median(bench.alone() for _ in range(5)))
            records = bench.seconds["records"] / (bench.done - warm)
            bench.micro_batches.close()
    _report(options, pairs, statistics.median(views), records)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="of each kind per repeat")
    parser.add_argument("--dim", type=int, default=2048, help="the recipe's; less: lighter heads")
    parser.add_argument("--name", default="step", help="of the result files")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _per_step(step: Callable[[], None], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - began) / count


def _interleaved(bench: Bench, steps: int) -> tuple[float, float]:
    """Return the mean seconds of a whole and of a bare step, taking turns step by step."""
    whole = bare = 0.0
    for _ in range(steps):
        whole += _per_step(bench.whole, 1)
        bare += _per_step(bench.bare, 1)
    return whole / steps, bare / steps


def _report(
    options: argparse.Namespace, pairs: list[tuple[float, float]], views: float, records: float
) -> None:
    shares = [1 - bare / whole for whole, bare in pairs]
    whole, bare = (statistics.median(values) for values in zip(*pairs, strict=True))
    share = statistics.median(shares)
    rows = [
        ["whole step", f"{1e3 * whole:.1f}", "100 %"],
        ["encoder, heads, optimiser", f"{1e3 * bare:.1f}", f"{1 - share:.1%}"],
        ["all the rest", f"{1e3 * (whole - bare):.1f}", f"{share:.1%}"],
        ["of it: two views", f"{1e3 * views:.1f}", f"{views / whole:.1%}"],
        ["of it: checks and records", f"{1e3 * records:.1f}", f"{records / whole:.1%}"],
    ]
    text = write(
        options.name,
        title="The training step on `convnet`, batch 256, CIFAR recipe",
        note=(
            f"VI-SimSiam with heads of {options.dim} features on 32 x 32 x 3 random images, "
            f"{options.threads} threads; whole and bare steps take turns, medians of "
            f"{options.repeats} repeats of {options.steps} steps each. "
            f"Everything that is not encoder, heads and optimiser: {share:.1%} of the step "
            f"(repeats {min(shares):.1%} to {max(shares):.1%}; target at most {TARGET:.0%})."
        ),
        header=["part", "ms", "share"],
        rows=rows,
        data={
            "share": share,
            "shares": shares,
            "target": TARGET,
            "threads": options.threads,
            "dim": options.dim,
            "seconds": {"whole": whole, "bare": bare, "views": views, "records": records},
            "images_per_second": 256 / whole,
        },
    )
    print(text)


if __name__ == "__main__":
    main()
