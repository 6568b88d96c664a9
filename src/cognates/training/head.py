r"""Fitting an uncertainty head on cached features of views: seconds to minutes.

As in `loop`, the fit is a function of (configuration, step), and the run directory is what any
other run has. A tenth of the images is held out; the head is that of the epoch after which they are
most likely, so that a few images cannot teach it to be sure of what it knows by heart.
"""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path

import numpy as np
import torch

from cognates.config import RunConfig
from cognates.data import loader
from cognates.data.images import Images
from cognates.errors import ConfigError
from cognates.evaluation.features import Transform
from cognates.evaluation.many_views import view_features
from cognates.methods.post_hoc import PostHoc
from cognates.random import fold_in
from cognates.training import checkpoint, loop, monitors, prepare, record

HELD_OUT = 10
"""One image in so many is held out."""
_MEASURED = 20_000
"""Representations whose covariance is taken: enough for thousands of dimensions."""
_CHUNK = 4096
_SAID_SECONDS = 10.0


def fit(config: RunConfig, run: Path, images: Images, *, features: Path | None, show: bool) -> None:
    """Fit the head of a prepared run and write all that belongs into its directory.

    Args:
        config: as `prepare.prepare` returned it; its method is `post-hoc`.
        run: the run directory.
        images: the training images.
        features: the folder for features of views; None: `features/` of the run.
        show: whether to print how far it is.

    Raises:
        ConfigError: the method is another one.
        NonFiniteError: the encoder gives a NaN, or the fit becomes one.
        StorageError: something cannot be written.
    """
    device = prepare.torch_device(config)
    method = prepare.build_method(config).to(device)
    if not isinstance(method, PostHoc):
        raise ConfigError(f"Expected the method 'post-hoc', got '{config.method.name}'.")
    method.eval()
    data = config.data
    views = view_features(
        method.encoder,
        images,
        views=config.views,
        transform=Transform.of(data.image_size, data.mean, data.std),
        folder=run / "features" if features is None else features,
        seed=config.training.seed,
        device=device,
        progress=_Told(len(config.views)) if show else None,
    )
    kept, held = split(len(views), config.training.seed)
    kept_views = len(config.views)
    with torch.no_grad():
        some = np.array(views[np.sort(kept)[: max(2, _MEASURED // kept_views)]])
        method.measure(torch.from_numpy(some).flatten(0, 1).to(device))
    _learn(config, run, method, views, kept, held, digest=images.digest, show=show)
    checkpoint.finalise(run, images=images, device=device)


def split(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to fit on and those held out, in a random order.

    Example:
        >>> kept, held = split(100, seed=0)
        >>> len(kept), len(held), len({*kept, *held})
        (90, 10, 100)
    """
    order = np.random.default_rng(fold_in(seed, "held out")).permutation(n)
    return order[n // HELD_OUT :], order[: n // HELD_OUT]


def _learn(
    config: RunConfig,
    run: Path,
    method: PostHoc,
    views: np.ndarray,
    kept: np.ndarray,
    held: np.ndarray,
    *,
    digest: str,
    show: bool,
) -> None:
    """Take the steps; leave the best head in `method` and a checkpoint in the run."""
    plan, device = config.training, method.centre.device
    batch = min(plan.batch_size, len(kept))
    per_epoch = loader.steps_per_epoch(len(kept), batch)
    total = per_epoch * plan.epochs
    optimiser = prepare.build_optimiser(config, method)
    begun = checkpoint.Progress(0, total, 0.0, 0, digest)
    log = record.Record(run, plan, begun, per_epoch=per_epoch, main=True, show=show)
    best, best_loss = copy.deepcopy(method.concentration.state_dict()), float("inf")
    with log:
        log.log(f"post-hoc on {device}: {len(kept)} images to fit on, {len(held)} held out.")
        for step in range(total):
            epoch, position = divmod(step, per_epoch)
            order = loader.permutation(plan.seed, epoch, len(kept))
            rows = kept[order[position * batch : (position + 1) * batch]]
            loss = method.train().loss_of(_rows(views, rows, device))
            loss.total.backward()
            norm = loop.clip_gradients(method, most=config.optimiser.clip)
            rate = loop.set_learning_rate(config, optimiser, step, per_epoch=per_epoch)
            optimiser.step()
            optimiser.zero_grad()
            done = step + 1
            log.tick(done)
            if done % per_epoch and done % record.LOG_STEPS:
                continue
            values = {name: term.item() for name, term in loss.terms.items()}
            reading = monitors.Reading(done, {**values, "gradient_norm": norm.item()})
            monitors.require_finite(reading)
            extra = {}
            if done % per_epoch == 0 and len(held):
                extra["held_out"] = _loss(method, views, held)
                if extra["held_out"] < best_loss:
                    best_loss = extra["held_out"]
                    best = copy.deepcopy(method.concentration.state_dict())
            seen = monitors.measure(loss.monitored)
            log.metrics(reading, list(values), 0.0, learning_rate=rate, **seen, extra=extra)
        if len(held):
            method.concentration.load_state_dict(best)
            log.log(f"Held-out images: {best_loss:.4f} nats per dimension at the best epoch.")
        ended = checkpoint.Progress(total, total, log.seconds, 0, digest)
        checkpoint.save_training(run, method, optimiser, ended)


def _rows(views: np.ndarray, rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return representations (v, n, d) of some images; sorted, for a disk reads so faster."""
    return torch.from_numpy(np.array(views[np.sort(rows)])).to(device).transpose(0, 1)


@torch.no_grad()
def _loss(method: PostHoc, views: np.ndarray, rows: np.ndarray) -> float:
    """Return the loss in eval mode, a mean over images."""
    method.eval()
    parts = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    device = method.centre.device
    sums = [method.loss_of(_rows(views, part, device)).total.item() * len(part) for part in parts]
    return sum(sums) / len(rows)


class _Told:
    """Says now and then how far the pass over the images is."""

    def __init__(self, views: int) -> None:
        self._views, self._began = views, time.monotonic()
        self._said = self._began

    def __call__(self, done: int, count: int) -> None:
        now = time.monotonic()
        if now - self._said < _SAID_SECONDS and done < count:
            return
        self._said = now
        left = (now - self._began) / done * (count - done)
        text = f"{self._views} views of {done:,} of {count:,} images embedded"
        print(f"{text}, {record.duration(left)} to go", file=sys.stderr, flush=True)
