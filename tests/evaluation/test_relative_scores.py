import dataclasses

import numpy as np
import pytest

from cognates.errors import ConfigError
from cognates.evaluation import relative
from cognates.evaluation.features import extract
from cognates.evaluation.relative import (
    Bank,
    against,
    bank_of,
    bank_rows,
    make_bank,
    offered,
    place,
    rank_among,
)
from cognates.evaluation.suite import evaluate


@pytest.fixture
def cloud():
    """Return representations (400, 6) and an own score and norm of each."""
    generator = np.random.default_rng(0)
    h = generator.normal(size=(400, 6)).astype(np.float32)
    scores = {"concentration": generator.uniform(0.1, 0.9, 400), "norm": -np.linalg.norm(h, axis=1)}
    return h, scores


@pytest.fixture
def bank(cloud):
    h, scores = cloud
    return make_bank(h[:300], {k: v[:300] for k, v in scores.items()}, own="concentration")


def rows(scores, chosen):
    return {name: values[chosen] for name, values in scores.items()}


def by_hand(bank, h, u, k=200):
    """Return `relative`, `knn-distance` and `distance-ratio` of one image."""
    z = h.astype(np.float64) / np.linalg.norm(h)
    cosine = bank.representation.astype(np.float64) @ z
    order = np.argsort(-cosine)
    order = order[1:] if cosine[order[0]] > 1 - 2e-6 else order
    level = np.log(bank.scores["concentration"])[order[:k]].mean()
    near = 1 - cosine[order[:20]].mean()
    wide = 1 - cosine[order[: max(40, len(cosine) // 20)]].mean()
    return np.log(u) - level, near, (near + relative.COPY) / (wide + relative.COPY)


def test_the_scores_are_those_of_their_formulas(cloud, bank):
    h, scores = cloud
    new = slice(300, 400)
    found = against(bank, h[new], rows(scores, new), parts=True)
    assert set(found) == {*relative.SCORES, "knn-distance"}
    assert len(found) == 5
    own = scores["concentration"]
    expected = np.array([by_hand(bank, h[i], own[i]) for i in range(300, 400)])
    names = ("relative", "knn-distance", "distance-ratio")
    for name, values in zip(names, expected.T, strict=True):
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-6)  # float32 cosines
    assert 0 < found["distance-ratio"].min() < found["distance-ratio"].max() <= 1
    ranks = {n: rank_among(bank.scores[n], found[n]) for n in names}
    ranks |= {n: rank_among(bank.scores[n], scores[n][new]) for n in scores}
    both = (ranks["relative"] + ranks["knn-distance"]) / 2
    np.testing.assert_allclose(found["relative-distance"], both, rtol=1e-12)
    both = (ranks["concentration"] + ranks["distance-ratio"]) / 2
    np.testing.assert_allclose(found["consensus"], both, rtol=1e-12)
    assert set(against(bank, h[new], rows(scores, new))) == set(relative.SCORES)


def test_the_ratio_compares_with_a_twentieth_of_a_large_bank_and_is_finite_in_a_small_one():
    generator = np.random.default_rng(0)
    h = generator.normal(size=(1300, 4))
    u = {"concentration": generator.uniform(0.1, 0.9, 1300)}
    large = make_bank(h[:1200], rows(u, slice(1200)), own="concentration")
    found = against(large, h[1200:], rows(u, slice(1200, 1300)))["distance-ratio"]
    expected = [by_hand(large, h[i], 0.5)[2] for i in range(1200, 1300)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)  # 1e-7 over distances of 1e-2
    for m in (2, 3, 20, 21, 40, 41):
        small = make_bank(h[:m], rows(u, slice(m)), own="concentration")
        assert np.isfinite(small.scores["distance-ratio"]).all()
        assert np.isfinite(small.scores["consensus"]).all()
        assert (small.scores["distance-ratio"] == 1).all() == (m <= 21)
    collapsed = make_bank(np.ones((50, 4)), rows(u, slice(50)), own="concentration")
    np.testing.assert_array_equal(collapsed.scores["distance-ratio"], 1)


def test_the_ratio_rises_with_the_dimension_of_the_neighbourhood():
    generator = np.random.default_rng(0)
    kinds = []
    for dimension in (2, 6, 12):
        centre, spread = np.zeros(40), np.zeros((800, 40))
        centre[12 + dimension] = 1
        spread[:, :dimension] = generator.normal(size=(800, dimension))
        kinds.append(centre + 0.2 * spread / np.linalg.norm(spread, axis=1, keepdims=True))
    h = np.concatenate(kinds)
    bank = make_bank(h, {"concentration": np.full(2400, 0.5)}, own="concentration")
    means = bank.scores["distance-ratio"].reshape(3, 800).mean(axis=1)
    assert means[0] < 0.5 * means[1] < 0.5 * means[2]
    assert (np.diff(means) > 0.1).all()


def test_a_training_image_is_scored_as_if_it_were_not_in_the_bank(cloud, bank):
    h, scores = cloud
    found = against(bank, h[:300], rows(scores, slice(300)), parts=True)
    for row in (0, 17, 299):
        others = np.delete(np.arange(300), row)
        without = make_bank(h[others], rows(scores, others), own="concentration")
        alone = against(without, h[[row]], rows(scores, [row]), parts=True)
        for name in ("relative", "knn-distance", "distance-ratio"):
            assert found[name][row] == pytest.approx(alone[name][0], abs=1e-6)
            assert bank.scores[name][row] == pytest.approx(alone[name][0], abs=1e-6)
    # longer or rounded, it is the same image
    scaled = against(bank, (3 * h[:300]).astype(np.float16), rows(scores, slice(300)), parts=True)
    np.testing.assert_allclose(scaled["knn-distance"], found["knn-distance"], atol=1e-3)


def test_of_two_copies_in_the_bank_one_vouches_for_the_other(cloud):
    h, scores = cloud
    twice = np.concatenate([h[:50], h[:1]])
    values = {k: np.concatenate([v[:50], v[:1]]) for k, v in scores.items()}
    bank = make_bank(twice, values, own="concentration")
    alone = make_bank(h[:50], rows(scores, slice(50)), own="concentration")
    distance, before = bank.scores["knn-distance"], alone.scores["knn-distance"]
    # one of twenty neighbours is now at distance 0, and the twentieth is gone
    assert (distance[[0, 50]] < 0.96 * before[0]).all()
    assert distance[0] == pytest.approx(distance[50], abs=1e-6)


def test_a_score_is_free_of_the_batch_and_of_the_order(cloud, bank, monkeypatch):
    h, scores = cloud
    whole = against(bank, h, scores)
    # cosines are float32, so that an image may pass one of the bank's 300 at its own distance
    exact = {"relative": 1e-6, "relative-distance": 1 / 600, "consensus": 1 / 600}
    exact["distance-ratio"] = 1e-6
    order = np.random.default_rng(1).permutation(400)
    shuffled = against(bank, h[order], rows(scores, order))
    monkeypatch.setattr(relative, "_ELEMENTS", 300 * 7)
    pieces = against(bank, h, scores)
    for name in relative.SCORES:
        close = {"rtol": 0, "atol": exact[name]}
        np.testing.assert_allclose(shuffled[name], whole[name][order], **close)
        np.testing.assert_allclose(pieces[name], whole[name], **close)
        alone = against(bank, h[[3]], rows(scores, [3]))[name]
        np.testing.assert_allclose(alone, whole[name][[3]], **close)


def test_taking_the_level_off_removes_what_belongs_to_the_kind_of_image():
    generator = np.random.default_rng(0)
    kind = np.arange(600) % 2
    h = np.where(kind[:, None] == 0, [[5.0, 0.0, 0.0]], [[0.0, 5.0, 0.0]])
    h = h + 0.3 * generator.normal(size=(600, 3))
    of_image = 0.1 * generator.normal(size=600)
    u = np.exp(-3.0 + 2.0 * kind + of_image)
    bank = make_bank(h, {"concentration": u}, own="concentration")
    assert abs(np.corrcoef(bank.scores["relative"], kind)[0, 1]) < 0.15
    assert np.corrcoef(bank.scores["relative"], of_image)[0, 1] > 0.98
    assert np.corrcoef(np.log(u), of_image)[0, 1] < 0.3


def test_a_score_that_is_not_positive_is_compared_without_a_logarithm(cloud):
    h, _ = cloud
    nats = np.linspace(-3.0, 4.0, 400)
    bank = make_bank(h, {"posterior-entropy": nats}, own="posterior-entropy")
    moved = make_bank(h, {"posterior-entropy": nats + 50}, own="posterior-entropy")
    assert abs(bank.scores["relative"]).max() > 2
    assert abs(moved.scores["relative"]).max() < 0.2  # logarithms of 47 to 54


def test_ranks_are_continuous_increasing_and_keep_the_order_beyond_the_bank():
    reference = np.array([3.0, 1.0, 2.0, 2.0])
    values = np.linspace(-5, 9, 1001)
    found = rank_among(reference, values)
    assert (np.diff(found) > 0).all()
    assert np.diff(found).max() < 0.02
    inside = found[(values >= 1) & (values <= 3)]
    assert 0.1 < inside.min() < inside.max() < 0.9
    assert rank_among(np.full(3, 2.0), np.array([1.0, 2.0, 3.0])).tolist() == [-0.5, 0.5, 1.5]


def test_the_bank_is_drawn_by_its_seed():
    chosen = bank_rows(1000, seed=0, most=100)
    assert len(np.unique(chosen)) == 100
    assert (np.diff(chosen) > 0).all()
    assert (bank_rows(1000, seed=0, most=100) == chosen).all()
    assert (bank_rows(1000, seed=1, most=100) != chosen).any()
    assert abs(chosen.mean() - 500) < 4 * 289 / 10  # four standard errors
    assert bank_rows(100, seed=0, most=100).tolist() == list(range(100))


def test_an_images_place_needs_no_own_score_and_has_the_same_values(cloud):
    h, scores = cloud
    bank = make_bank(h[:300], rows(scores, slice(300)), own="concentration")
    whole, found = against(bank, h, scores, parts=True), place(bank, h)
    assert set(found) == set(relative.PLACED) - {"norm"} == {"knn-distance", "distance-ratio"}
    for name, values in found.items():
        assert (values == whole[name]).all()


def test_a_bank_of_one_image_has_nothing_to_compare_with(cloud):
    h, scores = cloud
    one = make_bank(h[:1], rows(scores, slice(1)), own="concentration")
    assert list(one.scores) == ["concentration", "norm"]
    assert offered(one, "concentration") == ["concentration", "norm"]
    assert offered(None, "concentration") == ["concentration"]
    with pytest.raises(ConfigError, match="at least 2 images"):
        against(one, h, scores)
    with pytest.raises(ConfigError, match="at least 2 images, got 1"):
        place(one, h)
    with pytest.raises(ConfigError, match="Expected the score 'other'"):
        make_bank(h, scores, own="other")


def test_the_suite_ranks_errors_by_the_scores_against_the_bank(method, spec, images, tmp_path):
    train, test = images
    kind = {"views": (spec, spec), "size": 16, "mean": None, "std": None, "only": ["auroc-error"]}
    results = evaluate(method, train, test, out=tmp_path, grid=2, **kind)
    metrics = {r.metric: r for r in results}
    for score in relative.SCORES:
        assert f"linear/{score}" in metrics
        assert "default" not in metrics[f"linear/{score}"].flags
        assert f"linear/default-minus-{score}" not in metrics  # they are no baselines
    assert metrics["linear/concentration"].flags == ("default",)
    assert len(list((tmp_path / "features").glob("trained-*-relative-*.npz"))) == 2
    again = evaluate(method, train, test, out=tmp_path, grid=2, **kind)
    assert [r.value for r in again] == [r.value for r in results]
    other = evaluate(method, train, test, grid=2, default_score="consensus", **kind)
    found = {r.metric: r for r in other}
    assert found["linear/consensus"].flags == ("default",)
    assert found["linear/consensus"].value == metrics["linear/consensus"].value
    gap = found["linear/consensus"].value - found["linear/norm"].value
    assert found["linear/default-minus-norm"].value == pytest.approx(gap)


def test_sweeps_score_every_severity_against_the_bank(method, spec, images):
    train, test = images
    kind = {"views": (spec, spec), "size": 16, "mean": None, "std": None}
    results = evaluate(method, train, test, only=["sensitivity"], default_score="relative", **kind)
    metrics = {r.metric for r in results}
    for name in ("consensus", "distance-ratio", "relative-distance", "concentration", "norm"):
        assert f"crop-per-image/{name}" in metrics
        assert f"blur-per-image/default-minus-{name}" in metrics
    assert "crop-per-image" in metrics


def test_a_kept_sweep_is_that_of_the_score_which_stands_for_the_run(method, spec, images, tmp_path):
    kind = {"views": (spec, spec), "size": 16, "mean": None, "std": None, "grid": 2, "images": 12}
    kind |= {"only": ["crop"]}

    def swept(score, out=None):
        found = evaluate(method, *images, default_score=score, out=out, **kind)
        return {r.metric: (r.value, r.flags) for r in found}

    first = swept("distance-ratio", tmp_path)
    second = swept("consensus", tmp_path)
    assert second == swept("consensus")
    assert swept("distance-ratio", tmp_path) == first
    for found, score in ((first, "distance-ratio"), (second, "consensus")):
        own = {m.rpartition("/")[2] for m, (_, flags) in found.items() if "default" in flags}
        assert own == {score}


@pytest.mark.parametrize("score", ["knn-distance", "norm"])
def test_every_protocol_of_a_call_has_the_same_default_score(score, method, spec, images):
    kind = {"views": (spec, spec), "size": 16, "mean": None, "std": None, "grid": 2, "images": 12}
    results = evaluate(method, *images, default_score=score, only=["r-auroc", "crop"], **kind)
    own = {(r.protocol, r.settings["score"]) for r in results if "default" in r.flags}
    assert own == {("r-auroc", score), ("crop", score)}


def test_features_without_their_own_score_give_no_bank(without_own_score, method, spec, images):
    kind = {"views": (spec,), "size": 16, "mean": None, "std": None}
    features = extract(without_own_score, images[0], view_disagreement=False, **kind)
    assert bank_of(features, own="view-disagreement", seed=0) is None
    features = extract(method, images[0], **kind)
    bank = bank_of(features, own="concentration", seed=0)
    assert isinstance(bank, Bank)
    assert len(bank.representation) == 60
    other = dataclasses.replace(bank, own="norm")
    assert other.digest != bank.digest


def test_a_rare_kind_that_lies_apart_has_a_small_ratio(cloud):
    generator = np.random.default_rng(0)
    common = np.eye(12)[0] + 0.2 * generator.normal(size=(1200, 12))
    rare = np.eye(12)[11] + 0.2 * generator.normal(size=(25, 12))  # fewer than 1225 / 20
    h = np.concatenate([common, rare])
    bank = make_bank(h, {"concentration": np.full(1225, 0.5)}, own="concentration")
    ratio, distance = bank.scores["distance-ratio"], bank.scores["knn-distance"]
    assert ratio[1200:].mean() < ratio[:1200].mean() - 0.1
    assert distance[1200:].mean() > 2 * distance[:1200].mean()  # what that score says of them
