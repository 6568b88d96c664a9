r"""DINO: agree with a slow teacher about which of many prototypes an image is like.

    h = encoder(x),   b = unit(mlp(h)),   s = b . prototypes;   t the same by a moving average
    P = softmax((t - c)/tau_t),   Q = softmax(s/tau_s)
    L = mean over global views i and other views j of H(sg(P^i), Q^j)

Emerging Properties in Self-Supervised Vision Transformers (Caron et al., 2021),
https://arxiv.org/abs/2104.14294.

The teacher is a moving average of encoder and head, in training mode, and is what embeds in the
end. It sees the first `global_views` views only (multi-crop: give the small ones after them). The
centre c is a moving average of its mean logits over the global batch. The teacher's temperature
rises linearly, and the prototypes stand still at the beginning; both are shares of the run, of
which the paper has numbers of epochs. No schedule of the weight decay. Every view passes through
the networks on its own; the released code normalises all views of one size together.

The uncertainty of an image is the entropy of P, the teacher's categorical distribution: read as
variational inference with a categorical latent, that of the posterior. The paper has no such score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from cognates.distributed import all_reduce_sum, average, gather
from cognates.errors import ConfigError
from cognates.methods.base import Method, MethodConfig
from cognates.methods.registry import register
from cognates.networks.ema import cosine_decay, follow, frozen_copy
from cognates.networks.prototypes import PrototypeHead
from cognates.objectives import dino
from cognates.objectives.categorical import assignment_entropy
from cognates.types import Batch, Embedding, Loss


class Dino(Method):
    """DINO's networks, loss and centre."""

    default_score = "assignment-entropy"

    centre: Tensor

    def __init__(self, encoder: nn.Module, *, width: int, config: DinoConfig) -> None:
        """Put the head on `encoder`, whose output is (n, width)."""
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.head = PrototypeHead(
            width,
            hidden=config.hidden,
            bottleneck=config.dim,
            prototypes=config.prototypes,
            batch_norm=config.batch_norm,
        )
        self.teacher: nn.ModuleDict | None = frozen_copy(self._network())
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self._means: list[Tensor] = []

    def forward(self, batch: Batch) -> Loss:
        """Return the cross-entropy over the global batch."""
        projections = [self.head.project(self.encoder(view)) for view in batch.views]
        frozen = self._share(batch.step) < self.config.frozen
        student = [self.head.compare(b, frozen=frozen) for b in projections]
        teacher = self._teach(batch)
        terms = dino(
            student,
            teacher,
            self.centre,
            student_temperature=self.config.student_temperature,
            teacher_temperature=self._temperature(batch.step),
        )
        # Only the centre couples images, so terms travel and logits do not.
        terms = average(terms, len(batch.index))
        return Loss(terms, monitored=gather(projections[0].detach()))

    def embed(self, images: Tensor) -> Embedding:
        """Return h (n, width) in float32 or better, and the entropy (n,) in nats."""
        h = self.encoder(images)
        logits = self.head(h)
        u = assignment_entropy(logits, self.centre, temperature=self.config.teacher_temperature)
        return Embedding(h.to(torch.promote_types(h.dtype, torch.float32)), u)

    @torch.no_grad()
    def after_step(self, step: int) -> Mapping[str, float | Tensor]:
        """Move teacher and centre; return the decay and the teacher's temperature."""
        assert self.teacher is not None
        decay = cosine_decay(step, start=self.config.target_decay, total=self.total_steps)
        follow(self.teacher, self._network(), decay=decay)
        if self._means:
            mean = torch.stack(self._means).mean(0).to(self.centre)
            self.centre.lerp_(mean, 1 - self.config.centre_decay)
            self._means = []
        return {"target_decay": decay, "teacher_temperature": self._temperature(step)}

    def finish(self) -> None:
        """Put the teacher in place, statistics of batch norm included."""
        if self.teacher is not None:
            self._network().load_state_dict(self.teacher.state_dict())
        self.teacher = None

    @torch.no_grad()
    def _teach(self, batch: Batch) -> list[Tensor]:
        """Return the teacher's logits of the global views and note their mean over all images."""
        assert self.teacher is not None, "a finished method only embeds"
        views = batch.views[: self.config.global_views]
        logits = [self.teacher["head"](self.teacher["encoder"](view)) for view in views]
        if self.training:
            total = torch.stack([x.to(self.centre).sum(0) for x in logits]).sum(0)
            rows = total.new_full((1,), float(len(views) * len(batch.index)))
            sums = all_reduce_sum(torch.cat([total, rows]))
            self._means.append(sums[:-1] / sums[-1])
        return logits

    def _share(self, step: int) -> float:
        """Return how much of the run is behind a step; 1 outside of a run."""
        return 1.0 if self.total_steps is None else step / self.total_steps

    def _temperature(self, step: int) -> float:
        first, last = self.config.teacher_start, self.config.teacher_temperature
        warmup = self.config.teacher_warmup
        share = 1.0 if warmup == 0 else min(1.0, self._share(step) / warmup)
        return first + (last - first) * share

    def _network(self) -> nn.ModuleDict:
        return nn.ModuleDict({"encoder": self.encoder, "head": self.head})


