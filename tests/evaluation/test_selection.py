import numpy as np
import pytest

from cognates.errors import ConfigError, DataError
from cognates.evaluation import selection
from cognates.evaluation.selection import STRATEGIES, select


@pytest.fixture
def heaps():
    """Return 8 heaps of 40 directions, the uncertainty of each image, and its heap."""
    generator = np.random.default_rng(0)
    heap = np.repeat(np.arange(8), 40)
    h = 10 * np.eye(8)[heap] + generator.normal(size=(320, 8))
    return h, generator.random(320), heap


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_chooses_distinct_images_by_its_seed(name, heaps):
    h, u, _ = heaps
    chosen = select(h, u, budget=30, strategy=name, seed=3)
    assert chosen.shape == (30,)
    assert len(set(chosen.tolist())) == 30
    assert (select(3 * h, np.exp(u), budget=30, strategy=name, seed=3) == chosen).all()
    assert (select(h, u, budget=30, strategy=name, seed=4) != chosen).any()
    assert sorted(select(h, u, budget=320, strategy=name)) == list(range(320))
    copies = select(np.ones((12, 3)), u[:12], budget=7, strategy=name)
    assert len(set(copies.tolist())) == 7


def test_the_strategies_are_these():
    assert list(STRATEGIES) == ["typical", "certain", "spread", "random"]


@pytest.mark.parametrize("name", ["typical", "certain"])
def test_one_image_of_every_cluster_is_chosen(name, heaps):
    h, u, heap = heaps
    most = max(
        len(set(heap[select(h, u, budget=8, strategy=name, seed=s)].tolist())) for s in range(3)
    )
    assert most == 8


def test_typical_images_lie_in_the_dense_part_of_their_heap():
    generator = np.random.default_rng(0)
    tight, loose = (s * generator.normal(size=(60, 3)) for s in (0.05, 1.0))
    h = np.concatenate([tight, loose]) + np.array([10.0, 0.0, 0.0])
    assert select(h, np.zeros(120), budget=1, strategy="typical")[0] < 60


def test_certain_images_are_the_surest_of_the_core(heaps):
    h, u, heap = heaps
    for row in select(h, u, budget=8, strategy="certain", seed=1):
        members = np.flatnonzero(heap == heap[row])
        assert (u[members] < u[row]).mean() < 0.25  # of half a heap the surest


def test_spread_draws_the_uncertain_and_far_more_often(heaps):
    h, u, heap = heaps
    drawn = [select(h, u, budget=8, strategy="spread", seed=s) for s in range(40)]
    assert u[np.concatenate(drawn)].mean() > u.mean() + 0.08  # weighted by rank: 2/3 against 1/2
    heaps_of = [len(set(heap[rows].tolist())) for rows in drawn]
    by_chance = 8 * (1 - (7 / 8) ** 8)
    assert np.mean(heaps_of) > by_chance + 1


def test_certain_and_spread_read_the_uncertainty_and_the_others_do_not(heaps):
    h, u, _ = heaps
    found = {
        name
        for name in STRATEGIES
        if (select(h, u, budget=30, strategy=name) != select(h, -u, budget=30, strategy=name)).any()
    }
    assert found == set(selection.BY_UNCERTAINTY) == {"certain", "spread"}
    for name in STRATEGIES:
        if name in found:
            selection.require(name, 3, "norm")
        else:
            with pytest.raises(ConfigError, match=f"certain or spread.*got 'norm' with '{name}'"):
                selection.require(name, 3, "norm")


def test_clusters_lose_no_image_when_a_cluster_is_empty(monkeypatch):
    h = np.concatenate([np.tile([[1.0, 0.0]], (5, 1)), np.tile([[0.0, 1.0]], (5, 1))])
    chosen = select(h, np.arange(10.0), budget=4, strategy="certain")
    assert len(set(chosen.tolist())) == 4
    assert {row // 5 for row in chosen.tolist()} == {0, 1}


def test_what_cannot_be_chosen_is_refused(heaps):
    h, u, _ = heaps
    with pytest.raises(ConfigError, match="did you mean 'typical'"):
        select(h, u, budget=3, strategy="typicl")
    with pytest.raises(ConfigError, match="at least 1 image, got 0"):
        select(h, u, budget=0)
    with pytest.raises(ConfigError, match="at most all 320 images, got 321"):
        select(h, u, budget=321)
    with pytest.raises(DataError, match="finite values of the uncertainty"):
        select(h, np.full(320, np.nan), budget=3)
    assert selection.DEFAULT in STRATEGIES
