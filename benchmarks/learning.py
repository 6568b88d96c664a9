"""Train methods on a data set, evaluate them side by side, and keep the figures.

    python benchmarks/learning.py fashion-mnist --data idx:DIR --methods vi-simsiam simsiam
    python benchmarks/learning.py imagenette --data folder:DIR --set data.image_size=64 ...

Every figure comes from `cognates.evaluate` on the last weights of a run; nothing is chosen on the
test images.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from record import write

import cognates
from cognates.types import Result

SHOWN = (
    ("knn", "accuracy"),
    ("linear", "accuracy"),
    ("linear", "accuracy-minus-pixels"),
    ("linear", "accuracy-minus-untrained"),
    ("few-labels", "accuracy"),
)
"""Protocol and metric of the table's columns."""


def main() -> None:
    """Run the benchmark."""
    options = _options()
    torch.set_num_threads(options.threads)
    runs = []
    for method in options.methods:
        for seed in options.seeds:
            runs.append(_run(options, method, seed))
            _write(options, runs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="name of a recipe")
    parser.add_argument("--data", help="SOURCE, if not the recipe's")
    parser.add_argument("--methods", nargs="+", default=["vi-simsiam", "simsiam"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--set", nargs="*", default=[], help="fields, as optimiser.momentum=0.95")
    parser.add_argument("--name", help="of the result files; the recipe's name if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def _run(options: argparse.Namespace, method: str, seed: int) -> dict[str, Any]:
    folder = options.runs / f"{options.name or options.recipe}-{method}-{seed}"
    if not (folder / "model" / "model.json").is_file():
        cognates.train(
            method,
            recipe=options.recipe,
            data=options.data,
            epochs=options.epochs,
            seed=seed,
            device=options.device,
            settings=options.set,
            **({"resume": folder} if (folder / "config.json").is_file() else {"out": folder}),
        )
    results = cognates.evaluate(folder, device=options.device, progress=print)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf8").splitlines()
    metrics = [json.loads(line) for line in lines]
    environment = json.loads((folder / "environment.json").read_text(encoding="utf8"))
    return {
        "method": method,
        "seed": seed,
        "config": json.loads((folder / "config.json").read_text(encoding="utf8")),
        "images_per_second": statistics.median(m["images_per_second"] for m in metrics),
        "data_wait": statistics.median(m["data_wait"] for m in metrics),
        "training_seconds": metrics[-1]["time"],
        "threads": environment["threads"],
        "results": [asdict(result) for result in results],
    }


def _write(options: argparse.Namespace, runs: list[dict[str, Any]]) -> None:
    rows = []
    for run in runs:
        results = [Result(**record) for record in run["results"]]
        rows += [
            [f"{run['method']}, seed {run['seed']}" if subject == "trained" else subject]
            + [_cell(results, subject, *column) for column in SHOWN]
            + [_auroc(results) if subject == "trained" else ""]
            + [f"{run['images_per_second']:.0f}" if subject == "trained" else ""]
            for subject in ("trained", "untrained", "pixels")
        ]
    header = ["encoder", *(f"{protocol} {metric}" for protocol, metric in SHOWN)]
    header += ["AUROC of the default score for kNN / probe errors", "images/s"]
    config = runs[0]["config"]
    note = (
        f"{config['encoder']['name']}, {config['data']['source'].partition(':')[0]} "
        f"{config['data']['image_size']} px, {config['training']['epochs']} epochs of batch "
        f"{config['training']['batch_size']}. In brackets 95 % intervals over the test images; "
        "few-labels: 10 labels per class, interval over 20 draws."
    )
    name = options.name or options.recipe
    title = f"{name}: trained, untrained, pixels"
    print(write(name, title=title, note=note, header=header, rows=rows, data={"runs": runs}))


def _cell(results: list[Result], subject: str, protocol: str, metric: str) -> str:
    for r in results:
        if (r.protocol, r.metric, r.subject) == (protocol, metric, subject) and r.error is None:
            return f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]"
    return ""


def _auroc(results: list[Result]) -> str:
    """Return the AUROC of the default score for the errors of kNN and of the probe."""
    cells = []
    for probe in ("knn", "linear"):
        found = [r for r in results if r.metric.startswith(f"{probe}/") and "default" in r.flags]
        cells += [f"{r.settings['score']} {r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in found]
    return " / ".join(cells)


if __name__ == "__main__":
    main()
