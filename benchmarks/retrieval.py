"""CLIP on Flickr8k: does it find the caption of an image, and the image of a caption?

`python benchmarks/retrieval.py` trains the recipe on two threads, evaluates it on the 1,000 test
images and writes `results/flickr8k-retrieval.md`; with `--dev` the dev images take the place of the
test images, to compare settings by, and nothing is written but the run.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
from record import write

import cognates
from cognates import api
from cognates.data.names import VARIABLE
from cognates.types import Result

RECIPE = "flickr8k"


def main() -> None:
    """Train, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/flickr8k-clip"))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dev", action="store_true", help="measure on the dev images")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    started = time.monotonic()
    run = cognates.train(
        recipe=RECIPE,
        data=dev_source(chosen.out.with_name(f"{chosen.out.name}-pairs")) if chosen.dev else None,
        out=chosen.out,
        epochs=chosen.epochs,
        seed=chosen.seed,
        settings=chosen.set,
    )
    minutes = (time.monotonic() - started) / 60
    results = api.evaluate(run, only=["caption-retrieval"], progress=print)
    seconds = json.loads((chosen.out / "environment.json").read_text())["seconds"]
    print(f"{minutes:.1f} min of training, {seconds} s by its own record")
    if chosen.dev:
        return
    rows = table(results)
    for row in rows:
        print(*row, sep="  ")
    write(
        "flickr8k-retrieval",
        title="Flickr8k: captions of images, images of captions",
        note=(
            f"CLIP, recipe `{RECIPE}`, seed {chosen.seed}, {run.config.training.epochs} epochs on "
            f"the 6,000 training images, {minutes:.1f} minutes on {chosen.threads} threads. The "
            "1,000 test images with their 5,000 captions, all of them candidates; 95 % intervals "
            "over images. Settings of this library."
        ),
        header=("direction", "metric", "trained", "untrained", "chance"),
        rows=rows,
        data={
            "minutes": minutes,
            "config": json.loads(run.config.to_json()),
            "results": [result.__dict__ for result in results],
        },
    )


def table(results: list[Result]) -> list[list[str]]:
    """Return one row per direction and metric."""
    found = {(r.metric, r.subject): r for r in results}
    rows = []
    for direction in ("image-to-text", "text-to-image"):
        for metric in ("r-at-1", "r-at-5", "r-at-10", "median-rank"):
            own = found[f"{direction}-{metric}", "trained"]
            before = found[f"{direction}-{metric}", "untrained"]
            chance = own.settings.get("chance")
            rows.append(
                [
                    direction.replace("-", " "),
                    metric,
                    shown(own),
                    shown(before),
                    "" if not isinstance(chance, float) else f"{100 * chance:.1f} %",
                ]
            )
    return rows


def shown(result: Result) -> str:
    """Return a value with its interval: recalls in percent."""
    scale, unit = (1, "") if "rank" in result.metric else (100, " %")
    low, high = (scale * (end or 0.0) for end in (result.low, result.high))
    return f"{scale * result.value:.1f}{unit} [{low:.1f}, {high:.1f}]"


def dev_source(folder: Path) -> str:
    """Make a source whose test images are Flickr8k's dev images; return its name."""
    data = Path(os.environ[VARIABLE]) / RECIPE
    told = json.loads((data / "captions.json").read_text(encoding="utf8"))
    splits = {"train": told["splits"]["train"], "test": told["splits"]["dev"]}
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "images").exists():
        (folder / "images").symlink_to(data / "images")
    text = json.dumps({"captions": told["captions"], "splits": splits})
    (folder / "captions.json").write_text(text, encoding="utf8")
    return f"pairs:{folder.resolve()}"


if __name__ == "__main__":
    main()
