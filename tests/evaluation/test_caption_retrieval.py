"""Caption retrieval on features with a known answer, ties and uneven captions included."""

import numpy as np
import pytest

from cognates.errors import DataError
from cognates.evaluation.caption_retrieval import caption_retrieval, standing
from cognates.evaluation.records import format_result
from cognates.types import Features


def features(rows, index=None):
    rows = np.asarray(rows, dtype=np.float32)
    index = np.arange(len(rows)) if index is None else np.asarray(index)
    return Features(representation=rows, index=index.astype(np.int64), split="test")


def measured(images, texts, **beside):
    others = {"paired-image-test": images, "caption-test": texts, **beside}
    results = caption_retrieval(images, images, seed=0, others=others)
    return {(r.metric, r.subject): r for r in results}


def slow(images, texts):
    """Rank with sorted lists: the definition, without ties."""
    a = images.representation / np.linalg.norm(images.representation, axis=1, keepdims=True)
    b = texts.representation / np.linalg.norm(texts.representation, axis=1, keepdims=True)
    similarity = a.astype(np.float64) @ b.T.astype(np.float64)
    first = [1 + list(texts.index[np.argsort(-row)]).index(i) for i, row in enumerate(similarity)]
    back = [
        1 + list(np.argsort(-column)).index(texts.index[j]) for j, column in enumerate(similarity.T)
    ]
    return np.array(first), np.array(back)


def test_recalls_and_medians_are_those_of_sorted_lists_with_uneven_captions():
    random = np.random.default_rng(0)
    owner = np.repeat(np.arange(30), random.integers(1, 5, 30))
    images = features(random.normal(size=(30, 6)))
    noisy = images.representation[owner] + 1.2 * random.normal(size=(len(owner), 6))
    texts = features(noisy, owner)
    first, back = slow(images, texts)
    found = measured(images, texts)
    assert len(found) == 8
    for direction, ranks in (("image-to-text", first), ("text-to-image", back)):
        for k in (1, 5, 10):
            result = found[f"{direction}-r-at-{k}", "trained"]
            assert result.value == pytest.approx((ranks <= k).mean(), rel=1e-12)
            assert result.low < result.value < result.high
            assert result.n == 30
        assert found[f"{direction}-median-rank", "trained"].value == np.median(ranks)
    settings = found["image-to-text-r-at-1", "trained"].settings
    assert (settings["queries"], settings["candidates"]) == (30, len(owner))
    assert format_result(found["text-to-image-r-at-5", "trained"]).count("%") == 1


def test_constant_features_give_chance_as_stated():
    owner = np.repeat(np.arange(100), 5)
    found = measured(features(np.ones((100, 1))), features(np.ones((500, 1)), owner))
    for k in (1, 5, 10):
        back = found[f"text-to-image-r-at-{k}", "trained"]
        assert back.value == pytest.approx(k / 100) == back.settings["chance"]
        first = found[f"image-to-text-r-at-{k}", "trained"]
        missed = np.prod([(495 - i) / (500 - i) for i in range(k)])
        assert first.value == pytest.approx(1 - missed) == first.settings["chance"]
    assert found["text-to-image-median-rank", "trained"].value == 50.5
    assert found["image-to-text-median-rank", "trained"].value == pytest.approx(501 / 6)


def test_random_features_lie_at_chance_and_perfect_ones_at_the_top():
    random = np.random.default_rng(1)
    owner = np.repeat(np.arange(200), 5)
    images = features(random.normal(size=(200, 32)))
    texts = features(images.representation[owner], owner)
    noise = features(random.normal(size=(1000, 32)), owner)
    found = measured(
        images, texts, **{"untrained-paired-image-test": images, "untrained-caption-test": noise}
    )
    for direction in ("image-to-text", "text-to-image"):
        assert found[f"{direction}-r-at-1", "trained"].value == 1
        assert found[f"{direction}-median-rank", "trained"].value <= 3
        chance = found[f"{direction}-r-at-10", "untrained"]
        # Four standard errors of 200 images at .05.
        assert abs(chance.value - chance.settings["chance"]) < 4 * np.sqrt(0.05 * 0.95 / 200)
        gap = found[f"{direction}-r-at-10-minus-untrained", "trained"]
        assert gap.value == pytest.approx(1 - chance.value)


def test_a_tie_between_a_right_and_a_wrong_candidate_counts_half():
    images = features([[1, 0], [0, 1]])
    texts = features([[1, 0], [1, 0]], [0, 1])
    where = standing(images, texts)
    assert where.right.tolist() == [1, 1]
    assert where.wrong.tolist() == [1, 1]
    assert where.found(1).tolist() == [0.5, 0.5]
    assert where.found(2).tolist() == [1, 1]
    assert where.rank().tolist() == [1.5, 1.5]


def test_features_that_are_missing_or_do_not_fit_are_refused():
    images = features(np.eye(3))
    with pytest.raises(DataError, match="pair_features"):
        caption_retrieval(images, images, seed=0, others={})
    with pytest.raises(DataError, match="one width"):
        measured(images, features(np.eye(2), [0, 1]))
    with pytest.raises(DataError, match="a right candidate"):
        measured(images, features(np.eye(3), [0, 1, 1]))
