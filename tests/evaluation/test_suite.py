from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cognates.errors import ConfigError, DataError, StorageError
from cognates.evaluation import suite
from cognates.evaluation.gallery import percentiles, write_gallery
from cognates.evaluation.records import format_result, read_results, table, write_results
from cognates.evaluation.relative import SCORES
from cognates.evaluation.suite import PROTOCOLS, evaluate, resolve, run_protocols
from cognates.types import Result

KIND = {"size": 16, "mean": (0.3,), "std": (0.2,), "grid": 3}
LABELLED = {
    *("knn", "linear", "few-labels", "deciles", "auroc-error"),
    *("r-auroc", "aurc", "risk", "calibration"),
}
LABEL_FREE = {"view-retrieval", "spread", "sensitivity", "crop"}


@pytest.fixture
def quick(monkeypatch) -> None:
    """Three draws instead of twenty."""
    few = PROTOCOLS["few-labels"]

    def run(train, test, **options):
        return few.run(train, test, draws=3, per_class_count=5, **options)

    monkeypatch.setitem(PROTOCOLS, "few-labels", replace(few, run=run))


@pytest.mark.usefixtures("quick")
def test_one_call_gives_all_records_files_and_progress(
    method, untrained, images, spec, tmp_path: Path
) -> None:
    lines: list[str] = []
    results = evaluate(
        method, *images, views=[spec, spec], untrained=untrained, out=tmp_path,
        run_seed=7, progress=lines.append, **KIND,
    )  # fmt: skip
    assert not [r for r in results if r.error]
    assert {r.protocol for r in results} == LABELLED | LABEL_FREE
    for protocol in LABELLED & {"knn", "linear", "few-labels"} | {"view-retrieval"}:
        subjects = {r.subject for r in results if r.protocol == protocol}
        assert subjects == {"trained", "untrained", "pixels"}
    hashes = {r.subject: r.features for r in results}
    assert len(set(hashes.values())) == 3
    assert all(len(value) == 16 for value in hashes.values())
    for result in results:
        assert (result.dataset, result.split, result.seed) == ("bars", "test", 7)
        assert np.isfinite(result.value)
        assert result.layer == ("pixels" if result.subject == "pixels" else "backbone")
        assert result.features == hashes[result.subject]
    assert read_results(tmp_path / "results.json") == results
    kept = sorted(p.name.rsplit("-", 1)[0] for p in (tmp_path / "features").iterdir())
    assert kept == sorted(
        ["trained-train", "trained-test", "untrained-train", "untrained-test", "pixels-train",
         "pixels-test", "trained-crop-test", "trained-blur-test", "trained-random-crop-test"]
        + [f"trained-{c}-{s}-test" for c in ("crop", "blur", "random-crop")
           for s in ("norm", "knn-distance", "view-disagreement", "max-softmax", *SCORES)]
        + ["trained-train-relative", "trained-test-relative"]
        + [f"{s}-view{v}-test" for s in ("trained", "untrained", "pixels") for v in (1, 2)]
    )  # fmt: skip
    beside = [r.metric for r in results if r.protocol == "sensitivity"]
    assert len(beside) == 2 * (2 + 7 * 3)
    assert {"crop-per-image", "crop-per-image/norm", "blur-overall/knn-distance",
            "blur-per-image/default-minus-view-disagreement"} <= set(beside)  # fmt: skip
    assert any(line.startswith("knn:") and "accuracy" in line for line in lines)
    with np.load(tmp_path / "gallery.npz", allow_pickle=False) as gallery:
        assert gallery["pixels"].shape == (40, 1, 16, 16)


def test_a_second_evaluation_takes_the_features_from_disk(
    method, images, spec, tmp_path: Path, monkeypatch
) -> None:
    kind = {"views": [spec], "out": tmp_path, "only": ["knn", "spread"], **KIND}
    first = evaluate(method, *images, **kind)
    monkeypatch.setattr(type(method), "embed", None)
    second = evaluate(method, *images, **kind)
    assert [r.value for r in first] == [r.value for r in second]
    assert len(first) >= 4


def test_a_broken_features_file_is_made_again(method, images, spec, tmp_path: Path) -> None:
    kind = {"views": [spec], "out": tmp_path, "only": ["spread"], **KIND}
    first = evaluate(method, *images, **kind)
    path = next((tmp_path / "features").glob("trained-test-*"))
    path.write_bytes(path.read_bytes()[:500])
    lines: list[str] = []
    second = evaluate(method, *images, progress=lines.append, **kind)
    assert [r.value for r in first] == [r.value for r in second]
    assert any("made again" in line for line in lines)


def test_other_weights_give_other_features_and_drop_records_of_the_old_ones(
    method, untrained, images, spec, tmp_path: Path
) -> None:
    kind = {"views": [spec], "out": tmp_path, **KIND}
    evaluate(method, *images, only=["spread"], **kind)
    evaluate(method, *images, only=["knn"], **kind)
    assert {r.protocol for r in read_results(tmp_path / "results.json")} == {"spread", "knn"}
    evaluate(untrained, *images, only=["sensitivity"], **kind)
    found = read_results(tmp_path / "results.json")
    trained = {r.protocol for r in found if r.subject == "trained"}
    assert trained == {"sensitivity"}


