r"""The training loop, from top to bottom.

A run is a function of (configuration, step): every random number is folded from the seed and the
step, so a run that was killed goes on from its checkpoint bit by bit as if nothing had happened,
and no generator is saved. The loop knows steps only.

With several processes, process r takes rows [r n/w, (r + 1) n/w) of each batch of n; views are
drawn for the whole batch and applied to the rows, methods gather, and batch norm is synchronised,
so the gradient is that of one process. With accumulation the method sees one part of the batch at
a time and the losses are averaged: equal to the whole batch where no term couples images (no batch
norm, no negatives); or, with `accumulation: exact`, the encoder does (see `parts`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cognates import optim
from cognates.config import RunConfig
from cognates.data import augment, loader
from cognates.errors import ConfigError, DataError, Interrupted
from cognates.random import fold_in
from cognates.training import captions, checkpoint, monitors, parts, prepare, record, storage
from cognates.training.launch import Signals, agree, engine, launch
from cognates.training.theory import TheoryMonitor
from cognates.types import Batch, Loss, Terms

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricModule

    from cognates.data.images import Images


DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.float32, "64-true": torch.float64}
"""The dtype of views and losses at each precision."""


def fit(
    config: RunConfig, out: str | Path, *, resume: bool = False, progress: bool = True
) -> RunConfig:
    r"""Train a method and write its run directory, from the images to `model/`.

    Args:
        config: the run.
        out: the run directory; it must not hold another run.
        resume: go on with the run in `out`, bit by bit as if it had not been interrupted.
        progress: print how far the run is, as a moving line on a terminal and else now and then.

    Returns:
        The configuration as recorded, with the measured normalisation.

    Raises:
        ConfigError: `out` holds another run, the run to resume is finished or differs, or the
            configuration does not fit the data.
        DataError: the source cannot be read, or changed since the run started.
        NonFiniteError: a loss term or the gradient became NaN or infinite.
        CollapseError: the representation collapsed and `training.stop_on_collapse` is set.
        StorageError: something cannot be written, or no checkpoint is intact.
        Interrupted: SIGINT or SIGTERM; the state was saved.
    """
    run, started = Path(out), datetime.now(UTC)
    before = checkpoint.recorded(run) if resume else None
    if before and before.step == before.total and (run / "model" / "model.json").is_file():
        raise ConfigError(
            f"Expected an unfinished run, got '{run}' that has done all its {before.total} steps: "
            f"train on with --init {run} and another --out."
        )
    config, images = prepare.prepare(config, run, resume=resume, progress=progress)
    if before and before.data != images.digest:
        raise DataError(
            f"Expected the images that '{run}' started with, got others from {config.data.source}: "
            "put them back, or start another run."
        )
    device = prepare.torch_device(config)
    found = record.environment(device=device, devices=config.training.devices)
    found["started"] = started.isoformat()
    record.write_environment(run, found, finished=None, seconds=None)
    shared = images if config.training.devices == 1 else None  # a memory map is sent as a copy
    launch(train, (config.to_json(), str(run), progress, shared), devices=config.training.devices)
    checkpoint.finalise(run, images=images, device=device)
    ended = datetime.now(UTC)
    seconds = round((ended - started).total_seconds(), 3)
    record.write_environment(run, found, finished=ended.isoformat(), seconds=seconds)
    record.log(run, f"Finished: the model is in {run / 'model'}.", show=progress)
    return config


def train(signals: Signals, text: str, out: str, show: bool, images: Images | None = None) -> None:
    """Do the steps of a run that are left, in this process as one of `devices`.

    Args:
        signals: tells whether someone asked the run to stop.
        text: the configuration in JSON; a plug-in's classes could not be sent to a new process.
        out: the run directory.
        show: whether the first process prints.
        images: the training images; None: they are read from the cache.
    """
    config, run = prepare.own_config(text, Path(out)), Path(out)
    plan = config.training
    images = prepare.load_images(config) if images is None else images
    per_epoch = loader.steps_per_epoch(len(images), plan.batch_size)
    total = per_epoch * plan.epochs

    fabric = engine(prepare.torch_device(config), devices=plan.devices, precision=plan.precision)
    synchronise = fabric.world_size > 1 and plan.sync_batchnorm
    method = prepare.build_method(config, synchronise=synchronise)
    optimiser = prepare.build_optimiser(config, method)
    method.total_steps = total
    model, stepper = fabric.setup(method, optimiser)
    begun, note = checkpoint.load_training(run, method, optimiser)
    readings = monitors.Readings(fabric.device)
    collapse = monitors.CollapseMonitor(stop=plan.stop_on_collapse, low=begun.low_readings)
    saver = checkpoint.Saver(run, method, optimiser, minutes=plan.checkpoint_minutes)
    main = fabric.is_global_zero
    theory = TheoryMonitor(config, images, device=fabric.device)
    log = record.Record(run, plan, begun, per_epoch=per_epoch, main=main, show=show)
    micro_batches = _micro_batches(config, images, fabric, run, begun.step, total)

    with _own_globals(fabric, DTYPES[plan.precision]), closing(micro_batches), log:
        log.log(note or f"{config.method.name} on {fabric.device}: step {begun.step} of {total}.")
        for step in range(begun.step, total):
            terms, projections = forward_backward(fabric, model, config, micro_batches)
            norm = clip_gradients(method, most=config.optimiser.clip)
            rate = set_learning_rate(config, optimiser, step, per_epoch=per_epoch)
            stepper.step()
            stepper.zero_grad()
            extra = method.after_step(step)

            done = step + 1
            epoch_end = done % per_epoch == 0
            measure = epoch_end or done % record.LOG_STEPS == 0
            stop, save = agree(fabric, signals.received, saver.due(epoch_end), measured=measure)
            save = save or stop > 0 or done == total
            readings.push(done, {**terms, "gradient_norm": norm})
            arrived = readings.pop(everything=measure or save)
            for reading in arrived:
                monitors.require_finite(reading)
            log.tick(done)
            if measure:
                seen = monitors.measure(projections)
                more = {"extra": extra, **(theory.read(method) if epoch_end and main else {})}
                waited = micro_batches.wait_seconds
                log.metrics(arrived[-1], list(terms), waited, learning_rate=rate, **seen, **more)
                warning = collapse.read(done, projections.shape, last=done == total, **seen)
                if warning:
                    log.log(warning)
            if save and main:
                saver.save(
                    checkpoint.Progress(done, total, log.seconds, collapse.low, images.digest)
                )
            if stop:
                raise Interrupted(
                    f"Stopped after step {done} of {total} and saved: go on with "
                    f"{storage.resume_command(run)}.",
                    128 + stop,
                )


def forward_backward(
    fabric: Fabric,
    model: _FabricModule,
    config: RunConfig,
    micro_batches: Iterator[loader.LoadedBatch],
) -> tuple[Terms, Tensor]:
    """Compute one step's gradient; return its terms, averaged over the parts, and projections."""
    plan, losses = config.training, []
    batches, pieces = parts.shared_out(plan)
    for micro in itertools.islice(micro_batches, batches):
        _seed_forward(fabric, fold_in(plan.seed, "forward", micro.step, micro.part))
        views = augment.make_views(
            micro.pixels,
            config.views,
            seed=plan.seed,
            step=micro.step,
            n_global=plan.batch_size,
            start=micro.start,
            mean=config.data.mean,
            std=config.data.std,
            dtype=DTYPES[plan.precision],
        )
        last = micro.part == batches - 1
        alone = fabric.world_size == 1
        with nullcontext() if last or alone else fabric.no_backward_sync(model):
            with parts.encoded_in(model, pieces):
                loss: Loss = model(Batch(views, micro.index, micro.step, plan.seed, micro.text))
            fabric.backward(loss.total / batches)
        losses.append(Loss({k: v.detach() for k, v in loss.terms.items()}, loss.monitored))
    terms = {k: torch.stack([loss.terms[k] for loss in losses]).mean(0) for k in losses[0].terms}
    return terms, torch.cat([loss.monitored for loss in losses])


