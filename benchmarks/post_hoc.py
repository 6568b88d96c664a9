r"""What is an uncertainty worth that was fitted afterwards, on a frozen encoder?

    python benchmarks/post_hoc.py runs/uncertainty/cifar10-cosine-0 --name cifar10

Each run's encoder is given a head by `cognates.fit_uncertainty`, as it stands, and the head's score
is measured beside the scores that cost nothing, on the run's own test images. The encoder's own
uncertainty, if it was trained with one, is measured too, on the same images.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from record import write

import cognates
from cognates.types import Result

OWN = "concentration"
BASELINES = ("norm", "knn-distance", "view-disagreement")
PROTOCOLS = ("knn", "auroc-error", "r-auroc")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoders", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--name", required=True, help="of the result files, after post-hoc-")
    parser.add_argument("--runs", type=Path, default=Path("runs/post-hoc"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    done = []
    for encoder in options.encoders:
        done.append(_both(encoder, options.runs / encoder.name))
        _write(options.name, done)


def _both(encoder: Path, fitted: Path) -> dict[str, Any]:
    if not (fitted / "model" / "model.json").is_file():
        cognates.fit_uncertainty(encoder, out=fitted)
    return {
        "run": encoder.name,
        "config": json.loads((encoder / "config.json").read_text(encoding="utf8")),
        "results": {"own": _measured(encoder), "post-hoc": _measured(fitted)},
    }


def _measured(run: Path) -> list[dict[str, Any]]:
    found = cognates.evaluate(run, only=PROTOCOLS, progress=print)
    return [asdict(result) for result in found if result.subject == "trained"]


def _write(name: str, done: list[dict[str, Any]]) -> None:
    header = ["run", "kNN", "score", "AUROC", "R-AUROC"]
    rows = []
    for run in done:
        of = {kind: [Result(**r) for r in found] for kind, found in run["results"].items()}
        accuracy = _cell(of["own"], "knn", "accuracy")
        kinds = [("post-hoc", OWN, "post-hoc head"), ("own", OWN, "trained with the encoder")]
        kinds += [("post-hoc", "consensus", "consensus with the post-hoc head")]
        kinds += [("own", "consensus", "consensus with the trained one")]
        kinds += [("own", "distance-ratio", "distance-ratio")]
        kinds += [("own", score, score) for score in BASELINES]
        for kind, score, label in kinds:
            cells = [
                _cell(of[kind], "auroc-error", f"knn/{score}"),
                _cell(of[kind], "r-auroc", score),
            ]
            if any(cells):
                rows.append([run["run"], accuracy, label, *cells])
    config = done[0]["config"]
    note = (
        f"{config['encoder']['name']} at {config['data']['image_size']} px, frozen; the head as "
        "`cognates fit-uncertainty` fits it without options. AUROC: of a score for the errors of "
        "the 20 nearest neighbours; R-AUROC: for a wrong nearest neighbour among the test images. "
        "Chance .5. In brackets 95 % intervals over the test images."
    )
    title = "An uncertainty fitted on a frozen encoder"
    data = {"runs": done}
    print(write(f"post-hoc-{name}", title=title, note=note, header=header, rows=rows, data=data))


def _cell(results: list[Result], protocol: str, metric: str) -> str:
    for r in results:
        if (r.protocol, r.metric) == (protocol, metric) and r.error is None:
            return f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]"
    return ""


if __name__ == "__main__":
    main()
