"""Time and memory of SSL-HSIC's loss with the batch: exact and with random features.

    python benchmarks/hsic_scaling.py
    python benchmarks/hsic_scaling.py --official ssl_hsic/kernels.py    (a checkout; needs jax)

Forward and backward of both forms on m = 4 n points of R^256 on the sphere; random features as the
method uses them, two fresh draws of D = 512 included in the time. Every size runs in processes of
its own, on the same cores whatever computes there: one for the time and one for the peak of memory,
the high-water mark of its resident set during a repetition less what it held before (Linux). The
second one's allocator gives every buffer from 64 KiB on back at once, for what it kept from the
repetition before would be missing from the reading; that costs time, hence two. The slope is that
of a line through log time, and log memory, over log m from 8,192 points on. Beside it, how far the
gradient of one pair of draws is from the exact one: that, and not the cost, is why the method
switches where memory ends and not where the curves cross.

The official estimator is google-deepmind/ssl_hsic at d7ea38d, its file read and not copied; the
table that it samples from is made here, because its own takes minutes. JAX's allocator keeps what
it once held, so that it has a time and no peak.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import write
from torch import Tensor

from cognates.kernels import RandomFeatures, imq
from cognates.objectives import ssl_hsic
from cognates.objectives.dependence import unit_rows

VIEWS, TARGET, FIRST = 4, 1.15, 8192
"""Sets of points per image; the largest slope allowed; the size it is taken from."""
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""glibc: buffers of 64 KiB and more are mapped one by one, and unmapped when they are freed."""


def main() -> None:
    """Measure every size in processes of its own, print a table and keep it."""
    options = _options()
    os.sched_setaffinity(0, options.cores)  # what is started from here inherits it
    torch.set_num_threads(options.threads)
    if options.one:
        what, form, m = options.one
        print(json.dumps(_measure(options, what, form, int(m))))
        return
    sizes = {"exact": options.exact, "features": options.features}
    if options.official:
        sizes["official"] = options.official_sizes
    found: dict[str, list[dict[str, Any]]] = {form: [] for form in sizes}
    for m in sorted({m for each in sizes.values() for m in each}):
        for form in (form for form, each in sizes.items() if m in each):  # side by side
            found[form].append({"m": m, **_elsewhere("time", form, m)})
            if "error" not in found[form][-1] and form != "official":
                found[form][-1] |= _elsewhere("memory", form, m)
            print(form, found[form][-1], file=sys.stderr, flush=True)
    _report(options, found, _gradient_errors(options))


