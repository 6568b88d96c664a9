r"""What is watched while a run learns: finite numbers, spread, effective rank, collapse.

A falling loss is no sign of health: an objective that rewards agreement can fall without end while
every image is mapped to one point. Spread and effective rank of the projections tell.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cognates.errors import CollapseError, CollapseWarning, NonFiniteError

READING_STEPS = 10
"""Steps between two readings that count for collapse."""
_READINGS = 3
_LEAST_SPREAD = 0.1  # in units of 1/sqrt(d), the value of directions spread evenly over the sphere
_LEAST_RANK = 2.0


def spread(z: Tensor) -> float:
    r"""Return how far the directions of the rows spread over the sphere.

    Formula: sqrt(d) mean_j std_i (z_i / |z_i|)_j, with the population's standard deviation.

    Args:
        z: (n, d) of any scale.

    Returns:
        About 1 for directions spread evenly over the sphere (the standard deviation is then
        1/sqrt(d)), 0 for a constant.

    References:
        Exploring Simple Siamese Representation Learning (Chen and He, 2021),
        https://arxiv.org/abs/2011.10566, figure 2

    Example:
        >>> round(spread(torch.eye(2).repeat(4, 1)), 4), spread(torch.ones(8, 2))
        (0.7071, 0.0)
    """
    unit = functional.normalize(z.detach().float(), dim=1)
    return float(unit.std(dim=0, correction=0).mean()) * math.sqrt(z.shape[1])


def effective_rank(z: Tensor) -> float:
    r"""Return how many directions the rows use: exp of the entropy of the singular values.

    Formula: exp(-sum_k p_k log p_k), p_k = s_k / sum_l s_l, s_k the singular values of z.

    Args:
        z: (n, d), not centred.

    Returns:
        From 1 (one direction, or only zeros) to min(n, d) (all alike).

    Notes:
        The singular values are roots of the eigenvalues of the smaller Gram matrix in float64:
        faster than a decomposition of z, with an absolute error of about 1e-8 s_1 per value.

    References:
        RankMe (Garrido, Balestriero, Najman, LeCun, 2023), https://arxiv.org/abs/2210.02885, eq. 1

    Example:
        >>> effective_rank(torch.eye(5))
        5.0
    """
    z = z.detach().double()
    gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = singular / singular.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return round(float(torch.exp(-torch.special.xlogy(share, share).sum())), 6)


def measure(z: Tensor) -> dict[str, float]:
    """Return the spread and the effective rank of (n, d) projections, by name."""
    return {"spread": spread(z), "effective_rank": effective_rank(z)}


class Reading(NamedTuple):
    """The numbers of one step as Python floats."""

    step: int
    """Steps done, this one included."""
    values: dict[str, float]


class Readings:
    """Brings the numbers of each step to the host; on a GPU one step late, so that nothing waits.

    Reading a number from a GPU waits for everything that was queued before it. The copy of step t
    is therefore started at step t and looked at after step t + 1 has been queued.
    """

    def __init__(self, device: torch.device) -> None:
        """Hold nothing yet."""
        self._late = 1 if device.type == "cuda" else 0
        self._queue: deque[tuple[int, list[str], Tensor, torch.cuda.Event | None]] = deque()

    def push(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Start to bring the scalars `values` of `step` to the host."""
        numbers = torch.stack([value.detach().double() for value in values.values()])
        event = None
        if self._late:
            numbers = torch.empty_like(numbers, device="cpu", pin_memory=True).copy_(
                numbers, non_blocking=True
            )
            event = torch.cuda.Event()
            event.record()
        self._queue.append((step, list(values), numbers, event))

    def pop(self, *, everything: bool = False) -> list[Reading]:
        """Return the readings that have arrived, oldest first; all of them if `everything`."""
        arrived = []
        while len(self._queue) > (0 if everything else self._late):
            step, names, numbers, event = self._queue.popleft()
            if event is not None:
                event.synchronize()
            arrived.append(Reading(step, dict(zip(names, numbers.tolist(), strict=True))))
        return arrived


def require_finite(reading: Reading) -> None:
    """Stop at the first loss term, or else gradient norm, that is not a number or infinite.

    Raises:
        NonFiniteError: names the term, the steps between which it happened and the likely cause.
    """
    for name, value in reading.values.items():
        if math.isfinite(value):
            continue
        where = "in the first step"
        if reading.step > 1:
            where = f"between steps {reading.step - 1} and {reading.step}"
        cause = "the learning rate is too high, or a log, root or quotient of the loss met a zero"
        if name == "gradient_norm":
            cause = "the learning rate is too high, or a root or norm was differentiated at zero"
        raise NonFiniteError(
            f"Expected finite numbers, got '{name}' = {value} {where}: likely {cause}; the last "
            "good checkpoint is kept: lower the learning rate, warm up for longer or clip the "
            "gradient (--clip 1)."
        )


class CollapseMonitor:
    """Counts consecutive readings at which the projections are a point or a line, and says so.

    The rule: a spread below 0.1 (mean per-dimension standard deviation of z/|z| below 0.1/sqrt(d))
    or an effective rank below 2, at three readings ten steps apart. The rank says nothing where
    min(n, d) < 3 and is not used there. The reading of a run's last step counts alone, so that a
    run too short for three, or one that collapsed at its end, does not pass in silence; before step
    ten the rank, which may be low from the start, is left out of it.
    """

    def __init__(self, *, stop: bool, low: int = 0) -> None:
        """Start with `low` bad readings in a row, as a checkpoint has recorded them."""
        self.low = low
        self._stop = stop

    def read(
        self,
        step: int,
        shape: torch.Size,
        *,
        spread: float,
        effective_rank: float,
        last: bool = False,
    ) -> str | None:
        """Take the reading of `step` (steps done) and return the warning that it gives, if any.

        Args:
            step: only multiples of ten count, and the last one.
            shape: (n, d) of the projections that were measured.
            spread: of them.
            effective_rank: of them.
            last: whether the run ends with this step.

        Raises:
            CollapseError: at the third bad reading, or a bad last one, if the run was asked to
                stop on it.
        """
        if step % READING_STEPS and not last:
            return None
        flat = spread < _LEAST_SPREAD
        # the rank of weights that have hardly moved may be low of itself
        thin = effective_rank < _LEAST_RANK and min(shape) > _LEAST_RANK and step >= READING_STEPS
        self.low = self.low + 1 if flat or thin else 0
        if not self.low or (self.low != _READINGS and not (last and self.low < _READINGS)):
            return None
        since = f"from step {step - (_READINGS - 1) * READING_STEPS} to step {step}"
        if self.low < _READINGS or step % READING_STEPS:
            since = f"at the last step, {step}"
        measure = (
            f"spread of the projections is {spread:.2g}/sqrt(d), below {_LEAST_SPREAD}/sqrt(d)"
            if flat
            else f"effective rank of the projections is {effective_rank:.3g}, below {_LEAST_RANK:g}"
        )
        message = (
            f"The representation collapsed: the {measure}, {since}; "
            "likely nothing in the loss keeps images apart (a missing stop-gradient, predictor, "
            "variance or negative term) or the learning rate is too high: lower it, or use a "
            "method with such a term."
        )
        if self._stop:
            raise CollapseError(message)
        warnings.warn(message, CollapseWarning, stacklevel=2)
        return message
