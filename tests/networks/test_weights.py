"""Weights of other libraries and of earlier runs."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cognates.errors import ConfigError
from cognates.networks import build_encoder, load_encoder_weights, to_torchvision
from cognates.networks.resnet import ResNet


def _state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _equal(state, other):
    assert state.keys() == other.keys()
    return all(torch.equal(state[name], other[name]) for name in state)


def assert_refused(network, path, message):
    """Loading fails with the message and changes nothing."""
    before = _state(network)
    with pytest.raises(ConfigError, match=message):
        load_encoder_weights(network, path)
    assert _equal(_state(network), before)


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(9)
    return ResNet("resnet18")


@pytest.fixture
def torchvision_file(tmp_path, source):
    path = tmp_path / "resnet18-f37072fd.pth"
    classifier = {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    torch.save({**source.state_dict(), **classifier}, path)
    return path


def test_a_torchvision_file_loads_without_its_classifier(torchvision_file, source):
    network = ResNet("resnet18")
    parameters = [id(p) for p in network.parameters()]
    assert load_encoder_weights(network, torchvision_file) == ["fc.bias", "fc.weight"]
    assert _equal(_state(network), source.state_dict())
    assert [id(p) for p in network.parameters()] == parameters


@pytest.mark.parametrize("form", ["safetensors", "state_dict", "model", "module", "no-counts"])
def test_other_files_load_as_well(tmp_path, source, form):
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    state = _state(source)
    if form == "safetensors":
        save_file(state, path)
    elif form == "module":
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    elif form == "no-counts":
        torch.save({n: t for n, t in state.items() if not n.endswith("batches_tracked")}, path)
    else:
        torch.save({form: state, "epoch": 3}, path)
    network = ResNet("resnet18")
    assert load_encoder_weights(network, str(path)) == []
    assert _equal(_state(network), state)


@pytest.mark.parametrize("folder", ["model", "checkpoint"])
def test_a_run_loads_without_its_heads(tmp_path, source, folder):
    (tmp_path / folder).mkdir()
    state = {f"encoder.{name}": tensor for name, tensor in source.state_dict().items()}
    heads = {"projector.0.weight": torch.zeros(2, 2), "predictor.0.weight": torch.ones(2)}
    save_file({**state, **heads}, tmp_path / folder / "weights.safetensors")
    network = ResNet("resnet18")
    assert load_encoder_weights(network, tmp_path) == sorted(heads)
    assert _equal(_state(network), source.state_dict())


def test_the_finished_model_of_a_run_goes_before_its_checkpoint(tmp_path):
    for folder, value in (("checkpoint", 1.0), ("model", 2.0)):
        (tmp_path / folder).mkdir()
        weights = {"encoder.weight": torch.full((1, 1), value), "encoder.bias": torch.zeros(1)}
        save_file(weights, tmp_path / folder / "weights.safetensors")
    network = nn.Linear(1, 1)
    load_encoder_weights(network, tmp_path)
    assert network.weight.item() == 2.0


def test_weights_are_converted_to_the_encoders_dtype(torchvision_file, source):
    network = ResNet("resnet18").double()
    load_encoder_weights(network, torchvision_file)
    assert network.conv1.weight.dtype == torch.float64
    assert torch.equal(network.conv1.weight.float(), source.conv1.weight)


def test_another_number_of_channels_is_said_so(torchvision_file):
    message = r"conv1.weight.*\(64, 1, 7, 7\).*images of 3 channels, this encoder for 1"
    assert_refused(ResNet("resnet18", channels=1), torchvision_file, message)


def test_another_stem_is_said_so(torchvision_file):
    assert_refused(ResNet("resnet18", stem="small"), torchvision_file, "stem of 7x7.*other 'stem'")


def test_another_network_isassert_refused(tmp_path, torchvision_file):
    assert_refused(ResNet("resnet34"), torchvision_file, "lacks 80 of them")
    assert_refused(ResNet("resnet50"), torchvision_file, "differ")
    # Every weight of a ResNet-18 has its namesake of the same shape in a ResNet-34.
    deeper = tmp_path / "resnet34.pth"
    torch.save(ResNet("resnet34").state_dict(), deeper)
    assert_refused(
        ResNet("resnet18"), deeper, r"this encoder lacks, 96 of them \(layer1.2.conv1.weight"
    )
    wide, _ = build_encoder("convnet", channels=3, image_size=32, width=8)
    torch.save(wide.state_dict(), tmp_path / "wide.pth")
    narrow, _ = build_encoder("convnet", channels=3, image_size=32, width=4)
    assert_refused(narrow, tmp_path / "wide.pth", "the width that the file was made with")


def test_what_is_no_file_of_weights_isassert_refused(tmp_path):
    network = nn.Linear(1, 1)
    assert_refused(network, tmp_path / "missing.pth", "not found")
    assert_refused(network, tmp_path, "model/weights.safetensors or checkpoint")
    files = {"text.pth": b"hello", "empty.pth": b"", "text.safetensors": b"hello"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert_refused(network, tmp_path / name, name)
    torch.save([1, 2], tmp_path / "list.pt")
    assert_refused(network, tmp_path / "list.pt", "got list")
    torch.save({"epoch": 1}, tmp_path / "none.pt")
    assert_refused(network, tmp_path / "none.pt", "without tensors")


def test_a_file_cut_in_half_isassert_refused(torchvision_file, tmp_path):
    for name in ("cut.pth", "cut.safetensors"):
        content = torchvision_file.read_bytes()
        if name.endswith("safetensors"):
            save_file({"weight": torch.zeros(100)}, tmp_path / name)
            content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        assert_refused(ResNet("resnet18"), tmp_path / name, name)


class _Evil:
    def __reduce__(self):
        return (print, ("code was run",))


def test_a_pickle_cannot_run_code(tmp_path, capsys):
    torch.save({"weight": torch.zeros(1, 1), "more": _Evil()}, tmp_path / "evil.pth")
    assert_refused(nn.Linear(1, 1), tmp_path / "evil.pth", "Expected a file of tensors")
    assert "code was run" not in capsys.readouterr().out
    with pytest.raises(ConfigError) as caught:
        load_encoder_weights(nn.Linear(1, 1), tmp_path / "evil.pth")
    assert "weights_only" not in str(caught.value)  # torch advises to switch the protection off


def test_weights_for_torchvision_are_copies_that_load_back(tmp_path, source):
    weights = to_torchvision(source)
    assert len(weights) == 120
    assert all(tensor.is_contiguous() for tensor in weights.values())
    weights["conv1.weight"].zero_()
    assert source.conv1.weight.abs().max() > 0
    torch.save(to_torchvision(source), tmp_path / "export.pth")
    network = ResNet("resnet18")
    assert load_encoder_weights(network, tmp_path / "export.pth") == []
    assert _equal(_state(network), source.state_dict())


def test_networks_that_torchvision_has_not_are_not_exported():
    convnet, _ = build_encoder("convnet", channels=3, image_size=32)
    with pytest.raises(ConfigError, match="ConvNet"):
        to_torchvision(convnet)
    with pytest.raises(ConfigError, match=r"standard stem.*\(64, 3, 3, 3\)"):
        to_torchvision(ResNet("resnet18", stem="small"))
    with pytest.raises(ConfigError, match=r"\(64, 1, 7, 7\)"):
        to_torchvision(ResNet("resnet18", channels=1))