def _options() -> argparse.Namespace:
    powers = [2**k for k in range(10, 18)]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exact", nargs="*", type=int, default=powers[:5], help="points")
    parser.add_argument("--features", nargs="*", type=int, default=powers, help="points")
    parser.add_argument("--official", type=Path, help="the official kernels.py")
    parser.add_argument("--official-sizes", nargs="*", type=int, default=powers[:5])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--count", type=int, default=512, help="random features D")
    parser.add_argument("--draws", type=int, default=30, help="for the error of the gradient")
    parser.add_argument("--name", default="hsic-scaling", help="of the result files")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cores", nargs="*", type=int, help="default: the first, one per thread")
    parser.add_argument("--one", nargs=3, metavar=("WHAT", "FORM", "M"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.cores = options.cores or sorted(os.sched_getaffinity(0))[: options.threads]
    if len(set(options.cores)) != options.threads:
        raise SystemExit(
            f"Expected one core for each of {options.threads} threads, got {options.cores}: every "
            "form must have the same; set --threads and --cores."
        )
    return options


def _elsewhere(what: str, form: str, m: int) -> dict[str, Any]:
    """Measure one size in a new process, whose memory nothing else has touched."""
    command = [sys.executable, *sys.argv, "--one", what, form, str(m)]
    own = os.environ | (GIVES_BACK if what == "memory" else {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=own)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["killed, for want of memory"]
        return {"error": lines[-1]}
    found = json.loads(done.stdout.splitlines()[-1])
    if what == "memory" and min(found["all_bytes"]) <= 0:
        raise SystemExit(
            f"Expected a peak above the baseline at every repetition, got {found['all_bytes']} "
            f"bytes from {form} at m = {m}: the baseline holds what the repetition used."
        )
    return found


def _measure(options: argparse.Namespace, what: str, form: str, m: int) -> dict[str, Any]:
    step = _official(options, m) if form == "official" else _step(options, form, m)
    step()  # warms up; the official estimator is compiled here
    found = []
    for _ in range(options.repeats):
        before, began = _reset_peak() if what == "memory" else 0, time.perf_counter()
        step()
        seconds = time.perf_counter() - began
        found.append(_memory("VmHWM") - before if what == "memory" else seconds)
    unit = "bytes" if what == "memory" else "seconds"
    return {unit: statistics.median(found), f"all_{unit}": found}


def _points(options: argparse.Namespace, m: int, *, noise: float = 1.0) -> Tensor:
    """Return views of random images on the sphere."""
    source = torch.Generator().manual_seed(0)
    base = torch.randn(1, m // VIEWS, options.dim, generator=source)
    return unit_rows(base + noise * torch.randn(VIEWS, *base.shape[1:], generator=source))


def _draws(
    options: argparse.Namespace, source: torch.Generator
) -> tuple[RandomFeatures, RandomFeatures]:
    first, second = (
        RandomFeatures.draw(imq(), options.dim, options.count, generator=source) for _ in range(2)
    )
    return first, second


def _step(options: argparse.Namespace, form: str, m: int) -> Callable[[], None]:
    z, source = _points(options, m).requires_grad_(), torch.Generator().manual_seed(1)

    def step() -> None:
        features = _draws(options, source) if form == "features" else None
        terms = ssl_hsic(z, pairs="all", features=features)
        (terms["dependence"] + terms["variance"]).backward()
        z.grad = None  # part of this repetition's peak, not of the next one's baseline

    return step


def _official(options: argparse.Namespace, m: int) -> Callable[[], None]:
    """Return a step of the official estimator: the same loss, compiled, with its gradient."""
    import jax  # pyright: ignore[reportMissingImports]
    import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
    from scipy.special import kve

    jnp.DeviceArray = jax.Array  # a name that newer versions of JAX have dropped
    spec = importlib.util.spec_from_file_location("official_kernels", options.official)
    assert spec is not None
    assert spec.loader is not None
    official = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(official)
    r = np.linspace(1e-12, 100, 10_000)
    order = (options.dim - 1) / 2
    log = order * np.log(r) + np.log(np.maximum(kve(order, r), 1e-300)) - r
    shares = np.exp(log - log.max())
    table = {"amp": jnp.asarray(r), "amp_probs": jnp.asarray(shares / shares.sum())}
    views = [jnp.asarray(view) for view in _points(options, m).numpy()]
    state = {"key": jax.random.PRNGKey(0)}

    def loss(views: Any, key: Any) -> Any:  # noqa: ANN401  (arrays of jax)
        one, two = jax.random.split(key)
        zy = official.rff_approximate_hsic_xy(views, 1.0, options.count, one, 1.0, table)
        zz = official.rff_approximate_hsic_xx(views, options.count, one, two, 1.0, table)
        return 3.0 * jnp.sqrt(zz) - zy

    compiled = jax.jit(jax.value_and_grad(loss))

    def step() -> None:
        state["key"], key = jax.random.split(state["key"])
        jax.block_until_ready(compiled(views, key))

    return step


def _memory(name: str) -> int:
    """Return a figure of this process in bytes: VmRSS now, VmHWM at the most."""
    for line in Path("/proc/self/status").read_text(encoding="utf8").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise SystemExit("Expected /proc/self/status of Linux with memory figures, got none.")


def _reset_peak() -> int:
    """Set the high-water mark to what is held now, and return that."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf8")
    return _memory("VmRSS")


def _gradient_errors(options: argparse.Namespace) -> list[float]:
    """Return the relative error of the gradient on the sphere, one figure per pair of draws."""
    z, source = _points(options, 512), torch.Generator().manual_seed(2)

    def gradient(features: tuple[RandomFeatures, RandomFeatures] | None) -> Tensor:
        x = z.clone().requires_grad_()
        terms = ssl_hsic(x, features=features)
        (slope,) = torch.autograd.grad(terms["dependence"] + terms["variance"], x)
        return slope - (slope * z).sum(-1, keepdim=True) * z

    exact = gradient(None)
    return [
        float((gradient(_draws(options, source)) - exact).norm() / exact.norm())
        for _ in range(options.draws)
    ]


def _slope(found: list[dict[str, Any]], key: str) -> float | None:
    """Return the slope of log `key` over log m from `FIRST` on."""
    chosen = [one for one in found if one["m"] >= FIRST and key in one]
    if len(chosen) < 2:
        return None
    x, y = (np.log([one[name] for one in chosen]) for name in ("m", key))
    return float(np.polyfit(x, y, 1)[0])


def _crossing(found: dict[str, list[dict[str, Any]]], key: str) -> float | None:
    """Return the m from which random features cost less, between the sizes measured."""
    exact, random = ({one["m"]: one.get(key) for one in found[f]} for f in ("exact", "features"))
    both = [m for m in sorted(exact) if exact[m] and random.get(m)]
    gaps = [math.log(exact[m] / random[m]) for m in both]
    for low, high, before, after in zip(both, both[1:], gaps, gaps[1:], strict=False):
        if before < 0 <= after:
            share = -before / (after - before)
            return math.exp(math.log(low) + share * math.log(high / low))
    return None


def _report(
    options: argparse.Namespace, found: dict[str, list[dict[str, Any]]], errors: list[float]
) -> None:
    slopes = {
        form: {key: _slope(found[form], key) for key in ("seconds", "bytes")} for form in found
    }
    crossings = {key: _crossing(found, key) for key in ("seconds", "bytes")}
    sizes = sorted({one["m"] for each in found.values() for one in each})
    cells = {form: {one["m"]: _cell(one) for one in found[form]} for form in found}
    rows = [[f"{m:,}", *(cells[form].get(m, "") for form in found)] for m in sizes]
    shown = {key: "none" if m is None else f"{m:,.0f}" for key, m in crossings.items()}
    of = {k: "unknown" if s is None else f"{s:.2f}" for k, s in slopes["features"].items()}
    note = (
        f"Forward and backward on m = {VIEWS} n points, d = {options.dim}, D = {options.count}, "
        f"float32, {options.threads} threads on as many cores; medians of "
        f"{options.repeats}, ms and MB above the baseline. Slope of random features from "
        f"{FIRST:,} points on: time {of['seconds']}, "
        f"memory {of['bytes']} (target at most {TARGET}). Random features cost less from m = "
        f"{shown['seconds']} on in time, {shown['bytes']} in memory; the gradient of one pair of "
        f"draws is off by {statistics.mean(errors):.2f} times the exact one (n = 128, v = 4, mean "
        f"of {len(errors)}). " + ("" if options.official else "The official estimator was not run.")
    )
    print(
        write(
            options.name,
            title="SSL-HSIC's loss with the batch",
            note=note.strip(),
            header=["m", *found],
            rows=rows,
            data={
                "found": found,
                "slopes": slopes,
                "crossings": crossings,
                "target": TARGET,
                "gradient_errors": errors,
                "settings": {k: v for k, v in vars(options).items() if k != "one"},
            },
        )
    )
    print(note)


def _cell(one: dict[str, Any]) -> str:
    if "error" in one:
        return f"failed: {one['error']}"
    memory = f", {one['bytes'] / 1e6:.0f} MB" if "bytes" in one else ""
    return f"{1e3 * one['seconds']:.1f} ms{memory}"


if __name__ == "__main__":
    main()
