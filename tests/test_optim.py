import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from cognates.errors import ConfigError
from cognates.optim import LARS, build, parameter_groups, warmup_cosine

LARS_SHAPES = {"conv": (3, 4), "offset": (2,), "scale": (2,), "bias": (2,), "linear": (4, 2)}
LARS_NUMBERS = """
-0.8019314252534474 -1.324358995628145 -0.24836162209524854 0.4204452380655215 1.1360465324896427
0.10970639932180819 -0.5526473205362324 -0.7847803553442784 0.7487457707345911 1.6347830429585775
0.27276877584472176 -1.2333286640307717 0.0 0.0 1.0 1.0 -0.7133133716322436 0.5533784703532895
-0.9582652054360887 1.6000190889991115 0.2028824405086084 -1.7321348424395848 -0.08369619281702581
-1.1632259734447485 -0.6292880940615545 -0.48800582327685743
-0.06308597192528916 -0.5894312580326048 0.40963782655711695 0.8298553070613239 -1.643023371405677
-0.256730126365494 -0.9807473560440125 -0.17315522486203205 -1.2894187467538587 0.0206903940375912
-0.03788574104406823 -0.304337750958489 -1.0479265051202462 -0.3961903304730927 -1.091328901695709
-1.3552087462047395 0.22478573245989314 -1.109349937891366 1.1702961011782933 0.7165876558738361
-1.9978166924497212 0.272128869412488 -1.1017166275810448 0.033057220158269195 0.04363199256942161
-1.9884297882311208
-0.23342252376577002 -0.255790031399391 0.9620005318430944 -1.1814468079562157 0.7380418978456841
-1.0989727630364063 -0.33129089269991674 -0.8404731684222111 1.448731288921672 0.5682130997882933
2.4317325028452124 0.6419163790823205 0.8449927337191754 0.8406828762653401 -0.6066115359095516
-0.07002844663838208 1.350388867744626 -0.3965507651729716 0.18879953129109867
-0.021223460417289796 0.6092164928327407 -0.3649087419473726 -0.15236188875684828
0.24238142867215043 0.10302313848680769 -0.8649727462818201
-0.8019238517024629 -1.3242882343981477 -0.24841079898120996 0.420345614098756 1.1362437768866442
0.10973721969431341 -0.5525295820019039 -0.784759568009832 0.7489005650337958 1.6347805588858366
0.2727733239854494 -1.233292128213941 0.10479265051202463 0.03961903304730927 1.109132890169571
1.135520874620474 -0.735791944878233 0.6643134641424261 -0.9583676123901794 1.5999563836862898
0.20305725991443743 -1.7321586549892847 -0.08359978683486319 -1.1632288660228518
-0.6292919120343484 -0.48783182521385243
-0.801897446750459 -1.3242030834223522 -0.24853578870917567 0.4203550988547029 1.1363593606815825
0.10985718320553131 -0.5523958155265417 -0.784670327300509 0.7489183031134204 1.6347306389547758
0.27257334764535357 -1.233313115142049 0.11460676260092925 -0.008792124836646396 1.26801364491314
1.2644925064427386 -0.891061547574086 0.8038100350699462 -0.9585066540202515 1.5999052179201634
0.20306333956859465 -1.7320894854191184 -0.08347519264782044 -1.1632916481081874
-0.6293209268903863 -0.48746046928729875
"""
"""What the official code of SSL-HSIC (LARS, float64) did to five parameters: their 26 values, the
gradients of two steps, and the values after each of them; rate .1, momentum .9, decay and trust as
in the test."""


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


def test_lars_equals_the_official_code():
    numbers = torch.tensor([float(word) for word in LARS_NUMBERS.split()], dtype=torch.float64)
    sizes = [math.prod(shape) for shape in LARS_SHAPES.values()]
    assert sizes == [12, 2, 2, 2, 8]
    start, *rest = (
        [
            part.reshape(shape)
            for part, shape in zip(row.split(sizes), LARS_SHAPES.values(), strict=True)
        ]
        for row in numbers.reshape(5, 26)
    )
    module = nn.ParameterList([nn.Parameter(value.clone()) for value in start])
    groups = parameter_groups(module, weight_decay=1e-6)
    optimiser = LARS(groups, lr=0.1, momentum=0.9, trust=1e-3)
    for gradients, after in zip(rest[:2], rest[2:], strict=True):
        for parameter, gradient in zip(module, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
        for parameter, want in zip(module, after, strict=True):
            torch.testing.assert_close(parameter.detach(), want, rtol=1e-12, atol=1e-15)


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
