"""Is an untrained encoder stronger with batch norm as it starts, or with that of the images?

    python benchmarks/untrained.py --encoders convnet --seeds 0 1 2

The untrained baseline of `cognates.evaluate` is the stronger of the two. Nothing is trained: the
demo's images, freshly drawn weights, and batch norm either with its initial statistics (mean 0,
variance 1) or calibrated: the plain average over eight batches of 256 training images, without
labels.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from typing import Any

import numpy as np
import torch
from record import write
from torch.nn.modules.batchnorm import _BatchNorm

from cognates.data import cache
from cognates.data.augment import channel_statistics
from cognates.data.images import Images
from cognates.evaluation.features import Transform, extract
from cognates.evaluation.suite import run_protocols
from cognates.methods import Method
from cognates.recipes import get
from cognates.training import prepare

PROTOCOLS = ("linear", "knn", "few-labels")
KINDS = ("initial", "calibrated")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="+", default=["convnet"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = [run for name in options.encoders for seed in options.seeds for run in _both(name, seed)]
    rows = [
        [
            f"{run['encoder']}, seed {run['seed']}",
            run["batch_norm"],
            *(f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in run["accuracies"]),
        ]
        for run in runs
    ]
    note = (
        "fashion-mnist-mini, 10,000 training and 2,000 test images, the demo's configuration, "
        "accuracy in %. In brackets 95 % intervals over the test images; few labels: 10 per class, "
        "over 20 draws."
    )
    header = ["encoder", "batch norm", *PROTOCOLS]
    title = "The untrained baseline: which statistics of batch norm"
    print(write("untrained", title=title, note=note, header=header, rows=rows, data={"runs": runs}))


def _both(encoder: str, seed: int) -> list[dict[str, Any]]:
    config = get("demo").build("vi-simsiam")
    config = dataclasses.replace(
        config,
        encoder=dataclasses.replace(config.encoder, name=encoder),
        training=dataclasses.replace(config.training, seed=seed),
    )
    train, test = (
        cache.load(config.data.source, split, image_size=28, channels=1, progress=False)
        for split in ("train", "test")
    )
    transform = Transform.of(28, *channel_statistics(train))
    initial = prepare.build_method(config, initial=False).eval()
    found = []
    for kind, method in zip(KINDS, (initial, calibrated(initial, train, transform)), strict=True):
        features = {
            name: extract(
                method, images, views=config.views, view_disagreement=False,
                **dataclasses.asdict(transform),
            )
            for name, images in (("train", train), ("test", test))
        }  # fmt: skip
        results = {r.protocol: r for r in run_protocols(features, only=PROTOCOLS, grid=6)[::-1]
                   if r.metric == "accuracy"}  # fmt: skip
        accuracies = [
            [100 * value for value in (results[p].value, results[p].low, results[p].high)]
            for p in PROTOCOLS
        ]
        print(encoder, seed, kind, accuracies, flush=True)
        found.append(
            {"encoder": encoder, "seed": seed, "batch_norm": kind, "accuracies": accuracies}
        )
    return found


@torch.no_grad()
def calibrated(method: Method, images: Images, transform: Transform) -> Method:
    """Return a copy of `method` whose batch norms hold the mean and variance of training images."""
    fresh = copy.deepcopy(method)
    for part in fresh.modules():
        if isinstance(part, _BatchNorm):
            part.reset_running_stats()
            part.momentum = None  # a plain average over the batches
            part.train()
    order = np.random.default_rng(0).permutation(len(images))[:2048]
    for rows in np.array_split(order, 8):
        fresh.embed(transform.view(torch.from_numpy(np.array(images.pixels[np.sort(rows)]))))
    return fresh.eval()


if __name__ == "__main__":
    main()
