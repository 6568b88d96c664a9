import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cognates.errors import ConfigError
from cognates.optim import LARS, build, parameter_groups, warmup_cosine

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "ssl_hsic.json"


def reference_lars(weights, gradients, *, rate, momentum, decay, trust):
    """Plain numpy, one parameter after the other, from the formula in the docstring."""
    weights = [w.copy() for w in weights]
    buffers = [np.zeros_like(w) for w in weights]
    for step in gradients:
        for i, g in enumerate(step):
            w = weights[i]
            if w.ndim > 1:
                g = g + decay * w
                norms = np.sqrt((w**2).sum()), np.sqrt((g**2).sum())
                if norms[0] > 0 and norms[1] > 0:
                    g = trust * norms[0] / norms[1] * g
            buffers[i] = momentum * buffers[i] + g
            weights[i] = w - rate * buffers[i]
    return weights


def test_lars_equals_a_plain_reference_over_several_steps():
    random = np.random.default_rng(0)
    shapes = [(3, 4), (5,), (2, 3, 3, 3), (4, 1), (1,)]
    start = [random.standard_normal(shape) for shape in shapes]
    gradients = [[random.standard_normal(shape) for shape in shapes] for _ in range(6)]
    module = nn.ParameterList([nn.Parameter(torch.tensor(w)) for w in start])
    groups = parameter_groups(module, weight_decay=0.01)
    optimiser = LARS(groups, lr=0.3, momentum=0.8, trust=0.02)
    for step in gradients:
        for parameter, gradient in zip(module, step, strict=True):
            parameter.grad = torch.tensor(gradient)
        optimiser.step()
    expected = reference_lars(start, gradients, rate=0.3, momentum=0.8, decay=0.01, trust=0.02)
    assert len(expected) == 5
    for parameter, want in zip(module, expected, strict=True):
        # float64 against float64: rounding only
        np.testing.assert_allclose(parameter.detach().numpy(), want, rtol=1e-12, atol=1e-15)


def test_lars_moves_every_matrix_by_the_same_share_of_its_norm_whatever_its_gradient():
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    for scale in (1e-6, 1.0, 1e6):
        w = nn.Parameter(weight.detach().clone())
        w.grad = torch.tensor([[0.0, scale]], dtype=torch.float64)
        LARS([w], lr=2.0, trust=0.01).step()
        # rate * trust * |w| = 2 * 0.01 * 5
        torch.testing.assert_close(w - weight, torch.tensor([[0.0, -0.1]], dtype=torch.float64))


def test_lars_leaves_a_vector_and_a_zero_norm_unscaled():
    vector, matrix, still = (nn.Parameter(torch.zeros(*shape)) for shape in ((2,), (1, 2), (2, 2)))
    still.data.fill_(1.0)
    vector.grad, matrix.grad = torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 2.0]])
    still.grad = torch.zeros(2, 2)
    LARS([vector, matrix, still], lr=1.0).step()
    assert vector.tolist() == [-1.0, -2.0]
    assert matrix.tolist() == [[-1.0, -2.0]]
    assert still.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_the_learning_rate_of_lars_stands_outside_its_momentum():
    w = nn.Parameter(torch.zeros(1))
    optimiser = LARS([w], lr=1.0, momentum=0.5)
    w.grad = torch.ones(1)
    optimiser.step()  # buffer 1
    optimiser.param_groups[0]["lr"] = 0.1
    optimiser.step()  # buffer 1.5
    assert w.item() == pytest.approx(-1.0 - 0.1 * 1.5)


@pytest.mark.skipif(not GOLDEN.is_file(), reason="the golden values are not part of the repository")
def test_lars_equals_the_official_code():
    golden = json.loads(GOLDEN.read_text())["float64"]["lars"]

    def flat(tree):
        # norms are (1, c) there and (c,) here
        return {
            f"{m}/{k}": torch.tensor(w, dtype=torch.float64).squeeze(0)
            if "norm" in m
            else torch.tensor(w, dtype=torch.float64)
            for m, leaf in tree.items()
            for k, w in leaf.items()
        }

    parameters = {name: nn.Parameter(w) for name, w in flat(golden["params0"]).items()}
    assert len(parameters) == 5
    module = nn.ParameterList(parameters.values())
    groups = parameter_groups(module, weight_decay=golden["weight_decay"])
    optimiser = LARS(groups, lr=golden["lr"], momentum=golden["momentum"], trust=golden["eta"])
    for gradients, after in zip(golden["grads"], golden["params_after_step"], strict=True):
        for name, gradient in flat(gradients).items():
            parameters[name].grad = gradient
        optimiser.step()
        for name, want in flat(after).items():
            torch.testing.assert_close(parameters[name].detach(), want, rtol=1e-12, atol=1e-15)


