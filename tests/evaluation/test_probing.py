from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cognates.errors import DataError
from cognates.evaluation.attributes import celeba, hair
from cognates.evaluation.factors import angles, dsprites
from cognates.evaluation.probing import Plan, Target, probe
from cognates.types import Features

COLUMNS = ("shape", "scale", "orientation", "pos_x", "pos_y")


@pytest.fixture
def quick(monkeypatch) -> None:
    from cognates.evaluation import mlp

    monkeypatch.setattr(mlp, "EPOCHS", (1, 2))


def features(x: np.ndarray, split: str = "train", **targets: np.ndarray) -> Features:
    return Features(
        representation=x.astype(np.float32), index=np.arange(len(x)), targets=targets, split=split
    )


def grid(n: int, seed: int, split: str, *, hidden: bool = True) -> Features:
    """Factors of dSprites, drawn, and a rotation of what says them: or noise."""
    generator = np.random.default_rng(seed)
    factors = np.stack([generator.integers(0, k, n) for k in (3, 6, 40, 32, 32)], axis=1)
    named = dict(zip(COLUMNS, factors.T, strict=True))
    parts = [np.eye(3)[factors[:, 0]], np.eye(6)[factors[:, 1]], factors[:, 3:] / 16]
    parts += [np.nan_to_num(angles(named, shape)) for shape in ("square", "heart")]
    x = np.concatenate(parts, axis=1)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(x.shape[1],) * 2))[0]
    x = x @ turn if hidden else generator.normal(size=x.shape)
    found = features(x, split, factors=factors)
    return replace(found, target_names={"factors": COLUMNS})


@pytest.mark.usefixtures("quick")
def test_dsprites_reads_each_factor_that_is_there_and_none_that_is_not() -> None:
    train, test = grid(1500, 0, "train"), grid(500, 1, "test")
    others = {
        "untrained-train": grid(1500, 0, "train", hidden=False),
        "untrained-test": grid(500, 1, "test", hidden=False),
    }
    results = dsprites(train, test, seed=0, others=others, grid=4)
    found = {(r.metric, r.subject): r for r in results}
    assert len(found) == len(results) == 7 * (2 * 3 + 1)
    for name in ("shape/accuracy/linear", "scale/accuracy/linear"):
        assert found[name, "trained"].value > 0.99
    for name in ("x", "y", "orientation-square", "orientation-heart"):
        assert found[f"{name}/r2/ridge", "trained"].value > 0.99
        assert found[f"{name}/r2/ridge", "untrained"].value < 0.05
        assert found[f"{name}/r2/ridge-minus-untrained", "trained"].low > 0.9
    # the ellipse's angle was left out of the representation
    assert found["orientation-ellipse/r2/ridge", "trained"].value < 0.05
    assert found["shape/accuracy/linear", "trained"].n == 500
    ellipses = (test.targets["factors"][:, 0] == 1).sum()
    assert found["orientation-ellipse/r2/mlp", "trained"].n == ellipses


@pytest.mark.usefixtures("quick")
def test_dsprites_takes_as_many_images_as_it_is_told_and_the_same_for_every_subject() -> None:
    train, test = grid(600, 0, "train"), grid(300, 1, "test")
    others = {"untrained-train": train, "untrained-test": test}
    results = dsprites(train, test, seed=0, others=others, grid=2, images=(400, 200))
    found = {(r.metric, r.subject): r for r in results}
    assert {r.n for r in results if r.metric.startswith("x/")} == {200}
    assert found["x/r2/ridge", "trained"].settings["train"] == 400
    gap = found["x/r2/ridge-minus-untrained", "trained"]
    assert (gap.value, gap.low, gap.high) == (0, 0, 0)
    again = dsprites(train, test, seed=0, others=others, grid=2, images=(400, 200))
    assert [r.value for r in again] == [r.value for r in results]


def test_orientation_is_modulo_the_symmetry_of_the_shape() -> None:
    turns = np.arange(40)
    for shape, period in (("square", 39 / 4), ("ellipse", 39 / 2), ("heart", 39)):
        number = ["square", "ellipse", "heart"].index(shape)
        found = angles({"shape": np.full(40, number), "orientation": turns}, shape)
        expected = 2 * np.pi * turns / period
        assert np.allclose(found, np.stack([np.cos(expected), np.sin(expected)], axis=1))
        assert np.allclose(found[0], found[39])
        assert np.isnan(angles({"shape": np.array([9]), "orientation": turns[:1]}, shape)).all()


def test_the_last_angle_of_the_embedded_dsprites_shows_the_image_of_the_first() -> None:
    from cognates.data import samples

    packed = samples.open("dsprites")["all"]["images_packed"]
    images = packed.reshape(*samples.DSPRITES_GRID, -1)
    assert np.array_equal(images[:, :, 0], images[:, :, 39])
    assert not np.array_equal(images[2, :, 0], images[2, :, 38])


@pytest.mark.usefixtures("quick")
def test_attributes_have_two_measures_and_a_macro_mean() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(700, 8))
    there = np.stack([x[:, 0] > 0, x[:, 1] > 1, generator.random(700) < 0.5], axis=1)
    matrix = np.where(there, 1, -1)  # as CelebA's files have them
    train, test = (
        features(x[:500], attributes=matrix[:500]),
        features(x[500:], attributes=matrix[500:]),
    )
    train = replace(train, target_names={"attributes": ("smile", "hat", "coin")})
    results = celeba(train, test, seed=0, grid=4)
    found = {r.metric: r for r in results}
    assert len(found) == len(results) == (3 + 1) * 2 * 3
    assert found["smile/balanced-accuracy/linear"].value > 0.9
    assert found["hat/average-precision/linear"].value > 0.9
    assert found["coin/balanced-accuracy/linear"].value == pytest.approx(0.5, abs=0.15)
    for measure in ("balanced-accuracy", "average-precision"):
        each = [found[f"{name}/{measure}/linear"].value for name in ("smile", "hat", "coin")]
        assert found[f"macro/{measure}/linear"].value == pytest.approx(np.mean(each))
    assert found["macro/balanced-accuracy/linear"].n == 200


