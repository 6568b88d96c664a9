r"""SimVE beside its VAE family and two discriminative methods: content, style, reconstruction.

    python benchmarks/simve_study.py fashion-mnist --data fashion-mnist-mini --images 10000
    python benchmarks/simve_study.py cifar10 --images 10000 --epochs 8 --methods simve vae

Every method sees the same views of the same images in the same order, for the same epochs, but for
CR-VAE, whose first view is the whole image. The generative ones have the small convolutional pair,
the discriminative ones the same convolutions, pooled; the protocols read what each embeds: the
posterior's mean, the pooled features. Nothing is chosen on test images. The style of a view: where
its crop lies, how large it is and how its colours were changed (R^2 of the MLP probe), whether
it is flipped (balanced accuracy), read from views of the training recipe. Over seeds: mean and
Student's t interval, and SimVE's difference to each other method, paired by seed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from choose import require_same
from record import write
from subset import write_subset

import cognates
from cognates.config import RunConfig
from cognates.data import cache
from cognates.data.views import ViewSpec, grey_images
from cognates.evaluation.features import Transform
from cognates.evaluation.few_labels import student_interval
from cognates.evaluation.passes import FeaturePass
from cognates.evaluation.suite import run_protocols
from cognates.recipes.generative import views_for
from cognates.recipes.resolve import resolve
from cognates.training import prepare
from cognates.types import Result

GENERATIVE = ("simve", "vae", "beta-vae", "cr-vae")
DISCRIMINATIVE = ("simsiam", "ssl-hsic")
RECIPES = {
    "fashion-mnist": ("fashion-mnist-generative", "fashion-mnist"),
    "cifar10": ("cifar10-generative", "cifar10-small"),
}
"""By data set, the recipe of the generative and of the discriminative methods."""
VIEWS = {
    "fashion-mnist": grey_images(28, scale=(0.4, 1.0)),
    "cifar10": ViewSpec(size=32, scale=(0.4, 1.0), grey=0.0),
}
CONTENT = {
    "linear": ("linear", "accuracy"),
    "MLP": ("mlp", "accuracy"),
    "kNN": ("knn", "accuracy"),
    "GMM": ("gmm", "accuracy"),
    "GMM of 64 components": ("gmm-pca64", "accuracy"),
}
STYLE = {
    "x": ("augmentation", "training/x/r2/mlp"),
    "y": ("augmentation", "training/y/r2/mlp"),
    "area": ("augmentation", "training/log-area/r2/mlp"),
    "brightness": ("augmentation", "training/brightness/r2/mlp"),
    "contrast": ("augmentation", "training/contrast/r2/mlp"),
    "saturation": ("augmentation", "training/saturation/r2/mlp"),
    "hue": ("augmentation", "training/hue/r2/mlp"),
    "flip": ("augmentation", "training/flip/balanced-accuracy/mlp"),
}
DRAWN = {
    "MSE": ("reconstruction", "mean/mse"),
    "views of one psi": ("generated-views", "prior/agreement"),
    "of unrelated psi": ("generated-views", "prior/agreement-unrelated"),
    "psi of images": ("generated-views", "image/agreement-minus-unrelated"),
}
ONLY = ("knn", "linear", "mlp", "gmm", "augmentation", "auroc-error")
SCORES = ("posterior-entropy", "negative-elbo", "reconstruction", "knn-distance")


def main() -> None:
    """Run the study."""
    options = _options()
    torch.set_num_threads(options.threads)
    source = options.data or options.set
    name = f"{options.set}-{options.images}" + (f"-{options.heldout}" if options.heldout else "")
    folder = write_subset(
        source, options.runs / name, images=options.images, heldout=options.heldout
    )
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:  # seed by seed: what is cut short is still a comparison
        for method in options.methods:
            runs.append(
                run_one(
                    options, method, seed, f"npz:{folder}", baselines=options.baselines and not runs
                )
            )
            _write(options, source, runs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=RECIPES)
    parser.add_argument("--data", help="SOURCE, if not the set's name")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--heldout", type=int, help="training images to measure on: to choose by")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--methods", nargs="+", default=[*GENERATIVE, *DISCRIMINATIVE])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set-generative", nargs="*", default=[], help="fields of their record")
    parser.add_argument("--name", help="of the result files; simve-SET if not given")
    parser.add_argument("--no-baselines", dest="baselines", action="store_false", help="part of it")
    parser.add_argument("--runs", type=Path, default=Path("runs/simve-study"))
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def configuration(
    name: str, method: str, *, source: str, epochs: int, seed: int, settings: list[str]
) -> RunConfig:
    """Return the run of a method: its family's recipe, with the study's views."""
    generative = method in GENERATIVE
    config = resolve(
        method,
        recipe=RECIPES[name][not generative],
        data=source,
        epochs=epochs,
        seed=seed,
        settings=settings if generative else [],
    )
    if generative:
        model = replace(config.method.model, decoder="convnet")
        drawing = replace(config.method, model=model)
        encoder = replace(config.encoder, name="vae-convnet")
        config = replace(config, method=drawing, encoder=encoder)
    batch = replace(config.training, batch_size=128)
    return replace(config, views=views_for(method, VIEWS[name]), training=batch)


def run_one(
    options: argparse.Namespace, method: str, seed: int, source: str, *, baselines: bool
) -> dict[str, Any]:
    """Train and measure one method with one seed, or read what is there of it."""
    label = options.name or f"simve-{options.set}"
    folder = options.runs / f"{label}-{options.images}-{options.epochs}-{method}-{seed}"
    wanted = configuration(
        options.set,
        method,
        source=source,
        epochs=options.epochs,
        seed=seed,
        settings=options.set_generative,
    )
    begun = (folder / "config.json").is_file()
    if begun:
        require_same(wanted, folder)
    if not (folder / "model" / "model.json").is_file():
        cognates.train(**({"resume": folder} if begun else {"config": wanted, "out": folder}))
    kept = folder / "study.json"  # several seeds may run side by side, and be gathered after
    if not kept.is_file():
        results = _evaluate(folder, source, generative=method in GENERATIVE, baselines=baselines)
        kept.write_text(json.dumps([asdict(result) for result in results]), encoding="utf8")
    lines = (folder / "metrics.jsonl").read_text(encoding="utf8").splitlines()
    return {
        "method": method,
        "seed": seed,
        "config": json.loads((folder / "config.json").read_text(encoding="utf8")),
        "training_seconds": json.loads(lines[-1])["time"],
        "terms": json.loads(lines[-1])["terms"],
        "commit": json.loads((folder / "environment.json").read_text(encoding="utf8"))["commit"],
        "results": json.loads(kept.read_text(encoding="utf8")),
    }


def _evaluate(folder: Path, source: str, *, generative: bool, baselines: bool) -> list[Result]:
    """Run the protocols; the untrained encoder and pixels, which take minutes, if asked."""
    model = cognates.load(folder)
    data, shared = model.config.data, model.config.method.name == "simve"
    passes = FeaturePass(
        views=model.config.views[-1:],  # CR-VAE's first view is the whole image
        transform=Transform.of(data.image_size, data.mean, data.std),
        folder=folder / "features",
        seed=0,
        device=model.device,
        batch_size=512,
        say=print,
    )
    drawn = ("reconstruction", "generated-views") if shared else ("reconstruction",)
    drawn = drawn if generative else ()
    found, _ = passes.features(
        model.method,
        prepare.build_method(model.config, initial=False).eval() if baselines else None,
        *(cache.load(source, split, progress=False) for split in ("train", "test")),
        with_views=False,
        with_augmented=True,
        generative=drawn,
    )
    read = {
        name: features
        for name, features in found.items()
        if (baselines or not name.startswith("pixels")) and "augmented-reference" not in name
    }
    results = run_protocols(read, only=ONLY, progress=print)
    return results + (run_protocols(found, only=drawn, progress=print) if drawn else [])


def _write(options: argparse.Namespace, source: str, runs: list[dict[str, Any]]) -> None:
    methods = [m for m in options.methods if any(run["method"] == m for run in runs)]
    columns = {
        name: column
        for name, column in (CONTENT | STYLE | DRAWN).items()
        if values_of(runs, None, *column)  # grey views have no hue
    }
    rows = [
        [method, *(cell(values_of(runs, method, *column)) for column in columns.values())]
        for method in methods
    ]
    rows += [
        [subject, *(cell(values_of(runs[:1], None, *c, subject=subject)) for c in columns.values())]
        for subject in ("untrained", "pixels")
    ]
    rows += [
        [
            f"simve minus {method}",
            *(cell(_gaps(runs, method, *c), sign=True) for c in columns.values()),
        ]
        for method in methods
        if method != "simve" and "simve" in methods
    ]
    scores = {
        f"{method} {score}": cell(values_of(runs, method, "auroc-error", f"linear/{score}"))
        for method in methods
        for score in SCORES
    }
    found = ", ".join(f"{key} {value}" for key, value in scores.items() if value)
    note = (
        f"{options.images} training images of {source}, {options.epochs} epochs, batch 128, seeds "
        f"{sorted({run['seed'] for run in runs})}. Content: accuracy; style: R^2, for flips "
        "balanced accuracy (chance .5); MSE per pixel; views of one psi: how often two drawn views "
        "have one class. In brackets 95 % Student intervals over seeds; untrained (the first "
        "method's encoder) and pixels once. The generative methods embed 32 or 64 latents, read "
        "from a map of positions, the others 256 pooled features, and the MLP probe is as wide as "
        "what it reads: the two families differ in more than the objective. Above 64 dimensions "
        "the mixture sees 64 principal components, a column of its own. Trained at "
        f"{', '.join(sorted({run['commit'][:12] for run in runs}))}.\n\n"
        f"AUROC of scores for errors of the probe: {found}."
    )
    print(
        write(
            options.name or f"simve-{options.set}",
            title="SimVE, VAEs and discriminative methods: content, style and reconstruction",
            note=note,
            header=["", *columns],
            rows=rows,
            data={"runs": runs},
        )
    )


def values_of(
    runs: list[dict[str, Any]],
    method: str | None,
    protocol: str,
    metric: str,
    *,
    subject: str = "trained",
) -> dict[int, float]:
    """Return a metric by seed, of one method or of any."""
    found = {}
    for run in runs:
        for result in (Result(**record) for record in run["results"]):
            names = (result.protocol, result.metric, result.subject)
            wanted = method in (None, run["method"]) and names == (protocol, metric, subject)
            if wanted and result.error is None:
                found[run["seed"]] = result.value
    return found


def _gaps(runs: list[dict[str, Any]], method: str, protocol: str, metric: str) -> dict[int, float]:
    ours, theirs = (values_of(runs, name, protocol, metric) for name in ("simve", method))
    return {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}


def cell(values: dict[int, float], *, sign: bool = False) -> str:
    """Return the mean over seeds, with its interval if there are several."""
    if not values:
        return ""
    form = "+.3f" if sign else ".3f"
    mean = f"{np.mean(list(values.values())):{form}}"
    if len(values) < 2:
        return mean
    low, high = student_interval(np.array(list(values.values())))
    return f"{mean} [{low:{form}}, {high:{form}}]"


if __name__ == "__main__":
    main()
