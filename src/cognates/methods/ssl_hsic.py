r"""SSL-HSIC: make the representation depend on the image's identity, and on little else.

    h = encoder(x),   z = projector(h),   p = predictor(z)
    sets: unit(p(x^1)), unit(p(x^2)), ... and, without gradient, unit(z_target(x^1)), ...
    L = -HSIC(Z, Y) + gamma sqrt(HSIC(Z, Z))   over all pairs of the sets

Self-Supervised Learning with Kernel Dependence Maximization (Li, Pogodin, Sutherland and Gretton,
2021), https://arxiv.org/abs/2106.08320.

The target is a moving average of the online network, in training mode, with batch statistics of its
own; it starts as a copy (in the released code from other random weights). Without it the sets are
unit(z) of the views and there is no predictor: the paper says that this works, its wiring is a
choice made here. Every view passes through the networks on its own. The kernel's scale c follows
its own objective by Adam on log c and reaches the loss as a constant. What embeds after training is
a moving average of the weights.

The uncertainty of an image is 1 - mean of k(z^p, z^l) over pairs of eight views, half their mean
squared distance in the kernel's space: the method is deterministic, so the paper has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from cognates.distributed import gather
from cognates.errors import ConfigError
from cognates.kernels import Kernel, RandomFeatures, squared_distances, steepness_slope
from cognates.methods.base import Method, MethodConfig
from cognates.methods.registry import register
from cognates.networks.ema import cosine_decay, debiased_decay, follow, frozen_copy
from cognates.networks.heads import hidden_mlp
from cognates.objectives import ssl_hsic
from cognates.objectives.dependence import Pairs, unit_rows
from cognates.random import generator
from cognates.types import Batch, Embedding, Loss

# Points whose pairwise distances the scale is learnt on: 512 rows of each of two views in the
# released code, drawn with replacement, twice.
_SCALE_POINTS = 1024
_ADAM = (3e-4, 0.9, 0.999, 1e-8)  # rate of the released code, the rest Adam's own


class SslHsic(Method):
    """SSL-HSIC's networks, loss and kernel scale."""

    default_score = "kernel-disagreement"
    score_cost = "8 more forward passes per image"

    log_scale: Tensor
    scale_moments: Tensor
    average_log_scale: Tensor | None

    def __init__(self, encoder: nn.Module, *, width: int, config: SslHsicConfig) -> None:
        """Put the heads on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projector = hidden_mlp(width, config.hidden, config.dim)
        self.predictor = self.target = self.average = None
        if config.target:
            hidden = config.predictor_hidden or config.hidden
            self.predictor = hidden_mlp(config.dim, hidden, config.dim)
            self.target = frozen_copy(self._network())
        self.register_buffer("log_scale", torch.tensor(config.scale).log())
        self.register_buffer("scale_moments", torch.zeros(2))  # Adam's, of the slope
        self.register_buffer("average_log_scale", None)
        if config.average > 0:
            self.average = frozen_copy(self._network())
            self.average_log_scale = self.log_scale.clone()
        self._slopes: list[Tensor] = []

    def forward(self, batch: Batch) -> Loss:
        """Return the objective over the global batch."""
        if self.training and len(batch.index) < 2:
            raise ConfigError(
                f"Expected at least two images to train on, got {len(batch.index)}: batch norm "
                "needs two; raise the batch size."
            )
        points = [self._online(view) for view in batch.views]
        if self.target is not None:
            with torch.no_grad():
                points += [_project(self.target, view) for view in batch.views]
        # `gather` works along the images, (n, v, d); the objective wants the views first.
        local = torch.stack([unit_rows(point) for point in points], dim=1)
        z = gather(local).transpose(0, 1)
        kernel = self._kernel()
        terms = ssl_hsic(
            z,
            kernel=kernel,
            gamma=self.config.gamma,
            pairs=self.config.pairs,
            features=self._features(z, kernel, batch),
        )
        if self.training and self._learns_scale:
            self._slopes.append(_scale_slope(z.detach(), kernel, batch))
        return Loss(terms, monitored=z[0].detach())

    def embed(self, images: Tensor) -> Embedding:
        """Return h (n, width) in float32 or better; `disagreement` gives the uncertainty."""
        h = self.encoder(images)
        return Embedding(h.to(torch.promote_types(h.dtype, torch.float32)), None)

    def disagreement(self, representations: Tensor) -> Tensor:
        """Return 1 - mean over pairs p != l of k(z^p, z^l), (n,) in [0, 1] for imq and rbf."""
        v, n, _ = representations.shape
        z = unit_rows(self.projector(representations.flatten(0, 1))).view(v, n, -1).double()
        total, kernel = z.new_zeros(n), self._kernel()
        for p in range(v - 1):
            if kernel.name == "linear":
                total += (z[p] * z[p + 1 :]).sum(-1).sum(0)
            else:
                total += kernel.of_squared((z[p] - z[p + 1 :]).square().sum(-1)).sum(0)
        return 1 - total / (v * (v - 1) / 2)

    @torch.no_grad()
    def after_step(self, step: int) -> Mapping[str, float | Tensor]:
        """Move the target, the average and the kernel scale; return the scale and the decay."""
        config, total = self.config, self.total_steps
        logged: dict[str, float | Tensor] = {}
        if self._slopes:
            self._move_scale(torch.stack(self._slopes).mean(), step)
            self._slopes = []
        if config.kernel != "linear":
            logged["kernel_scale"] = self.log_scale.exp()
        if self.target is not None:
            decay = cosine_decay(step, start=config.target_decay, total=total)
            follow(self.target, self._network(), decay=decay)
            logged["target_decay"] = decay
        if self.average is not None and self.average_log_scale is not None:
            decay = debiased_decay(step, decay=config.average, total=total)
            follow(self.average, self._network(), decay=decay)
            self.average_log_scale.lerp_(self.log_scale, 1 - decay)
        return logged

    def finish(self) -> None:
        """Put the averaged weights in place and drop what only training needs."""
        if self.average is not None and self.average_log_scale is not None:
            follow(self._network(), self.average, decay=0.0)
            self.log_scale.copy_(self.average_log_scale)
        self.predictor = self.target = self.average = self.average_log_scale = None

    @property
    def _learns_scale(self) -> bool:
        return self.config.learn_scale and self.config.kernel != "linear"

    def _kernel(self) -> Kernel:
        return Kernel(self.config.kernel, self.log_scale.detach().exp())

    def _network(self) -> nn.ModuleDict:
        return nn.ModuleDict({"encoder": self.encoder, "projector": self.projector})

    def _online(self, view: Tensor) -> Tensor:
        z = self.projector(self.encoder(view))
        return z if self.predictor is None else self.predictor(z)

    def _features(
        self, z: Tensor, kernel: Kernel, batch: Batch
    ) -> tuple[RandomFeatures, RandomFeatures] | None:
        """Return this step's two draws, the same on every process, where the batch is large."""
        v, n, dim = z.shape
        if v * n <= self.config.exact_up_to or kernel.name == "linear":
            return None
        drawn = [
            RandomFeatures.draw(
                kernel,
                dim,
                self.config.features,
                generator=generator(batch.seed, "ssl-hsic", "features", which, batch.step),
                dtype=z.dtype,
                device=z.device,
            )
            for which in ("A", "B")
        ]
        return drawn[0], drawn[1]

    def _move_scale(self, slope: Tensor, step: int) -> None:
        """Take Adam's step on the logarithm of the scale, uphill."""
        rate, first, second, least = _ADAM
        powers = torch.stack([slope, slope.square()]).to(self.scale_moments)
        betas = powers.new_tensor([first, second])
        self.scale_moments.lerp_(powers, 1 - betas)
        mean, square = self.scale_moments / (1 - betas ** (step + 1))
        self.log_scale.add_(rate * mean / (square.sqrt() + least))


