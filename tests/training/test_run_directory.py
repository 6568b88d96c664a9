import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cognates.config import RunConfig, read
from cognates.data.views import ViewSpec
from cognates.errors import (
    CognatesWarning,
    ConfigError,
    DataError,
    Interrupted,
    StorageError,
)
from cognates.evaluation.relative import make_bank
from cognates.training import storage
from cognates.training.checkpoint import finalise, read_model
from cognates.training.prepare import load_images, prepare


def test_a_run_leaves_everything_that_the_run_directory_promises(config, tmp_path, fit):
    run = tmp_path / "run"
    resolved = fit(config, run)
    assert {path.name for path in run.iterdir()} == {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "log.txt",
        "checkpoint",
        "model",
    }
    assert {path.name for path in (run / "model").iterdir()} == {
        "bank.safetensors",
        "model.json",
        "weights.safetensors",
    }
    assert read(run / "config.json") == resolved
    assert resolved.data.mean is not None
    assert len(resolved.data.mean) == 1
    environment = json.loads((run / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["seconds"] > 0


def test_a_deviation_or_a_mean_that_is_given_alone_is_kept_and_the_other_one_measured(
    config, tmp_path, fit
):
    measured = fit(config, tmp_path / "measured").data
    for name, other in (("std", "mean"), ("mean", "std")):
        data = dataclasses.replace(config.data, **{name: (0.375,)})
        given = dataclasses.replace(config, data=data)
        resolved = fit(given, tmp_path / name).data
        assert getattr(resolved, name) == (0.375,)
        assert getattr(resolved, other) == getattr(measured, other)
    options = {"run": tmp_path / "mean", "resume": True, "progress": False}
    assert prepare(given, **options)[0].data == resolved
    changed = dataclasses.replace(given.data, mean=(0.5,))
    with pytest.raises(ConfigError, match=r"got data\.mean\.0 = 0\.5 instead"):
        prepare(dataclasses.replace(given, data=changed), **options)


def test_every_line_of_the_metrics_has_what_the_report_needs(config, tmp_path, fit, metrics):
    fit(config, tmp_path / "run")
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [4, 8, 10, 12, 16]
    for line in lines:
        assert line["loss"] == pytest.approx(sum(line["terms"].values()))
        assert set(line["terms"]) == {"alignment", "concentration"}
        assert line["epoch"] == line["step"] / 4
        assert 0 <= line["data_wait"] <= 1
        assert line["images_per_second"] > 0
        assert 0 < line["spread"] < 1.5
        assert 1 <= line["effective_rank"] <= 8
        assert line["gradient_norm"] > 0
    # warm-up of one epoch to 0.5 * 16 / 256, then a cosine
    assert lines[0]["learning_rate"] == pytest.approx(0.75 * 0.5 * 16 / 256)
    assert lines[-1]["learning_rate"] < lines[-2]["learning_rate"] < 0.5 * 16 / 256


def test_lines_written_after_the_last_checkpoint_are_not_there_twice(
    config, tmp_path, stop_at, fit, metrics
):
    run = tmp_path / "run"
    stop_at(9)
    with pytest.raises(Interrupted):
        fit(config, run)
    # what a killed process may leave: a line of a step that will be done again, and half a line
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "loss": 0}\n{"step": 12, "lo')
    stop_at(1000)
    fit(config, run, resume=True)
    assert [line["step"] for line in metrics(run)] == [4, 8, 10, 12, 16]
    assert metrics(run)[2]["loss"] != 0


def test_a_model_is_read_back_with_its_bank_and_quantiles(config, tmp_path, fit, weights):
    resolved = fit(config, tmp_path / "run")
    loaded = read_model(tmp_path / "run")
    assert loaded.config == resolved
    assert not any(module.training for module in loaded.method.modules())
    assert loaded.default_score == "consensus"
    assert loaded.bank.representation.shape == (64, 16)
    assert loaded.bank.own == "concentration"
    assert set(loaded.bank.scores) == {
        *("concentration", "norm", "knn-distance"),
        *("relative", "relative-distance", "distance-ratio", "consensus"),
    }
    assert all(values.shape == (64,) for values in loaded.bank.scores.values())
    np.testing.assert_allclose(
        loaded.quantiles, np.quantile(loaded.bank.scores["consensus"], np.linspace(0, 1, 101))
    )
    for name, value in weights(tmp_path / "run").items():
        assert torch.equal(loaded.method.state_dict()[name], value)


def test_model_is_enough_to_load_and_a_damaged_file_is_refused(plugin, config, tmp_path, fit):
    fit(plugin("separable"), tmp_path / "run")
    (tmp_path / "alone").mkdir()
    shutil.copytree(tmp_path / "run" / "model", tmp_path / "alone" / "model")
    assert read_model(tmp_path / "alone").default_score == "norm"
    for name in ("weights.safetensors", "bank.safetensors", "model.json"):
        path = tmp_path / "alone" / "model" / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(StorageError, match=re.escape(name)):
            read_model(tmp_path / "alone")
        path.write_bytes(whole)
    with pytest.raises(ConfigError, match="train it first"):
        read_model(tmp_path)


def test_a_run_keeps_its_plug_in_and_resumes_without_the_file(
    plugin, tmp_path, stop_at, fit, assert_same_weights
):
    config = plugin("noisy")
    file = Path(config.plugin)
    source = file.read_bytes()
    fit(config, tmp_path / "whole")
    run = tmp_path / "parts"
    stop_at(5)
    command = re.escape(f"`cognates train --resume {run} --plugin {run / 'plugin.py'}`")
    with pytest.raises(Interrupted, match=command):
        fit(config, run)
    file.unlink()
    stop_at(1000)
    fit(config, run, resume=True)
    assert_same_weights(tmp_path / "whole", run)
    for folder in (run, run / "model"):
        assert (folder / "plugin.py").read_bytes() == source
    record = json.loads((run / "config.json").read_text())
    assert record["plugin"] == str(file)
    assert record["plugin_sha256"] == hashlib.sha256(source).hexdigest()
    sums = json.loads((run / "model" / "model.json").read_text())["sha256"]
    assert sums["plugin.py"] == record["plugin_sha256"]


def test_a_plug_in_replaces_no_file_of_that_name(plugin, tmp_path, fit):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plugin.py").write_text("mine = 1")
    with pytest.raises(ConfigError, match="rename that file"):
        fit(plugin("separable"), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["plugin.py"]


def test_the_bank_is_drawn_by_the_seed_of_the_run(config, changed, tmp_path, fit):
    from cognates.training import bank

    fit(config, tmp_path / "run")
    loaded = read_model(tmp_path / "run")
    images = load_images(loaded.config)
    every = loaded.bank.representation
    found = [
        bank.of_images(loaded.method, images, changed(loaded.config, training__seed=seed), most=20)
        for seed in (0, 0, 1)
    ]
    rows = [[int((every @ z).argmax()) for z in one.representation] for one in found]
    assert [len(set(one)) for one in rows] == [20, 20, 20]
    assert rows[0] == rows[1] == sorted(rows[0])
    assert rows[0] != rows[2]


def test_a_model_with_a_bank_of_an_earlier_version_has_every_score(config, tmp_path, fit):
    fit(config, tmp_path / "run")
    bank = read_model(tmp_path / "run").bank
    folder = tmp_path / "run" / "model"
    norm = -bank.scores["norm"].astype(np.float32)[:, None]
    old = {
        "representation": torch.from_numpy(bank.representation * norm),
        "uncertainty": torch.from_numpy(bank.scores["concentration"]),
    }
    _put(folder, storage.encode_tensors(old))
    again = read_model(tmp_path / "run").bank
    assert set(again.scores) == set(bank.scores)
    assert len(again.scores) >= 5
    lengths = np.linalg.norm(old["representation"].numpy().astype(np.float64), axis=1)
    own = {"norm": -lengths, "concentration": bank.scores["concentration"]}
    expected = make_bank(old["representation"].numpy(), own, own="concentration")
    for name, values in expected.scores.items():
        np.testing.assert_array_equal(again.scores[name], values)
    np.testing.assert_array_equal(again.scores["concentration"], bank.scores["concentration"])
    np.testing.assert_allclose(again.scores["norm"], bank.scores["norm"], rtol=1e-6)
    _put(folder, storage.encode_tensors({"representation": old["representation"]}))
    with pytest.raises(StorageError, match="Expected the bank of a model"):
        read_model(tmp_path / "run")


def test_a_bank_without_a_score_of_today_has_it_computed_again(config, tmp_path, fit):
    fit(config, tmp_path / "run")
    bank = read_model(tmp_path / "run").bank
    kept = {n: v for n, v in bank.scores.items() if n not in {"distance-ratio", "consensus"}}
    stale = {**kept, "consensus": np.zeros(64), "nearest": np.zeros(64)}
    old = {"representation": torch.from_numpy(bank.representation).half()}
    old |= {f"score/{name}": torch.from_numpy(values) for name, values in stale.items()}
    _put(tmp_path / "run" / "model", storage.encode_tensors(old))
    again = read_model(tmp_path / "run").bank
    assert set(again.scores) == set(bank.scores)
    expected = make_bank(
        old["representation"].float().numpy(),
        {name: bank.scores[name] for name in ("concentration", "norm")},
        own="concentration",
    )
    for name, values in expected.scores.items():
        np.testing.assert_array_equal(again.scores[name], values)


def test_a_model_without_a_bank_falls_back_on_its_own_score_and_says_so(config, tmp_path, fit):
    fit(config, tmp_path / "run")
    folder = tmp_path / "run" / "model"
    (folder / "bank.safetensors").unlink()
    record = json.loads((folder / "model.json").read_text())
    del record["sha256"]["bank.safetensors"]
    record["default_score"] = "concentration"  # as a method without a bank's score has it
    (folder / "model.json").write_text(json.dumps(record))
    own = read_model(tmp_path / "run")
    assert own.bank is None
    assert own.quantiles.shape == (101,)
    record["default_score"] = "consensus"
    (folder / "model.json").write_text(json.dumps(record))
    with pytest.warns(CognatesWarning, match="no bank of training images.*'concentration'"):
        loaded = read_model(tmp_path / "run")
    assert loaded.default_score == "concentration"
    assert loaded.quantiles is None


def _put(folder, data):
    (folder / "bank.safetensors").write_bytes(data)
    record = json.loads((folder / "model.json").read_text())
    record["sha256"]["bank.safetensors"] = storage.sha256(data)
    (folder / "model.json").write_text(json.dumps(record))


def test_an_interrupted_run_can_be_made_a_model_and_still_resumed(
    config, tmp_path, stop_at, fit, assert_same_weights
):
    fit(config, tmp_path / "whole")
    stop_at(6)
    with pytest.raises(Interrupted):
        fit(config, tmp_path / "run")
    finalise(tmp_path / "run")
    assert read_model(tmp_path / "run").quantiles.shape == (101,)
    stop_at(1000)
    fit(config, tmp_path / "run", resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


def test_a_folder_with_another_run_is_refused_and_untouched(config, tmp_path, fit):
    run = tmp_path / "run"
    fit(config, run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(ConfigError, match="without a run"):
        fit(config, run)
    with pytest.raises(ConfigError, match="has done all its 16 steps"):
        fit(config, run, resume=True)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"optimiser__learning_rate": 0.1}, r"optimiser\.learning_rate = 0\.1 instead of 0\.5"),
        ({"training__seed": 4}, r"training\.seed = 4 instead of 0"),
        ({"encoder__width": 8}, r"encoder\.width = 8 instead of 16"),
        ({"training__epochs": 5}, r"training\.epochs = 5 instead of 4"),
        ({"views": ()}, r"views\.0"),
    ],
)
def test_resuming_with_a_changed_configuration_names_the_field_and_both_values(
    config, changed, tmp_path, stop_at, fields, sentence, fit
):
    stop_at(2)
    with pytest.raises(Interrupted):
        fit(config, tmp_path / "run")
    with pytest.raises(ConfigError, match=sentence):
        fit(changed(config, **fields), tmp_path / "run", resume=True)


def test_the_device_may_change_on_resume(config, changed, tmp_path, stop_at, fit):
    stop_at(2)
    with pytest.raises(Interrupted):
        fit(config, tmp_path / "run")
    stop_at(1000)
    fit(changed(config, training__device="auto"), tmp_path / "run", resume=True)
    assert read(tmp_path / "run" / "config.json").training.device == "auto"


def test_resuming_on_other_images_is_refused(config, tmp_path, stop_at, fit):
    stop_at(2)
    with pytest.raises(Interrupted):
        fit(config, tmp_path / "run")
    images = np.random.default_rng(1).integers(0, 256, (80, 8, 8), dtype=np.uint8)
    np.savez(config.data.source.removeprefix("npz:"), images=images)
    with pytest.raises(DataError, match="got others"):
        fit(config, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"training__batch_size": 128}, "at least 128 training images"),
        ({"encoder__name": "mpl"}, "mlp"),
        ({"encoder__init": "nowhere.pth"}, "nowhere.pth"),
        ({"training__device": "tpu"}, "auto, cpu or cuda"),
        ({"optimiser__constant_rate": ("predicter",)}, "did you mean 'predictor'"),
        # the encoder takes the first view, whose size is that of the data, and not the second one
        ({"views": (ViewSpec(size=8), ViewSpec(size=6))}, r"for this mlp, got \(1, 6, 6\)"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_written(
    config, changed, tmp_path, fields, sentence, fit
):
    with pytest.raises(ConfigError, match=sentence):
        fit(changed(config, **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_output_that_is_a_file_or_cannot_be_made_is_refused(config, tmp_path, fit):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="got the file"):
        fit(config, tmp_path / "file")
    with pytest.raises(StorageError, match="Cannot make the folder"):
        fit(config, tmp_path / "file" / "run")
    with pytest.raises(ConfigError, match=r"no config\.json"):
        fit(config, tmp_path / "nothing", resume=True)


def test_a_full_disk_while_training_keeps_the_last_checkpoint(
    config, changed, tmp_path, monkeypatch, fit, assert_same_weights
):
    import errno
    import os

    real, saves = storage.write_synced, []

    def full(path, data):
        if path.name == "weights.safetensors":
            saves.append(path)
            if len(saves) == 6:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data)

    monkeypatch.setattr(storage, "write_synced", full)
    every_step = changed(config, training__checkpoint_minutes=0.0)
    with pytest.raises(StorageError, match="that of step 5 is intact"):
        fit(every_step, tmp_path / "run")
    monkeypatch.setattr(storage, "write_synced", real)
    fit(every_step, tmp_path / "run", resume=True)
    fit(every_step, tmp_path / "whole")
    assert_same_weights(tmp_path / "whole", tmp_path / "run")


def test_the_configuration_of_a_run_repeats_it(config, tmp_path, fit, assert_same_weights):
    fit(config, tmp_path / "run")
    again = RunConfig.from_json((tmp_path / "run" / "config.json").read_text())
    fit(again, tmp_path / "again")
    assert_same_weights(tmp_path / "run", tmp_path / "again")


def test_a_record_that_is_not_text_is_refused_by_name(config, tmp_path, fit):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_bytes(b"\xff\xd8\xff\xe0 the start of a photograph")
    with pytest.raises(ConfigError, match=r"config\.json', which is not text in UTF-8"):
        fit(config, run, resume=True)
    assert [path.name for path in run.iterdir()] == ["config.json"]
