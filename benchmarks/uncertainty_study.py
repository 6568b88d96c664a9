r"""Does an uncertainty learnt without labels find the errors? Three data sets, several seeds.

    python benchmarks/uncertainty_study.py cifar10 --variants joint cosine simsiam --seeds 0 1 2
    python benchmarks/uncertainty_study.py imagenette --variants cosine --seeds 3 4 5 --ood
    python benchmarks/uncertainty_study.py cifar10 --variants cosine joint detached beta-nll \
        von-mises-fisher from-projection exp sampled mc-info-nce loss-prediction --seeds 0 \
        --epochs 4 --runs runs/ablation --only knn linear auroc-error r-auroc \
        --score consensus --name uncertainty-ablation

Every variant is a run of one recipe, with the same views of the same images. The score is set
beside every baseline that costs no label, in each seed on the same test images: the difference to
the best of them, found on these images, with a paired bootstrap interval over images. Over seeds:
mean and Student's t interval. Chosen is on seeds 0 to 2 of Fashion-MNIST and CIFAR-10; the verdict
is on ImageNette and on seeds 3 to 5.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from choose import require_same
from record import write
from subset import write_subset

import cognates
from cognates.evaluation.few_labels import student_interval
from cognates.recipes.resolve import resolve
from cognates.types import Result

SETS: dict[str, dict[str, Any]] = {
    "fashion-mnist": {"recipe": "fashion-mnist", "epochs": 5, "ood": "dsprites"},
    "cifar10": {"recipe": "cifar10-small", "images": 20_000, "epochs": 20, "ood": "imagenette"},
    "imagenette": {"recipe": "imagenette-64", "epochs": 12, "ood": "cifar10"},
}
"""By data set: the recipe, the training images (all, if not given), the epochs that two CPU cores
manage, and a set that it is not."""
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "simsiam": ("simsiam", []),
    "joint": ("vi-simsiam", ["method.coupling=joint"]),
    "detached": ("vi-simsiam", ["method.coupling=detached"]),
    "cosine": ("vi-simsiam", ["method.coupling=cosine"]),
    "beta-nll": ("vi-simsiam", ["method.coupling=beta-nll"]),
    "von-mises-fisher": (
        "vi-simsiam",
        ["method.coupling=cosine", "method.family=von-mises-fisher"],
    ),
    "from-projection": (
        "vi-simsiam",
        ["method.coupling=cosine", "method.concentration_input=projection"],
    ),
    "exp": ("vi-simsiam", ["method.coupling=cosine", "method.activation=exp"]),
    "sampled": ("vi-simsiam", ["method.coupling=cosine", "method.posterior=sampled"]),
    "sampled-joint": ("vi-simsiam", ["method.coupling=joint", "method.posterior=sampled"]),
    "start-.5": ("vi-simsiam", ["method.coupling=cosine", "method.start=0.5"]),
    "mc-info-nce": ("mc-info-nce", []),
    "loss-prediction": ("loss-prediction", []),
}
"""By name, the method and its fields."""
SCORES = (
    *("concentration", "relative", "relative-distance", "distance-ratio", "consensus"),
    *("norm", "knn-distance", "view-disagreement", "max-softmax"),
)
"""Ours, then the baselines; the last one reads labels."""
PROTOCOLS = ["knn", "linear", "uncertainty", "crop", "corruption"]
CORRUPTIONS = 6
ENOUGH = 0.9
"""A mean uncertainty that follows severity: the Spearman correlation over six severities."""


def main() -> None:
    """Run the study."""
    options = _options()
    torch.set_num_threads(options.threads)
    source = _source(options)
    runs = []
    for seed in options.seeds:  # seed by seed: what is cut short is still a comparison
        for variant in options.variants:
            runs.append(_run(options, variant, seed, source))
            _write(options, runs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--variants", nargs="+", default=["cosine", "joint", "simsiam"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--only", nargs="+", default=PROTOCOLS)
    parser.add_argument("--score", help="that stands for a run; its default if not given")
    parser.add_argument("--ood", action="store_true", help="compare with the other set too")
    parser.add_argument("--train-only", action="store_true", help="evaluate another time")
    parser.add_argument("--name", help="of the result files; uncertainty-SET if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs/uncertainty"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def _source(options: argparse.Namespace) -> str:
    images = SETS[options.set].get("images")
    if images is None:
        return options.set
    return (
        f"npz:{write_subset(options.set, options.runs / f'{options.set}-{images}', images=images)}"
    )


def _run(options: argparse.Namespace, variant: str, seed: int, source: str) -> dict[str, Any]:
    chosen = SETS[options.set]
    method, settings = VARIANTS[variant]
    folder = options.runs / f"{options.set}-{variant}-{seed}"
    wanted = resolve(
        method,
        recipe=chosen["recipe"],
        data=source,
        epochs=options.epochs or chosen["epochs"],
        seed=seed,
        settings=settings,
    )
    begun = (folder / "config.json").is_file()
    if begun:
        require_same(wanted, folder)
    if not (folder / "model" / "model.json").is_file():
        cognates.train(**({"resume": folder} if begun else {"config": wanted, "out": folder}))
    results = _evaluated(options, folder, variant)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf8").splitlines()
    return {
        "variant": variant,
        "seed": seed,
        "config": json.loads((folder / "config.json").read_text(encoding="utf8")),
        "training_seconds": json.loads(lines[-1])["time"],
        "commit": json.loads((folder / "environment.json").read_text(encoding="utf8"))["commit"],
        "results": results,
    }


def _evaluated(options: argparse.Namespace, folder: Path, variant: str) -> list[dict[str, Any]]:
    """Return a run's records: several seeds may run side by side, and be gathered after."""
    kept = folder / "study.json"
    how = {
        "only": options.only,
        "ood": [SETS[options.set]["ood"]] if options.ood else [],
        "score": options.score if variant != "simsiam" else None,
    }
    if kept.is_file():
        found = json.loads(kept.read_text(encoding="utf8"))
        if found["how"] != how:
            raise SystemExit(f"Expected '{kept}' to be of {how}, got {found['how']}: delete it.")
        return found["results"]
    if options.train_only:
        return []
    results = cognates.evaluate(folder, device=options.device, progress=print, **how)
    records = [asdict(result) for result in results]
    kept.write_text(json.dumps({"how": how, "results": records}), encoding="utf8")
    return records


