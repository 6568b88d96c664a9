"""`celeba`: binary attributes, several columns per image, read from the representation.

Deep Learning Face Attributes in the Wild (Liu, Luo, Wang and Tang, 2015),
https://arxiv.org/abs/1411.7766; the tasks `hair`, `gender` and `binary` are those of A
Probabilistic Model behind Self-Supervised Learning (Bizeul, Schoelkopf and Allen, 2024),
https://arxiv.org/abs/2402.01399.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cognates.errors import DataError
from cognates.evaluation.linear import GRID
from cognates.evaluation.probing import Plan, Target, probe
from cognates.types import Features, Result

ATTRIBUTES = "attributes"
ALL = 40
"""CelebA's attributes; the three tasks below name them by position."""
HAIR = (8, 9, 11, 17)  # black, blond, brown, grey: evaluation.md, section 7
GENDER = 20  # evaluation.md, section 7
BINARY = (0, 1, *range(3, 8), 10, 12, 15, 18, 19, *range(21, 37), 39)  # evaluation.md, section 7


def celeba(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    grid: int = GRID,
) -> list[Result]:
    """Protocol `celeba`: every attribute by the probes `linear` and `mlp`, and means over them.

    Args:
        train: with the target `attributes` (n, k), in which a positive number means present; names
            of the columns are taken from `target_names`.
        test: with the same.
        seed: of the MLP probe and of the resamples.
        others: features of the baselines.
        grid: number of penalties of the linear probe.

    Returns:
        `NAME/balanced-accuracy/PROBE` (at probability .5) and `NAME/average-precision/PROBE` for
        every attribute, `macro/...` for their mean; with CelebA's 40 columns also
        `hair/accuracy/PROBE` (five ways: black, blond, brown, grey, none of these; images with one
        answer), `gender/accuracy/PROBE`, and `binary/accuracy/PROBE`, the mean of 29 attributes.
        Probes of single attributes are chosen by balanced accuracy, whatever is reported of them.

    Raises:
        DataError: the features have no `attributes` with several columns, none varies, or two
            records would have one name.
    """
    given, asked = matrix(train), matrix(test)
    if given.shape[1] != asked.shape[1]:
        raise DataError(
            f"Expected as many attributes in both splits, got {given.shape[1]} and "
            f"{asked.shape[1]}: take both from one source."
        )
    names = train.target_names.get(ATTRIBUTES) or tuple(f"{i}" for i in range(given.shape[1]))
    simvae = given.shape[1] == ALL
    _require_different(names, ("macro", "hair", "gender", "binary") if simvae else ("macro",))
    targets = [_target(name, i, given, asked, simvae=simvae) for i, name in enumerate(names)]
    if simvae:
        targets.append(Target(name="hair", train=hair(given), test=hair(asked)))
    plan = Plan(protocol="celeba", seed=seed, grid=grid)
    return probe(train, test, targets, plan, others=others)


def _require_different(names: Sequence[str], taken: Sequence[str]) -> None:
    """Raise a `DataError` if two columns, or a column and a mean, go by one name."""
    double = sorted({name for name in names if names.count(name) > 1 or name in taken})
    if double:
        raise DataError(
            f"Expected different names of the attributes, and none of {', '.join(taken)}, got "
            f"{', '.join(double)}: rename these columns."
        )


def _target(
    name: str, position: int, given: np.ndarray, asked: np.ndarray, *, simvae: bool
) -> Target:
    measures = ("balanced-accuracy", "average-precision")
    groups = tuple(("macro", measure) for measure in measures)
    if simvae and position in (GENDER, *BINARY):
        measures = (*measures, "accuracy")
        groups = (*groups, ("gender" if position == GENDER else "binary", "accuracy"))
    return Target(
        name=name,
        train=given[:, position],
        test=asked[:, position],
        measures=measures,
        groups=groups,
    )


def matrix(features: Features) -> np.ndarray:
    """Return the attributes (n, k) as 0 and 1.

    Raises:
        DataError: there are none, or only one column.
    """
    if ATTRIBUTES not in features.targets:
        raise DataError(
            f"Expected a target '{ATTRIBUTES}' with several columns in the "
            f"{features.split or 'given'} features, got {sorted(features.targets) or 'none'}: this "
            "protocol is about attributes."
        )
    values = np.asarray(features.targets[ATTRIBUTES])
    if values.ndim != 2:
        raise DataError(
            f"Expected several columns in '{ATTRIBUTES}', got shape {values.shape}: one label per "
            "image is what the protocols linear, mlp and knn take."
        )
    return (values > 0).astype(np.int64)


def hair(attributes: np.ndarray) -> np.ndarray:
    """Return the colour of the hair 0..4, 4 for none of the four, -1 for more than one.

    Example:
        >>> rows = np.zeros((3, 40), dtype=np.int64)
        >>> rows[0, 9] = rows[1, 8] = rows[1, 17] = 1
        >>> hair(rows).tolist()
        [1, -1, 4]
    """
    colours = attributes[:, list(HAIR)]
    count = colours.sum(axis=1)
    return np.where(count == 1, colours.argmax(axis=1), np.where(count == 0, len(HAIR), -1))
