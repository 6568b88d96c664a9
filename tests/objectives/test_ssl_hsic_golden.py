"""SSL-HSIC against the values of the released code (google-deepmind/ssl_hsic at d7ea38d).

The values and their tolerances are those of the shared golden/README.md: float64 at rtol 1e-12 (the
exact block at 1e-10) and gradients at atol 1e-13; float32 at rtol 2e-6 and atol 1e-6.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cognates.kernels import (
    RandomFeatures,
    hsic,
    imq,
    linear,
    rbf,
    squared_distances,
    steepness,
    steepness_slope,
)
from cognates.objectives import ssl_hsic
from cognates.objectives.dependence import unit_rows

F64 = torch.float64
CLOSE = {"float64": {"rel": 1e-12, "abs": 0.0}, "float32": {"rel": 2e-6, "abs": 1e-6}}
GRADIENT = {"float64": 1e-13, "float32": 1e-6}
DTYPES = {"float64": F64, "float32": torch.float32}
CASES = [(block, scale) for block in DTYPES for scale in (1.0, 0.5)]
KERNELS = {"imq_c": imq, "gauss_sigma_c": rbf, "linear": lambda scale: linear()}


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads((shared / "golden" / "ssl_hsic.json").read_text())


def views(golden, block, dtype=F64):
    """Return z as the released functions saw it: rounded to float32 in the float32 block."""
    z = np.array(golden[block]["M2"]["inputs"]["views_float64"])
    return torch.tensor(z.astype(block), dtype=dtype)


def draw(stored, name, scale, dtype):
    weight, phase = (torch.tensor(stored[f"{key}_{name}"], dtype=F64) for key in ("w", "b"))
    return RandomFeatures(weight.to(dtype), phase.to(dtype), scale)


def hsic_zy(terms):
    return -terms["dependence"].item()


def hsic_zz(terms):
    return (terms["variance"].item() / 3) ** 2


@pytest.mark.parametrize(("block", "scale"), CASES)
def test_random_features_equal_the_released_ones(golden, block, scale):
    stored, dtype = golden[block]["M2"][f"c={scale}"], DTYPES[block]
    phi = draw(stored, "A", scale, dtype)(views(golden, block, dtype)[0])
    want = torch.tensor(stored["official_imq_rff_features_A_view0"], dtype=F64)
    assert phi.shape == want.shape == (6, 16)
    atol = 1e-13 if block == "float64" else 1e-6
    torch.testing.assert_close(phi.to(F64), want, rtol=1e-12, atol=atol)


@pytest.mark.parametrize("block", DTYPES)
def test_squared_distances_equal_the_released_ones(golden, block):
    z = views(golden, block, DTYPES[block])
    stored = golden[block]["M2"]["pairwise_distance_square_view0_view1"]
    want, close = torch.tensor(stored, dtype=F64), CLOSE[block]
    assert want.shape == (6, 6)
    found = squared_distances(z[0], z[1]).to(F64)
    torch.testing.assert_close(found, want, rtol=close["rel"], atol=GRADIENT[block])


@pytest.mark.parametrize(("block", "scale"), CASES)
def test_the_random_feature_loss_and_its_gradient_equal_the_released_ones(golden, block, scale):
    stored, dtype = golden[block]["M2"][f"c={scale}"], DTYPES[block]
    z = views(golden, block, dtype).requires_grad_()
    draws = draw(stored, "A", scale, dtype), draw(stored, "B", scale, dtype)
    terms = ssl_hsic(z, pairs="all", features=draws)
    total = terms["dependence"] + terms["variance"]
    total.backward()
    close = CLOSE[block]
    assert hsic_zy(terms) == pytest.approx(stored["official_hsic_xy(A)"], **close)
    assert hsic_zz(terms) == pytest.approx(stored["official_hsic_xx(x1=B,x2=A)"], **close)
    assert total.item() == pytest.approx(stored["official_loss_gamma3"], **close)
    want = torch.tensor(stored["official_grad_loss_wrt_views"], dtype=F64)
    assert z.grad is not None
    torch.testing.assert_close(z.grad.to(F64), want, rtol=0, atol=GRADIENT[block])


@pytest.mark.parametrize(("block", "scale"), CASES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_exact_form_and_the_textbook_estimators_equal_the_stored_ones(
    golden, block, scale, kernel
):
    stored = golden[block]["M2"][f"c={scale}"]["exact_quadratic_float64"][kernel]
    z, k = views(golden, block), KERNELS[kernel](scale)
    flat = z.reshape(12, 5)
    gram, label = k(flat, flat), torch.eye(6, dtype=F64).repeat(2, 2)
    every, distinct = ssl_hsic(z, kernel=k, pairs="all"), ssl_hsic(z, kernel=k)
    got = {
        "hsic_zy_code(incl p=l)": hsic_zy(every),
        "hsic_zy_paper(p!=l, dl/N:=1)": hsic_zy(distinct),
        "mean_pos_offdiag": hsic_zy(distinct) + gram.mean().item(),
        "mean_all": gram.mean().item(),
        "hsic_zz_biased_over_n2": hsic_zz(every),
        "hsic_zz_biased_over_(n-1)2": hsic(gram, gram, "gretton").item(),
        "hsic_zz_unbiased_song": hsic(gram, gram, "unbiased").item(),
        "hsic_zy_classic_biased_trKHLH_over_n2": hsic(gram, label).item(),
        "hsic_zy_unbiased_song(KL,one-hot)": hsic(gram, label, "unbiased").item(),
        "loss_gamma3_code": sum(term.item() for term in every.values()),
    }
    assert got.keys() == stored.keys()
    for name, value in got.items():
        assert value == pytest.approx(stored[name], rel=1e-10), name
    assert hsic(gram, gram).item() == pytest.approx(hsic_zz(distinct), rel=1e-12)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_exact_loss_and_its_gradient_equal_the_stored_ones(golden, scale):
    stored = golden["exact_loss_gradient_float64(IMQ)"][f"M2 c={scale}"]
    z = views(golden, "float64").requires_grad_()
    terms = ssl_hsic(z, kernel=imq(scale))
    total = terms["dependence"] + terms["variance"]
    total.backward()
    assert hsic_zy(terms) == pytest.approx(stored["hsic_zy(p!=l)"], rel=1e-10)
    assert hsic_zz(terms) == pytest.approx(stored["hsic_zz(1/n^2)"], rel=1e-10)
    assert total.item() == pytest.approx(stored["loss_gamma3"], rel=1e-10)
    want = torch.tensor(stored["grad_loss_wrt_views[M][B][d]"], dtype=F64)
    torch.testing.assert_close(z.grad, want, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("block", DTYPES)
@pytest.mark.parametrize("number", [0, 1])
def test_the_whole_module_with_its_scale_objective_equals_the_released_one(golden, block, number):
    modules, dtype = golden[block]["M2"]["HSICLoss"], DTYPES[block]
    assert [module["scale"] for module in modules] == [1.0, 0.75]
    stored = modules[number]
    z, scale, close = views(golden, block, dtype), stored["scale"], CLOSE[block]
    draws = draw(stored, "A", scale, dtype), draw(stored, "B", scale, dtype)
    terms, want = ssl_hsic(z, pairs="all", features=draws), stored["official"]
    assert hsic_zy(terms) == pytest.approx(want["kernel_loss/hsic_xy"], **close)
    assert hsic_zz(terms) == pytest.approx(want["kernel_loss/hsic_xx"], **close)
    total = sum(term.item() for term in terms.values())
    assert total == pytest.approx(want["kernel_loss/total_loss"], **close)

    first, second = (
        torch.cat([z[view, torch.tensor(rows)] for view, rows in enumerate(stored[name])])
        for name in ("index_draws_1", "index_draws_2")
    )
    assert len(first) == len(second) == 1024
    squared = squared_distances(first, second)
    steep = steepness(imq(scale), squared).item()
    assert steep == pytest.approx(want["kernel_loss/grad_norm"], **close)
    slope = -steepness_slope(imq(scale), squared).item() / scale  # in c: d log c = dc / c
    official = stored["official_dLoss_dscale(total_loss - grad_norm)"]
    assert slope == pytest.approx(official, rel=2e-5)  # the parameter is float32 in both blocks


def test_a_collapsed_batch_has_the_closed_forms_value_and_a_finite_gradient(golden):
    # The case's draws are not stored: what is known of them is the loss, -(phi.phi)/(v-1), and 0.
    assert golden["float64"]["collapsed_batch"]["xx"] == 0.0
    assert golden["float64"]["collapsed_batch"]["grad_isnan"]
    stored = golden["float64"]["M2"]["c=1.0"]
    draws = draw(stored, "A", 1.0, F64), draw(stored, "B", 1.0, F64)
    z = views(golden, "float64")[:1, :1].expand(2, 6, 5).clone().requires_grad_()
    terms = ssl_hsic(z, pairs="all", features=draws)
    own = draws[0](z[0, 0]).square().sum().item()
    assert hsic_zy(terms) == pytest.approx(own, rel=1e-12)  # v = 2: 2 |phi|^2 - |phi|^2
    assert terms["variance"].item() == pytest.approx(0.0, abs=1e-15)
    sum(terms.values()).backward()  # pyright: ignore
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_rows_are_normalised_as_in_the_released_code(golden):
    stored = golden["float64"]["l2_normalize"]
    rows = torch.tensor(stored["in"], dtype=F64)
    assert (rows == 0).all(1).any()  # the zero row is part of it
    torch.testing.assert_close(
        unit_rows(rows), torch.tensor(stored["out"], dtype=F64), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize(
    ("block", "count"),
    [
        pytest.param(block, count, marks=[pytest.mark.slow] * (block == "float32" and count > 512))
        for block in DTYPES
        for count in (2048, 512)
    ],
)
def test_means_over_our_draws_agree_with_those_over_the_released_ones(golden, block, count):
    stored = golden[block]["M2"]["c=1.0"]["mc_check"]
    z, draws = views(golden, block), 64 if count == 2048 else 200
    made = torch.Generator().manual_seed(0)
    kind = {"generator": made, "dtype": F64}
    terms = [
        ssl_hsic(
            z,
            pairs="all",
            features=(
                RandomFeatures.draw(imq(), 5, count, **kind),
                RandomFeatures.draw(imq(), 5, count, **kind),
            ),
        )
        for _ in range(draws)
    ]
    for short, of in (("xy", hsic_zy), ("xx", hsic_zz)):
        ours = torch.tensor([of(one) for one in terms], dtype=F64)
        theirs = stored[f"mean{draws}_D{count}_{short}"]
        sd = stored[f"sd_{short}" if count == 2048 else f"sd_D512_{short}"]
        # four standard errors of a difference of two means
        assert ours.mean().item() == pytest.approx(theirs, abs=4 * sd * (2 / draws) ** 0.5)
        assert ours.std().item() == pytest.approx(sd, rel=0.5)


def test_the_target_decay_of_the_method_is_the_released_schedule(golden):
    from cognates.networks.ema import cosine_decay

    stored = golden["float64"]["schedules"]
    assert len(stored["steps"]) == 10
    for step, want in zip(stored["steps"], stored["tau"], strict=True):
        found = cosine_decay(step, start=0.99, total=stored["max_steps"])
        assert found == pytest.approx(want, rel=1e-12)
