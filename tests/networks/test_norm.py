"""Synchronised batch normalisation against the built-in one on the whole batch."""

import copy

import pytest
import torch
from torch import nn

from cognates.distributed import all_reduce_sum, gather, world_size
from cognates.errors import ConfigError
from cognates.networks import build_encoder
from cognates.networks.heads import projection_mlp
from cognates.networks.norm import SynchronisedBatchNorm, synchronise
from cognates.networks.resnet import ResNet

CUTS = {2: (0, 2, 7), 3: (0, 1, 1, 7)}
"""Uneven batches; with three processes one has a single image and one has none."""


def _net(flags):
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=False),
        nn.BatchNorm2d(3, **flags),
        nn.Tanh(),
        nn.Flatten(),
        nn.BatchNorm1d(48, **flags),
    ).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


FLAGS = (
    {},
    {"affine": False, "momentum": None},
    {"track_running_stats": False, "eps": 1e-3},
)


def _batch():
    generator = torch.Generator().manual_seed(3)
    # Far from zero: a one-pass variance would lose digits here.
    x = torch.randn(7, 2, 6, 6, dtype=torch.float64, generator=generator) * 2 + 30
    target = torch.randn(7, 48, dtype=torch.float64, generator=generator)
    return x, target


def _train(net, x, target):
    x = x.clone().requires_grad_()
    for scale in (1.0, 0.5):  # two batches for the running statistics
        y = net(x * scale)
    (y * target).sum().backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    return y.detach(), x.grad, gradients, buffers, net.eval()(x).detach()


def _ranks(rank, world):
    start, stop = CUTS[world][rank], CUTS[world][rank + 1]
    x, target = _batch()
    results = []
    for flags in FLAGS:
        for memory_format in (torch.contiguous_format, torch.channels_last):
            net = synchronise(_net(flags)).to(memory_format=memory_format)
            part = x[start:stop].contiguous(memory_format=memory_format)
            results.append(_train(net, part, target[start:stop]))
    return results


