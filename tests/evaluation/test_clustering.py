from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cognates.errors import DataError
from cognates.evaluation import clustering
from cognates.evaluation.clustering import gmm, kmeans, scores


def table(clusters: np.ndarray, classes: np.ndarray) -> np.ndarray:
    found = np.zeros((clusters.max() + 1, classes.max() + 1))
    np.add.at(found, (clusters, classes), 1)
    return found


@pytest.fixture
def few(monkeypatch) -> None:
    monkeypatch.setattr(clustering, "STARTS", 2)


def test_permuted_labels_score_one() -> None:
    classes = np.random.default_rng(0).integers(0, 7, 300)
    permuted = np.random.default_rng(1).permutation(7)[classes]
    found = scores(table(permuted, classes))
    assert {name: pytest.approx(1) for name in ("accuracy", "nmi", "ari")} == found


def test_one_cluster_has_ari_and_nmi_zero_and_the_share_of_the_largest_class() -> None:
    found = scores(np.array([[10, 20, 30]]))
    assert found["ari"] == 0
    assert found["nmi"] == pytest.approx(0, abs=1e-12)
    assert found["accuracy"] == 0.5


def test_independent_labels_have_ari_zero_in_expectation() -> None:
    generator = np.random.default_rng(0)
    drawn = [scores(table(*generator.integers(0, 4, (2, 80))))["ari"] for _ in range(400)]
    assert abs(np.mean(drawn)) < 4 * np.std(drawn) / 20  # four standard errors
    assert np.std(drawn) > 0.005


@pytest.mark.parametrize(("clusters", "classes"), [(5, 5), (3, 6), (8, 2)])
def test_scores_agree_with_scikit_learn_and_with_all_assignments(
    clusters: int, classes: int
) -> None:
    from itertools import permutations

    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    generator = np.random.default_rng(clusters)
    b = generator.integers(0, classes, 120)
    a = np.where(generator.random(120) < 0.5, b % clusters, generator.integers(0, clusters, 120))
    found = scores(np.stack([table(a, b), table(a, b)]))
    assert found["nmi"].shape == (2,)
    assert found["nmi"][1] == pytest.approx(normalized_mutual_info_score(b, a), rel=1e-12)
    assert found["ari"][1] == pytest.approx(adjusted_rand_score(b, a), rel=1e-12)
    wide = table(a, b) if clusters <= classes else table(b, a)
    best = max(
        wide[np.arange(len(wide)), list(pi)].sum()
        for pi in permutations(range(wide.shape[1]), len(wide))
    )
    assert found["accuracy"][1] == best / 120


def test_the_golden_scores_of_stated_labels_are_reproduced() -> None:
    generator = np.random.default_rng(7)
    truth = generator.integers(0, 10, 500)
    moved = generator.random(500) < 0.6
    clusters = np.where(moved, (truth + 3) % 10, generator.integers(0, 10, 500))
    found = scores(table(clusters, truth))
    assert found["accuracy"] == 0.642
    assert found["nmi"] == pytest.approx(0.418514098381858, rel=1e-12)
    assert found["ari"] == pytest.approx(0.3577657598817411, rel=1e-12)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("protocol", [gmm, kmeans])
def test_separated_classes_are_found_without_their_names(make_features, protocol) -> None:
    train, test = make_features(300, separation=6), make_features(90, separation=6, seed=1)
    others = {
        "untrained-train": make_features(300, separation=0, seed=2),
        "untrained-test": make_features(90, separation=0, seed=3),
        "pixels-train": make_features(300, d=300, separation=6, seed=4),
        "pixels-test": make_features(90, d=300, separation=6, seed=5),
    }
    found = protocol(train, test, seed=0, others=others)
    results = {(r.metric, r.subject): r for r in found}
    assert len(results) == len(found) == 3 * 5
    for metric in ("accuracy", "nmi", "ari"):
        assert results[metric, "trained"].value == pytest.approx(1)
        assert results[metric, "untrained"].value < 0.6
        gap = results[f"{metric}-minus-untrained", "trained"]
        assert gap.low is not None
        assert gap.low > 0.3
        assert results[metric, "pixels"].flags == (("pca-64",) if protocol is gmm else ("pca-256",))
    assert {r.n for r in found} == {90}
    renamed = replace(train, targets={"label": np.array([2, 0, 1])[train.targets["label"]]})
    assert [r.value for r in protocol(renamed, test, seed=0)] == [
        r.value for r in protocol(train, test, seed=0)
    ]


@pytest.mark.usefixtures("few")
def test_a_wide_representation_is_reduced_and_the_records_say_so(make_features) -> None:
    train, test = make_features(200, d=80, separation=3), make_features(60, d=80, seed=1)
    assert {r.protocol for r in gmm(train, test, seed=0)} == {"gmm-pca64"}
    narrow = make_features(200, d=64), make_features(60, d=64, seed=1)
    found = gmm(*narrow, seed=0)
    assert {(r.protocol, r.flags) for r in found} == {("gmm", ())}
    assert {r.protocol for r in kmeans(train, test, seed=0)} == {"kmeans"}


def test_one_class_is_an_error(make_features) -> None:
    train = make_features(40)
    one = replace(train, targets={"label": np.zeros(40, int)})
    for protocol in (gmm, kmeans):
        with pytest.raises(DataError, match=r"at least two classes .* got 1"):
            protocol(one, train, seed=0)
        with pytest.raises(DataError, match="needs labels"):
            protocol(replace(train, targets={}), train, seed=0)