def _write(options: argparse.Namespace, runs: list[dict[str, Any]]) -> None:
    measured = [run for run in runs if run["results"]]
    if not measured:
        return
    header = ["run", *_columns()]
    rows = [
        [f"{run['variant']}, seed {run['seed']}"]
        + [cell(_results(run)) for cell in _columns().values()]
        for run in measured
    ]
    for variant in dict.fromkeys(run["variant"] for run in measured):
        own = [run for run in measured if run["variant"] == variant]
        rows.append(
            [f"{variant}, mean over seeds", *(_over_seeds(own, name) for name in header[1:])]
        )
    config = measured[0]["config"]
    images = SETS[options.set].get("images", "all")
    note = (
        f"{options.set}, {images} training images, {config['encoder']['name']} at "
        f"{config['data']['image_size']} px, {config['training']['epochs']} epochs of batch "
        f"{config['training']['batch_size']}. AUROC: of each score for the errors of the 20 "
        "nearest neighbours, chance .5; R-AUROC: for a wrong nearest neighbour among the test "
        "images; minus best: the default score less the best label-free baseline on these "
        "images. max-softmax "
        "reads labels. Deciles: Spearman of group and accuracy. Corruptions: how many of six the "
        f"mean uncertainty follows with a Spearman correlation of at least {ENOUGH}, then the mean "
        "over them of the single images'. Crops: share of images whose crop is the less certain. "
        "In brackets 95 % intervals: of a run over test images, of a mean over seeds.\n\n"
        f"Linear and kNN accuracy less SimSiam's, paired by seed: {_gaps(measured)}. Trained at "
        f"{', '.join(sorted({run['commit'][:12] for run in measured}))}."
    )
    title = f"The uncertainty on {options.set}"
    name = options.name or f"uncertainty-{options.set}"
    data = {"runs": [{**run, "results": _kept(run["results"])} for run in measured]}
    table = write(name, title=title, note=note, header=header, rows=rows, data=data)
    if len(measured) == len(options.variants) * len(options.seeds):
        print(table)