def test_without_labels_the_label_free_protocols_run_and_the_rest_is_said_to_be_missing(
    method, untrained, unlabelled, spec, tmp_path: Path
) -> None:
    lines: list[str] = []
    results = evaluate(
        method, *unlabelled, views=[spec], untrained=untrained, out=tmp_path,
        progress=lines.append, **KIND,
    )  # fmt: skip
    assert {r.protocol for r in results} == LABEL_FREE
    assert not [r for r in results if r.error]
    said = [line for line in lines if "no labels" in line]
    assert len(said) == 1
    assert all(name in said[0] for name in LABELLED)
    with np.load(tmp_path / "gallery.npz", allow_pickle=False) as gallery:
        assert set(gallery["label"].tolist()) == {""}


def test_only_protocols_that_need_labels_are_refused_before_a_pass(
    method, unlabelled, make_features, spec, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(type(method), "embed", None)
    wanted = "Expected labels for knn, linear, got .*: without labels view-retrieval, spread, sens"
    with pytest.raises(DataError, match=wanted):
        evaluate(method, *unlabelled, views=[spec], out=tmp_path, only=["linear", "knn"], **KIND)
    assert not list(tmp_path.iterdir())
    features = replace(make_features(40), targets={})
    with pytest.raises(DataError, match="Expected labels for deciles, auroc-error"):
        run_protocols({"train": features, "test": features}, only=["uncertainty"])


def test_a_failed_protocol_writes_a_record_with_the_error_and_the_others_go_on(
    make_features, tmp_path: Path, monkeypatch
) -> None:
    def broken(train, test, *, seed, others):
        raise ZeroDivisionError("on purpose")

    monkeypatch.setitem(PROTOCOLS, "knn", replace(PROTOCOLS["knn"], run=broken))
    features = {"train": make_features(90), "test": make_features(60, seed=1, split="test")}
    results = run_protocols(features, only=["knn", "linear", "sensitivity"], grid=2)
    failed = [r for r in results if r.error]
    assert [r.protocol for r in failed] == ["knn", "sensitivity"]
    assert failed[0].error == "ZeroDivisionError: on purpose"
    assert all(np.isnan(r.value) for r in failed)
    assert sum(r.protocol == "linear" for r in results) == 4
    write_results(tmp_path / "results.json", results)
    raw = json.loads((tmp_path / "results.json").read_text())
    assert raw[0]["value"] is None
    back = read_results(tmp_path / "results.json")
    assert np.isnan(back[0].value)
    assert back[1:-1] == results[1:-1]
    rows = table(results)
    assert rows[0].error == "ZeroDivisionError: on purpose"
    assert rows[0].cells() == ["failed", "", ""]


def test_an_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'linear'"):
        resolve(["knn", "liner"])
    with pytest.raises(ConfigError, match="did you mean 'uncertainty'"):
        resolve(["uncertanty"])


def test_protocols_are_named_singly_or_by_group_and_run_in_the_suites_order() -> None:
    of_uncertainty = ["deciles", "auroc-error", "r-auroc", "aurc", "augrc", "risk", "calibration"]
    assert [p.name for p in resolve(["uncertainty", "knn"])] == ["knn", *of_uncertainty]
    assert [p.name for p in resolve(["ood", "corruption"])] == ["corruption", "ood"]
    assert {p.name for p in resolve(None)} == LABELLED | LABEL_FREE
    assert [p.name for p in resolve(["knn-200"])] == ["knn-200"]
    assert len(PROTOCOLS) == 33
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())
    assert {name for group in suite.GROUPS.values() for name in group} <= set(PROTOCOLS)


def test_versions_are_those_of_the_changelog() -> None:
    # `consensus` was redefined: all that lists scores
    of_scores = {"deciles": 2, "auroc-error": 3, "r-auroc": 2, "aurc": 2, "augrc": 2, "risk": 2}
    of_scores |= {"sensitivity": 2, "crop": 2, "corruption": 2, "ood": 2}
    of_scores |= {"augmentation-uncertainty": 2}
    others = {"spread": 2, "generation": 2, "generated-views": 2}
    raised = {name: p.version for name, p in PROTOCOLS.items() if p.version > 1}
    assert raised == {**of_scores, **others}


def test_the_protocols_seed_is_recorded_and_decides_the_resamples(make_features) -> None:
    features = {"train": make_features(90), "test": make_features(60, separation=1, seed=1)}
    first, second = (run_protocols(features, only=["knn"], seed=s)[0] for s in (0, 1))
    assert first.value == second.value
    assert (first.low, first.high) != (second.low, second.high)
    assert (first.protocol_seed, second.protocol_seed) == (0, 1)