@register
@dataclass(frozen=True, kw_only=True)
class DinoConfig(MethodConfig):
    """DINO's hyperparameters; the defaults are the paper's for ImageNet."""

    name: ClassVar[str] = "dino"
    paper: ClassVar[str] = (
        "Emerging Properties in Self-Supervised Vision Transformers (Caron et al., 2021), "
        "https://arxiv.org/abs/2104.14294"
    )

    dim: int = 256
    """Features of the bottleneck, on whose unit sphere the prototypes lie."""
    hidden: int = 2048
    """Features between the head's layers."""
    prototypes: int = 65536
    """Outputs of the head; small data want fewer."""
    batch_norm: bool = False
    """Whether the head has batch normalisation."""
    global_views: int = 2
    """How many views, the first ones, the teacher sees."""
    student_temperature: float = 0.1
    """Of the student's softmax."""
    teacher_temperature: float = 0.07
    """Of the teacher's softmax after the warm-up, and of the score."""
    teacher_start: float = 0.04
    """Of the teacher's softmax at the start."""
    teacher_warmup: float = 0.1
    """Share of the run in which the temperature rises; the paper: 30 epochs of 300."""
    frozen: float = 0.01
    """Share of the run in which the prototypes stand still; the paper: 1 epoch of 100."""
    target_decay: float = 0.996
    """Of the teacher's average at the start; it goes to 1 by a cosine."""
    centre_decay: float = 0.9
    """Of the centre's average."""

    def __post_init__(self) -> None:
        """Check sizes and ranges."""
        for name in ("dim", "hidden", "prototypes", "global_views"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Expected '{name}' of at least 1, got {getattr(self, name)}.")
        for name in ("student_temperature", "teacher_temperature", "teacher_start"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(
                    f"Expected '{name}' above 0 and finite, got {getattr(self, name)}."
                )
        for name in ("teacher_warmup", "frozen", "target_decay", "centre_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"Expected '{name}' in [0, 1], got {getattr(self, name)}.")

    def completed(self, *, channels: int, image_size: int, views: int) -> DinoConfig:
        """Return the configuration as it is, after a look at the number of views."""
        del channels, image_size
        if self.global_views > views:
            raise ConfigError(
                f"Expected 'global_views' of at most the {views} view(s) of an image, got "
                f"{self.global_views}: the teacher sees the first ones; lower it or add views."
            )
        return self

    def build(self, encoder: nn.Module, *, width: int) -> Dino:
        """Make the method around `encoder`, whose output is (n, width)."""
        return Dino(encoder, width=width, config=self)
