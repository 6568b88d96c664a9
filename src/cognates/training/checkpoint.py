r"""What a run leaves on disk: `checkpoint/` to go on from, `model/` to use.

A checkpoint is written to `checkpoint.new`, flushed and renamed; the one before it is
`checkpoint.old` until the rename is done. At every moment one complete checkpoint exists, and the
checksums in `state.json` tell a complete one from a damaged one. Nothing is pickled.
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from cognates.config import RunConfig, encode
from cognates.errors import CognatesWarning, ConfigError, StorageError
from cognates.methods.base import Method
from cognates.methods.registry import plugin_of
from cognates.training import captions, storage
from cognates.training.prepare import build_method, load_images, parse_config, read_config

if TYPE_CHECKING:
    from cognates.data.images import Images
    from cognates.evaluation.relative import Bank

_VERSION = 1
_WEIGHTS, _OPTIMISER, _STATE = "weights.safetensors", "optimiser.safetensors", "state.json"
_MODEL, _BANK = "model.json", "bank.safetensors"
SAVE_SHARE = 0.02
"""An epoch's end is saved only where that keeps saving below this share of the time."""


@dataclass(frozen=True)
class Progress:
    """How far a run is: with its configuration and the tensors all that it needs to go on."""

    step: int = 0
    """Optimiser steps done."""
    total: int = 0
    """Steps of the whole run."""
    seconds: float = 0.0
    """Time spent training, summed over resumptions."""
    low_readings: int = 0
    """Bad readings in a row of the collapse monitor."""
    data: str = ""
    """Digest of the training images."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A trained method, ready to embed, with what puts one image among the training images."""

    config: RunConfig
    method: Method
    """In evaluation mode, float32, on the CPU."""
    default_score: str
    own_score: str
    """What the method itself gives; the default score may compare it with training images'."""
    quantiles: np.ndarray | None
    """(101,) float64: the percentiles 0 to 100 of the default score over the bank's images; None:
    they are not known."""
    bank: Bank | None
    """Training images with their scores; None: the run has none beside its weights."""
    tokenizer: str | None = None
    """The tokenizer in JSON of a method that reads captions."""


class Saver:
    """Saves one run's training state and says when that is due."""

    def __init__(
        self, run: Path, module: nn.Module, optimiser: Optimizer, *, minutes: float
    ) -> None:
        """Start the clock; `minutes` is the longest time between two checkpoints."""
        self._run, self._module, self._optimiser = run, module, optimiser
        self._most, self._last, self._cost = minutes * 60, time.monotonic(), 0.0

    def due(self, epoch_end: bool) -> bool:
        """Return whether to save now: the time is up, or an epoch ends and saving costs little."""
        waited = time.monotonic() - self._last
        return waited >= self._most or (epoch_end and self._cost <= SAVE_SHARE * waited)

    def save(self, progress: Progress) -> None:
        """Replace the checkpoint; see `save_training`."""
        began = time.monotonic()
        save_training(self._run, self._module, self._optimiser, progress)
        self._last = time.monotonic()
        self._cost = self._last - began


def save_training(run: Path, module: nn.Module, optimiser: Optimizer, progress: Progress) -> None:
    """Replace the checkpoint of the run directory `run`.

    Raises:
        StorageError: it cannot be written (a full disk); the previous checkpoint is intact.
    """
    new, current, old = (run / name for name in ("checkpoint.new", "checkpoint", "checkpoint.old"))
    tensors, numbers = _flatten(optimiser)
    files = {
        _WEIGHTS: storage.encode_tensors(module.state_dict()),
        _OPTIMISER: storage.encode_tensors(tensors),
    }
    checksums = {name: storage.sha256(data) for name, data in files.items()}
    state = {"version": _VERSION, **vars(progress), "optimiser": numbers, "sha256": checksums}
    files[_STATE] = json.dumps(state, indent=2).encode()
    try:
        _remove(new)
        new.mkdir(parents=True)
        for name, data in files.items():
            storage.write_synced(new / name, data)
        storage.sync_folder(new)
        if current.exists():
            _remove(old)
            current.rename(old)
        new.rename(current)
        storage.sync_folder(run)
        _remove(old)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        before = recorded(run)
        kept = f"that of step {before.step} is intact" if before else "there is none before it"
        raise StorageError(
            f"Cannot write the checkpoint of step {progress.step} in '{run}' ({error.strerror}); "
            f"{kept}: free some space, then {storage.resume_command(run)}."
        ) from error


