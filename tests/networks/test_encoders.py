"""convnet, mlp and the registry."""

import builtins
import sys
import types
import warnings

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cognates.errors import ConfigError, MissingExtraError
from cognates.networks import as_encoder, bring, build_encoder, encoder_names
from cognates.networks.convnet import ConvNet
from cognates.networks.mlp import MLP


def test_convnet_takes_5_to_10_million_multiply_adds_per_cifar_image():
    for channels, size, millions in ((3, 32, 6.12), (1, 28, 5.13)):
        network = ConvNet(channels=channels)
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(2, channels, size, size))
        multiply_adds = counter.get_total_flops() / 2 / 2
        assert 5e6 <= multiply_adds <= 10e6
        assert abs(multiply_adds / 1e6 - millions) < 0.01
    assert sum(p.numel() for p in ConvNet(channels=3).parameters()) == 425_888


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 9, 28, 32, 96, 224])
def test_convnet_takes_any_size_and_learns(channels, size):
    network = ConvNet(channels=channels)
    y = network(torch.randn(3, channels, size, size))
    assert y.shape == (3, 256)
    (y * torch.randn_like(y)).sum().backward()
    gradients = [p.grad for p in network.parameters()]
    assert len(gradients) == 15
    assert all(g.isfinite().all() for g in gradients)
    assert gradients[0].abs().max() > 0


def test_convnet_has_four_stages_and_a_choice_of_width():
    widths = [layer[0].out_channels for layer in ConvNet(width=32).layers]
    assert widths == [32, 64, 64, 128, 256]
    assert ConvNet(width=48)(torch.zeros(2, 3, 32, 32)).shape == (2, 384)
    with pytest.raises(ConfigError, match="at least 1"):
        ConvNet(width=0)


def test_the_memory_layout_changes_nothing_and_weights_stay_contiguous():
    for channels in (1, 3):
        network = ConvNet(channels=channels).eval()
        images = torch.randn(4, channels, 32, 32)
        inside = []
        network.layers[2].register_forward_hook(lambda _m, _i, out, seen=inside: seen.append(out))
        y = network(images)
        assert inside[0].is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(y, network(images.contiguous(memory_format=torch.channels_last)))
        # safetensors refuses tensors that are not contiguous.
        assert all(tensor.is_contiguous() for tensor in network.state_dict().values())
        x = images
        for layer in network.layers:
            x = layer(x.contiguous())
        # float32, sums of up to 1,152 products in another order
        torch.testing.assert_close(y, x.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_mlp_is_for_one_size_of_small_images():
    network = MLP(channels=3, image_size=16)
    assert network(torch.randn(5, 3, 16, 16)).shape == (5, 512)
    assert [m.out_features for m in network.layers if isinstance(m, nn.Linear)] == [512] * 3
    with pytest.raises(ConfigError, match=r"\(3, 16, 16\).*\(3, 8, 32\)"):
        network(torch.randn(5, 3, 8, 32))
    with pytest.raises(ConfigError, match="convnet"):
        MLP(image_size=224)
    with pytest.raises(ConfigError, match="width"):
        MLP(image_size=8, width=0)


@pytest.mark.parametrize("name", encoder_names())
@pytest.mark.parametrize("channels", [1, 3])
def test_every_name_builds_an_encoder_of_the_width_it_says(name, channels):
    encoder, width = build_encoder(name, channels=channels, image_size=16)
    assert encoder(torch.zeros(2, channels, 16, 16)).shape == (2, width)
    assert as_encoder(encoder, channels=channels, image_size=16) == (encoder, width)


def test_there_are_eight_names():
    spatial = ["vae-convnet", "vae-mlp", "vae-resnet"]
    assert encoder_names() == ["convnet", "mlp", "resnet18", "resnet34", "resnet50", *spatial]


def test_the_stem_is_small_up_to_64_pixels_unless_asked_for():
    def kernel(size, stem="auto"):
        encoder, _ = build_encoder("resnet18", channels=3, image_size=size, stem=stem)
        return encoder.conv1.kernel_size[0]

    assert (kernel(64), kernel(65), kernel(32, "standard"), kernel(224, "small")) == (3, 7, 7, 3)


def test_width_goes_to_convnet_and_mlp():
    assert build_encoder("convnet", channels=1, image_size=28, width=8)[1] == 64
    assert build_encoder("mlp", channels=1, image_size=28, width=100)[1] == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet81"}, "did you mean 'resnet18'"),
        ({"name": "convnext"}, "did you mean 'convnet'.*timm:NAME"),
        ({"name": "resnet18", "width": 64}, "no 'width'"),
        ({"name": "convnet", "stem": "small"}, "stem 'auto'"),
        ({"name": "resnet18", "stem": "big"}, "standard or small"),
        ({"name": "resnet18", "channels": 0}, "at least 1 channel"),
        ({"name": "convnet", "width": 0}, "at least 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_encoder(**{"channels": 3, "image_size": 32, **arguments})


class _Misleading(nn.Module):
    """An encoder whose `num_features` is not its output width, as some of timm's."""

    num_features = 7

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4).eval()

    def forward(self, images):
        return self.norm(self.first(images)).mean((2, 3))


def test_any_module_is_an_encoder_and_is_left_as_it_was():
    module = _Misleading().double()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    encoder, width = as_encoder(module, channels=3, image_size=8)
    assert encoder is module
    assert width == 4
    assert (module.training, module.first.training, module.norm.training) == (True, True, False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert (
        as_encoder(nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten()), channels=2, image_size=3)[1]
        == 4
    )


def test_modules_that_are_brought_go_by_class_and_structure():
    def net(width):
        return nn.Sequential(nn.Flatten(), nn.Linear(12, width))

    names = [bring(net(3)), bring(net(5)), bring(nn.Sequential(nn.Linear(12, 3)))]
    assert len(set(names)) == 3
    assert bring(net(3)) == names[0]
    assert build_encoder(names[1], channels=3, image_size=2)[1] == 5
    assert bring(nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten())).startswith("custom:Sequential-")
    with pytest.raises(ConfigError, match=f"'custom:Sequential-0'.*got .*{names[0]}"):
        build_encoder("custom:Sequential-0", channels=3, image_size=2)


