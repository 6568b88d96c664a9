r"""All methods side by side: the same encoder, views, images, epochs and batch.

    python benchmarks/methods.py fashion-mnist --seeds 0 1 2 --threads 1
    python benchmarks/methods.py cifar10 --methods simclr byol --seeds 0 --train-only
    timeout -s TERM 590 python benchmarks/methods.py cifar10-resnet18 --methods byol --seeds 0

Heads and optimiser are those of the method's recipe; that everything else is equal is checked
before a table is written. The methods that draw images read positions, which the pooled `convnet`
forgets: they have `vae-convnet`, the same convolutions with their maps kept, and CR-VAE's first
view is the whole image. `clip` pairs the two views of an image and has an encoder for each; the
first is measured (`retrieval.py` is for image and text). `combined` is its default: SimSiam, a
tenth of SSL-HSIC's variance term and a tenth of a reconstruction. Left out: `post-hoc`, which
trains no encoder, and `loss-prediction`, whose encoder is SimSiam's to the bit. So is that of
VI-SimSiam with the coupling `cosine`: where a seed has no run of SimSiam, differences to SimSiam
are taken to it.

Nothing is chosen on test images; rates are chosen with `choose.py`. With `--train-only` several
processes train side by side; the same call without it evaluates and gathers what is there. A run
that was stopped goes on where it was: `cifar10-resnet18`, all images on a GPU, is for several
sittings. Published kNN accuracies of that length (k = 200, T = .1) are maxima over epochs; the ones
here are of the last.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from choose import require_same
from methods_table import GENERATIVE, PROTOCOLS, write_table
from subset import write_subset

import cognates
from cognates.config import RunConfig
from cognates.data import cache
from cognates.errors import Interrupted
from cognates.evaluation.features import Transform, extract, pixels
from cognates.evaluation.suite import run_protocols
from cognates.model import Model
from cognates.recipes.resolve import resolve
from cognates.training import prepare
from cognates.types import Result

SETS: dict[str, dict[str, Any]] = {
    "fashion-mnist": {"recipe": "fashion-mnist", "images": 20_000, "epochs": 10},
    "cifar10": {"recipe": "cifar10-small", "images": 20_000, "epochs": 20},
    "cifar10-resnet18": {"data": "cifar10", "recipe": "cifar10", "epochs": 200, "batch_size": 128},
}
"""By name: the source if it has another one, the recipe, the training images (all, if not given),
the epochs, and the batch if it is not the recipe's. The last is the setting of lightly's table."""
METHODS: dict[str, tuple[str, list[str]]] = {
    "simsiam": ("simsiam", []),
    "vi-simsiam": ("vi-simsiam", ["method.coupling=cosine"]),
    "vi-simsiam-joint": ("vi-simsiam", ["method.coupling=joint"]),
    "ssl-hsic": ("ssl-hsic", []),
    "mc-info-nce": ("mc-info-nce", []),
    "simclr": ("simclr", []),
    "byol": ("byol", []),
    "vicreg": ("vicreg", []),
    "dino": ("dino", []),
    "clip": ("clip", ["method.second=image"]),
    "combined": ("combined", []),
    "simve": ("simve", []),
    "vae": ("vae", []),
    "beta-vae": ("beta-vae", []),
    "cr-vae": ("cr-vae", []),
}
"""By the table's name, the method and its fields."""
STUDY = {"simsiam": "simsiam", "vi-simsiam": "cosine", "vi-simsiam-joint": "joint"}
"""The names of these in `uncertainty_study.py`, whose runs on the same images can be taken over."""