def load_training(
    run: Path, module: nn.Module, optimiser: Optimizer
) -> tuple[Progress, str | None]:
    """Put the last checkpoint's tensors into `module` and `optimiser`.

    Returns:
        How far the run is (step 0 if it has no checkpoint), and a sentence for the log if the
        newest checkpoint was damaged and the one before it was taken.

    Raises:
        StorageError: there are checkpoints, and none is intact.
    """
    found = _newest(run)
    if found is None:
        return Progress(), None
    state, weights, tensors, note = found
    slots: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in state["optimiser"].items()}
    for name, tensor in tensors.items():
        index, entry = name.split(".", 1)
        slots.setdefault(int(index), {})[entry] = tensor
    groups = optimiser.state_dict()["param_groups"]
    _load_weights(module, weights, run)
    optimiser.load_state_dict({"state": slots, "param_groups": groups})
    return _progress(state), note


def recorded(run: Path) -> Progress | None:
    """Return how far the run's newest checkpoint says it is; None if there is none to read."""
    for name in ("checkpoint", "checkpoint.old"):
        try:
            return _progress(json.loads((run / name / _STATE).read_text(encoding="utf8")))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def finalise(
    run: str | Path,
    *,
    images: Images | None = None,
    device: str = "cpu",
    progress: bool = False,
    plugin: str | Path | None = None,
) -> None:
    """Write `model/` from the run's checkpoint, whether the run has reached its end or not.

    Args:
        run: a run directory.
        images: its training images; None: they are loaded from the run's source.
        device: where the features of the bank are computed.
        progress: whether loading the images may show a bar.
        plugin: the file of the method, if it is neither part of the library nor loaded already.

    Raises:
        ConfigError: the run has no checkpoint, or needs a plug-in.
        StorageError: the checkpoint is damaged or `model/` cannot be written.
    """
    from cognates.training import bank

    run = Path(run)
    config = read_config(run, plugin=plugin)
    found = _newest(run)
    if found is None:
        raise ConfigError(f"Expected a run with a checkpoint, got '{run}': train it first.")
    method = build_method(config, initial=False)
    _load_weights(method, found[1], run)
    method.finish()
    method.eval()
    images = load_images(config, progress=progress) if images is None else images
    method.to(device)
    write_model(run, method, config, bank=bank.of_images(method, images, config, device=device))


def write_model(run: Path, method: Method, config: RunConfig, *, bank: Bank) -> None:
    """Write `model/`: weights, record and the bank of training features; nothing else is needed.

    Args:
        run: the run directory.
        method: the trained method.
        config: its configuration, resolved.
        bank: of training images, with the method's default score.

    Raises:
        StorageError: a file cannot be written; `model.json`, which vouches for the others, is last.
    """
    from cognates.training.bank import tensors

    # A bank of one image cannot be compared with: what it says of itself is all there is.
    default = method.default_score if method.default_score in bank.scores else method.own
    files = {
        _WEIGHTS: storage.encode_tensors(method.state_dict()),
        _BANK: storage.encode_tensors(tensors(bank)),
    }
    plugin = plugin_of(config.method)
    if plugin is not None:
        files[storage.PLUGIN] = plugin.source
    if config.method.text is not None:
        files[storage.TOKENIZER] = captions.read_json(Path(run)).encode()
    record = {
        "version": _VERSION,
        "config": encode(config),
        "default_score": default,
        "own_score": method.own,
        "width": int(bank.representation.shape[1]),
        "quantiles": np.quantile(bank.scores[default], np.linspace(0, 1, 101)).tolist(),
        "sha256": {name: storage.sha256(data) for name, data in files.items()},
    }
    folder = Path(run) / "model"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot make the folder '{folder}' ({error.strerror}): free some space or check the "
            "permissions."
        ) from error
    for name, data in files.items():
        storage.write_atomic(folder / name, data)
    storage.write_atomic(folder / _MODEL, (json.dumps(record, indent=2) + "\n").encode())