def _kept(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what goes into the result file: what the table is made of, and its baselines."""
    found = []
    for record in records:
        protocol, metric = record["protocol"], record["metric"]
        if protocol in ("corruption", "crop"):
            wanted = "default-minus" not in metric and any(
                part in metric for part in ("spearman", "per-image", "bigger")
            )
        elif protocol == "deciles":
            wanted = metric.endswith("/spearman-groups")
        else:
            wanted = protocol not in ("risk", "aurc", "augrc", "calibration")
        if wanted:
            names = ("subject", "protocol", "metric", "value", "low", "high", "n", "selected")
            found.append({name: record[name] for name in names})
    return found


def _columns() -> dict[str, Callable[[list[Result]], str]]:
    """Return by heading how a cell is made of a run's results."""
    found: dict[str, Callable[[list[Result]], str]] = {
        "linear": lambda results: _cell(results, "linear", "accuracy"),
        "kNN": lambda results: _cell(results, "knn", "accuracy"),
        "default": _default,
    }
    for name in SCORES:
        found[f"AUROC {name}"] = lambda results, n=name: _cell(
            results, "auroc-error", f"knn/{n}", interval=False
        )
    found["AUROC minus best"] = lambda r: _difference(r, "auroc-error", "knn/default-minus-best")
    found["R-AUROC"] = lambda r: _of_default(r, "r-auroc", "")
    found["R-AUROC minus best"] = lambda r: _difference(r, "r-auroc", "default-minus-best")
    found["deciles"] = lambda r: _of_default(r, "deciles", "", "/spearman-groups", interval=False)
    found["corruptions"] = _corruptions
    found["crops"] = lambda r: _of_default(r, "crop", "bigger/")
    found["OOD AUROC"] = lambda r: _of_default(r, "ood", f"{_outside(r)}/auroc/")
    return found


def _results(run: dict[str, Any]) -> list[Result]:
    found = [Result(**record) for record in run["results"]]
    return [r for r in found if r.subject == "trained" and r.error is None]


def _find(results: list[Result], protocol: str, metric: str) -> Result | None:
    return next((r for r in results if (r.protocol, r.metric) == (protocol, metric)), None)


def _cell(results: list[Result], protocol: str, metric: str, *, interval: bool = True) -> str:
    r = _find(results, protocol, metric)
    if r is None:
        return ""
    return f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" if interval else f"{r.value:.3f}"


def _difference(results: list[Result], protocol: str, metric: str) -> str:
    r = _find(results, protocol, metric)
    if r is None:
        return ""
    return f"{r.value:+.3f} [{r.low:+.3f}, {r.high:+.3f}] ({r.selected.get('baseline')})"


def _default(results: list[Result]) -> str:
    return next((str(r.settings["score"]) for r in results if "default" in r.flags), "")


def _of_default(
    results: list[Result], protocol: str, before: str, after: str = "", *, interval: bool = True
) -> str:
    return _cell(results, protocol, f"{before}{_default(results)}{after}", interval=interval)


def _outside(results: list[Result]) -> str:
    """Return the name of the set that the images were told from."""
    return next((r.metric.partition("/")[0] for r in results if r.protocol == "ood"), "")


def _corruptions(results: list[Result]) -> str:
    score = _default(results)
    found = [
        r.value
        for r in results
        if r.protocol == "corruption"
        and r.metric.endswith(f"/mean-spearman/{score}")
        and not r.metric.startswith("all/")
    ]
    each = _find(results, "corruption", f"all/per-image/{score}")
    if len(found) != CORRUPTIONS or each is None:
        return ""
    return f"{sum(value >= ENOUGH for value in found)} of {CORRUPTIONS}, {each.value:.2f}"


def _over_seeds(runs: list[dict[str, Any]], column: str) -> str:
    cells = [_columns()[column](_results(run)) for run in runs]
    if column in ("default", "corruptions") or not all(cells):
        return cells[0] if len(set(cells)) == 1 else ""
    sign = cells[0].startswith(("+", "-")) and "minus" in column
    return _mean(np.array([float(cell.split()[0]) for cell in cells]), sign=sign)


def _mean(values: np.ndarray, *, sign: bool = False) -> str:
    form = "+.3f" if sign else ".3f"
    if len(values) < 2:
        return f"{values.mean():{form}}"
    low, high = student_interval(values)
    return f"{values.mean():{form}} [{low:{form}}, {high:{form}}]"


def _gaps(runs: list[dict[str, Any]]) -> str:
    said = []
    of = {(run["variant"], run["seed"]): _results(run) for run in runs}
    for variant in dict.fromkeys(run["variant"] for run in runs if run["variant"] != "simsiam"):
        for protocol in ("linear", "knn"):
            found = [
                (_find(results, protocol, "accuracy"), _find(of[beside], protocol, "accuracy"))
                for (name, seed), results in of.items()
                if name == variant and (beside := ("simsiam", seed)) in of
            ]
            gaps = [ours.value - theirs.value for ours, theirs in found if ours and theirs]
            if gaps:
                said.append(f"{variant} {protocol} {_mean(np.array(gaps), sign=True)}")
    return "; ".join(said) or "not measured"


if __name__ == "__main__":
    main()