def _single_image(rank):
    """Two processes with one image each."""
    norm = synchronise(nn.BatchNorm1d(2))
    # One row in all: the process that has it and the one that has none both refuse.
    with pytest.raises(ConfigError, match="more than one value"):
        norm(torch.ones(1 - rank, 2))
    x = torch.tensor([[1.0, -1.0]]) * (1 if rank else -1)
    low = synchronise(nn.BatchNorm1d(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = low(x.bfloat16().requires_grad_())
    half.float().square().sum().backward()
    return norm(x).detach(), half.detach(), low.weight.grad


def _model():
    torch.manual_seed(4)
    encoder, width = build_encoder("convnet", channels=1, image_size=8, width=2)
    residual = ResNet("resnet18", channels=1, stem="small")
    head = projection_mlp(width + residual.width, 12, 6, layers=2)
    return nn.ModuleList([encoder, residual, head]).double()


def _coupled_loss(z):
    """A loss that couples all images, as contrastive ones do."""
    z = nn.functional.normalize(z, dim=1)
    return ((z @ z.T) * 3).exp().mean() - (z.roll(1, 0) * z).sum()


def _images():
    generator = torch.Generator().manual_seed(6)
    return torch.randn(10, 1, 8, 8, dtype=torch.float64, generator=generator)


def _loss(model, images):
    encoder, residual, head = model
    return _coupled_loss(gather(head(torch.cat([encoder(images), residual(images)], 1))))


def _step(rank):
    """One step of two processes, with the averaging that DistributedDataParallel does."""
    model = synchronise(_model())
    loss = _loss(model, _images()[:4] if rank == 0 else _images()[4:])
    loss.backward()
    mean = {n: all_reduce_sum(p.grad) / world_size() for n, p in model.named_parameters()}
    return loss.detach(), mean, model.state_dict()


def _everything(rank, world):
    out = {"parts": _ranks(rank, world)}
    return out if world > 2 else {**out, "single": _single_image(rank), "step": _step(rank)}


@pytest.fixture(scope="module")
def ranks(run_processes):
    """Results of the ranks of a world, each world computed once."""
    cached = {}

    def get(world):
        if world not in cached:
            cached[world] = run_processes(_everything, world=world)
        return cached[world]

    return get


@pytest.mark.ddp
def test_a_step_of_two_processes_is_the_step_of_one(ranks):
    model = _model()
    loss = _loss(model, _images())
    loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    assert len(expected) == 15 + 60 + 4
    buffers = {name: b for name, b in model.state_dict().items() if name not in expected}
    for value, gradients, state in (result["step"] for result in ranks(2)):
        torch.testing.assert_close(value, loss.detach(), rtol=1e-12, atol=0)
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            # 1e-10 of the largest: rounding of float64 through 26 layers with 10 images
            error = (gradients[name] - gradient).abs().max()
            assert error <= 1e-10 * gradient.abs().max(), name
        for name, buffer in buffers.items():
            torch.testing.assert_close(state[name], buffer, rtol=1e-11, atol=1e-12)


@pytest.mark.ddp
@pytest.mark.parametrize("world", [2, 3])
def test_processes_with_parts_equal_one_process_with_all(ranks, world):
    parts = [result["parts"] for result in ranks(world)]
    x, target = _batch()
    assert len(parts) == world
    assert all(len(results) == 2 * len(FLAGS) for results in parts)
    for case in range(2 * len(FLAGS)):
        expected = _train(_net(FLAGS[case // 2]), x, target)
        got = [results[case] for results in parts]
        # 1e-12: rounding of float64 at a condition number of (mean / std)^2 = 200.
        close = {"rtol": 1e-12, "atol": 1e-12}
        torch.testing.assert_close(torch.cat([g[0] for g in got]), expected[0], **close)
        torch.testing.assert_close(torch.cat([g[1] for g in got]), expected[1], **close)
        for name, gradient in expected[2].items():
            summed = sum(g[2][name] for g in got)
            torch.testing.assert_close(summed, gradient, rtol=1e-12, atol=1e-11)
        for g in got:
            assert g[3].keys() == expected[3].keys()
            for name, buffer in expected[3].items():
                torch.testing.assert_close(g[3][name], buffer, **close)
        # Without running statistics, eval mode normalises by the batch of all processes.
        torch.testing.assert_close(torch.cat([g[4] for g in got]), expected[4], **close)


@pytest.mark.ddp
def test_one_image_per_process_and_bfloat16_are_enough(ranks):
    for rank, (y, half, gradient) in enumerate(result["single"] for result in ranks(2)):
        sign = 1.0 if rank else -1.0
        torch.testing.assert_close(y, torch.tensor([[sign, -sign]]), rtol=1e-4, atol=1e-4)
        assert half.dtype == torch.bfloat16
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, torch.full((2,), 2.0), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("flags", FLAGS)
def test_in_one_process_it_is_the_built_in_one(flags):
    x, target = _batch()
    expected = _train(_net(flags), x, target)
    got = _train(synchronise(_net(flags)), x, target)
    for ours, theirs in ((got[i], expected[i]) for i in (0, 1, 4)):
        assert torch.equal(ours, theirs)
    for ours, theirs in ((got[i], expected[i]) for i in (2, 3)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_synchronise_keeps_state_identity_and_mode():
    net = _net({}).eval()
    before = dict(net.state_dict(keep_vars=True))
    norm = net[1]
    net.append(norm)
    parameters = list(net.parameters())
    assert synchronise(net) is net
    assert type(net[1]) is SynchronisedBatchNorm
    assert net[5] is net[1]
    assert not net[1].training
    after = net.state_dict(keep_vars=True)
    assert all(after[name] is before[name] for name in before)
    assert len(before) == 11
    assert all(p is q for p, q in zip(parameters, net.parameters(), strict=True))
    copy.deepcopy(net).load_state_dict(net.state_dict())
    assert "momentum=0.1" in repr(net[1])


def test_a_lone_batch_norm_is_replaced_in_the_return_value():
    assert isinstance(synchronise(nn.BatchNorm3d(2)), SynchronisedBatchNorm)
    assert isinstance(synchronise(nn.Linear(2, 2)), nn.Linear)


class _WithActivation(nn.BatchNorm2d):
    """The shape of timm's BatchNormAct2d."""

    def __init__(self, features):
        super().__init__(features)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


def test_batch_norm_with_an_activation_keeps_it():
    x = torch.randn(4, 3, 2, 2)
    net = nn.Sequential(_WithActivation(3))
    expected = copy.deepcopy(net)(x)
    assert torch.equal(synchronise(net)(x), expected)
    assert (expected == 0).any()


class _Unknown(nn.BatchNorm1d):
    pass


def test_an_unknown_kind_is_refused_and_nothing_changes():
    net = nn.Sequential(nn.BatchNorm1d(2), _Unknown(2))
    with pytest.raises(ConfigError, match="_Unknown"):
        synchronise(net)
    assert type(net[0]) is nn.BatchNorm1d


def test_an_input_with_the_wrong_axes_is_refused():
    with pytest.raises(ConfigError, match="axes"):
        synchronise(nn.BatchNorm2d(3))(torch.zeros(3, 4, 4))
