"""The protocols by name: what the suite runs, which of them unasked, and what each needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cognates.errors import ConfigError, nearest
from cognates.evaluation.attributes import ATTRIBUTES, celeba
from cognates.evaluation.augmentation import augmentation
from cognates.evaluation.calibration import calibration
from cognates.evaluation.caption_retrieval import CAPTIONS, caption_retrieval
from cognates.evaluation.clustering import gmm, kmeans
from cognates.evaluation.corruption import corruption
from cognates.evaluation.crops import crop
from cognates.evaluation.dependence import dependence
from cognates.evaluation.drawn import GENERATIVE
from cognates.evaluation.effects import NAME as AUGMENTATION_UNCERTAINTY
from cognates.evaluation.effects import augmentation_uncertainty
from cognates.evaluation.factors import FACTORS, TEST, TRAIN, dsprites
from cognates.evaluation.few_labels import few_labels
from cognates.evaluation.generation import generated_views, generation
from cognates.evaluation.kind_retrieval import KINDS, kind_retrieval
from cognates.evaluation.knn import knn, knn_200
from cognates.evaluation.likelihood import elbo, reconstruction
from cognates.evaluation.linear import linear
from cognates.evaluation.mlp import mlp
from cognates.evaluation.outsiders import ood
from cognates.evaluation.recall import r_auroc
from cognates.evaluation.retrieval import view_retrieval
from cognates.evaluation.selective import augrc, aurc, risk
from cognates.evaluation.sensitivity import sensitivity
from cognates.evaluation.spread import representation_spread
from cognates.evaluation.subjects import TARGET
from cognates.evaluation.theory import theory
from cognates.evaluation.uncertainty import auroc_error, deciles
from cognates.evaluation.vote import knn_vote
from cognates.types import Result


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A protocol as the suite knows it."""

    name: str
    run: Callable[..., list[Result]]
    summary: str
    needs: str = ""
    """What the images must have: the target `label`, `attributes` or `factors`, `captions` that the
    method reads, or two `kinds` that it pairs; empty: nothing."""
    grid: bool = False
    """Whether it takes the number of penalties."""
    version: int = 1
    """Raised by any change of a default or a definition; tables refuse to mix versions."""
    standard: bool = True
    """Whether it runs when no protocol is named: what takes minutes, or says what few ask, is not.
    """
    images: tuple[int, int] | None = None
    """Most training and test images that it takes, where that is not all."""


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="knn", run=knn, summary="weighted k nearest neighbours", needs=TARGET
        ),
        Protocol(
            name="knn-200",
            run=knn_200,
            summary="the same with k = 200, for published tables",
            needs=TARGET,
            standard=False,
        ),
        Protocol(
            name="linear", run=linear, summary="linear probe", needs=TARGET, grid=True
        ),
        Protocol(
            name="few-labels",
            run=few_labels,
            summary="linear probe on ten labels per class",
            needs=TARGET,
            grid=True,
        ),
        Protocol(
            name="deciles",
            run=deciles,
            summary="accuracy by uncertainty",
            needs=TARGET,
            grid=True,
            version=2,
        ),
        Protocol(
            name="auroc-error",
            run=auroc_error,
            summary="AUROC of the uncertainty for errors",
            needs=TARGET,
            grid=True,
            version=3,
        ),
        Protocol(
            name="r-auroc",
            run=r_auroc,
            summary="AUROC of the uncertainty for a nearest neighbour of another class",
            needs=TARGET,
            grid=True,
            version=2,
        ),
        Protocol(
            name="aurc",
            run=aurc,
            summary="errors that are left as uncertain images are refused",
            needs=TARGET,
            grid=True,
            version=2,
        ),
        Protocol(
            name="augrc",
            run=augrc,
            summary="the same, the most certain images not weighing most",
            needs=TARGET,
            grid=True,
            version=2,
            standard=False,
        ),
        Protocol(
            name="risk",
            run=risk,
            summary="error rate at a coverage, and coverage at an error rate",
            needs=TARGET,
            grid=True,
            version=2,
        ),
        Protocol(
            name="calibration",
            run=calibration,
            summary="confidence of the linear probe beside its accuracy",
            needs=TARGET,
            grid=True,
        ),
        Protocol(
            name="view-retrieval", run=view_retrieval, summary="finding the other view of an image"
        ),
        Protocol(
            name="caption-retrieval",
            run=caption_retrieval,
            summary="finding the caption of an image, and the image of a caption",
            needs=CAPTIONS,
            standard=False,
        ),
        Protocol(
            name="kind-retrieval",
            run=kind_retrieval,
            summary="finding the same image of the other kind",
            needs=KINDS,
            standard=False,
        ),
        Protocol(
            name="spread",
            run=representation_spread,
            summary="spread and effective rank",
            version=2,
        ),
        Protocol(
            name="dependence",
            run=dependence,
            summary="HSIC of the representation, and InfoNCE beside its approximation",
            standard=False,
        ),
        Protocol(
            name="theory",
            run=theory,
            summary="J_align and J_uniform of the variational reading",
            standard=False,
        ),
        Protocol(
            name="sensitivity",
            run=sensitivity,
            summary="uncertainty against crop and blur",
            version=2,
        ),
        Protocol(
            name="crop",
            run=crop,
            summary="is a part of an image less certain than the whole?",
            version=2,
        ),
        Protocol(
            name="corruption",
            run=corruption,
            summary="uncertainty against six corruptions of five severities",
            version=2,
            standard=False,
        ),
        Protocol(
            name=AUGMENTATION_UNCERTAINTY,
            run=augmentation_uncertainty,
            summary="uncertainty under each augmentation at a few strengths",
            version=2,
            standard=False,
        ),
        Protocol(
            name="ood",
            run=ood,
            summary="uncertainty of images of another set",
            grid=True,
            version=2,
            standard=False,
        ),
        Protocol(
            name="mlp",
            run=mlp,
            summary="MLP probe, and what it finds beyond the linear one",
            needs=TARGET,
            grid=True,
            standard=False,
        ),
        Protocol(
            name="knn-vote",
            run=knn_vote,
            summary="equal votes of k nearest neighbours, k chosen on held-out training images",
            needs=TARGET,
            standard=False,
        ),
        Protocol(
            name="gmm",
            run=gmm,
            summary="Gaussian mixture beside the classes",
            needs=TARGET,
            standard=False,
        ),
        Protocol(
            name="kmeans",
            run=kmeans,
            summary="k-means beside the classes",
            needs=TARGET,
            standard=False,
        ),
        Protocol(
            name="augmentation",
            run=augmentation,
            summary="crop, flip and colours of a view, read from its representation",
            grid=True,
            standard=False,
        ),
        Protocol(
            name="celeba",
            run=celeba,
            summary="several binary attributes of an image",
            needs=ATTRIBUTES,
            grid=True,
            standard=False,
        ),
        Protocol(
            name="dsprites",
            run=dsprites,
            summary="shape, scale, position and orientation of dSprites",
            needs=FACTORS,
            grid=True,
            standard=False,
            images=(TRAIN, TEST),
        ),
        Protocol(
            name="reconstruction",
            run=reconstruction,
            summary="reconstruction error",
            standard=False,
        ),
        Protocol(name="elbo", run=elbo, summary="bounds on the likelihood", standard=False),
        Protocol(
            name="generation",
            run=generation,
            summary="samples against test images",
            version=2,
            standard=False,
        ),
        Protocol(
            name="generated-views",
            run=generated_views,
            version=2,
            summary="do views drawn from one psi share a class?",
            needs=TARGET,
            grid=True,
            standard=False,
        ),
    )
}  # fmt: skip

GROUPS = {
    "uncertainty": (
        *("deciles", "auroc-error", "r-auroc", "aurc", "augrc", "risk", "calibration"),
    ),
    "retrieval": ("view-retrieval", "caption-retrieval", "kind-retrieval"),
    "clustering": ("gmm", "kmeans"),
    "gmm-pca64": ("gmm",),
    "generative": GENERATIVE,
}
"""Names for several protocols, accepted wherever a protocol is named."""


def resolve(only: Sequence[str] | None) -> list[Protocol]:
    """Return the protocols named, in the suite's order; None: the standard ones.

    Raises:
        ConfigError: a name is not known; the nearest one is offered.
    """
    if only is None:
        return [protocol for protocol in PROTOCOLS.values() if protocol.standard]
    wanted = set()
    for name in only:
        if name not in PROTOCOLS and name not in GROUPS:
            raise ConfigError(
                f"Expected the name of a protocol, got '{name}': "
                f"{nearest(name, [*PROTOCOLS, *GROUPS])}."
            )
        wanted.update(GROUPS.get(name, (name,)))
    return [protocol for name, protocol in PROTOCOLS.items() if name in wanted]
