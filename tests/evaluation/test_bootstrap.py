from __future__ import annotations

import time

import numpy as np
import pytest

from cognates.evaluation import bootstrap
from cognates.evaluation.ranks import auroc, order, spearman
from cognates.evaluation.uncertainty import decile_accuracies

N = 60


@pytest.fixture
def resampled() -> list[np.ndarray]:
    """The first resamples written out as rows of image numbers."""
    return [np.repeat(np.arange(N), row) for row in bootstrap.counts(N, seed=3)[:40]]


@pytest.fixture
def tied() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    u = generator.integers(0, 9, N).astype(float)
    return u, generator.random(N) < 0.2 + 0.05 * u


def test_counts_are_a_function_of_n_and_seed_and_sum_to_n() -> None:
    drawn = bootstrap.counts(N, seed=3)
    assert drawn.shape == (2000, N)
    assert np.all(drawn.sum(axis=1) == N)
    bootstrap.counts.cache_clear()
    assert np.array_equal(drawn, bootstrap.counts(N, seed=3))
    assert not np.array_equal(drawn, bootstrap.counts(N, seed=4))
    # each count is binomial(n, 1/n): variance 1 - 1/n, over 120,000 of them to 2 %
    assert drawn.var() == pytest.approx(1 - 1 / N, rel=0.02)


def test_means_equal_those_of_resamples_written_out(resampled: list[np.ndarray]) -> None:
    values = np.random.default_rng(1).normal(size=(N, 2))
    expected = [values[rows].mean(axis=0) for rows in resampled]
    assert np.allclose(bootstrap.means(values, seed=3)[:40], expected, rtol=1e-12)
    assert np.allclose(bootstrap.means(values[:, 0], seed=3)[:40], np.array(expected)[:, 0])


def test_rank_statistics_equal_those_of_resamples_written_out(
    resampled: list[np.ndarray], tied: tuple[np.ndarray, np.ndarray]
) -> None:
    for u in (tied[0], np.random.default_rng(2).random(N)):
        wrong = tied[1]
        areas, correlations = bootstrap.rank_statistics(u, wrong, seed=3)
        assert areas.shape == correlations.shape == (2000,)
        assert np.allclose(areas[:40], [auroc(u[r], wrong[r]) for r in resampled], rtol=1e-12)
        expected = [spearman(u[r], wrong[r].astype(float)) for r in resampled]
        assert np.allclose(correlations[:40], expected, atol=1e-12)


def test_a_constant_score_is_one_half_in_every_resample() -> None:
    wrong = np.arange(N) % 3 == 0
    areas, correlations = bootstrap.rank_statistics(np.ones(N), wrong, seed=3)
    assert np.all(areas == 0.5)
    assert np.all(correlations == 0)


def test_a_resample_without_errors_counts_as_chance_and_not_as_nan() -> None:
    wrong = np.zeros(N, dtype=bool)
    wrong[0] = True  # missing from a resample with probability (1 - 1/n)^n, about .36
    areas, correlations = bootstrap.rank_statistics(np.arange(N, dtype=float), wrong, seed=3)
    without = bootstrap.counts(N, seed=3)[:, 0] == 0
    assert 500 < without.sum() < 1000
    assert np.all(areas[without] == 0.5)
    assert np.all(correlations[without] == 0)
    assert np.all(areas[~without] == 0)


def test_spearman_resamples_an_image_with_all_its_rows(resampled: list[np.ndarray]) -> None:
    generator = np.random.default_rng(5)
    images = np.repeat(np.arange(N), 3)
    a = generator.integers(0, 6, images.size).astype(float)
    b = a + generator.normal(size=images.size)
    found = bootstrap.spearmans(a, b, images=images, seed=3)[:40]
    for value, rows in zip(found, resampled, strict=True):
        flat = np.concatenate([[3 * i, 3 * i + 1, 3 * i + 2] for i in rows])
        assert value == pytest.approx(spearman(a[flat], b[flat]), abs=1e-12)


def test_group_accuracies_equal_those_of_resamples_written_out(
    resampled: list[np.ndarray],
) -> None:
    generator = np.random.default_rng(6)
    u = generator.random(N)
    correct = generator.random(N) < 0.7
    found = bootstrap.group_accuracies(correct, order(u, seed=0), groups=10, seed=3)
    assert found.shape == (2000, 10)
    for value, rows in zip(found, resampled, strict=False):
        expected = decile_accuracies(correct[rows], np.argsort(u[rows], kind="stable"))
        assert np.allclose(value, expected, atol=1e-12)


def test_group_spearmans_are_spearmans_of_each_row() -> None:
    rows = np.random.default_rng(0).integers(0, 4, size=(20, 10)) / 4
    rows[0] = 0.5
    expected = [spearman(np.arange(10), row) for row in rows]
    assert np.allclose(bootstrap.group_spearmans(rows), expected, atol=1e-12)
    assert expected[0] == 0


def test_intervals_of_a_mean_cover_it_about_95_times_in_100() -> None:
    truth, covered, runs = 0.7, 0, 300
    generator = np.random.default_rng(0)
    for _ in range(runs):
        correct = generator.random(200) < truth
        low, high = bootstrap.interval(bootstrap.means(correct, seed=0))
        covered += low <= truth <= high
    # standard error of a coverage of .95 over 300 runs: .013; four of them, and the percentile
    # interval at n = 200 is slightly short
    assert 0.89 < covered / runs <= 1.0


def test_a_paired_interval_is_narrower_than_an_unpaired_one() -> None:
    generator = np.random.default_rng(1)
    hard = generator.random(500) < 0.3
    a = ~hard | (generator.random(500) < 0.1)
    b = ~hard & (generator.random(500) < 0.95)
    paired = bootstrap.means(a, seed=0) - bootstrap.means(b, seed=0)
    unpaired = bootstrap.means(a, seed=0) - bootstrap.means(b, seed=1)
    widths = [np.subtract(*bootstrap.interval(s)[::-1]) for s in (paired, unpaired)]
    assert widths[0] < 0.7 * widths[1]


def test_ten_thousand_images_take_seconds() -> None:
    generator = np.random.default_rng(2)
    u, wrong = generator.random(10_000), generator.random(10_000) < 0.1
    started = time.perf_counter()
    areas, _ = bootstrap.rank_statistics(u, wrong, seed=0)
    # 1 s here on an idle core; the limit is for a busy one
    assert time.perf_counter() - started < 20
    # Hanley and McNeil: standard error of a chance AUROC, 1,000 against 9,000: .0096
    assert areas.std() == pytest.approx(0.0096, rel=0.1)
