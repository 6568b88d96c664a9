"""What recipes expect of the methods is what the committed table says."""

import json
import statistics
from pathlib import Path

import pytest

from cognates.recipes import get

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
METHODS = ("mc-info-nce", "byol", "vicreg", "dino", "simclr", "clip")


def accuracy(run, protocol):
    (value,) = (
        result["value"]
        for result in run["results"]
        if (result["protocol"], result["metric"], result["error"]) == (protocol, "accuracy", None)
    )
    return value


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("recipe", "table", "epochs", "seeds"),
    [
        ("fashion-mnist", "methods-fashion-mnist", 10, "mean of three seeds"),
        ("cifar10-small", "methods-cifar10", 20, "seed 0"),
    ],
)
def test_an_expectation_is_the_committed_figure(recipe, table, epochs, seeds, method):
    runs = json.loads((RESULTS / f"{table}.json").read_text(encoding="utf8"))["runs"]
    own = [run for run in runs if run["method"] == method]
    assert [run["seed"] for run in own] == ([0, 1, 2] if recipe == "fashion-mnist" else [0])
    means = {
        protocol: statistics.fmean(accuracy(run, protocol) for run in own)
        for protocol in ("linear", "knn")
    }
    linear, knn = (f"{means[protocol]:.3f}".removeprefix("0") for protocol in ("linear", "knn"))
    expected = f"20,000 images, {epochs} epochs, {seeds}: linear {linear}, kNN {knn}"
    assert get(recipe).of(method).expected == expected