def main() -> None:
    """Run the benchmark; end with a sentence when a signal ends a sitting."""
    try:
        _run(_options())
    except Interrupted as error:
        print(f"{error} Or call this again.")
        raise SystemExit(error.exit_code) from None


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    data = _source(options)
    runs: list[dict[str, Any]] = []
    baselines: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:  # seed by seed: what is cut short is still a comparison
        for method in options.methods:
            folder, config = _train(options, method, seed, data)
            if options.train_only:
                continue
            measured, beside = _measured(folder, data, baselines.get(config.encoder.name))
            baselines[config.encoder.name] = beside
            runs.append(_record(folder, method, seed, measured))
            require_comparable(runs)
            write_table(options, runs, baselines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", help="SOURCE, if not the set's name")
    parser.add_argument("--images", type=int, help="to train on, if not the set's number")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--train-only", action="store_true", help="evaluate another time")
    parser.add_argument("--beside", type=int, default=1, help="processes that trained at one time")
    parser.add_argument("--reuse", type=Path, help="the folder of uncertainty_study.py's runs")
    parser.add_argument("--name", help="of the result files; methods-SET if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    chosen = SETS[options.set]
    options.data = options.data or chosen.get("data", options.set)
    options.images = options.images or chosen.get("images")
    small = options.images is not None  # the decoders of the others are as small as `convnet`
    options.methods = options.methods or [m for m in METHODS if small or m not in GENERATIVE]
    return options


def _source(options: argparse.Namespace) -> str:
    """Return the SOURCE of the images, written first where they are a part of a set."""
    if options.images is None:
        return options.data
    name = f"{options.set}-{options.images}"
    folder = write_subset(options.data, options.runs / name, images=options.images)
    if options.reuse:
        _require_same_images(options.reuse / name, folder)
    return f"npz:{folder}"


def _require_same_images(study: Path, data: Path) -> None:
    """Refuse runs that were trained on other images."""
    notes = [folder / "made-from.txt" for folder in (study, data)]
    texts = [note.read_text(encoding="utf8") if note.is_file() else "none" for note in notes]
    if texts[0] != texts[1]:
        raise SystemExit(
            f"Expected runs on the images '{texts[1]}', got '{texts[0]}' in '{study}'."
        )


def _train(
    options: argparse.Namespace, method: str, seed: int, data: str
) -> tuple[Path, RunConfig]:
    """Train, go on or take over a run; return its folder and what it was asked to be."""
    chosen = SETS[options.set]
    registered, settings = METHODS[method]
    folder = options.runs / f"{options.set}-{method}-{seed}"
    wanted = resolve(
        registered,
        recipe=chosen["recipe"],
        data=data,
        epochs=options.epochs or chosen["epochs"],
        batch_size=chosen.get("batch_size"),
        seed=seed,
        settings=settings,
    )
    if options.reuse and not folder.exists():
        kept = options.reuse / f"{options.set}-{STUDY.get(method, method)}-{seed}"
        if (kept / "model" / "model.json").is_file():
            shutil.copytree(kept, folder, ignore=shutil.ignore_patterns("features"))
    begun = (folder / "config.json").is_file()
    if begun:
        found = RunConfig.from_json((folder / "config.json").read_text(encoding="utf8"))
        # The same images may lie in another folder: `_require_same_images` has compared them.
        where = found.data.source if options.reuse else wanted.data.source
        require_same(replace(wanted, data=replace(wanted.data, source=where)), folder)
    if not (folder / "model" / "model.json").is_file():
        cognates.train(**({"resume": folder} if begun else {"config": wanted, "out": folder}))
    return folder, wanted


def _measured(
    folder: Path, data: str, baselines: list[dict[str, Any]] | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a run's results, and those of its untrained encoder and of pixels.

    The latter, which take most of the time, are measured beside the first run of an encoder.
    """
    kept = folder / "methods.json"
    if kept.is_file():
        found = json.loads(kept.read_text(encoding="utf8"))
        whole = {r["protocol"] for r in found["trained"]} >= {*PROTOCOLS}
        if whole and (found["baselines"] or baselines):
            return found["trained"], baselines or found["baselines"]
    results = [asdict(result) for result in _evaluate(folder, data, baselines=not baselines)]
    by_subject = {
        "trained": [r for r in results if r["subject"] == "trained"],
        "baselines": [r for r in results if r["subject"] != "trained"],
    }
    kept.write_text(json.dumps(by_subject), encoding="utf8")
    return by_subject["trained"], baselines or by_subject["baselines"]


def _evaluate(folder: Path, data: str, *, baselines: bool) -> list[Result]:
    """Run the protocols on one test view of every image."""
    model = Model.read(folder, device="auto")
    config = model.config
    transform = Transform.of(config.data.image_size, config.data.mean, config.data.std)
    sizes = {"image_size": config.data.image_size, "channels": config.data.channels}
    owners = {"": model.method}
    if baselines:
        owners["untrained-"] = prepare.build_method(config, initial=False).eval().to(model.device)
    features = {}
    for split in ("train", "test"):
        images = cache.load(data, split, **sizes, progress=False)
        for prefix, owner in owners.items():
            features[prefix + split] = extract(
                owner,
                images,
                views=config.views,
                device=model.device,
                view_disagreement=False,
                **asdict(transform),
            )
        if baselines:
            features[f"pixels-{split}"] = pixels(images, config.data.image_size)
    return run_protocols(features, only=PROTOCOLS, progress=print)


def _record(folder: Path, method: str, seed: int, results: list[dict[str, Any]]) -> dict[str, Any]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf8").splitlines()
    metrics = [json.loads(line) for line in lines]
    environment = json.loads((folder / "environment.json").read_text(encoding="utf8"))
    return {
        "method": method,
        "seed": seed,
        "config": json.loads((folder / "config.json").read_text(encoding="utf8")),
        "commit": environment["commit"],
        "device": environment["device"],
        "threads": environment["threads"],
        "training_seconds": metrics[-1]["time"],
        "images_per_second": statistics.median(m["images_per_second"] for m in metrics),
        "results": results,
    }


def require_comparable(runs: list[dict[str, Any]]) -> None:
    """Refuse runs that differ in more than the method's own heads and optimiser."""
    shared: dict[str, tuple[str, object]] = {}
    for run in runs:
        versions = {f"version of {r['protocol']}": r["version"] for r in run["results"]}
        for what, value in {**_shared(run["method"], run["config"]), **versions}.items():
            first, expected = shared.setdefault(what, (run["method"], value))
            if value != expected:
                raise SystemExit(
                    f"Expected the {what} of {first} for {run['method']}, got {value} instead of "
                    f"{expected}: train them alike."
                )


def _shared(method: str, config: Mapping[str, Any]) -> dict[str, object]:
    """Return by name what the methods must have in common."""
    training, data = config["training"], config["data"]
    views = config["views"]
    found = {
        "number of views": len(views),
        "second view": views[-1],
        "images": (data["image_size"], data["channels"]),
        "epochs": training["epochs"],
        "batch": (training["batch_size"], training["accumulate"], training["precision"]),
        # the two families of encoder: each must be one
        "encoder that draws" if method in GENERATIVE else "encoder": config["encoder"],
    }
    if method != "cr-vae":
        found["first view"] = views[0]
    return found


if __name__ == "__main__":
    main()
