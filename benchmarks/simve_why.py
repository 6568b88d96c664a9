r"""Why does SimVE's group prior change so little? One setting after another, SimVE beside a VAE.

    python benchmarks/simve_why.py --seeds 0 --threads 1

Fashion-MNIST's training images alone: 8,000 to train on, 2,000 held out to measure on. Each row
changes what its name says of the study's setting (pixel variance .01, 32 latents, sigma^2 .15).
Runs and protocols are those of `simve_study.py`, whose folders are used again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from record import write
from simve_study import CONTENT, DRAWN, STYLE, cell, run_one, values_of
from subset import write_subset

SETTINGS: dict[str, list[str]] = {
    "base": [],
    "variance-0.05": ["method.model.variance=0.05"],
    "variance-0.2": ["method.model.variance=0.2"],
    "variance-1.0": ["method.model.variance=1.0"],
    "latent-10": ["method.model.latent_dim=10"],
    "latent-128": ["method.model.latent_dim=128"],
    "variance-0.2-latent-128": ["method.model.latent_dim=128", "method.model.variance=0.2"],
}
METHODS = ("simve", "vae")
TERMS = ("reconstruction", "entropy", "prior")
SHOWN = {
    **CONTENT,
    **{name: STYLE[name] for name in ("y", "area", "brightness")},
    **{name: DRAWN[name] for name in ("MSE", "views of one psi", "of unrelated psi")},
}
IMAGES, HELDOUT, EPOCHS = 8_000, 2_000, 8
SOURCE = "fashion-mnist-mini"


def main() -> None:
    """Run what has not been run, and write the table."""
    options = _options()
    torch.set_num_threads(options.threads)
    folder = write_subset(
        SOURCE,
        options.runs / f"fashion-mnist-{IMAGES}-{HELDOUT}",
        images=IMAGES,
        heldout=HELDOUT,
    )
    runs: dict[str, list[dict[str, Any]]] = {}
    for name in options.settings:
        study = argparse.Namespace(
            set="fashion-mnist",
            name=f"simve-{name}",
            images=IMAGES,
            epochs=EPOCHS,
            runs=options.runs,
            set_generative=SETTINGS[name],
        )
        for seed in options.seeds:
            for method in METHODS:
                run = run_one(study, method, seed, f"npz:{folder}", baselines=False)
                runs.setdefault(name, []).append(run)
    _write(runs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/simve-study"))
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _write(runs: dict[str, list[dict[str, Any]]]) -> None:
    rows, found = [], {}
    for name, own in runs.items():
        for method in METHODS:
            values = {column: values_of(own, method, *of) for column, of in SHOWN.items()}
            nats = {run["seed"]: run["terms"] for run in own if run["method"] == method}
            found[f"{name}, {method}"] = {**values, "nats": nats}
            first = nats[min(nats)]
            said = " / ".join(f"{first[term]:.0f}" for term in TERMS)
            rows.append([name, method, *(cell(value) for value in values.values()), said])
    note = (
        f"{IMAGES:,} training images of Fashion-MNIST, {HELDOUT:,} others to measure on, {EPOCHS} "
        "epochs, batch 128, the small convolutional pair. A row changes what its name says of the "
        "base: pixel variance .01, 32 latents, sigma^2 .15. One seed each unless an interval "
        "stands there. Nats: the terms reconstruction / entropy / prior at the end of training, "
        "for both views of an image together, of the first seed."
    )
    header = ["setting", "method", *SHOWN, "nats"]
    title = "SimVE and a VAE under other settings, on held-out training images"
    print(write("simve-why", title=title, note=note, header=header, rows=rows, data=found))


if __name__ == "__main__":
    main()