def _project(network: nn.ModuleDict, view: Tensor) -> Tensor:
    return network["projector"](network["encoder"](view))


def _scale_slope(z: Tensor, kernel: Kernel, batch: Batch) -> Tensor:
    """Return the slope of the scale's objective between two samples of the points."""
    v, n, _ = z.shape
    draws = generator(batch.seed, "ssl-hsic", "scale", batch.step)
    rows = torch.randint(n, (2, v, max(1, _SCALE_POINTS // v)), generator=draws).to(z.device)
    views = torch.arange(v, device=z.device)[:, None]
    return steepness_slope(kernel, squared_distances(*(z[views, r].flatten(0, 1) for r in rows)))


@register
@dataclass(frozen=True, kw_only=True)
class SslHsicConfig(MethodConfig):
    """SSL-HSIC's hyperparameters; the defaults are the released code's for ImageNet."""

    name: ClassVar[str] = "ssl-hsic"
    paper: ClassVar[str] = (
        "Self-Supervised Learning with Kernel Dependence Maximization (Li, Pogodin, Sutherland and "
        "Gretton, 2021), https://arxiv.org/abs/2106.08320"
    )

    dim: int = 256
    """Features of the projection."""
    hidden: int = 4096
    """Features of the projector's hidden layer."""
    predictor_hidden: int | None = None
    """Features of the predictor's hidden layer; None: as the projector's."""
    target: bool = True
    """Whether a moving average of the network gives further views; without it: no predictor."""
    target_decay: float = 0.99
    """Of the target's average at the start; it goes to 1 by a cosine."""
    gamma: float = 3.0
    """Weight of sqrt(HSIC(Z, Z)). A part of the batch must hold more than gamma^2 + 1 images: with
    fewer, a collapse has a lower loss than images spread evenly, and a run is refused."""
    kernel: Literal["imq", "rbf", "linear"] = "imq"
    """Of two projections of unit length."""
    scale: float = 1.0
    """The kernel's scale at the start; the linear kernel has none."""
    learn_scale: bool = True
    """Whether the scale follows its own objective."""
    pairs: Pairs = "distinct"
    """Whether a view's pair with itself counts: all, as in the released code, adds a constant."""
    exact_up_to: int = 8192
    """Points (views x images) up to which the loss is exact; above, from random features.
    At 8,192 points of 256 dimensions that takes 1.6 GB (`benchmarks/hsic_scaling.py`), four times
    as much for twice the points. The linear kernel's features are the points themselves: it is
    exact at any size."""
    features: int = 2048
    """Random features per draw where they are used, the same on every process; the released code
    draws 512 on each of 128."""
    average: float = 0.999
    """Decay of the average of the weights that is kept in the end; 0: the last weights. It reaches
    back over a tenth of the run at most."""

    def __post_init__(self) -> None:
        """Check sizes and ranges."""
        for name in ("dim", "hidden", "predictor_hidden", "features"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise ConfigError(f"Expected '{name}' a whole number of at least 1, got {value}.")
        if not (isinstance(self.exact_up_to, int) and self.exact_up_to >= 0):
            raise ConfigError(
                f"Expected 'exact_up_to' a whole number of at least 0, got {self.exact_up_to}."
            )
        if not 0 <= self.gamma < math.inf:
            raise ConfigError(f"Expected a finite 'gamma' of at least 0, got {self.gamma}.")
        if not 0 <= self.target_decay <= 1:
            raise ConfigError(f"Expected 'target_decay' in [0, 1], got {self.target_decay}.")
        if not 0 <= self.average < 1:
            raise ConfigError(f"Expected 'average' in [0, 1), got {self.average}.")
        if self.pairs not in ("distinct", "all"):
            raise ConfigError(f"Expected 'pairs' distinct or all, got {self.pairs!r}.")
        Kernel(self.kernel, self.scale)

    def require_images(self, images: int) -> None:
        """Refuse batches in which a collapse has the lower loss: of at most gamma^2 + 1 images.

        Aligned views of n orthogonal images have -(1 - k)(n - 1)/n + gamma (1 - k) sqrt(n - 1)/n,
        a collapse has 0.
        """
        least = self.gamma**2 + 1
        if images <= least:
            raise ConfigError(
                f"Expected more than gamma^2 + 1 = {least:g} images in each part of the batch "
                f"(batch_size / accumulate), got {images}: a collapse would have the lower loss; "
                "raise the batch size or lower 'gamma'."
            )

    def build(self, encoder: nn.Module, *, width: int) -> SslHsic:
        """Make the method around `encoder`, whose output is (n, width)."""
        return SslHsic(encoder, width=width, config=self)
