r"""The MLP probe: information that is present in a representation but not linearly decodable.

    Linear(d, d) - ReLU - Linear(d, k)      Adam, rate 3e-4, batches of 64 to 1,024

Epochs from {5, 10, 20, 50}, chosen on held-out training images. An epoch has at least 80 steps: at
this rate fifty epochs of ten steps leave a narrow probe below the linear one. The probe of A
Probabilistic Model behind Self-Supervised Learning (Bizeul, Schoelkopf and Allen, 2024),
https://arxiv.org/abs/2402.01399, without its choice of the best epoch on test images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cognates.evaluation import linear, ridge
from cognates.evaluation.components import PIXELS, reduce
from cognates.evaluation.logistic import Scaling
from cognates.evaluation.memory import once_per_pair
from cognates.evaluation.subjects import labels, minus, per_image, subjects
from cognates.random import fold_in, generator
from cognates.types import Features, Result

EPOCHS = (5, 10, 20, 50)  # evaluation.md, section 4
BATCH = (64, 1024)
"""Smallest and largest; evaluation.md, section 4, has 1,024, the released code 64."""
STEPS = 80  # an epoch, where the images suffice
RATE = 3e-4  # evaluation.md, section 4
_THREADED = 512
"""Width from which a batch has work for several threads; below they mostly wait for one another,
and beside other work on the machine that cost a factor of ten (measured at 256)."""


class _Choice(NamedTuple):
    """The outputs for the unseen images after the chosen number of epochs."""

    outputs: np.ndarray
    selected: Mapping[str, object]
    flags: tuple[str, ...]


def batch_size(images: int) -> int:
    """Return the largest power of two within `BATCH` that leaves an epoch `STEPS` steps.

    Example:
        >>> batch_size(1000), batch_size(60_000), batch_size(1_000_000)
        (64, 512, 1024)
    """
    smallest, largest = BATCH
    fitting = max(1, images // STEPS)
    return min(largest, max(smallest, 1 << (fitting.bit_length() - 1)))


@once_per_pair
def predict(train: Features, test: Features, *, seed: int = 0) -> linear.Prediction:
    """Fit the probe on the labels of `train` and predict `test`, whose labels are not read.

    Raises:
        DataError: there are fewer than two classes, or no image can be held out.
    """
    return classify(train.representation, labels(train), test.representation, seed=seed)


def classify(
    x: np.ndarray,
    target: np.ndarray,
    unseen: np.ndarray,
    *,
    seed: int = 0,
    balanced: bool = False,
) -> linear.Prediction:
    """Fit the probe by cross-entropy on any target of classes.

    Args:
        x: (n, d) features of the training images.
        target: (n,) whole numbers, at least two different ones.
        unseen: (m, d) features to predict.
        seed: of the initial weights and of the order of the images.
        balanced: choose the epochs by the mean recall of the classes instead of the accuracy.

    Returns:
        Log-probabilities, the chosen epochs, and the flag `edge` if they are at the border.

    Raises:
        DataError: there are fewer than two classes, or no image can be held out.
    """
    classes, target, held = linear.choosable(target)

    batch = batch_size(len(x))

    def train(rows: np.ndarray, other: np.ndarray, stops: Sequence[int]) -> list[np.ndarray]:
        y = torch.from_numpy(target[rows])
        loss = torch.nn.functional.cross_entropy
        return _train(
            x[rows], y, other, loss, outputs=len(classes), stops=stops, seed=seed, batch=batch
        )

    def score(outputs: np.ndarray) -> float:
        return linear.share_right(target[held], outputs.argmax(axis=1), balanced=balanced)

    choice = _choose(train, score, x, held, unseen, "balanced_accuracy" if balanced else "accuracy")
    scores = torch.from_numpy(choice.outputs).double().log_softmax(dim=1).numpy()
    return linear.Prediction(scores, classes, choice.selected, choice.flags)


def decide(
    x: np.ndarray, target: np.ndarray, unseen: np.ndarray, *, seed: int = 0
) -> list[linear.Prediction]:
    """Fit one probe with an output for each of several yes-or-no targets.

    They share the hidden layer: forty attributes cost what one does.

    Args:
        x: (n, d) features of the training images.
        target: (n, m) of 0 and 1, both in every column.
        unseen: (m, d) features to predict.
        seed: of the initial weights and of the order of the images.

    Returns:
        A prediction for each column, with classes 0 and 1. The epochs are chosen on 20 % of the
        training images (seed 0) by the mean of the columns' balanced accuracies.

    Raises:
        DataError: a column is the same for all images.
    """
    y = ridge.columns(target)
    held = ridge.heldout(y)

    batch = batch_size(len(x))

    def train(rows: np.ndarray, other: np.ndarray, stops: Sequence[int]) -> list[np.ndarray]:
        goal = torch.from_numpy(y[rows].astype(np.float32))
        loss = torch.nn.functional.binary_cross_entropy_with_logits
        return _train(
            x[rows], goal, other, loss, outputs=y.shape[1], stops=stops, seed=seed, batch=batch
        )

    def score(logits: np.ndarray) -> float:
        columns = zip(y[held].T, (logits > 0).T, strict=True)
        return float(np.mean([linear.share_right(a, b, balanced=True) for a, b in columns]))

    choice = _choose(train, score, x, held, unseen, "balanced_accuracy")
    logits = choice.outputs.astype(np.float64)
    both = np.stack([-np.logaddexp(0, logits), -np.logaddexp(0, -logits)], axis=2)
    classes = np.arange(2)
    return [
        linear.Prediction(both[:, column], classes, choice.selected, choice.flags)
        for column in range(y.shape[1])
    ]


def regress(
    x: np.ndarray, target: np.ndarray, unseen: np.ndarray, *, seed: int = 0
) -> ridge.Prediction:
    """Fit the probe by squared error on a target of numbers, each column in its own deviations.

    Arguments, choice and errors as in `ridge.fit`, with epochs in place of a penalty; the columns
    share the hidden layer.
    """
    y = ridge.columns(target)
    held = ridge.heldout(y)

    batch = batch_size(len(x))

    def train(rows: np.ndarray, other: np.ndarray, stops: Sequence[int]) -> list[np.ndarray]:
        mean, deviation = y[rows].mean(axis=0), y[rows].std(axis=0)
        deviation = np.where(deviation > 0, deviation, 1.0)
        goal = torch.from_numpy(((y[rows] - mean) / deviation).astype(np.float32))
        loss = torch.nn.functional.mse_loss
        found = _train(
            x[rows], goal, other, loss, outputs=y.shape[1], stops=stops, seed=seed, batch=batch
        )
        return [values.astype(np.float64) * deviation + mean for values in found]

    unit = y.std(axis=0)  # several targets of one probe count alike

    def score(values: np.ndarray) -> float:
        return ridge.explained(y[held] / unit, values / unit, y[~held].mean(axis=0) / unit)

    choice = _choose(train, score, x, held, unseen, "r2")
    return ridge.Prediction(choice.outputs, y.mean(axis=0), choice.selected, choice.flags)


def mlp(
    train: Features,
    test: Features,
    *,
    seed: int,
    others: Mapping[str, Features] | None = None,
    grid: int = linear.GRID,
) -> list[Result]:
    """Protocol `mlp`: accuracy of the MLP probe by subject, and its difference to `linear`.

    `accuracy-minus-linear` is paired, of every subject. Pixels beyond 256 dimensions, for which a
    hidden layer of their width is out of reach, are reduced to their 256 principal components, for
    both probes.

    Raises:
        DataError: there are no labels, or only one class.
    """
    found = subjects(train, test, others or {})
    if "pixels" in found:
        found["pixels"] = reduce(*found["pixels"])
    truth = labels(test)
    answers = {name: predict(a, b, seed=seed) for name, (a, b) in found.items()}
    correct = {name: answer.labels == truth for name, answer in answers.items()}
    settings = {
        "epochs": list(EPOCHS),
        "batch": batch_size(len(train.representation)),
        "rate": RATE,
        "pixels": f"pca-{PIXELS}",
    }
    results = per_image(
        "mlp",
        "accuracy",
        correct,
        seed=seed,
        settings=settings,
        selected={name: answer.selected for name, answer in answers.items()},
        flags={name: answer.flags for name, answer in answers.items()},
    )
    for name, (a, b) in found.items():
        linearly = linear.predict(a, b, grid=grid).labels == truth
        results.append(
            minus(
                "mlp",
                "accuracy-minus-linear",
                correct[name],
                linearly,
                seed=seed,
                settings={**settings, "grid": grid},
                subject=name,
            )
        )
    return results


def _choose(
    train: Callable[[np.ndarray, np.ndarray, Sequence[int]], list[np.ndarray]],
    score: Callable[[np.ndarray], float],
    x: np.ndarray,
    held: np.ndarray,
    unseen: np.ndarray,
    what: str,
) -> _Choice:
    """Choose the epochs on the held-out images, then fit all: one run passes every choice."""
    with _threads(x.shape[1]):
        scores = [score(outputs) for outputs in train(np.flatnonzero(~held), x[held], EPOCHS)]
        best = int(np.argmax(scores))  # the first of equals: the fewest epochs
        outputs = train(np.arange(len(x)), unseen, EPOCHS[best : best + 1])[0]
    selected = {"epochs": EPOCHS[best], f"heldout_{what}": scores[best]}
    return _Choice(outputs, selected, ("edge",) if best in (0, len(EPOCHS) - 1) else ())


@contextlib.contextmanager
def _threads(width: int) -> Iterator[None]:
    """Leave torch one thread for a narrow probe, and give the others back."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if width >= _THREADED else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(
    x: np.ndarray,
    y: Tensor,
    unseen: np.ndarray,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    outputs: int,
    stops: Sequence[int],
    seed: int,
    batch: int,
) -> list[np.ndarray]:
    """Return the outputs for `unseen` after each number of epochs in `stops`."""
    scaling = Scaling.of(x)
    inputs, later = (torch.from_numpy(scaling(part).astype(np.float32)) for part in (x, unseen))
    d = inputs.shape[1]
    source = generator(fold_in(seed, "mlp probe"), "weights")
    # uniform within 1/sqrt(d), weights and biases: what torch.nn.Linear starts with
    shapes = ((d, d), (d,), (d, outputs), (outputs,))
    weights = [
        ((2 * torch.rand(shape, generator=source) - 1) * d**-0.5).requires_grad_()
        for shape in shapes
    ]

    def forward(part: Tensor) -> Tensor:
        hidden = torch.relu(torch.addmm(weights[1], part, weights[0]))
        return torch.addmm(weights[3], hidden, weights[2])

    optimiser = torch.optim.Adam(weights, lr=RATE, fused=True)
    found = []
    for epoch in range(max(stops)):
        order = torch.randperm(
            len(inputs), generator=generator(fold_in(seed, "mlp probe"), "order", epoch)
        )
        for rows in order.split(batch):
            optimiser.zero_grad()
            loss(forward(inputs[rows]), y[rows]).backward()
            optimiser.step()
        if epoch + 1 in stops:
            with torch.no_grad():
                found.append(torch.cat([forward(part) for part in later.split(1 << 14)]).numpy())
    return found
