"""The table of `methods.py`: a row for each run, a mean for each method, and what was measured."""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np
from record import write

from cognates.evaluation.few_labels import student_interval

GENERATIVE = ("simve", "vae", "beta-vae", "cr-vae")
BASE = ("simsiam", "vi-simsiam")
"""What differences are taken to: the first of them that a seed has; their encoders are equal."""
TUNED = ("simsiam", "ssl-hsic", "simclr", "byol", "vicreg", "dino")
"""Methods whose rate was compared with others on held-out images of CIFAR-10, with `choose.py`."""
PROTOCOLS = ("knn", "knn-200", "linear")
SHOWN = {"knn": "kNN", "knn-200": "kNN of 200", "linear": "linear"}


def write_table(
    options: argparse.Namespace,
    runs: list[dict[str, Any]],
    baselines: dict[str, list[dict[str, Any]]],
) -> None:
    """Write and print the table of `runs`, beside `baselines` by encoder."""
    rows: list[list[str]] = []
    for method in dict.fromkeys(run["method"] for run in runs):
        own = [run for run in runs if run["method"] == method]
        rows += [
            [f"{method}, seed {run['seed']}", *(_cell(run["results"], p) for p in PROTOCOLS)]
            + ["" for _ in PROTOCOLS]
            + [f"{run['training_seconds']:.0f}", f"{run['images_per_second']:.0f}"]
            for run in own
        ]
        rows.append(_mean_row(method, own, runs))
    for encoder, results in baselines.items():
        of = [r for r in results if r["subject"] == "untrained"]
        rows.append([f"untrained {encoder}", *(_cell(of, p) for p in PROTOCOLS)])
    of = [r for r in next(iter(baselines.values())) if r["subject"] == "pixels"]
    rows.append(["pixels", *(_cell(of, p) for p in PROTOCOLS)])
    header = ["run", *SHOWN.values(), *(f"{name} minus SimSiam" for name in SHOWN.values())]
    header += ["seconds", "images/s"]
    print(
        write(
            options.name or f"methods-{options.set}",
            title=f"All methods on {options.set}",
            note=_note(options, runs),
            header=header,
            rows=[row + [""] * (len(header) - len(row)) for row in rows],
            data={"runs": runs, "baselines": baselines},
            device=runs[0]["device"],
        )
    )


def _mean_row(method: str, own: list[dict[str, Any]], runs: list[dict[str, Any]]) -> list[str]:
    first = next((name for name in BASE if any(run["method"] == name for run in runs)), None)
    values = {p: {run["seed"]: _value(run["results"], p) for run in own} for p in PROTOCOLS}
    base = {
        p: {
            run["seed"]: _value(run["results"], p)
            for name in reversed(BASE)  # SimSiam's own run last: it replaces the other
            for run in runs
            if run["method"] == name
        }
        for p in PROTOCOLS
    }
    gaps = [
        {seed: value - base[p][seed] for seed, value in values[p].items() if seed in base[p]}
        for p in PROTOCOLS
    ]
    seconds = statistics.fmean(run["training_seconds"] for run in own)
    speed = statistics.fmean(run["images_per_second"] for run in own)
    return [
        f"**{method}, mean of {len(own)}**",
        *(over_seeds([*values[p].values()]) for p in PROTOCOLS),
        *("" if method == first else over_seeds([*gap.values()], sign=True) for gap in gaps),
        f"{seconds:.0f}",
        f"{speed:.0f}",
    ]


def _note(options: argparse.Namespace, runs: list[dict[str, Any]]) -> str:
    config = runs[0]["config"]
    names = [*dict.fromkeys(run["method"] for run in runs)]
    commits = ", ".join(sorted({str(run["commit"])[:12] for run in runs}))
    devices = ", ".join(sorted({str(run["device"]) for run in runs}))
    kinds = [run["config"]["encoder"]["name"] for run in runs if run["method"] not in GENERATIVE]
    return (
        f"{options.images or 'All'} training images of {options.data}, "
        f"{config['training']['epochs']} epochs of batch {config['training']['batch_size']}, "
        f"`{kinds[0] if kinds else config['encoder']['name']}` and one kind of view for all; "
        f"heads and optimiser are those of the recipe. {_of_methods(names)}"
        "kNN: 20 neighbours, and 200 with T = .1, both of the last epoch. In brackets 95 % "
        "intervals: of a run over the test images, of a mean over seeds (Student's t); differences "
        "to SimSiam are paired by seed. Untrained and pixels: "
        f"seed {runs[0]['seed']}. {_of_times(options)}Trained on {devices} at {commits}."
    )


def _of_methods(names: list[str]) -> str:
    """Return what a reader must know of single methods, and how their rates were found."""
    said = {
        "vi-simsiam": "vi-simsiam has the coupling cosine, whose encoder is SimSiam's to the bit. ",
        "clip": "clip pairs the two views, each seen by an encoder of its own; the first is "
        "measured. ",
        "combined": "combined is SimSiam, a tenth of SSL-HSIC's variance term and a tenth of a "
        "reconstruction. ",
        "simve": "simve, vae, beta-vae and cr-vae have `vae-convnet`, the same convolutions with "
        "positions kept, and embed their latents; the first view of cr-vae is the whole image. ",
    }
    tuned = [name for name in names if name in TUNED]
    others = [name for name in names if name not in TUNED]
    rates = (
        f"Rates were compared on held-out images of CIFAR-10, in short runs of one seed, for "
        f"{', '.join(tuned) or 'none'}; not for {', '.join(others) or 'any other'}. "
    )
    return "".join(text for name, text in said.items() if name in names) + rates


def _of_times(options: argparse.Namespace) -> str:
    reused = " Runs taken over were trained in another sitting." if options.reuse else ""
    if options.beside == 1 and not reused:
        return "Seconds: of training alone, one process at a time. "
    return (
        f"Seconds: of training, up to {options.beside} processes at one time on one machine, so "
        f"they are this sitting's as much as the method's.{reused} "
    )


def _find(results: list[dict[str, Any]], protocol: str) -> dict[str, Any] | None:
    for r in results:
        if (r["protocol"], r["metric"], r["error"]) == (protocol, "accuracy", None):
            return r
    return None


def _value(results: list[dict[str, Any]], protocol: str) -> float:
    found = _find(results, protocol)
    return float("nan") if found is None else float(found["value"])


def _cell(results: list[dict[str, Any]], protocol: str) -> str:
    r = _find(results, protocol)
    return "" if r is None else f"{r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]"


def over_seeds(values: list[float], *, sign: bool = False) -> str:
    """Return the mean, with Student's t interval if there are several.

    Example:
        >>> over_seeds([0.5, 0.75]), over_seeds([0.25], sign=True)
        ('0.625 [-0.963, 2.213]', '+0.250')
    """
    if not values:
        return ""
    form = "+.3f" if sign else ".3f"
    mean = f"{np.mean(values):{form}}"
    if len(values) < 2:
        return mean
    low, high = student_interval(np.array(values))
    return f"{mean} [{low:{form}}, {high:{form}}]"
