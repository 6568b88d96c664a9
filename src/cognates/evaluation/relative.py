r"""Scores of an image against a bank of training images, so that one image alone has them too.

The bank holds at most 10,000 training images: unit representations z_j and what every score says
of them, each of them left out of its own neighbourhood. With u the method's own score, N_k(i) the k
bank images of the largest cosine to image i, and R_s(x) the rank in [0, 1] of a value x among the
bank's own values of the score s:

    relative(i)          = log u_i - mean over j in N_200(i) of log u_j
    knn-distance(i)      = 1 - mean over j in N_20(i) of z_i . z_j
    relative-distance(i) = (R_relative(i) + R_knn-distance(i)) / 2
    distance-ratio(i)    = D_20(i) / D_w(i), D_k(i) = 1 - mean over j in N_k(i) of z_i . z_j
    consensus(i)         = (R_u(i) + R_distance-ratio(i)) / 2

For VI-SimSiam u = (d-1)/(kappa + d-1), so that log u = -log kappa + constant where kappa is well
above d: what is left after the neighbourhood's level is taken off is about the image, not about its
kind. An own score that is not positive on the whole bank enters `relative` without the logarithm.

`distance-ratio` asks whether an image has neighbours that are nearer than the rest: w is a
twentieth of the bank, at least 40 images. It is 1 where the nearest are as far as the others, as on
no cluster or between several (and for every image of a bank of at most 21). Where the density is
even as far as the w-th neighbour it is (20/w)^(2/n), n the dimension of the neighbourhood, so that
it orders images by that dimension (Levina and Bickel, Maximum Likelihood Estimation of Intrinsic
Dimension, 2004). A kind of fewer than w bank images has neighbours of other kinds among the w, and
so a small ratio: a rare kind that lies apart counts as certain.

An image does not vouch for itself. A bank image whose cosine to it is 1 but for rounding is a copy
of it, and one copy is left out: a training image has the same score as it would have if it were not
in the bank, wherever it comes from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cognates.errors import ConfigError
from cognates.evaluation.features import NORM
from cognates.evaluation.knn import DISTANCE, NEIGHBOURS, normalise
from cognates.random import fold_in
from cognates.types import Features

RELATIVE = "relative"
RELATIVE_DISTANCE = "relative-distance"
CONSENSUS = "consensus"
DISTANCE_RATIO = "distance-ratio"
SCORES = (RELATIVE, RELATIVE_DISTANCE, DISTANCE_RATIO, CONSENSUS)
"""Scores against the bank that are a method's own; `knn-distance` is a baseline."""
PLACED = (NORM, DISTANCE, DISTANCE_RATIO)
"""Scores that the representation decides alone: they do not depend on the method's own score."""
BANK_SIZE = 10_000
"""Most training images of a bank: design.md."""
NEIGHBOURHOOD = 200
"""Bank images whose level is taken off; more take off less."""
WIDE = 20
"""`distance-ratio` compares with one bank image in so many: 500 of 10,000. Chosen among 200, 500
and 1,000 on features of Fashion-MNIST and CIFAR-10, seeds 0 to 2: docs/uncertainty.md."""
COPY = 2e-6
"""Largest 1 - cosine of a copy: float16 and float32 rounding stay below 1e-6, while of 20,000
images of Fashion-MNIST all but a thousandth are further than 6e-4 from any other."""
_ELEMENTS = 1 << 23  # similarities at a time: 32 MB


@dataclass(frozen=True, kw_only=True, eq=False)
class Bank:
    """Training images to compare with: make one with `make_bank`."""

    representation: np.ndarray
    """(m, d) float32 of unit length, rounded to float16, which is what a file keeps."""
    scores: Mapping[str, np.ndarray]
    """What every score says of the bank's images (m,) float64, each left out of its own search."""
    own: str
    """The name of the method's own score."""

    @property
    def digest(self) -> str:
        """Return a hash of all that scores against this bank depend on."""
        parts = [self.representation, *(self.scores[name] for name in sorted(self.scores))]
        found = hashlib.sha256(self.own.encode())
        for part in parts:
            found.update(np.ascontiguousarray(part).tobytes())
        return found.hexdigest()


def bank_rows(n: int, *, seed: int, most: int = BANK_SIZE) -> np.ndarray:
    """Return which of n training images are in the bank: at most `most`, drawn by the seed, sorted.

    Example:
        >>> bank_rows(3, seed=0).tolist()
        [0, 1, 2]
    """
    if n <= most:
        return np.arange(n)
    generator = np.random.default_rng(fold_in(seed, "bank"))
    return np.sort(generator.choice(n, most, replace=False))


def make_bank(representation: np.ndarray, scores: Mapping[str, np.ndarray], *, own: str) -> Bank:
    """Return a bank of training images with the scores that compare its images with each other.

    Args:
        representation: (m, d); of any length, only directions are kept.
        scores: values (m,) by name, the own score among them.
        own: the name of the method's own score.

    Raises:
        ConfigError: the own score is missing.
    """
    if own not in scores:
        raise ConfigError(f"Expected the score '{own}' of the bank's images, got {sorted(scores)}.")
    rounded = normalise(np.asarray(representation)).half().float()
    bank = Bank(
        representation=normalise(rounded.numpy()).numpy(),
        scores={name: np.asarray(values, dtype=np.float64) for name, values in scores.items()},
        own=own,
    )
    if len(rounded) < 2:
        return bank  # an image alone has no neighbourhood
    return Bank(
        representation=bank.representation,
        scores={**bank.scores, **against(bank, representation, bank.scores, parts=True)},
        own=own,
    )


