"""The bank beside a model's weights: features of training images, in one safetensors file."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cognates.config import RunConfig
from cognates.data.images import Images
from cognates.evaluation.features import extract
from cognates.evaluation.knn import DISTANCE
from cognates.evaluation.relative import BANK_SIZE, SCORES, Bank, bank_rows, make_bank
from cognates.methods.base import Method
from cognates.types import Features

_PIECE = 512  # images at a time: a choice at random copies their pixels out of the memory map
_REPRESENTATION, _SCORE = "representation", "score/"
_FORMER = "nearest"  # a score that `consensus` was made of
_OLD = "uncertainty"  # the one score of a bank written before there were several


def of_images(
    method: Method, images: Images, config: RunConfig, *, device: str = "cpu", most: int = BANK_SIZE
) -> Bank:
    """Embed at most `most` training images, drawn by the run's seed, and make their bank.

    Args:
        method: trained, in eval mode, on `device`.
        images: the training images.
        config: the run's, for its views and its seed.
        device: where the method is.
        most: images of the bank.
    """
    rows = bank_rows(len(images), seed=config.training.seed, most=most)
    parts = [
        extract(
            method,
            images.take(rows[start : start + _PIECE]),
            views=config.views,
            size=config.data.image_size,
            mean=config.data.mean,
            std=config.data.std,
            device=device,
        )
        for start in range(0, len(rows), _PIECE)
    ]
    return of_features(parts, own=method.own)


def of_features(parts: list[Features], *, own: str) -> Bank:
    """Make the bank of the images of several features, one after another."""
    return make_bank(
        np.concatenate([part.representation for part in parts]),
        {name: np.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores},
        own=own,
    )


def tensors(bank: Bank) -> dict[str, Tensor]:
    """Return what a file keeps: representations in float16, scores in float64."""
    scores = {f"{_SCORE}{name}": torch.from_numpy(v) for name, v in bank.scores.items()}
    return {_REPRESENTATION: torch.from_numpy(bank.representation).half(), **scores}


def of_tensors(found: dict[str, Tensor], *, own: str) -> Bank:
    """Return the bank of a file; of an earlier version the scores against it are computed again.

    Raises:
        KeyError: it has no representation, or no own score.
    """
    representation = found[_REPRESENTATION].float().numpy()
    scores = {
        name.removeprefix(_SCORE): tensor.numpy()
        for name, tensor in found.items()
        if name.startswith(_SCORE)
    }
    if _OLD in found:
        norm = np.linalg.norm(representation.astype(np.float64), axis=1)
        scores = {"norm": -norm, own: found[_OLD].numpy()}
        return make_bank(representation, scores, own=own)
    if own in scores and len(representation) > 1 and not scores.keys() >= set(SCORES):
        kept = scores.keys() - {*SCORES, DISTANCE, _FORMER}
        return make_bank(representation, {name: scores[name] for name in kept}, own=own)
    unit = representation / np.maximum(np.linalg.norm(representation, axis=1, keepdims=True), 1e-12)
    return Bank(representation=unit, scores={**scores, own: scores[own]}, own=own)
