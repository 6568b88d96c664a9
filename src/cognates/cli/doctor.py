"""`cognates doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PACKAGES = (
    *("torch", "numpy", "scipy", "scikit-learn", "pillow", "pyarrow", "safetensors"),
    *("lightning-fabric", "tyro", "matplotlib", "timm", "datasets"),
)
_IMAGES, _BATCH, _PIXELS = 320, 32, 16
"""Ten steps: 320 random images of 16 pixels in batches of 32."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Report versions and devices, and train ten steps to see that all is well.

    The self-test writes to a temporary folder and needs no data and no network.
    """

    def run(self) -> int:
        """Print the report; 1 if the self-test fails."""
        from cognates.cli.text import pairs

        print(pairs(_findings()))
        started = time.perf_counter()
        try:
            outcome = _self_test()
        except Exception as error:
            print(f"self-test    failed: {type(error).__name__}: {error}")
            return 1
        print(f"self-test    {outcome}, {time.perf_counter() - started:.1f} s")
        return 0


def _findings() -> list[tuple[str, str]]:
    import torch

    from cognates import __version__
    from cognates.data.cache import cache_folder
    from cognates.data.names import VARIABLE

    folder = cache_folder()
    place = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(place).free / 2**30
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows = [
        ("cognates", __version__),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        ("cores", f"{os.cpu_count()}, torch uses {torch.get_num_threads()}"),
        ("devices", ", ".join(gpus) or "cpu"),
        (
            "cache",
            f"{folder}, {free:.1f} GiB free{'' if os.access(place, os.W_OK) else ', read-only'}",
        ),
        ("data", os.environ.get(VARIABLE) or f"the variable {VARIABLE} is not set"),
    ]
    return rows + [(name, _version(name)) for name in _PACKAGES]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _self_test() -> str:
    """Train ten steps on noise, load the model and embed two images."""
    import numpy as np

    from cognates import api

    with tempfile.TemporaryDirectory() as name, _cache_in(Path(name)):
        noise = np.random.default_rng(0).integers(
            0, 256, (_IMAGES, _PIXELS, _PIXELS), dtype=np.uint8
        )
        np.savez(Path(name) / "train.npz", images=noise)
        np.savez(Path(name) / "test.npz", images=noise[:_BATCH])
        run = api.train(
            "vi-simsiam",
            data=f"npz:{name}",
            out=Path(name) / "run",
            encoder="mlp",
            epochs=1,
            batch_size=_BATCH,
            settings=("method.dim=32", "method.hidden=32"),
            progress=False,
        )
        found = run.load().embed(noise[:2, None])
        assert found.uncertainty is not None
        u = ", ".join(f"{value:.3f}" for value in found.uncertainty.tolist())
        return f"ten steps trained, saved, loaded; uncertainty of two images {u}"


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """Keep the self-test's images out of the user's cache."""
    from cognates.data.cache import VARIABLE

    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(folder / "cache")
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