def bank_of(train: Features, *, own: str, seed: int) -> Bank | None:
    """Return a bank drawn from training features; None where it cannot be compared with.

    That is where their own score is not known (it costs eight passes) or there is one image.
    """
    rows = bank_rows(len(train.index), seed=seed)
    if own not in train.scores or len(rows) < 2:
        return None
    scores = {name: values[rows] for name, values in train.scores.items()}
    return make_bank(train.representation[rows], scores, own=own)


def against(
    bank: Bank,
    representation: np.ndarray,
    scores: Mapping[str, np.ndarray],
    *,
    parts: bool = False,
) -> dict[str, np.ndarray]:
    """Return the scores of images against the bank, formulas as in the module.

    Args:
        bank: of at least two images.
        representation: (n, d) of the images, of any length.
        scores: their own score (n,) under the bank's name; others are not read.
        parts: whether to return `knn-distance`, which another is made of, too.

    Returns:
        (n,) float64 by name, larger is less certain; `distance-ratio` is in (0, 1]. A value depends
        on its image and on the bank alone. Ranks go on linearly beyond the bank's own range: there
        `relative-distance` and `consensus`, else in [0, 1], keep the order.

    Raises:
        ConfigError: the bank has one image, or the own score is missing.
    """
    if bank.own not in scores or len(bank.representation) < 2:
        raise ConfigError(
            f"Expected the score '{bank.own}' and a bank of at least 2 images, got "
            f"{sorted(scores)} and {len(bank.representation)}."
        )
    own, mine = bank.scores[bank.own], np.asarray(scores[bank.own], dtype=np.float64)
    if own.min() > 0:
        own, mine = np.log(own), np.log(np.maximum(mine, np.finfo(np.float64).tiny))
    distances, level = _around(bank, representation, own)
    found = {RELATIVE: mine - level, **distances}

    def ranked(name: str) -> np.ndarray:
        values = found.get(name, scores.get(name))
        return rank_among(bank.scores.get(name, values), values)

    found[RELATIVE_DISTANCE] = (ranked(RELATIVE) + ranked(DISTANCE)) / 2
    found[CONSENSUS] = (ranked(bank.own) + ranked(DISTANCE_RATIO)) / 2
    return {n: values for n, values in found.items() if parts or n in SCORES}


def place(bank: Bank, representation: np.ndarray) -> dict[str, np.ndarray]:
    """Return `knn-distance` and `distance-ratio` against the bank, which need no own score.

    Args:
        bank: of at least two images.
        representation: (n, d) of the images, of any length.

    Returns:
        (n,) float64 by name, as `against` has them.

    Raises:
        ConfigError: the bank has one image.
    """
    m = len(bank.representation)
    if m < 2:
        raise ConfigError(f"Expected a bank of at least 2 images, got {m}: train on more images.")
    return _around(bank, representation, np.zeros(m))[0]


def rank_among(reference: np.ndarray, values: np.ndarray) -> np.ndarray:
    r"""Return the rank of values among those of a reference, continuous and increasing.

    Formula: (number below + half the number of equals) / m at a value of the reference, linear in
    between; beyond the reference's range it goes on with the slope 1 / range.

    Args:
        reference: (m,) finite numbers.
        values: (n,) finite numbers.

    Returns:
        (n,) float64, in (0, 1) inside the range; 1/2 where the reference is one value and equal.

    Example:
        >>> rank_among(np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.5, 5.0])).tolist()
        [0.125, 0.5, 0.6875, 1.875]
    """
    known, counts = np.unique(reference, return_counts=True)
    middle = (np.cumsum(counts) - counts / 2) / len(reference)
    span = float(known[-1] - known[0])
    inside = np.clip(values, known[0], known[-1])
    beyond = (values - inside) / span if span > 0 else np.sign(values - inside)
    return np.interp(inside, known, middle) + beyond


def with_scores(features: Features, bank: Bank) -> Features:
    """Return features of no width with the scores of `features` against the bank."""
    return Features(
        representation=np.empty((len(features.index), 0), dtype=np.float32),
        index=features.index,
        scores=against(bank, features.representation, features.scores),
        dataset=features.dataset,
        split=features.split,
    )


def _around(
    bank: Bank, representation: np.ndarray, own: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the scores that are distances, and the mean of `own` over the nearest 200 bank images.

    Float64, without one copy of the image itself.
    """
    known, queries = torch.from_numpy(bank.representation), normalise(representation)
    m = len(known)
    many = min(max(m // WIDE, 2 * NEIGHBOURS), m - 1)
    k = min(max(NEIGHBOURHOOD, many), m - 1)
    step = max(1, _ELEMENTS // m)
    values = torch.from_numpy(own)
    nearest, wider, level = [], [], []
    for start in range(0, len(queries), step):
        similarity, position = (queries[start : start + step] @ known.T).topk(k + 1, dim=1)
        copied = similarity[:, :1] >= 1 - COPY
        columns = torch.arange(k)[None] + copied.long()  # past the copy, which comes first
        level.append(values[position.gather(1, columns[:, :NEIGHBOURHOOD])].mean(dim=1))
        ordered = (1 - similarity.gather(1, columns[:, :many]).double()).clamp(min=0)
        nearest.append(ordered[:, :NEIGHBOURS].mean(dim=1))
        wider.append(ordered.mean(dim=1))
    near, wide = torch.cat(nearest).numpy(), torch.cat(wider).numpy()
    found = {DISTANCE: near, DISTANCE_RATIO: (near + COPY) / (wide + COPY)}
    return found, torch.cat(level).numpy()


def offered(bank: Bank | None, own: str) -> Sequence[str]:
    """Return the scores that a saved model can give, the own one first."""
    names = [] if bank is None else list(bank.scores)
    return list(dict.fromkeys([own, *names]))
