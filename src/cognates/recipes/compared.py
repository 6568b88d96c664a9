"""What `benchmarks/methods.py` found with the recipes of small images, by method.

Short runs of `convnet` with everything equal but heads and optimiser
(`benchmarks/results/methods-fashion-mnist.md`, `benchmarks/results/methods-cifar10.md`).
"""

from __future__ import annotations

from cognates.recipes import baselines
from cognates.recipes.defaults import CLIP

CLIP_PAPER = (
    "Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021), "
    "https://arxiv.org/abs/2103.00020"
)
Known = dict[str, dict[str, str]]
"""By method: paper, expectation and cost, as far as they differ from the recipe's."""


def paired(expected: str = "not measured", cost: str = "not measured") -> Known:
    """Return what is known of CLIP on images without captions."""
    paper = f"{CLIP_PAPER}; two views in place of image and text, settings of this library"
    return {CLIP: {"paper": paper, "expected": expected, "cost": cost}}


def _known(length: str, *, minutes: int, **figures: str) -> Known:
    """Return the entries of the methods.

    Args:
        length: images, epochs and seeds.
        minutes: of one run on one CPU core.
        figures: accuracies of methods, with an underscore for every hyphen.
    """
    found = {name: f"{length}: {text}" for name, text in figures.items()}
    cost = f"{minutes} min on one CPU core for that"
    return {
        "mc-info-nce": {
            "expected": found["mc_info_nce"],
            "cost": f"{3 * minutes} min on one CPU core for that",
        },
        "loss-prediction": {
            "expected": "the encoder of simsiam to the bit; its score not measured",
            "cost": "not measured",
        },
        **baselines.own("heads, optimiser and length of this library", cost=cost, **found),
        **paired(found["clip"], cost),
    }


FASHION_MNIST = _known(
    "20,000 images, 10 epochs, mean of three seeds",
    minutes=5,
    mc_info_nce="linear .874, kNN .844",
    byol="linear .860, kNN .820",
    vicreg="linear .871, kNN .840",
    dino="linear .852, kNN .826",
    simclr="linear .867, kNN .833",
    clip="linear .866, kNN .842",
)
CIFAR10 = _known(
    "20,000 images, 20 epochs, seed 0",
    minutes=10,
    mc_info_nce="linear .602, kNN .566",
    byol="linear .515, kNN .454",
    vicreg="linear .576, kNN .528",
    dino="linear .509, kNN .447",
    simclr="linear .583, kNN .542",
    clip="linear .577, kNN .552",
)