def test_lars_evaluates_a_closure_with_gradients():
    w = nn.Parameter(torch.tensor([2.0]))
    optimiser = LARS([w], lr=0.1)

    def closure():
        optimiser.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss.item()

    assert optimiser.step(closure) == 4.0
    assert w.item() == pytest.approx(2.0 - 0.1 * 4.0)


def test_norms_and_biases_are_not_decayed_and_every_parameter_is_in_one_group():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    groups = parameter_groups(module, weight_decay=0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [[p.ndim for p in group["params"]] for group in groups] == [[4, 2], [1, 1, 1, 1]]
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in module.parameters())


def test_a_submodule_with_a_constant_rate_has_groups_of_its_own():
    module = nn.ModuleDict({"encoder": nn.Linear(2, 2), "predictor": nn.Linear(2, 2)})
    module["encoder"].bias.requires_grad_(False)
    groups = parameter_groups(module, weight_decay=0.1, constant_rate=("predictor",))
    assert [(g["constant"], g["weight_decay"]) for g in groups] == [
        (False, 0.1),
        (True, 0.1),
        (True, 0.0),
    ]
    assert groups[1]["params"][0] is module["predictor"].weight


def test_an_unknown_submodule_is_named_and_the_nearest_one_offered():
    module = nn.ModuleDict({"predictor": nn.Linear(2, 2)})
    with pytest.raises(ConfigError, match="got 'predicter': did you mean 'predictor'"):
        parameter_groups(module, weight_decay=0.1, constant_rate=("predicter",))


def test_every_optimiser_is_built_by_name_with_the_settings_of_its_groups():
    for name, kind in (("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW), ("lars", LARS)):
        groups = parameter_groups(nn.Linear(2, 2), weight_decay=0.1)
        optimiser = build(name, groups, learning_rate=0.5, momentum=0.8)
        assert type(optimiser) is kind
        assert [group["weight_decay"] for group in optimiser.param_groups] == [0.1, 0.0]
        assert all(group["lr"] == 0.5 for group in optimiser.param_groups)
        momentum = optimiser.param_groups[0].get("momentum")
        assert (momentum or optimiser.param_groups[0]["betas"][0]) == 0.8


def test_an_unknown_optimiser_is_named_and_the_nearest_one_offered():
    with pytest.raises(ConfigError, match="did you mean 'lars'"):
        build("larz", [], learning_rate=0.1, momentum=0.9)


def test_the_warm_up_is_linear_from_zero_and_meets_the_cosine_at_the_peak():
    rates = [warmup_cosine(s, peak=0.8, warmup_steps=8, total_steps=24) for s in range(25)]
    assert rates[:9] == pytest.approx([0.1 * s for s in range(9)])
    assert rates[16] == pytest.approx(0.4)
    assert rates[12] == pytest.approx(0.4 * (1 + math.sqrt(0.5)))
    assert rates[24] == pytest.approx(0.0, abs=1e-15)
    assert all(a > b for a, b in itertools.pairwise(rates[8:]))


def test_without_warm_up_the_first_rate_is_the_peak_and_the_last_step_still_moves():
    assert warmup_cosine(0, peak=0.3, warmup_steps=0, total_steps=10) == 0.3
    assert warmup_cosine(9, peak=0.3, warmup_steps=0, total_steps=10) > 0


def test_a_run_that_only_warms_up_is_linear_to_its_end():
    assert warmup_cosine(3, peak=1.0, warmup_steps=4, total_steps=4) == 0.75
    assert warmup_cosine(4, peak=1.0, warmup_steps=4, total_steps=4) == 1.0


def test_the_schedule_equals_the_golden_one_of_ssl_hsic():
    # shared specs/ssl_hsic.md section 7: peak 6.4, 3127 of 312,784 steps of warm-up; the official
    # values are float32, hence six digits
    golden = {
        0: 0.0,
        1: 0.0020466901,
        100: 0.20466903,
        3127: 6.4,
        100_000: 4.974984,
        156_392: 3.250757,
    }
    for step, want in golden.items():
        rate = warmup_cosine(step, peak=6.4, warmup_steps=3127, total_steps=312_784)
        assert rate == pytest.approx(want, rel=1e-6)


def test_adam_takes_the_same_steps_for_a_sum_and_for_a_mean_with_its_eps_over_n():
    # The released code of SimVE has eps 1e-4 with a sum over 64 groups.
    n, steps = 64, 20
    found = []
    for divisor, eps in ((1, 1e-4), (n, 1e-4 / n), (n, 1e-4)):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(5, 3, dtype=torch.float64))
        groups = parameter_groups(nn.ParameterList([weight]), weight_decay=0.0)
        adam = build("adamw", groups, learning_rate=8e-5, momentum=0.9, eps=eps)
        x = torch.randn(steps, n, 5, dtype=torch.float64)
        for batch in x:
            adam.zero_grad()
            (1e-3 * (batch @ weight).square().sum() / divisor).backward()
            adam.step()
        found.append(weight.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-13, atol=1e-15)
    assert (found[0] - found[2]).abs().max() > 1e-5
