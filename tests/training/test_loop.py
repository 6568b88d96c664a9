import pytest
import torch

from cognates.errors import (
    CollapseError,
    CollapseWarning,
    Interrupted,
    NonFiniteError,
)
from cognates.training import checkpoint, loop, monitors, prepare


def test_a_run_is_a_function_of_its_configuration(
    config, changed, tmp_path, fit, weights, assert_same_weights
):
    torch.manual_seed(1)
    fit(config, tmp_path / "a")
    torch.manual_seed(2)
    fit(config, tmp_path / "b")
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    fit(changed(config, training__seed=1), tmp_path / "c")
    assert not torch.equal(
        weights(tmp_path / "a")["projector.0.weight"], weights(tmp_path / "c")["projector.0.weight"]
    )


def test_a_run_leaves_the_global_generator_as_it_was(config, tmp_path, fit):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit(config, tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stopped_and_resumed_run_equals_an_undisturbed_one(
    config, tmp_path, stop_at, monkeypatch, fit, metrics, assert_same_weights
):
    fit(config, tmp_path / "whole")
    stopped, run = 0, tmp_path / "parts"
    for step in (3, 1, 5):
        stop_at(step)
        with pytest.raises(Interrupted, match=r"cognates train --resume") as caught:
            fit(config, run, resume=stopped > 0)
        stopped += step
        assert caught.value.exit_code == 143
        assert f"after step {stopped} of 16" in str(caught.value)
        assert checkpoint.recorded(run).step == stopped
    monkeypatch.undo()
    monkeypatch.setenv("COGNATES_CACHE", str(tmp_path / "cache"))
    fit(config, run, resume=True)
    assert_same_weights(tmp_path / "whole", run)
    whole, parts = metrics(tmp_path / "whole"), metrics(run)
    for key in ("step", "terms", "spread", "effective_rank", "learning_rate", "gradient_norm"):
        assert [line[key] for line in whole] == [line[key] for line in parts]
    assert len(parts) == 5
    assert [line["time"] for line in parts] == sorted(line["time"] for line in parts)


def test_dropout_is_a_function_of_the_step_as_well(
    plugin, tmp_path, stop_at, monkeypatch, fit, metrics
):
    config = plugin("noisy")
    torch.manual_seed(1)
    fit(config, tmp_path / "whole")
    stop_at(5)
    with pytest.raises(Interrupted):
        fit(config, tmp_path / "parts")
    stop_at(1000)
    torch.manual_seed(2)
    fit(config, tmp_path / "parts", resume=True)
    a, b = metrics(tmp_path / "whole"), metrics(tmp_path / "parts")
    assert [line["terms"] for line in a] == [line["terms"] for line in b]


def test_accumulated_gradients_of_a_separable_loss_equal_the_large_batch(
    plugin, tmp_path, fit, weights, metrics
):
    whole = plugin("separable", training__precision="64-true")
    parts = plugin("separable", training__precision="64-true", training__accumulate=4)
    fit(whole, tmp_path / "whole")
    fit(parts, tmp_path / "parts")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in a:  # 16 steps of float64 sums in another order
        torch.testing.assert_close(a[name], b[name], rtol=1e-11, atol=1e-13)
    for one, other in zip(metrics(tmp_path / "whole"), metrics(tmp_path / "parts"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-11)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-11)


def test_the_gradient_is_clipped_after_its_norm_was_taken():
    module = torch.nn.Linear(2, 1, bias=False)
    module.weight.grad = torch.tensor([[3.0, 4.0]])
    assert loop.clip_gradients(module, most=None).item() == 5.0
    assert module.weight.grad.tolist() == [[3.0, 4.0]]
    assert loop.clip_gradients(module, most=1.0).item() == 5.0
    torch.testing.assert_close(module.weight.grad, torch.tensor([[0.6, 0.8]]))


def test_bf16_and_clipping_train(config, changed, tmp_path, fit, weights):
    config = changed(config, training__precision="bf16-mixed", optimiser__clip=0.1)
    fit(config, tmp_path / "run")
    assert {tensor.dtype for tensor in weights(tmp_path / "run").values()} == {
        torch.float32,
        torch.int64,
    }


def test_a_constant_rate_stays_at_the_peak(config, changed):
    config = changed(config, optimiser__constant_rate=("predictor",))
    method = prepare.build_method(config)
    optimiser = prepare.build_optimiser(config, method)
    rate = loop.set_learning_rate(config, optimiser, 14, per_epoch=4)
    peak = 0.5 * 16 / 256
    assert rate < 0.1 * peak
    assert {group["lr"] for group in optimiser.param_groups if group["constant"]} == {peak}
    assert {group["lr"] for group in optimiser.param_groups if not group["constant"]} == {rate}


def test_initial_weights_come_from_an_earlier_run(config, changed, tmp_path, fit, weights):
    fit(config, tmp_path / "first")
    second = changed(config, encoder__init=str(tmp_path / "first"), training__seed=7)
    old = weights(tmp_path / "first")
    method = prepare.build_method(second)
    state = method.encoder.state_dict()
    assert len(state) > 3
    for name, value in state.items():
        assert torch.equal(value, old[f"encoder.{name}"])
    assert not torch.equal(method.state_dict()["projector.0.weight"], old["projector.0.weight"])


def test_a_term_that_turns_nan_is_named_with_its_step_and_the_last_checkpoint_stays(
    plugin, tmp_path, fit, weights
):
    with pytest.raises(NonFiniteError, match="'variance' = nan between steps 6 and 7") as caught:
        fit(plugin("not-finite", training__checkpoint_minutes=0.0), tmp_path / "run")
    assert caught.value.exit_code == 3
    assert checkpoint.recorded(tmp_path / "run").step == 6
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
    assert "NonFiniteError" in (tmp_path / "run" / "log.txt").read_text()


def test_a_method_without_a_stopped_gradient_sets_off_the_collapse_warning(plugin, tmp_path, fit):
    fields = {"optimiser__learning_rate": 1.0, "training__epochs": 12}
    with pytest.warns(CollapseWarning, match="The representation collapsed"):
        fit(plugin("collapsing", **fields), tmp_path / "run")
    assert "The representation collapsed" in (tmp_path / "run" / "log.txt").read_text()
    stopped = plugin("collapsing", **fields, training__stop_on_collapse=True)
    with pytest.raises(CollapseError) as caught:
        fit(stopped, tmp_path / "stopped")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "stopped" / "model").exists()


def test_a_healthy_method_trains_without_a_warning(config, changed, tmp_path, fit, metrics):
    # warnings are errors here
    fit(changed(config, training__epochs=12), tmp_path / "run")
    assert min(line["spread"] for line in metrics(tmp_path / "run")) > 0.3


def test_what_after_step_returns_is_recorded(plugin, tmp_path, fit, metrics):
    fit(plugin("separable"), tmp_path / "run")
    assert [line["extra"]["steps_seen"] for line in metrics(tmp_path / "run")] == [3, 7, 9, 11, 15]


def test_readings_are_taken_ten_steps_apart_for_collapse():
    assert monitors.READING_STEPS == 10
