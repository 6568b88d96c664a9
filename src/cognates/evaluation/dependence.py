r"""How much a representation depends on the image's identity, and what InfoNCE says of the same.

    HSIC(Z, Y) = E_pos[k] - E[k]                       less its factor D_l/N
    HSIC(Z, Z) = E[k^2] - 2 E_z[(E_z' k)^2] + (E k)^2
    InfoNCE    = -E_pos[k] + E_z log E_z' exp k
               ~ -HSIC(Z, Y) + (1/2) E_z Var_z'[k]     to second order in k

References:
    Self-Supervised Learning with Kernel Dependence Maximization (Li, Pogodin, Sutherland, Gretton,
    2021), https://arxiv.org/abs/2106.08320, equations 5 to 8.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from cognates.errors import ConfigError, DataError, NonFiniteError
from cognates.evaluation.subjects import BASELINES
from cognates.kernels import imq, linear
from cognates.kernels.gram import require_scale
from cognates.types import Features, Result

MOST = 5000
"""Most images that the measures are taken on: every k-th one, as the cost is quadratic."""
TEMPERATURE = 0.1
"""Of the cosine critic that InfoNCE is used with: SimCLR, appendix B.7 of arXiv 2002.05709."""
_ELEMENTS = 1 << 22  # kernel values at a time: 32 MB in float64


def measures(
    z: np.ndarray | Tensor, *, critic: str = "imq", scale: float = 1.0
) -> dict[str, float]:
    r"""Return HSIC(Z, Y), HSIC(Z, Z), InfoNCE and its second-order approximation.

    Formula: see the module. E_pos is a mean over the pairs of different views of one image, E over
    all pairs of the m = v n points, each with itself included.

    Args:
        z: (v, n, d), v at least 2; rows are normalised here.
        critic: k, "imq" with the given scale, or "cosine": the inner product divided by it.
        scale: c of imq, or the temperature; above 0.

    Returns:
        By name: `hsic-zy` and `hsic-zz` without unit, `infonce` and `infonce-second-order` in nats,
        in float64.

    Raises:
        ConfigError: z has not the stated shape, an unknown critic, or a scale not above 0.
        NonFiniteError: z has a NaN or an infinity.

    Notes:
        The approximation holds where k varies little; at a temperature of 0.1 it does not.
        -HSIC(Z, Y) + HSIC(Z, Z)/2 is at most the approximation, and the difference is half the
        variance of E_z' k.

    Example:
        >>> z = np.eye(4)[None].repeat(2, axis=0)
        >>> {name: round(value, 4) for name, value in measures(z).items()}
        {'hsic-zy': 0.317, 'hsic-zz': 0.0335, 'infonce': -0.2991, 'infonce-second-order': -0.3002}
    """
    points = torch.as_tensor(z).double()
    if points.ndim != 3 or len(points) < 2 or not points.shape[1]:
        raise ConfigError(f"Expected (v, n, d) with at least two views, got {tuple(points.shape)}.")
    if critic not in ("imq", "cosine"):
        raise ConfigError(f"Expected the critic imq or cosine, got {critic!r}.")
    require_scale(scale)
    if not bool(points.isfinite().all()):
        raise NonFiniteError(
            "Expected finite features, got NaN or infinity: embed with weights of a run that has "
            "not diverged."
        )
    points = points / torch.linalg.vector_norm(points, dim=-1, keepdim=True).clamp_min(1e-12)
    v, n, d = points.shape
    if critic == "cosine":
        kernel, points = linear(), points / scale**0.5
    else:
        kernel = imq(scale)
    pairs = [
        kernel.of_squared((points[p] - points[q]).square().sum(-1))
        if kernel.name == "imq"
        else (points[p] * points[q]).sum(-1)
        for p, q in itertools.combinations(range(v), 2)
    ]
    positive = torch.stack(pairs).mean()
    flat = points.reshape(v * n, d)
    rows, squares, logs = [], [], []
    for chunk in flat.split(max(1, _ELEMENTS // len(flat))):
        gram = kernel(chunk, flat)
        rows.append(gram.mean(1))
        squares.append(gram.square().mean(1))
        logs.append(gram.logsumexp(1) - np.log(len(flat)))
    row, square, log = torch.cat(rows), torch.cat(squares), torch.cat(logs)
    mean = row.mean()
    dependence = positive - mean
    return {
        "hsic-zy": float(dependence),
        "hsic-zz": float(square.mean() - 2 * row.square().mean() + mean**2),
        "infonce": float(log.mean() - positive),
        "infonce-second-order": float((square - row.square()).mean() / 2 - dependence),
    }


def dependence(
    train: Features, test: Features, *, seed: int, others: Mapping[str, Features] | None = None
) -> list[Result]:
    """Protocol `dependence`: the four measures of two views of the test images, by subject.

    With the IMQ kernel at scale 1, and InfoNCE once more with the critic cosine/0.1 that it is used
    with. Quadratic in the images, of which at most 5,000 are taken; there is no interval.

    Args:
        train: not used.
        test: not used.
        seed: recorded.
        others: `view1-test` and `view2-test`, and the same with the prefix of a baseline, as
            `features.view_pair` and `features.view_pixels` make them.

    Raises:
        DataError: the features of the views are missing or of different images.
    """
    del train, test
    others = others or {}
    results = []
    for subject in ("trained", *BASELINES):
        prefix = "" if subject == "trained" else f"{subject}-"
        pair = [others.get(f"{prefix}view{side}-test") for side in (1, 2)]
        first, second = pair
        if first is None or second is None:
            continue
        if not np.array_equal(first.index, second.index):
            raise DataError("Expected two views of the same images in the same order, got others.")
        every = -(-len(first.index) // MOST)
        z = np.stack([side.representation[::every] for side in (first, second)])
        cosine = measures(z, critic="cosine", scale=TEMPERATURE)
        found = measures(z) | {
            f"{name}-cosine": cosine[name] for name in ("infonce", "infonce-second-order")
        }
        results += [
            Result(
                protocol="dependence",
                metric=metric,
                value=value,
                low=None,
                high=None,
                n=z.shape[1],
                protocol_seed=seed,
                subject=subject,
                settings={"kernel": "imq", "scale": 1.0, "temperature": TEMPERATURE},
                interval="none",
            )
            for metric, value in found.items()
        ]
    if not results:
        raise DataError(
            "Expected features of two views of the test images ('view1-test', 'view2-test'), "
            "got none: make them with cognates.evaluation.features.view_pair."
        )
    return results
