"""How many labels does a choice of what to label save? A linear probe on few labels, by strategy.

    python benchmarks/select_labels.py --run RUN [--data SOURCE] --name fashion-mnist

The features are those of an existing run. A fifth of the training images is held out: the penalty
of the probe is chosen there, for random labelling, and so is the strategy. The test images give one
final figure for random labelling and for the strategy that was chosen.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from record import write

from cognates.api import _images
from cognates.data.images import Images
from cognates.evaluation.few_labels import student_interval
from cognates.evaluation.logistic import Problem, Scaling
from cognates.evaluation.selection import STRATEGIES, select
from cognates.evaluation.splits import holdout, part_of
from cognates.model import Model

PENALTIES = (0.1, 1.0, 10.0, 100.0)
"""Of the probe, over the number of labels; the best for random labelling serves every strategy."""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--data")
    parser.add_argument("--name", required=True)
    parser.add_argument("--budgets", nargs="+", type=int, default=[20, 40, 70, 100, 200, 400])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--pool", type=int, default=12_500, help="training images that are used")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = Model.read(options.run, device="cpu")
    source = options.data or model.config.data.source
    h, u, y, ht, yt = _features(model, source, options.pool)
    held = holdout(y, share=0.2, seed=0)
    pool = h[~held], u[~held], y[~held]
    scaling = Scaling.of(pool[0])
    chosen = _chosen(pool, options.budgets, options.draws)
    curves, penalties = _curves(chosen, pool, scaling, (h[held], y[held]), options.budgets)
    best = _best(curves)
    final = {
        name: [
            [_accuracy(pool, rows, scaling, (ht, yt), penalties[b]) for rows in chosen[name][b]]
            for b in options.budgets
        ]
        for name in dict.fromkeys(["random", best])
    }
    _record(options, model, curves, final, best, len(pool[2]), int(held.sum()), len(yt))


def _features(model: Model, source: str, most: int) -> tuple[np.ndarray, ...]:
    train, test = (_images(model.config, source, split) for split in ("train", "test"))
    train = part_of(train, most, seed=0)
    h, u = _embed(model, train)
    ht, _ = _embed(model, test)
    return h, u, np.asarray(train.targets["label"]), ht, np.asarray(test.targets["label"])


def _embed(model: Model, images: Images) -> tuple[np.ndarray, np.ndarray]:
    parts = [model.embed_stored(images.pixels[i : i + 500]) for i in range(0, len(images), 500)]
    return np.concatenate([h for h, _ in parts]), np.concatenate([u for _, u in parts])


Pool = tuple[np.ndarray, np.ndarray, np.ndarray]


def _chosen(pool: Pool, budgets: list[int], draws: int) -> dict[str, dict[int, list[np.ndarray]]]:
    found: dict[str, dict[int, list[np.ndarray]]] = {}
    for name in STRATEGIES:
        started = time.perf_counter()
        found[name] = {
            b: [select(*pool[:2], budget=b, strategy=name, seed=d) for d in range(draws)]
            for b in budgets
        }
        print(f"{name}: chosen in {time.perf_counter() - started:.0f} s", flush=True)
    return found


def _curves(
    chosen: dict[str, dict[int, list[np.ndarray]]],
    pool: Pool,
    scaling: Scaling,
    held: tuple[np.ndarray, np.ndarray],
    budgets: list[int],
) -> tuple[dict[str, list[list[float]]], dict[int, float]]:
    penalties = {}
    for b in budgets:
        means = [
            np.mean([_accuracy(pool, rows, scaling, held, p) for rows in chosen["random"][b]])
            for p in PENALTIES
        ]
        penalties[b] = PENALTIES[int(np.argmax(means))]
    curves = {
        name: [[_accuracy(pool, r, scaling, held, penalties[b]) for r in of[b]] for b in budgets]
        for name, of in chosen.items()
    }
    return curves, penalties


def _accuracy(
    pool: Pool,
    rows: np.ndarray,
    scaling: Scaling,
    on: tuple[np.ndarray, np.ndarray],
    penalty: float,
) -> float:
    classes, target = np.unique(pool[2][rows], return_inverse=True)
    problem = Problem(scaling(pool[0][rows])[None], target[None], classes=len(classes))
    fit = problem.solve(penalty / len(rows), tolerance=1e-4, iterations=500)
    guessed = (scaling(on[0]) @ problem.expand(fit)[0] + fit.bias[0]).argmax(axis=1)
    return float((classes[guessed] == on[1]).mean())


def _best(curves: dict[str, list[list[float]]]) -> str:
    means = {name: float(np.mean(of)) for name, of in curves.items() if name != "random"}
    return max(means, key=lambda name: means[name])


def needed(budgets: list[int], accuracies: list[float], wanted: float) -> float | None:
    """Return the labels at which a curve, linear in the logarithm, first has an accuracy."""
    for i, accuracy in enumerate(accuracies):
        if accuracy >= wanted:
            if i == 0:
                return float(budgets[0])
            share = (wanted - accuracies[i - 1]) / (accuracy - accuracies[i - 1])
            low, high = np.log(budgets[i - 1]), np.log(budgets[i])
            return float(np.exp(low + share * (high - low)))
    return None


def _record(
    options: argparse.Namespace,
    model: Model,
    curves: dict[str, list[list[float]]],
    final: dict[str, list[list[float]]],
    best: str,
    pool: int,
    held: int,
    test: int,
) -> None:
    rows = [_row(f"{name}, held-out", curves[name], options.budgets) for name in curves]
    rows += [_row(f"{name}, test", final[name], options.budgets) for name in final]
    shares: dict[str, dict[str, Any]] = {}
    for where, found in (("held-out", curves), ("test", final)):
        means = {name: [float(np.mean(draws)) for draws in of] for name, of in found.items()}
        for name in means:
            if name == "random":
                continue
            labels = [needed(options.budgets, means[name], wanted) for wanted in means["random"]]
            shares[f"{name}, {where}"] = {
                str(b): None if n is None else n / b
                for b, n in zip(options.budgets, labels, strict=True)
            }
    rows += [
        [f"{name}: share of the labels for random labelling's accuracy"]
        + ["more" if (s := of[str(b)]) is None else f"{s:.0%}" for b in options.budgets]
        for name, of in shares.items()
    ]
    config = model.config
    note = (
        f"{config.method.name}, {config.encoder.name}, {config.training.epochs} epochs, seed "
        f"{config.training.seed}, score `{model.default_score}`: accuracy in % of a linear probe "
        f"on so many labels out of {pool:,} training images, mean of {options.draws} draws with "
        "Student's t interval over them; on "
        f"{held:,} other training images, where penalty and strategy were chosen ({best}), then on "
        f"{test:,} test images. The last rows: the labels with which a strategy reaches what "
        "random labelling reaches with those of the column, over these (between columns the curve "
        "is linear in the logarithm of the labels; the first column cannot fall below 100 %)."
    )
    data = {"curves": curves, "test": final, "shares": shares, "chosen": best}
    print(
        write(
            f"select-labels-{options.name}",
            title=f"What to label first: {options.name}",
            note=note,
            header=["labels", *map(str, options.budgets)],
            rows=rows,
            data={**data, "budgets": options.budgets},
        )
    )


def _row(name: str, draws: list[list[float]], budgets: list[int]) -> list[str]:
    cells = []
    for values, _ in zip(draws, budgets, strict=True):
        low, high = student_interval(100 * np.array(values))
        cells.append(f"{100 * np.mean(values):.1f} [{low:.1f}, {high:.1f}]")
    return [name, *cells]


if __name__ == "__main__":
    main()
