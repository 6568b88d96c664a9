from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cognates.data.images import Images
from cognates.errors import ConfigError, DataError, NonFiniteError, StorageError
from cognates.evaluation import store
from cognates.evaluation.features import extract, load, pixels, save, view_pair, view_pixels

KIND = {"size": 16, "mean": (0.3,), "std": (0.2,)}


def test_extraction_gives_the_encoders_output_in_order_with_every_score(
    method, images, spec
) -> None:
    features = extract(
        method, images[0], views=[spec], view_disagreement=True, batch_size=7, **KIND
    )
    raw = torch.from_numpy(images[0].pixels).float() / 255
    with torch.no_grad():
        expected = method.embed((raw - 0.3) / 0.2)
    # float32, and batches of 7 against one of 60
    assert np.allclose(features.representation, expected.representation, rtol=1e-4, atol=1e-5)
    assert features.representation.dtype == np.float32
    assert set(features.scores) == {"concentration", "norm", "view-disagreement"}
    assert all(score.dtype == np.float64 for score in features.scores.values())
    norms = np.linalg.norm(features.representation.astype(float), axis=1)
    assert np.allclose(features.scores["norm"], -norms)
    assert np.allclose(features.scores["concentration"], expected.uncertainty, rtol=1e-4)
    assert features.default_score == "concentration"
    assert features.index.tolist() == list(range(60))
    assert features.path is not None
    assert features.path[3] == "train/3.png"
    assert np.array_equal(features.targets["label"], images[0].targets["label"])
    assert (features.dataset, features.split, features.layer) == ("bars", "train", "backbone")


def test_view_disagreement_is_one_minus_the_mean_pairwise_cosine_of_eight_shared_views(
    method, images, spec
) -> None:
    from cognates.data.augment import apply, fixed_draws

    features = extract(method, images[1], views=[spec], view_disagreement=True, **KIND)
    raw = torch.from_numpy(images[1].pixels)
    with torch.no_grad():
        h = torch.stack(
            [
                method.embed(apply(raw, p.expand(len(raw)), **KIND)).representation.double()
                for p in fixed_draws(spec, 8, height=16, width=16)
            ]
        )
    z = torch.nn.functional.normalize(h, dim=-1)
    cosines = [(z[a] * z[b]).sum(dim=1) for a in range(8) for b in range(a)]
    expected = 1 - torch.stack(cosines).mean(dim=0)
    # the representation is float32
    assert np.allclose(features.scores["view-disagreement"], expected, atol=1e-6)
    assert np.ptp(expected.numpy()) > 1e-3


def test_no_score_depends_on_the_batch_an_image_comes_in(method, images, spec) -> None:
    kind = {"views": [spec], "view_disagreement": True, **KIND}
    whole = extract(method, images[1], batch_size=40, **kind)
    pieces = extract(method, images[1], batch_size=3, **kind)
    some = np.array([31, 4, 17])
    subset = Images(pixels=images[1].pixels[some], dataset="bars", split="test")
    alone = extract(method, subset, batch_size=1, **kind)
    assert len(whole.scores) == 3
    for name, score in whole.scores.items():
        # float32 convolutions of other batch sizes differ in the last bits
        assert np.allclose(pieces.scores[name], score, atol=2e-6), name
        assert np.allclose(alone.scores[name], score[some], atol=2e-6), name


def test_view_disagreement_is_made_only_where_it_is_asked_for_or_the_methods_own(
    method, without_own_score, images, spec
) -> None:
    plain = extract(method, images[1], views=[spec], **KIND)
    assert set(plain.scores) == {"concentration", "norm"}
    derived = extract(without_own_score, images[1], views=[spec], **KIND)
    assert set(derived.scores) == {"view-disagreement", "norm"}
    assert derived.default_score == "view-disagreement"
    refused = extract(without_own_score, images[1], views=[spec], view_disagreement=False, **KIND)
    assert refused.default_score is None


def test_a_submodule_in_training_mode_is_an_error_that_names_it(method, images, spec) -> None:
    method.encoder[1].train()
    with pytest.raises(ConfigError, match=r"encoder\.1"):
        extract(method, images[0], views=[spec], **KIND)
    with pytest.raises(ConfigError, match=r"encoder\.1"):
        view_pair(method, images[0], views=[spec], **KIND)


def test_a_method_that_gives_nan_is_an_error(method, images, spec) -> None:
    with torch.no_grad():
        method.encoder[0].bias[0] = torch.nan
    with pytest.raises(NonFiniteError, match="diverged"):
        extract(method, images[0], views=[spec], **KIND)


