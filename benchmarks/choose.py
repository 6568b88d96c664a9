r"""Choose settings on held-out training images, so that no test image has a say.

    python benchmarks/choose.py demo --images 8000 --heldout 2000 \
        --grid optimiser.learning_rate=0.3,0.6 training.epochs=16
    python benchmarks/choose.py fashion-mnist --method ssl-hsic --images 20000 --heldout 5000 \
        --epochs 5 --grid optimiser.learning_rate=0.2,0.5,1.0 method.gamma=1.0,3.0

Training images are dealt, stratified by label, into a part to train on and a part to measure on;
the source's own test images are never read. Every point of the grid is trained on the one and
measured on the other with the protocols of `cognates.evaluate`. A run that fails, because its loss
is no longer finite, is a row that says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from record import write
from subset import write_subset

import cognates
from cognates import recipes
from cognates.config import RunConfig
from cognates.errors import CollapseError, NonFiniteError
from cognates.recipes.resolve import resolve
from cognates.types import Result

SHOWN = (
    ("linear", "accuracy"),
    ("linear", "accuracy-minus-pixels"),
    ("knn", "accuracy"),
    ("few-labels", "accuracy"),
    ("few-labels", "accuracy-minus-pixels"),
)

PROTOCOLS = ("linear", "knn", "few-labels", "auroc-error")


def main() -> None:
    """Run the benchmark."""
    options = _options()
    torch.set_num_threads(options.threads)
    source = options.data or recipes.get(options.recipe).build(options.method).data.source
    name = f"{source.partition(':')[2] or source}-{options.images}-{options.heldout}"
    folder = write_subset(
        source, options.runs / name, images=options.images, heldout=options.heldout
    )
    axes = [(key, values.split(",")) for key, _, values in (g.partition("=") for g in options.grid)]
    tried: list[dict[str, Any]] = []
    for point in itertools.product(*(values for _, values in axes)):
        settings = [f"{key}={value}" for (key, _), value in zip(axes, point, strict=True)]
        tried.append(_try(options, f"npz:{folder}", settings))
        _write(options, source, tried)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="name of a recipe")
    parser.add_argument("--method", default="vi-simsiam")
    parser.add_argument("--data", help="SOURCE, if not the recipe's")
    parser.add_argument("--images", type=int, default=8000, help="to train on")
    parser.add_argument("--heldout", type=int, default=2000, help="to measure on")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid", nargs="+", required=True, help="KEY=VALUE,VALUE of the record")
    parser.add_argument("--only", nargs="+", default=list(PROTOCOLS), help="protocols to run")
    parser.add_argument("--name", help="of the result files; RECIPE-METHOD-choice if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs/choose"))
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _try(options: argparse.Namespace, source: str, settings: list[str]) -> dict[str, Any]:
    folder = run_folder(options.runs, options.recipe, options.method, options.seed, settings)
    wanted = resolve(
        options.method,
        recipe=options.recipe,
        data=source,
        epochs=options.epochs,
        seed=options.seed,
        settings=settings,
    )
    if (folder / "config.json").is_file():
        require_same(wanted, folder)
    try:
        if not (folder / "model" / "model.json").is_file():
            resumed = (folder / "config.json").is_file()
            cognates.train(**({"resume": folder} if resumed else {"config": wanted, "out": folder}))
        results = cognates.evaluate(folder, only=options.only)
    except (NonFiniteError, CollapseError) as error:
        return {"settings": settings, "failed": str(error), "results": []}
    lines = (folder / "metrics.jsonl").read_text(encoding="utf8").splitlines()
    return {
        "settings": settings,
        "failed": None,
        "spread": json.loads(lines[-1])["spread"],
        "training_seconds": json.loads(lines[-1])["time"],
        "results": [asdict(result) for result in results],
    }


def run_folder(runs: Path, recipe: str, method: str, seed: int, settings: list[str]) -> Path:
    """Return the folder of one point of a grid: another one for every point.

    Example:
        >>> run_folder(Path("runs"), "demo", "simsiam", 0, ["optimiser.momentum=0.9"]).name
        'demo-simsiam-0-optimiser.momentum=0.9'
    """
    return runs / "-".join([recipe, method, str(seed), *(s.replace("/", "_") for s in settings)])


def require_same(wanted: RunConfig, folder: Path) -> None:
    """Refuse to take an older run for one with other settings."""
    found = RunConfig.from_json((folder / "config.json").read_text(encoding="utf8"))
    data = dataclasses.replace(wanted.data, mean=found.data.mean, std=found.data.std)
    wanted = dataclasses.replace(wanted, data=data, plugin_sha256=found.plugin_sha256)
    if wanted != found:
        raise SystemExit(f"Expected the settings of this call in '{folder}', got others: move it.")


def _write(options: argparse.Namespace, source: str, tried: list[dict[str, Any]]) -> None:
    rows = []
    for point in tried:
        results = [Result(**record) for record in point["results"]]
        cells = [_cell(results, *column) for column in SHOWN]
        if point["failed"]:
            cells[0] = point["failed"].partition(":")[0]
        spread = f"{point['spread']:.2f}" if "spread" in point else ""
        rows.append([", ".join(point["settings"]), *cells, _auroc(results), spread])
    name = options.name or f"{options.recipe}-{options.method}-choice"
    note = (
        f"Recipe {options.recipe}, {options.method}, seed {options.seed}: trained on "
        f"{options.images} training images of {source}, measured on {options.heldout} other "
        "training images. In brackets 95 % intervals."
    )
    header = ["settings", *(" ".join(column) for column in SHOWN)]
    header += ["AUROC of the default score for errors of the probe", "spread"]
    data = {"options": vars(options), "tried": tried}
    print(
        write(name, title=f"{name}: what was tried", note=note, header=header, rows=rows, data=data)
    )


def _cell(results: list[Result], protocol: str, metric: str) -> str:
    for r in results:
        same = (r.protocol, r.metric, r.subject) == (protocol, metric, "trained")
        if same and r.error is None:
            return f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]"
    return ""


def _auroc(results: list[Result]) -> str:
    default = (r.metric for r in results if "default" in r.flags and r.metric.startswith("linear/"))
    return _cell(results, "auroc-error", next(default, ""))


if __name__ == "__main__":
    main()