@pytest.mark.usefixtures("quick")
def test_forty_attributes_have_the_tasks_of_simvae_and_constant_ones_are_left_out() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(260, 40))
    matrix = (x > 0.3).astype(np.int64)
    matrix[:, 2] = 0
    train, test = (
        features(x[:200], attributes=matrix[:200]),
        features(x[200:], attributes=matrix[200:]),
    )
    found = {r.metric: r for r in celeba(train, test, seed=0, grid=2)}
    assert found["hair/accuracy/linear"].n == (hair(matrix[200:]) >= 0).sum() < 60
    assert found["binary/accuracy/mlp"].n == 60
    assert found["gender/accuracy/linear"].value == found["20/accuracy/linear"].value
    assert sum(name.endswith("/accuracy/linear") for name in found) == 30 + 3
    assert found["hair/accuracy/linear"].settings["left_out"] == ["2"]
    assert "2/balanced-accuracy/linear" not in found


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("smile", "hat", "smile"), "none of macro, got smile: rename"),
        (("smile", "hat", "macro"), "none of macro, got macro: rename"),
        ((*(f"{i}" for i in range(39)), "hair"), "gender, binary, got hair: rename"),
    ],
)
def test_attributes_of_one_name_are_refused_before_a_probe_is_fitted(names, said) -> None:
    x = np.random.default_rng(0).normal(size=(60, len(names)))
    one = replace(features(x, attributes=(x > 0).astype(int)), target_names={"attributes": names})
    with pytest.raises(DataError, match=said):
        celeba(one, one, seed=0, grid=2)


def test_one_label_where_several_are_expected_and_the_reverse_are_errors(make_features) -> None:
    train = make_features(40)
    with pytest.raises(DataError, match=r"'attributes' with several columns .* got .'label'."):
        celeba(train, train, seed=0)
    one = replace(train, targets={"attributes": np.zeros(40, int)})
    with pytest.raises(DataError, match="Expected several columns in 'attributes'"):
        celeba(one, one, seed=0)
    with pytest.raises(DataError, match="'factors' with the columns shape"):
        dsprites(train, train, seed=0)
    same = features(np.eye(20), attributes=np.zeros((20, 3), int))
    with pytest.raises(DataError, match="targets that vary for 'celeba'"):
        celeba(same, same, seed=0)


@pytest.mark.usefixtures("quick")
def test_images_without_a_value_take_no_part_in_a_target() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 5))
    y = x[:, 0].copy()
    y[::3] = np.nan
    label = np.where(np.arange(300) % 2, x[:, 1] > 0, -1).astype(np.int64)
    targets = [
        Target(name="y", train=y[:200], test=y[200:], measures=("r2",)),
        Target(name="c", train=label[:200], test=label[200:]),
    ]
    plan = Plan(protocol="p", seed=0, grid=4, prefix="a/")
    found = {r.metric: r for r in probe(features(x[:200]), features(x[200:]), targets, plan)}
    assert set(found) == {
        "a/y/r2/ridge", "a/y/r2/mlp", "a/y/r2/mlp-minus-ridge",
        "a/c/accuracy/linear", "a/c/accuracy/mlp", "a/c/accuracy/mlp-minus-linear",
    }  # fmt: skip
    assert found["a/y/r2/ridge"].n == np.isfinite(y[200:]).sum()
    assert found["a/y/r2/ridge"].value > 0.99
    assert found["a/c/accuracy/linear"].n == 50
    assert found["a/c/accuracy/linear"].value > 0.9


def test_too_few_images_are_another_sentence_than_values_that_do_not_vary() -> None:
    x = np.random.default_rng(0).normal(size=(30, 3))
    for train, test, said in (
        (30, 4, "at least 5 training and 5 test images with a value for 'p', got 4: give more"),
        (4, 30, "got 4: give more"),
        (30, 5, "Expected targets that vary for 'p', got a: every image has the same value"),
    ):
        target = Target(name="a", train=np.zeros(train, int), test=np.zeros(test, int))
        with pytest.raises(DataError, match=said):
            probe(features(x[:train]), features(x[:test]), [target], Plan(protocol="p", seed=0))


@pytest.mark.usefixtures("quick")
def test_records_of_a_class_that_resamples_lack_carry_a_flag() -> None:
    x = np.random.default_rng(0).normal(size=(240, 4))
    matrix = np.stack([x[:, 0] > 0, x[:, 1] > 0], axis=1).astype(int)
    matrix[160:, 1] = np.arange(80) == 7  # one of the test images
    train, test = (features(x[s], attributes=matrix[s]) for s in (slice(160), slice(160, 240)))
    results = celeba(train, test, seed=0, grid=2)
    flagged = {r.metric for r in results if "rare-class" in r.flags}
    # macro: half of 37 %
    assert flagged == {r.metric for r in results if r.metric.startswith(("1/", "macro/"))}
    assert len(flagged) == 2 * 2 * 3