def test_no_images_are_an_error(method, images, spec) -> None:
    empty = replace(images[0], pixels=images[0].pixels[:0])
    with pytest.raises(DataError, match="none"):
        extract(method, empty, views=[spec], **KIND)


def test_pixels_are_the_flattened_test_view(images) -> None:
    features = pixels(images[0], 16, batch_size=7)
    assert np.allclose(features.representation, images[0].pixels.reshape(60, -1) / 255)
    assert features.layer == "pixels"
    assert pixels(images[0], 14).representation.shape == (60, 14 * 14)


def test_view_pairs_are_two_independent_views_and_the_same_for_every_encoder(
    method, untrained, images, spec
) -> None:
    first, second = view_pixels(images[1], views=[spec], size=16, batch_size=7)
    again = view_pixels(images[1], views=[spec], size=16, batch_size=40)
    assert np.array_equal(first.representation, again[0].representation)
    assert np.array_equal(second.representation, again[1].representation)
    assert not np.allclose(first.representation, second.representation)
    assert (first.layer, second.layer) == ("pixels-view1", "pixels-view2")
    other = view_pixels(images[1], views=[spec], size=16, seed=1)
    assert not np.allclose(first.representation, other[0].representation)
    embedded = view_pair(method, images[1], views=[spec], batch_size=7, **KIND)
    raw = torch.from_numpy(first.representation).view(-1, 1, 16, 16)
    with torch.no_grad():
        expected = method.embed((raw - 0.3) / 0.2).representation
    assert np.allclose(embedded[0].representation, expected, rtol=1e-4, atol=1e-5)


def test_features_come_back_from_disk_as_they_were(make_features, tmp_path: Path) -> None:
    features = replace(
        make_features(20, scores={"norm": np.linspace(-1, 0, 20)}, default_score="norm"),
        path=np.array([f"bild-ü/{i}" for i in range(20)], dtype=object),
        target_names={"label": ("a", "b", "ç")},
    )
    path = tmp_path / "features" / "trained-train-abc.npz"
    save(path, features)
    back = load(path)
    assert np.array_equal(back.representation, features.representation)
    assert back.representation.dtype == np.float32
    assert np.array_equal(back.index, features.index)
    assert back.path is not None
    assert back.path.tolist() == list(features.path)
    assert set(back.targets) == {"label"}
    assert np.array_equal(back.targets["label"], features.targets["label"])
    assert back.target_names == {"label": ("a", "b", "ç")}
    assert np.array_equal(back.scores["norm"], features.scores["norm"])
    for name in ("default_score", "dataset", "split", "layer"):
        assert getattr(back, name) == getattr(features, name)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    np.load(path, allow_pickle=False).close()


def test_inconsistent_features_are_not_written(make_features, tmp_path: Path) -> None:
    good = make_features(20)
    bad = [
        replace(good, scores={"norm": np.zeros(19)}),
        replace(good, scores={"norm": np.full(20, np.nan)}),
        replace(good, representation=np.full((20, 3), np.inf, dtype=np.float32)),
        replace(good, representation=np.zeros(20, dtype=np.float32)),
    ]
    for features in bad:
        with pytest.raises(DataError):
            save(tmp_path / "x.npz", features)
    assert list(tmp_path.iterdir()) == []


def test_a_file_cut_in_half_is_a_storage_error(make_features, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save(path, make_features(20))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StorageError, match="made again"):
        load(path)
    with pytest.raises(StorageError):
        load(tmp_path / "missing.npz")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def fail(file) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="No space"):
        store.replace(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_cache_key_depends_on_everything_the_features_depend_on(
    method, untrained, images
) -> None:
    weights = store.weights_digest(method)
    base = {"weights": weights, "layer": "backbone", "transform": {"size": 16}}
    keys = [
        store.cache_key(images[0], **base),
        store.cache_key(images[1], **base),
        store.cache_key(images[0], **{**base, "weights": store.weights_digest(untrained)}),
        store.cache_key(images[0], **{**base, "layer": "projector"}),
        store.cache_key(images[0], **{**base, "transform": {"size": 14}}),
        store.cache_key(replace(images[0], digest="other"), **base),
    ]
    assert len(set(keys)) == 6
    assert store.cache_key(images[0], **base) == keys[0]
    method.encoder[1].running_mean += 1e-3  # buffers count too
    assert store.weights_digest(method) != weights


def test_images_without_a_digest_are_hashed_by_content(images) -> None:
    bare = replace(images[0], digest="")
    changed = bare.pixels.copy()
    changed[0, 0, 0, 0] ^= 1
    assert store.data_digest(bare) == store.data_digest(replace(bare, pixels=bare.pixels.copy()))
    assert store.data_digest(bare) != store.data_digest(replace(bare, pixels=changed))
