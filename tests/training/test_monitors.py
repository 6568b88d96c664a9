import math
import warnings

import pytest
import torch

from cognates.errors import CollapseError, CollapseWarning, NonFiniteError
from cognates.training.monitors import (
    CollapseMonitor,
    Reading,
    Readings,
    effective_rank,
    measure,
    require_finite,
    spread,
)


def normals(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_directions_spread_evenly_over_the_sphere_have_spread_one():
    # four standard errors: the mean of 64 variances from 4096 rows
    assert spread(normals(4096, 64)) == pytest.approx(1.0, abs=0.01)


def test_a_constant_has_no_spread_and_one_direction():
    z = normals(1, 16).expand(32, 16)
    assert spread(z) == pytest.approx(0.0, abs=1e-6)
    assert effective_rank(z) == pytest.approx(1.0, abs=1e-4)


def test_spread_and_rank_do_not_depend_on_the_scale_of_the_projections():
    z = normals(64, 16)
    assert spread(1e-6 * z) == pytest.approx(spread(z), rel=1e-5)
    assert effective_rank(1e-6 * z) == pytest.approx(effective_rank(z), rel=1e-6)


def test_the_effective_rank_equals_the_entropy_of_a_singular_value_decomposition():
    for shape in ((40, 12), (12, 40)):
        z = normals(*shape)
        values = torch.linalg.svdvals(z)
        share = values / values.sum()
        expected = math.exp(-(share * share.log()).sum())
        assert effective_rank(z) == pytest.approx(expected, rel=1e-6)


def test_the_effective_rank_of_k_equal_directions_is_k():
    for k in (1, 2, 5):
        z = torch.eye(8, dtype=torch.float64)[torch.arange(40) % k]
        # the Gram matrix's rounding leaves 1e-8 of s_1 in each of the other directions
        assert effective_rank(z) == pytest.approx(k, abs=1e-5)


def test_only_zeros_are_measured_without_a_nan():
    assert measure(torch.zeros(8, 4)) == {"spread": 0.0, "effective_rank": 1.0}


def test_readings_come_back_in_order_with_their_names():
    readings = Readings(torch.device("cpu"))
    readings.push(1, {"a": torch.tensor(1.0), "b": torch.tensor(2.0)})
    readings.push(2, {"a": torch.tensor(3.0), "b": torch.tensor(4.0)})
    assert readings.pop() == [Reading(1, {"a": 1.0, "b": 2.0}), Reading(2, {"a": 3.0, "b": 4.0})]
    assert readings.pop(everything=True) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_readings_come_one_step_late_unless_everything_is_asked_for():
    readings = Readings(torch.device("cuda"))
    for step in (1, 2, 3):
        readings.push(step, {"a": torch.tensor(float(step), device="cuda")})
        assert [reading.step for reading in readings.pop()] == [step - 1][: step - 1]
    assert readings.pop(everything=True) == [Reading(3, {"a": 3.0})]


def test_the_first_term_that_is_not_finite_is_named_with_its_step():
    require_finite(Reading(7, {"alignment": 1.0, "gradient_norm": 2.0}))
    with pytest.raises(NonFiniteError, match=r"'variance' = nan between steps 6 and 7: .*rate"):
        require_finite(Reading(7, {"alignment": 1.0, "variance": math.nan, "gradient_norm": 1.0}))
    with pytest.raises(NonFiniteError, match=r"'gradient_norm' = inf in the first step"):
        require_finite(Reading(1, {"alignment": 1.0, "gradient_norm": math.inf}))


def test_three_bad_readings_ten_steps_apart_give_one_warning_that_names_the_measure():
    monitor, shape = CollapseMonitor(stop=False), torch.Size([32, 16])
    assert monitor.read(10, shape, spread=0.09, effective_rank=8.0) is None
    assert monitor.read(15, shape, spread=0.09, effective_rank=8.0) is None  # an epoch's end
    assert monitor.read(20, shape, spread=0.09, effective_rank=8.0) is None
    with pytest.warns(CollapseWarning, match=r"spread .* 0\.09/sqrt\(d\).*step 10 to step 30"):
        assert monitor.read(30, shape, spread=0.09, effective_rank=8.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert monitor.read(40, shape, spread=0.09, effective_rank=8.0) is None


def test_a_good_reading_starts_the_count_again():
    monitor, shape = CollapseMonitor(stop=True), torch.Size([32, 16])
    for step in range(10, 200, 10):
        value = 0.5 if step % 30 == 0 else 0.01
        assert monitor.read(step, shape, spread=value, effective_rank=8.0) is None


@pytest.mark.parametrize(("low", "step"), [(0, 4), (0, 10), (1, 20), (1, 27), (2, 36)])
def test_a_bad_last_reading_counts_alone(low, step):
    monitor, shape = CollapseMonitor(stop=False, low=low), torch.Size([32, 16])
    with pytest.warns(CollapseWarning, match=rf"spread .*at the last step, {step};|to step {step}"):
        assert monitor.read(step, shape, spread=0.09, effective_rank=8.0, last=True)


def test_a_good_last_reading_and_one_of_a_collapse_already_told_are_silent():
    shape = torch.Size([32, 16])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        young = CollapseMonitor(stop=True)  # a rank that is low before anything has been learnt
        assert young.read(4, shape, spread=0.5, effective_rank=1.5, last=True) is None
        for low, spread_ in ((0, 0.5), (2, 0.5), (3, 0.09), (5, 0.09)):
            monitor = CollapseMonitor(stop=True, low=low)
            for step in (40, 44):
                reading = {"spread": spread_, "effective_rank": 8.0, "last": True}
                assert monitor.read(step, shape, **reading) is None
    with pytest.raises(CollapseError, match="at the last step, 4"):
        CollapseMonitor(stop=True).read(4, shape, spread=0.09, effective_rank=8.0, last=True)


def test_a_single_direction_is_a_collapse_whatever_its_spread():
    monitor, shape = CollapseMonitor(stop=True, low=2), torch.Size([32, 16])
    with pytest.raises(CollapseError, match=r"effective rank .* is 1\.5, below 2") as caught:
        monitor.read(50, shape, spread=0.5, effective_rank=1.5)
    assert caught.value.exit_code == 3


def test_two_dimensions_cannot_have_a_higher_rank_and_raise_no_alarm():
    monitor = CollapseMonitor(stop=True, low=2)
    assert monitor.read(30, torch.Size([32, 2]), spread=0.9, effective_rank=1.9) is None