def test_two_classes_of_one_name_with_the_same_parts_are_refused():
    one, other = (type("Same", (nn.Flatten,), {"__module__": home}) for home in ("a", "b"))
    name = bring(one())
    assert bring(type("Same", (nn.Flatten,), {"__module__": "a"})()) == name
    with pytest.raises(ConfigError, match=r"got a\.Same and b\.Same with the same parts: rename"):
        bring(other())


def test_a_module_that_is_no_encoder_is_refused_and_keeps_its_mode():
    with pytest.raises(ConfigError, match=r"\(n, d\), got \(2, 4, 6, 6\) from Conv2d"):
        as_encoder(nn.Conv2d(3, 4, 3), channels=3, image_size=8)
    module = nn.Linear(5, 5)
    with pytest.raises(ConfigError, match="RuntimeError from Linear"):
        as_encoder(module, channels=3, image_size=8)
    assert module.training
    with pytest.raises(ConfigError, match="got tuple"):
        as_encoder(_Pair(), channels=3, image_size=8)


class _Pair(nn.Module):
    def forward(self, images):
        return images, images


def _fake_timm(calls):
    class Network(nn.Module):
        def __init__(self, in_chans, size):
            super().__init__()
            self.pretrained_cfg = {
                "input_size": (3, 224, 224),
                "fixed_input_size": size is not None,
            }
            self.size, self.num_features = size, 11
            self.conv = nn.Conv2d(in_chans, 6, 1)

        def forward(self, images):
            assert self.size in (None, images.shape[-1])
            return self.conv(images).mean((2, 3))

    def create_model(name, **settings):
        calls.append((name, settings))
        if name == "tiny":
            return Network(settings["in_chans"], None)
        if name == "vit_tiny":
            return Network(settings["in_chans"], settings.get("img_size", 224))
        raise RuntimeError(f"Unknown model ({name})")

    module = types.ModuleType("timm")
    module.create_model = create_model
    module.list_models = lambda: ["tiny", "vit_tiny"]
    return module


def test_timm_networks_are_made_without_a_classifier_for_the_images_at_hand(monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "timm", _fake_timm(calls))
    encoder, width = build_encoder("timm:tiny", channels=1, image_size=48)
    assert width == 6
    assert encoder.training
    settings = {"pretrained": False, "num_classes": 0, "in_chans": 1}
    assert calls == [("tiny", settings)]
    # A transformer has a fixed input size: it is made again for the size asked for.
    encoder, width = build_encoder("timm:vit_tiny", channels=3, image_size=48)
    assert encoder(torch.zeros(2, 3, 48, 48)).shape == (2, 6)
    assert calls[-1][1]["img_size"] == 48
    with pytest.raises(ConfigError, match="got 'tinny': did you mean tiny"):
        build_encoder("timm:tinny", channels=3, image_size=48)


def test_without_timm_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"cognates\[timm\]"):
        build_encoder("timm:resnet18", channels=3, image_size=32)


def test_a_timm_that_does_not_import_is_one_sentence(monkeypatch):
    def refuse(name, *arguments, real=builtins.__import__, **options):
        if name == "timm":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"torchvision::nms.*belongs to torch 2\."):
        build_encoder("timm:resnet18", channels=3, image_size=32)


@pytest.fixture(scope="module")
def timm(torchvision):
    """Import timm, which imports torchvision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("timm")


def test_the_real_timm_works(timm):
    assert len(timm.list_models()) > 1000
    for name in ("resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224"):
        encoder, width = build_encoder(f"timm:{name}", channels=1, image_size=64)
        assert encoder.eval()(torch.zeros(2, 1, 64, 64)).shape == (2, width)
    with pytest.raises(ConfigError, match="resnet18"):
        build_encoder("timm:resnet181", channels=3, image_size=32)