def read_model(run: str | Path, *, plugin: str | Path | None = None) -> LoadedModel:
    """Read `model/` back; no code of the run's is executed but what the caller names.

    Args:
        run: a run directory.
        plugin: the file of the method, if it is neither part of the library nor loaded already.

    Raises:
        ConfigError: the run has no model, or its method comes from a plug-in that is not named.
        StorageError: a file of the model is damaged.
    """
    folder = Path(run) / "model"
    if not (folder / _MODEL).is_file():
        raise ConfigError(
            f"Expected a finished run, got '{run}' without {folder.name}/{_MODEL}: train it first."
        )
    try:
        record = json.loads((folder / _MODEL).read_text(encoding="utf8"))
        checksums = record["sha256"]
        sums = checksums[_WEIGHTS], checksums.get(_BANK)
        quantiles = np.asarray(record["quantiles"], dtype=np.float64)
        text, default_score = json.dumps(record["config"]), record["default_score"]
        own = record.get("own_score", default_score)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"Expected the record of a model, got '{folder / _MODEL}' that cannot be read: restore "
            "it from a copy or train again."
        ) from error
    config = parse_config(text, run=Path(run), plugin=plugin)
    method = build_method(config, initial=False)
    method.finish()
    _load_weights(method, storage.read_tensors(folder / _WEIGHTS, sums[0]), folder)
    bank = None if sums[1] is None else _read_bank(folder / _BANK, sums[1], own)
    if bank is None and default_score != own:
        warnings.warn(
            f"'{run}' has no bank of training images, which its score '{default_score}' needs: "
            f"its uncertainty is '{own}', and no percentile goes with it.",
            CognatesWarning,
            stacklevel=2,
        )
        default_score, quantiles = own, None
    return LoadedModel(
        config=config,
        method=method.eval(),
        default_score=default_score,
        own_score=own,
        quantiles=quantiles,
        bank=bank,
        tokenizer=captions.verified_json(folder, checksums.get(storage.TOKENIZER)),
    )


def _read_bank(path: Path, checksum: str, own: str) -> Bank:
    from cognates.training.bank import of_tensors

    try:
        return of_tensors(storage.read_tensors(path, checksum), own=own)
    except KeyError as error:
        raise StorageError(
            f"Expected the bank of a model, got '{path}' without {error}: restore it from a copy "
            "or train again."
        ) from error


def _newest(
    run: Path,
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor], str | None] | None:
    complaint: StorageError | None = None
    for folder in (run / "checkpoint", run / "checkpoint.old"):
        if not folder.is_dir():
            continue
        try:
            state = _read_state(folder)
            weights, tensors = (
                storage.read_tensors(folder / name, state["sha256"].get(name, ""))
                for name in (_WEIGHTS, _OPTIMISER)
            )
        except StorageError as error:
            complaint = complaint or error
            continue
        note = f"{complaint} The checkpoint before it is used instead." if complaint else None
        return state, weights, tensors, note
    if complaint:
        raise complaint
    return None


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf8"))
        _progress(state)
        if not (isinstance(state["optimiser"], dict) and isinstance(state["sha256"], dict)):
            raise TypeError("two objects expected")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"Expected a complete checkpoint, got '{folder}' whose {_STATE} cannot be read: the "
            "file was cut off or changed; restore it from a copy or train again."
        ) from error
    return state


def _progress(state: dict[str, Any]) -> Progress:
    return Progress(
        step=int(state["step"]),
        total=int(state["total"]),
        seconds=float(state["seconds"]),
        low_readings=int(state["low_readings"]),
        data=str(state["data"]),
    )


def _load_weights(module: nn.Module, weights: dict[str, Tensor], where: Path) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise StorageError(
            f"Expected the weights of this configuration in '{where}', got others: the method's "
            f"code has changed since ({' '.join(str(error).split())[:200]}); train again."
        ) from error


def _flatten(optimiser: Optimizer) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, slot in optimiser.state_dict()["state"].items():
        for name, value in slot.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            elif value is not None:
                numbers.setdefault(str(index), {})[name] = value
    return tensors, numbers


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
