"""The statements of docs/theory/variational.md that no room's tests hold already."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from cognates.objectives import categorical_terms
from cognates.random import generator

F64 = torch.float64
PAGE = Path(__file__).parents[2] / "docs" / "theory" / "variational.md"


def test_the_bound_is_minus_the_divergence_where_latents_are_spread_evenly():
    # The rows of a circulant matrix: every class is as likely as any other over the images.
    k = 5
    row = torch.rand(k, generator=generator(0, "row"), dtype=F64)
    p = torch.stack([row.roll(shift) for shift in range(k)]) / row.sum()
    log_p = p.log().expand(2, k, k)
    exact = categorical_terms(log_p, log_p)
    assert sum((exact["align"], exact["uniform"], -exact["kl"])).item() == pytest.approx(
        0, abs=1e-14
    )
    for seed in range(3):
        log_q = torch.randn(2, k, k, generator=generator(seed, "q"), dtype=F64).log_softmax(-1)
        terms = categorical_terms(log_p, log_q)
        bound = (terms["align"] + terms["uniform"] - terms["kl"]).item()
        divergence = (log_q.exp() * (log_q - log_p)).sum(-1).mean().item()
        assert bound == pytest.approx(-divergence, abs=1e-13)
        assert bound < 0


def test_every_test_that_the_page_names_exists():
    text = PAGE.read_text(encoding="utf8")
    named = set(re.findall(r"`(test_\w+)`", text))
    folder = Path(__file__).parents[1]
    written = "".join(path.read_text(encoding="utf8") for path in folder.rglob("test_*.py"))
    assert len(named) == 40
    assert sorted(name for name in named if f"def {name}(" not in written) == []
