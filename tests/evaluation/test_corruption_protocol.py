from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from cognates.data.corrupt import CORRUPTIONS, corrupt
from cognates.errors import DataError
from cognates.evaluation import knn
from cognates.evaluation.corruption import LEVELS, MEASURES, changes, corruption
from cognates.evaluation.features import Transform, extract, score_views
from cognates.evaluation.suite import evaluate
from cognates.evaluation.sweeps import sweep
from cognates.types import Features

NAMES = ["noise", "blur", "jpeg"]
"""Three of the six: every one is read in the same way."""


def swept(table: np.ndarray, score: str, index: np.ndarray | None = None, **targets) -> Features:
    n = len(table)
    return Features(
        representation=np.empty((n, 0), dtype=np.float32),
        index=np.arange(n) if index is None else index,
        scores={f"{level:.2f}": table[:, i] for i, level in enumerate(LEVELS)},
        targets=targets,
        default_score=score,
    )


@pytest.fixture
def tables() -> dict[str, np.ndarray]:
    """Scores (40, 6) that follow the severity ever less from corruption to corruption."""
    generator = np.random.default_rng(0)
    return {
        name: np.array(LEVELS) + (0.5 + i) * generator.normal(size=(40, 6)).round(2)
        for i, name in enumerate(NAMES)
    }


def test_the_three_correlations_are_those_of_their_definitions(tables) -> None:
    others = {f"corruption-{name}-test": swept(t, "relative") for name, t in tables.items()}
    blank = swept(tables["noise"], "relative")
    results = {r.metric: r for r in corruption(blank, blank, seed=0, others=others)}
    assert len(results) == 4 * 3 * 2 + 3 * 6  # `random` beside
    severity = np.array(LEVELS)
    means = {measure: [] for measure in MEASURES}
    for name, table in tables.items():
        expected = {
            "mean-spearman": spearmanr(table.mean(axis=0), severity).statistic,
            "per-image": np.mean([spearmanr(row, severity).statistic for row in table]),
            "overall": spearmanr(table.ravel(), np.tile(severity, 40)).statistic,
        }
        for measure, value in expected.items():
            found = results[f"{name}/{measure}/relative"]
            assert found.value == pytest.approx(value)
            assert found.low <= found.value <= found.high
            assert found.flags == ("default",)
            means[measure].append(value)
        for level in range(6):
            found = results[f"{name}/uncertainty-{level}"]
            assert found.value == pytest.approx(table[:, level].mean())
    for measure, values in means.items():
        found = results[f"all/{measure}/relative"]
        assert found.value == pytest.approx(np.mean(values))
        assert found.low <= found.value <= found.high


def test_baselines_stand_beside_and_few_images_are_compared_with_the_same_few(tables) -> None:
    few = np.arange(3, 13)
    others = {}
    for name, table in tables.items():
        others[f"corruption-{name}-test"] = swept(table, "relative")
        others[f"corruption-{name}-norm-test"] = swept(-table, "norm")
        others[f"corruption-{name}-view-disagreement-test"] = swept(
            -table[few], "view-disagreement", few
        )
    blank = swept(tables["noise"], "relative")
    found = corruption(blank, blank, seed=0, others=others)
    results = {r.metric: r for r in found}
    assert len(found) == len(results) == 4 * 3 * 6 + 3 * 6
    own = results["jpeg/per-image/relative"]
    assert results["jpeg/per-image/norm"].value == pytest.approx(-own.value)
    gap = results["jpeg/per-image/default-minus-norm"]
    assert gap.value == pytest.approx(2 * own.value)
    some = results["jpeg/mean-spearman/default-minus-view-disagreement"]
    part = spearmanr(tables["jpeg"][few].mean(axis=0), LEVELS).statistic
    assert some.value == pytest.approx(2 * part)
    assert (some.n, gap.n) == (10, 40)
    assert results["all/overall/view-disagreement"].flags == ("eight-passes",)
    chance = results["all/per-image/random"]
    assert abs(chance.value) < 4 / (3 * 40 * 5) ** 0.5  # of n ranks the variance is 1 / (n - 1)
    assert chance.flags == ("sanity",)


def test_accuracy_stands_beside_where_there_are_labels(tables) -> None:
    label = np.arange(40) % 3
    predicted = {f"knn/{level:.2f}": np.where(np.arange(40) < 40 - 5 * i, label, 9)
                 for i, level in enumerate(LEVELS)}  # fmt: skip
    others = {
        f"corruption-{name}-test": swept(t, "relative", label=label, **predicted)
        for name, t in tables.items()
    }
    blank = swept(tables["noise"], "relative")
    results = {r.metric: r for r in corruption(blank, blank, seed=0, others=others)}
    values = [results[f"blur/accuracy-{level}"].value for level in range(6)]
    assert values == pytest.approx([1, 0.875, 0.75, 0.625, 0.5, 0.375])
    assert len(results) == 4 * 3 * 2 + 3 * 12


def test_there_is_nothing_to_say_without_a_sweep(tables) -> None:
    blank = swept(tables["noise"], "relative")
    with pytest.raises(DataError, match="sweep over corruptions"):
        corruption(blank, blank, seed=0)


def test_the_sweep_scores_and_recognises_the_corrupted_test_views(method, images, spec) -> None:
    kind = {"views": [spec], "size": 16, "mean": (0.3,), "std": (0.2,)}
    bank = extract(method, images[0], **kind)
    found = sweep(
        method, images[1], bank=bank, changes=changes(), predict=True, limit=6, batch_size=5,
        seed=4, **kind,
    )  # fmt: skip
    assert len(found) == 6 * 4
    own = found["corruption-noise-test"]
    raw = torch.from_numpy(images[1].pixels[own.index]).float() / 255
    noisy = corrupt(raw, "noise", 3, index=torch.from_numpy(own.index), seed=4)
    at = Transform.of(16, (0.3,), (0.2,))
    representation, scores = score_views(method, noisy, spec=None, transform=at)
    assert np.allclose(own.scores["3.00"], scores["concentration"], atol=1e-5)
    seen = replace(bank, representation=representation, index=own.index, path=None, targets={})
    assert np.array_equal(own.targets["knn/3.00"], knn.predict(bank, seen))
    assert np.array_equal(own.targets["label"], images[1].targets["label"][own.index])
    assert set(found["corruption-noise-norm-test"].targets) == set()


def test_the_suite_makes_the_corrupted_images_and_reads_their_scores(
    method, images, unlabelled, spec, tmp_path, monkeypatch
) -> None:
    two = {name: CORRUPTIONS[name] for name in ("occlusion", "jpeg")}
    monkeypatch.setattr("cognates.evaluation.corruption.CORRUPTIONS", two)
    kind = {"views": [spec], "size": 16, "mean": None, "std": None, "out": tmp_path}
    results = evaluate(method, *images, only=["corruption"], images=15, **kind)
    assert not [r for r in results if r.error]
    metrics = {r.metric for r in results}
    assert {"all/per-image/default-minus-knn-distance", "jpeg/accuracy-5"} <= metrics
    # test images are fewer than the few of view disagreement: all scores saw the same
    # four of the scores are against the bank; max-softmax and random are compared with none
    assert len(metrics) == 3 * 3 * (10 + 7) + 2 * 12
    flags = {r.flags for r in results if r.metric.endswith("/max-softmax")}
    assert flags == {("needs-labels",)}
    kind["out"] = None
    free = evaluate(method, *unlabelled, only=["corruption"], images=15, **kind)
    assert len(free) == 3 * 3 * (9 + 7) + 2 * 6