def clip_gradients(method: nn.Module, *, most: float | None) -> Tensor:
    """Return the norm of the gradient of all parameters, after which it is at most `most`."""
    parameters = [p for p in method.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if most is not None:
        nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


def set_learning_rate(
    config: RunConfig, optimiser: Optimizer, step: int, *, per_epoch: int
) -> float:
    """Set the learning rate of the zero-based `step` in every group; return the schedule's."""
    rate = optim.warmup_cosine(
        step,
        peak=prepare.peak_rate(config),
        warmup_steps=round(config.optimiser.warmup_epochs * per_epoch),
        total_steps=per_epoch * config.training.epochs,
    )
    for group in optimiser.param_groups:
        group["lr"] = prepare.peak_rate(config) if group["constant"] else rate
    return rate


def _micro_batches(
    config: RunConfig, images: Images, fabric: Fabric, run: Path, start: int, stop: int
) -> loader.Batches:
    return loader.batches(
        images,
        seed=config.training.seed,
        start_step=start,
        stop_step=stop,
        batch_size=config.training.batch_size,
        rank=fabric.global_rank,
        world=fabric.world_size,
        parts=parts.shared_out(config.training)[0],
        device=fabric.device,
        pin=fabric.device.type == "cuda",
        captions=captions.table_of(config, images, run),
    )


def _seed_forward(fabric: Fabric, seed: int) -> None:
    """Make what `forward` draws from torch's global generators a function of the step as well."""
    seed = fold_in(seed, fabric.global_rank)
    # torch.manual_seed also walks the stack for every other kind of device: milliseconds.
    torch.default_generator.manual_seed(seed)
    if fabric.device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextmanager
def _own_globals(fabric: Fabric, dtype: torch.dtype) -> Iterator[None]:
    """Give torch's generators and default dtype back to the caller as they were."""
    before = torch.get_default_dtype()
    # Fabric casts what `forward` returns to the default dtype.
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []):
            yield
    finally:
        torch.set_default_dtype(before)
