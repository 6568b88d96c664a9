"""ResNets against torchvision's names, shapes and outputs."""

import hashlib

import pytest
import torch

from cognates.errors import ConfigError
from cognates.networks.resnet import DEPTHS, ResNet
from cognates.networks.weights import to_torchvision

# Entries of the state dictionary, parameters, and SHA-256 of the lines "name shape" in order;
# made from torchvision 0.28.0 without `fc`.
FROZEN = {
    "resnet18": (
        120,
        11_176_512,
        "3e41db4eb3bc5ae8fb62876bd6641dbe6fe502d5928ffa7aeb1de1c4426ec318",
    ),
    "resnet34": (
        216,
        21_284_672,
        "3d6e9094c640cf42f19e1e7730a5063c412bba7501c0190e81b16b9d039da85d",
    ),
    "resnet50": (
        318,
        23_508_032,
        "3fd989592177b1c749e47c453801c32bd0aeb3f6ac2c08c91f91894389c5e192",
    ),
}


def _digest(state):
    lines = [f"{name} {tuple(tensor.shape)}" for name, tensor in state.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _randomise(network):
    """Give every parameter and buffer a value that shows if it is misplaced."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim == 1:
                tensor.normal_(0.5, 0.2, generator=generator)


def test_names_shapes_and_order_are_those_frozen_from_torchvision():
    assert set(FROZEN) == set(DEPTHS)
    for name, (entries, parameters, digest) in FROZEN.items():
        network = ResNet(name)
        state = network.state_dict()
        assert len(state) == entries
        assert sum(p.numel() for p in network.parameters()) == parameters
        assert _digest(state) == digest


@pytest.mark.parametrize("name", list(DEPTHS))
def test_with_the_same_weights_outputs_equal_torchvisions(torchvision, name):
    ours = ResNet(name)
    _randomise(ours)
    theirs = getattr(torchvision.models, name)(weights=None)
    result = theirs.load_state_dict(to_torchvision(ours), strict=False)
    assert sorted(result.missing_keys) == ["fc.bias", "fc.weight"]
    assert result.unexpected_keys == []
    theirs.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    for mode in (True, False):
        expected = theirs.train(mode)(images)
        # 1e-6: pooling by a mean over axes adds in another order than adaptive pooling.
        torch.testing.assert_close(ours.train(mode)(images), expected, rtol=1e-6, atol=1e-6)
        assert expected.std() > 1e-3


@pytest.mark.parametrize(
    ("name", "stem", "channels", "size"),
    [
        ("resnet18", "small", 1, 8),
        ("resnet18", "standard", 3, 96),
        ("resnet34", "small", 3, 13),
        ("resnet50", "standard", 1, 32),
        ("resnet50", "small", 4, 9),
    ],
)
def test_the_output_is_pooled_and_every_weight_learns(name, stem, channels, size):
    network = ResNet(name, stem=stem, channels=channels)
    y = network(torch.randn(3, channels, size, size))
    assert y.shape == (3, network.width)
    assert network.width == (2048 if name == "resnet50" else 512)
    (y * torch.randn_like(y)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert network.conv1.weight.grad.abs().max() > 0


def test_the_small_stem_keeps_the_resolution():
    network = ResNet("resnet18", stem="small")
    shapes = []
    for layer in (network.conv1, network.layer1, network.layer4):
        layer.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[2:])))
    network(torch.zeros(2, 3, 32, 32))
    assert shapes == [(32, 32), (32, 32), (4, 4)]
    standard = ResNet("resnet18")
    standard.layer1.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[2:])))
    standard(torch.zeros(2, 3, 224, 224))
    assert shapes[3:] == [(56, 56)]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_with_zero_last_every_block_starts_as_its_shortcut(name):
    network = ResNet(name, zero_last=True)
    last = "bn3" if name == "resnet50" else "bn2"
    zero = [n for n, p in network.named_parameters() if n.endswith("weight") and not p.any()]
    assert len(zero) == sum(DEPTHS[name])
    assert all(n.endswith(f"{last}.weight") for n in zero)
    block = network.layer1[1]
    x = torch.rand(2, 64 * block.expansion, 4, 4)
    assert torch.equal(block(x), x)


def test_convolutions_start_with_kaimings_variance():
    weight = ResNet("resnet50").layer4[0].conv2.weight
    # Normal with variance 2 / fan-out; 2.4 million draws: 0.5 % is more than four standard errors.
    assert abs(weight.var().item() / (2 / (512 * 9)) - 1) < 0.005


@pytest.mark.parametrize("arguments", [{"name": "resnet20"}, {"stem": "tiny"}, {"channels": 0}])
def test_unknown_networks_are_refused(arguments):
    with pytest.raises(ConfigError, match="resnet18, resnet34, resnet50"):
        ResNet(**{"name": "resnet18", **arguments})