def result(**kind: object) -> Result:
    base = {"protocol": "knn", "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    return Result(**{**base, **kind})


def test_tables_have_a_row_per_metric_and_a_column_per_subject() -> None:
    rows = table(
        [
            result(),
            result(subject="pixels", value=0.25, low=None, high=None),
            result(metric="accuracy-minus-pixels", value=0.25, low=0.1, high=0.4),
            result(protocol="auroc-error", metric="linear/norm", value=0.612, low=0.6, high=0.63),
        ]
    )
    assert [(row.protocol, row.metric) for row in rows] == [
        ("knn", "accuracy"),
        ("knn", "accuracy-minus-pixels"),
        ("auroc-error", "linear/norm"),
    ]
    assert rows[0].cells() == ["50.0 % [40.0, 60.0]", "", "25.0 %"]
    assert rows[1].cells()[0] == "+25.0 % [+10.0, +40.0]"
    assert rows[2].cells()[0] == "0.612 [0.600, 0.630]"


def test_tables_refuse_to_mix_versions_or_runs() -> None:
    with pytest.raises(ConfigError, match="one version"):
        table([result(), result(metric="nll", version=2)])
    with pytest.raises(ConfigError, match="one run"):
        table([result(), result(seed=1)])


def test_decile_accuracies_are_shown_in_percent_and_correlations_are_not() -> None:
    kind = {"protocol": "deciles", "value": -0.5, "low": None, "high": None}
    assert format_result(result(metric="norm/first-minus-last", **kind)) == "-50.0 %"
    assert format_result(result(metric="norm/spearman-groups", **kind)) == "-0.500"


def test_shares_of_images_are_shown_in_percent_wherever_they_come_from() -> None:
    kind = {"value": 0.5, "low": None, "high": None}
    for protocol, metric in (
        ("crop", "bigger/norm"),
        ("augmentation-uncertainty", "flip/less-certain-1/norm"),
    ):
        assert format_result(result(protocol=protocol, metric=metric, **kind)) == "50.0 %"
    kind["protocol"] = "augmentation-uncertainty"
    gap = "flip/less-certain-1/default-minus-norm"
    assert format_result(result(metric=gap, **kind)) == "+50.0 %"
    assert format_result(result(metric="flip/rise-1", **kind)) == "0.500"


def test_broken_results_are_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for text in ("[{", '[{"protocol": "knn"}]', '[{"x": 1}]', "{}x"):
        path.write_text(text)
        with pytest.raises(StorageError, match="records"):
            read_results(path)


def test_numpy_numbers_in_settings_are_written_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, [result(settings={"C": np.float64(2), "ok": np.bool_(True)})])
    assert read_results(path)[0].settings == {"C": 2.0, "ok": True}


def test_the_gallery_holds_the_least_and_the_most_certain_images(
    images, make_features, tmp_path: Path
) -> None:
    test = images[1]
    u = np.random.default_rng(0).random(40)
    features = make_features(40, scores={"norm": u}, default_score="norm", split="test")
    path = tmp_path / "gallery.npz"
    write_gallery(path, test, features, quantiles=np.linspace(0, 1, 101), count=5)
    with np.load(path, allow_pickle=False) as gallery:
        content = {name: gallery[name] for name in gallery.files}
    assert set(content) == {"pixels", "kind", "uncertainty", "percentile", "path", "label"}
    assert content["kind"].tolist() == ["least"] * 5 + ["most"] * 5
    rows = np.concatenate([np.argsort(-u)[:5], np.argsort(u)[:5]])
    assert np.array_equal(content["pixels"], test.pixels[rows])
    assert content["pixels"].dtype == np.uint8
    assert np.array_equal(content["uncertainty"], u[rows])
    assert np.allclose(content["percentile"], 100 * u[rows])
    assert content["path"].tolist() == [f"test/{row}.png" for row in rows]
    names = ("top", "middle", "bottom")
    assert content["label"].tolist() == [names[row % 3] for row in rows]


def test_a_gallery_of_few_images_shows_none_twice_and_needs_a_default_score(
    images, make_features, tmp_path: Path
) -> None:
    test = images[1]
    few = replace(test, pixels=test.pixels[:7], path=None, targets={}, target_names={})
    features = make_features(7, scores={"norm": np.zeros(7)}, default_score="norm")
    write_gallery(tmp_path / "g.npz", few, features)
    with np.load(tmp_path / "g.npz", allow_pickle=False) as gallery:
        assert gallery["kind"].tolist() == ["least"] * 3 + ["most"] * 3
        assert set(gallery["percentile"].tolist()) == {50.0}
        assert set(gallery["path"].tolist()) == {""}
    with pytest.raises(DataError, match="default score"):
        write_gallery(tmp_path / "g.npz", few, replace(features, default_score=None))
    with pytest.raises(DataError, match="7 images"):
        write_gallery(tmp_path / "g.npz", test, features)


def test_percentiles_follow_the_quantiles_and_stay_within_them() -> None:
    quantiles = np.linspace(2, 3, 101)
    assert percentiles(np.array([1.0, 2.5, 2.555, 9.0]), quantiles) == pytest.approx(
        [0, 50, 55.5, 100]
    )
