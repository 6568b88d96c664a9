r"""Multinomial logistic regression in float64: L-BFGS in coordinates in which the problem is round.

J(W, b) = (1/n) sum_i -log softmax(W x_i + b)[y_i] + (lambda / 2) ||W||_F^2, b unpenalised.

Its Hessian is at most (1/2) X'X/n + lambda I for every class (Multinomial logistic regression
algorithm, Böhning, 1992, https://doi.org/10.1007/BF00048682, theorem 1). Scaling the variables by
the square root of that bound changes neither the objective nor the optimum, and saves about half of
L-BFGS's iterations on features with a decaying spectrum; scikit-learn's `LogisticRegression` took
five times as long on 40,000 x 256.

Several small regressions are solved as one (their sum is separable): a thousand fits on a hundred
images each cost one by one mostly the calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch

T = TypeVar("T")
R = TypeVar("R")

ITERATIONS = 200  # evaluation.md, section 3
TOLERANCE = 1e-3  # evaluation.md, section 3: relative to the gradient at zero weights
_BOUND = 0.5  # Böhning's bound on the eigenvalues of diag(p) - p p'
_THREADED = 1 << 24
_RANK = 1e-13  # squared singular values below this share of the largest are rounding errors


@contextlib.contextmanager
def matching_threads(entries: int) -> Iterator[None]:
    """Leave the linear algebra one thread while a problem has fewer than 16 million entries.

    Its products are then so short that threads mostly wait for one another; on a machine with other
    work to do that made 10,000 x 784 several times slower (measured).
    """
    import scipy.optimize  # noqa: F401 - first, for the limit holds for what is loaded
    from threadpoolctl import threadpool_limits

    if entries >= _THREADED:
        yield
        return
    with threadpool_limits(1):
        yield


def side_by_side(work: Callable[[T], R], items: Iterable[T], *, entries: int) -> list[R]:
    """Return `work` of every item in order; problems that get one thread share the cores.

    Args:
        work: releases the interpreter in its linear algebra; no item's result depends on another's.
        items: what to call it with.
        entries: of the largest problem, as in `matching_threads`.
    """
    workers = torch.get_num_threads()  # before it is limited
    with matching_threads(entries):
        if entries >= _THREADED:
            return [work(item) for item in items]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(work, items))


class Fit(NamedTuple):
    """The minimisers of J of m regressions, in the coordinates of `Problem.reduce`."""

    weight: np.ndarray
    """(m, r, k) float64"""
    bias: np.ndarray
    """(m, k) float64"""
    converged: bool
    iterations: int

    def log_probabilities(self, x: np.ndarray) -> np.ndarray:
        """Return (m, n, k) log-probabilities of the classes of `x` (m, n, r)."""
        scores = x @ self.weight + self.bias[:, None]
        scores -= scores.max(axis=-1, keepdims=True)
        return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


class Scaling(NamedTuple):
    """Preprocessing by rule 4: the mean of the training part, and one scalar for all dimensions.

    One scalar keeps a probe invariant to rotations of the features; per-dimension standardisation
    does not.
    """

    mean: np.ndarray
    factor: float

    @classmethod
    def of(cls, representation: np.ndarray) -> Scaling:
        """Measure the scaling that gives zero mean and a mean squared norm of d."""
        n, d = representation.shape
        mean = representation.mean(axis=0, dtype=np.float64)
        # in pieces: a float64 copy of 50,000 images of 3,072 pixels takes 1.2 GB
        square = sum(
            float(((representation[i : i + 4096] - mean) ** 2).sum()) for i in range(0, n, 4096)
        )
        # constant features: all scaled rows are zero whatever the factor
        return cls(mean, float(np.sqrt(n * d / square)) if square > 0 else 1.0)

    def __call__(self, representation: np.ndarray) -> np.ndarray:
        """Return scaled float64 features (n, d)."""
        scaled = representation - self.mean
        scaled *= self.factor
        return scaled


class Problem:
    """The data of m regressions of one shape, prepared once for a path of penalties."""

    def __init__(
        self,
        x: np.ndarray,
        target: np.ndarray,
        *,
        classes: int,
        rows: np.ndarray | None = None,
    ) -> None:
        """Prepare.

        Args:
            x: (m, n, d) float64, centred; rows that are only padding are zero.
            target: (m, n) int64 in 0..classes-1.
            classes: k.
            rows: (m, n) bool, false for padding; None: every row counts.
        """
        m, n, d = x.shape
        used = np.full(m, n) if rows is None else rows.sum(axis=1)
        share = (np.ones((m, n)) if rows is None else rows) / used[:, None]
        self._share, self._classes = share[:, :, None], classes
        self._truth = (target[:, :, None] == np.arange(classes)) * self._share
        if n < d:
            # the optimum lies in the span of the rows: solve in its n dimensions
            squares, vectors = np.linalg.eigh(x @ x.swapaxes(1, 2))
            squares = np.where(squares > _RANK * squares.max(axis=1, keepdims=True), squares, 0.0)
            roots = np.sqrt(squares)[:, None]
            inverse = np.divide(1.0, roots, out=np.zeros_like(roots), where=roots > 0)
            self._basis, self._inner = x.swapaxes(1, 2) @ (vectors * inverse), None
            self._x, self._spectrum = vectors * roots, squares / used[:, None]
        else:
            spectrum, vectors = np.linalg.eigh(x.swapaxes(1, 2) @ x / used[:, None, None])
            self._basis, self._inner = None, vectors
            self._x, self._spectrum = x, np.maximum(spectrum, 0.0)

    def reduce(self, x: np.ndarray) -> np.ndarray:
        """Return `x` (m, n, d) in the coordinates of a fit (m, n, r)."""
        return x if self._basis is None else x @ self._basis

    def expand(self, fit: Fit) -> np.ndarray:
        """Return the weights of `fit` in the coordinates of the features (m, d, k)."""
        return fit.weight if self._basis is None else self._basis @ fit.weight

    def restrict(self, weight: np.ndarray, bias: np.ndarray) -> Fit:
        """Return weights (m, d, k) and bias (m, k) from elsewhere as a point to start from."""
        reduced = weight if self._basis is None else self._basis.swapaxes(1, 2) @ weight
        return Fit(reduced, bias, False, 0)

    def solve(
        self,
        penalty: float | np.ndarray,
        *,
        start: Fit | None = None,
        tolerance: float = TOLERANCE,
        iterations: int = ITERATIONS,
    ) -> Fit:
        r"""Minimise J.

        Args:
            penalty: lambda > 0, one or (m,); scikit-learn's C is 1/(lambda n).
            start: a solution of the same problem for another penalty to go on from.
            tolerance: the largest entry of a regression's gradient in scaled coordinates, relative
                to that at zero weights.
            iterations: at most so many.

        Returns:
            The fit; `converged` is false if the iterations did not suffice.
        """
        from scipy.optimize import minimize

        strength = np.broadcast_to(penalty, len(self._x))[:, None, None]
        bound = _BOUND * self._spectrum[:, :, None] + strength
        ones = np.ones((len(bound), 1, 1))
        scale = np.sqrt(np.concatenate([bound, _BOUND * ones], axis=1))
        zero = np.zeros((*scale.shape[:2], self._classes))
        gradient = self._evaluate(zero.ravel(), scale, strength, ones)[1].reshape(zero.shape)
        # each regression is divided by its own gradient at zero, so that one tolerance fits all
        norms = np.abs(gradient).max(axis=(1, 2), keepdims=True)
        units = np.divide(1.0, norms, out=np.ones_like(norms), where=norms > 0)
        outcome = minimize(
            self._evaluate,
            (zero if start is None else self._enter(start, scale)).ravel(),
            args=(scale, strength, units),
            jac=True,
            method="L-BFGS-B",
            # ftol 0: only the gradient decides
            options={"maxiter": iterations, "gtol": tolerance, "ftol": 0.0},
        )
        weight, bias = self._leave(outcome.x, scale)
        return Fit(weight, bias[:, 0], bool(outcome.status == 0), int(outcome.nit))

    def _evaluate(
        self, flat: np.ndarray, scale: np.ndarray, strength: np.ndarray, units: np.ndarray
    ) -> tuple[float, np.ndarray]:
        weight, bias = self._leave(flat, scale)
        scores = self._x @ weight
        scores += bias
        scores -= scores.max(axis=-1, keepdims=True)
        losses = -np.einsum("mnk,mnk->m", scores, self._truth)[:, None, None]
        np.exp(scores, out=scores)
        total = scores.sum(axis=-1, keepdims=True)
        losses += (np.log(total) * self._share).sum(axis=1, keepdims=True)
        losses += 0.5 * strength * np.einsum("mrk,mrk->m", weight, weight)[:, None, None]
        scores *= self._share / total
        scores -= self._truth
        slope = self._x.swapaxes(1, 2) @ scores + strength * weight
        slope = slope if self._inner is None else self._inner.swapaxes(1, 2) @ slope
        gradient = np.concatenate([slope, scores.sum(axis=1, keepdims=True)], axis=1)
        gradient *= units / scale
        return float((losses * units).sum()), gradient.ravel()

    def _leave(self, flat: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From scaled coordinates to weight (m, r, k) and bias (m, 1, k)."""
        scaled = flat.reshape(*scale.shape[:2], self._classes) / scale
        weight = scaled[:, :-1]
        return weight if self._inner is None else self._inner @ weight, scaled[:, -1:]

    def _enter(self, fit: Fit, scale: np.ndarray) -> np.ndarray:
        inner = self._inner
        weight = fit.weight if inner is None else inner.swapaxes(1, 2) @ fit.weight
        return np.concatenate([weight, fit.bias[:, None]], axis=1) * scale
