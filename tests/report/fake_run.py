"""A run directory as training and evaluation leave it, made of plain numbers."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cognates.types import Result

SCORES = ("concentration", "norm", "knn-distance", "view-disagreement", "max-softmax", "random")
_MARKS = {"max-softmax": "needs-labels", "view-disagreement": "eight-passes", "random": "sanity"}


def config(seed=0, **changes):
    view = {"size": 28, "scale": [0.5, 1.0], "flip": 0.5}
    made = {
        "method": {"name": "vi-simsiam", "dim": 512, "family": "power-spherical"},
        "encoder": {"name": "convnet", "stem": "auto", "width": None, "init": None},
        "data": {"source": "fashion-mnist-mini", "image_size": 28, "channels": 1},
        "views": [view, view],
        "optimiser": {"name": "sgd", "learning_rate": 0.2, "momentum": 0.9},
        "training": {"epochs": 20, "batch_size": 256, "seed": seed, "device": "auto"},
        "plugin": None,
        "version": 1,
    }
    for key, value in changes.items():
        section, name = key.split("__")
        made[section] = {**made[section], name: value}
    return made


def results(*, labels=True, shift=0.0):
    found = []

    def add(protocol, metric, value, half=0.01, **more):
        fields = {"low": value - half, "high": value + half, "n": 2000, **more}
        found.append(Result(protocol=protocol, metric=metric, value=value, **fields))

    if labels:
        for protocol, trained, untrained, pixels, settings in (
            ("linear", 0.861 + shift, 0.832, 0.823, {}),
            ("knn", 0.848 + shift, 0.801, 0.812, {}),
            ("few-labels", 0.742 + shift, 0.651, 0.665, {"per_class": 10, "draws": 20}),
        ):
            add(protocol, "accuracy", trained, 0.015, settings=settings)
            add(protocol, "accuracy", untrained, 0.016, subject="untrained")
            add(protocol, "accuracy", pixels, 0.016, subject="pixels")
            add(protocol, "accuracy-minus-untrained", trained - untrained, 0.012)
            add(protocol, "accuracy-minus-pixels", trained - pixels, 0.013)
        for probe in ("linear", "knn"):
            for score, value in zip(SCORES, (0.71, 0.58, 0.69, 0.66, 0.83, 0.5), strict=True):
                add(
                    *("auroc-error", f"{probe}/{score}", value + shift, 0.03),
                    settings={"score": score, "errors": probe},
                    flags=("default",) if score == "concentration" else (_MARKS.get(score, "-"),),
                )
            add(
                *("auroc-error", f"{probe}/default-minus-best", 0.02, 0.015),
                settings={"score": "concentration", "errors": probe},
                selected={"baseline": "knn-distance"},
            )
        for score in SCORES:
            slope = {"concentration": 0.05, "random": 0.0}.get(score, 0.03)
            for i in range(10):
                add(
                    *("deciles", f"{score}/decile-{i + 1}", 0.98 - slope * i, 0.04),
                    settings={"score": score},
                    flags=("default",) if score == "concentration" else (),
                )
    for subject, value in (("trained", 0.93), ("untrained", 0.61), ("pixels", 0.48)):
        add("view-retrieval", "r-at-1", value, 0.01, subject=subject)
    add("spread", "effective-rank", 88.2, low=None, high=None)
    add("spread", "spread", 0.71)
    for change, value in (("crop", 0.62), ("blur", 0.48)):
        swept = {"protocol": "sensitivity", "half": 0.05}
        own = {"settings": {"score": "concentration"}, "flags": ("default",)}
        add(metric=f"{change}-per-image", value=value, **swept, **own)
        for score, beside in (("norm", 0.31), ("knn-distance", 0.55), ("view-disagreement", 0.5)):
            metric = f"{change}-per-image"
            add(metric=f"{metric}/{score}", value=beside, settings={"score": score}, **swept)
            add(metric=f"{metric}/default-minus-{score}", value=value - beside, **swept, **own)
    return found


def metrics(steps=60):
    t = np.arange(10, 10 * steps + 10, 10)
    for i, step in enumerate(t):
        x = i / steps
        loss = -0.9 * (1 - np.exp(-4 * x)) + 0.02 * np.sin(9 * i)
        yield {
            "step": int(step),
            "epoch": float(step) / 39,
            "time": float(step) * 0.2,
            "loss": float(loss),
            "terms": {"alignment": float(loss)},
            "learning_rate": float(0.1 * (1 + np.cos(np.pi * x))),
            "images_per_second": 1500.0 + 40 * float(np.sin(i)),
            "data_wait": 0.02,
            "spread": float(0.55 + 0.3 * (1 - np.exp(-6 * x))),
            "effective_rank": float(30 + 90 * (1 - np.exp(-5 * x))),
            "extra": {},
        }


def write(folder, *, seed=0, labels=True, names=None, shift=0.0, size=28, channels=1, **changes):
    """Write a run directory; `names`: what every image and label is called."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(seed, **changes)))
    environment = {
        "cognates": "0.1.0",
        "torch": "2.13.0",
        "device": "cpu",
        "commit": None,
        "seconds": 187.2,
        "command": "cognates demo",
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics()))
    rows = [asdict(r) for r in results(labels=labels, shift=shift)]
    (folder / "results.json").write_text(json.dumps(rows))
    data = {
        "name": "fashion-mnist-mini",
        "note": "Splits as given: train, test.",
        "splits": {"train": {"images": 10000}, "test": {"images": 2000}},
        "classes": 10 if labels else None,
        "unreadable": 2,
    }
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "unreadable.txt").write_text(f"{names or 'a/broken.jpg'}\ttruncated\nb.jpg\tempty\n")
    generator = np.random.default_rng(seed)
    k = 24
    grid = np.linspace(0, 1, size)
    pixels = np.stack(
        [
            np.stack([255 * np.abs(np.sin(a * grid[:, None] + b * grid)) for _ in range(channels)])
            for a, b in generator.uniform(1, 9, (2 * k, 2))
        ]
    ).astype(np.uint8)
    np.savez(
        folder / "gallery.npz",
        pixels=pixels,
        kind=np.repeat(["least", "most"], k),
        uncertainty=np.linspace(0.6, 0.1, 2 * k),
        percentile=np.linspace(99.9, 0.1, 2 * k),
        path=np.array([names or f"some folder/image-{i:03d}.png" for i in range(2 * k)]),
        label=np.array([names or (f"Shirt {i % 10}" if labels else "") for i in range(2 * k)]),
    )
    return folder
