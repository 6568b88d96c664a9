r"""Objectives of methods whose output is a distribution over prototypes: DINO.

References:
    Emerging Properties in Self-Supervised Vision Transformers (Caron et al., 2021),
    https://arxiv.org/abs/2104.14294.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cognates.errors import ConfigError
from cognates.kernels.gram import precise
from cognates.types import Terms


def dino(
    student: Float[Tensor, "v n k"] | Sequence[Tensor],
    teacher: Float[Tensor, "g n k"] | Sequence[Tensor],
    centre: Float[Tensor, " k"],
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Terms:
    r"""Return DINO's objective: the cross-entropy of the student's views under the teacher's.

    Formula: L = 1/(g (v-1)) sum_{i < g} sum_{j != i} mean_n H(P^i, Q^j), with
    H(P, Q) = -sum_k P_k log Q_k = KL(P, Q) + H(P), P^i = sg(softmax((t^i - c)/tau_t)) and
    Q^j = softmax(s^j/tau_s).

    Args:
        student: s, logits of all views; v at least 2. A list of (n, k) is as good as a stack and
            needs no copy.
        teacher: t, logits of the first g views, the global ones; no gradient passes through them.
        centre: c, a running mean of the teacher's logits; it keeps one prototype from taking all.
        student_temperature: tau_s, above 0.
        teacher_temperature: tau_t, above 0; smaller is sharper, which keeps P from being uniform.

    Returns:
        `alignment`, the mean of KL(P^i, Q^j), at least 0, and `entropy`, the mean of H(P^i), in
        [0, log k], which has no gradient: nats, means over images and pairs of views, in float32 or
        better whatever autocast says.

    Raises:
        ConfigError: the shapes do not fit, there are fewer than two views, more teachers than views
            or none, or a temperature is not above 0.

    Notes:
        The gradient of one pair with respect to s^j is (Q^j - P^i)/tau_s. Adding a number to all
        logits of an image changes nothing, nor does adding one vector to the teacher and to the
        centre. As tau_t goes to 0, P becomes one-hot at the largest t - c. The two collapses show
        in the entropy: log k where all images are spread over all prototypes alike, 0 where one
        prototype takes them all.

    References:
        Emerging Properties in Self-Supervised Vision Transformers (Caron et al., 2021),
        https://arxiv.org/abs/2104.14294, equations 1 to 4.

    Example:
        >>> logits = torch.zeros(2, 5, 8)
        >>> dino(logits, logits, torch.zeros(8))
        {'alignment': tensor(0.), 'entropy': tensor(2.0794)}
    """
    _check(student, teacher, centre, student_temperature, teacher_temperature)
    with torch.autocast(centre.device.type, enabled=False):
        logs = [assignments(t, centre, temperature=teacher_temperature) for t in teacher]
        targets = [log.exp() for log in logs]
        entropy = torch.stack([_entropies(log).mean() for log in logs]).mean()
        found = []
        for j, s in enumerate(student):
            others = [p for i, p in enumerate(targets) if i != j]
            if others:
                # one product for all teachers of this view: the sum over pairs is linear in P
                log_q = torch.log_softmax(precise(s) / student_temperature, dim=-1)
                found.append(-(sum(others[1:], start=others[0]) * log_q).sum(-1).mean())
        cross = torch.stack(found).sum() / (len(teacher) * (len(student) - 1))
        return {"alignment": cross - entropy, "entropy": entropy}


@torch.no_grad()
def assignments(
    logits: Float[Tensor, "n k"], centre: Float[Tensor, " k"], *, temperature: float
) -> Float[Tensor, "n k"]:
    r"""Return the logarithm of the teacher's distribution over the prototypes; no gradient.

    Formula: log softmax((t - c)/tau), in float32 or better whatever autocast says.

    Args:
        logits: t.
        centre: c.
        temperature: tau, above 0.

    Example:
        >>> assignments(torch.tensor([[1.0, 1.0]]), torch.tensor([0.0, 1.0]), temperature=1.0).exp()
        tensor([[0.7311, 0.2689]])
    """
    with torch.autocast(logits.device.type, enabled=False):
        return torch.log_softmax((precise(logits) - precise(centre)) / temperature, dim=-1)


def assignment_entropy(
    logits: Float[Tensor, "n k"], centre: Float[Tensor, " k"], *, temperature: float
) -> Float[Tensor, " n"]:
    r"""Return the entropy of each image's distribution over the prototypes, in nats.

    Formula: H(softmax((t - c)/tau)), in [0, log k]; in float32 or better.

    Args:
        logits: t.
        centre: c.
        temperature: tau, above 0.

    Example:
        >>> assignment_entropy(torch.zeros(2, 3), torch.zeros(3), temperature=0.01)
        tensor([1.0986, 1.0986])
    """
    return _entropies(assignments(logits, centre, temperature=temperature))


def _entropies(log_p: Tensor) -> Tensor:
    # a logarithm is never infinite here, so that 0 log 0 is 0
    return -(log_p.exp() * log_p).sum(-1)


def _check(
    student: Sequence[Tensor] | Tensor,
    teacher: Sequence[Tensor] | Tensor,
    centre: Tensor,
    *temperatures: float,
) -> None:
    views, targets = ([tuple(x.shape) for x in each] for each in (student, teacher))
    same = len({*views, *targets}) == 1 and len(views[0]) == 2 and views[0][0] > 0
    if not (len(views) >= 2 and 1 <= len(targets) <= len(views) and same):
        raise ConfigError(
            "Expected logits (n, k) of at least two views and of the teacher for the first of "
            f"them, got {views} and {targets}."
        )
    if tuple(centre.shape) != views[0][1:]:
        raise ConfigError(
            f"Expected a centre with the shape {views[0][1:]}, got {tuple(centre.shape)}: it is a "
            "mean of the teacher's logits."
        )
    if not all(temperature > 0 for temperature in temperatures):
        raise ConfigError(f"Expected temperatures above 0, got {list(temperatures)}.")
