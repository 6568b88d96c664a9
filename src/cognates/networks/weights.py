"""Reading encoder weights from other places and giving them to torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cognates.errors import ConfigError
from cognates.networks.resnet import ResNet

_CLASSIFIERS = ("fc", "head", "heads", "head_dist", "classifier", "last_linear")
"""First parts of the names that torchvision and timm give to a classifier's weights."""


def load_encoder_weights(encoder: nn.Module, path: str | Path) -> list[str]:
    """Load weights of torchvision, of timm or of an earlier run into an encoder.

    Args:
        encoder: the module to change; nothing changes if anything does not fit.
        path: a .pth, .pt, .bin or .safetensors file, or a run's folder. Pickled files are read with
            `weights_only=True`, so they cannot run code.

    Returns:
        The sorted names that were left out: a classifier's, or the heads' of a run.

    Raises:
        ConfigError: there is no such file, it is not a file of weights, or the weights are those of
            another network (another shape, some missing, or some too many).

    Example:
        >>> import tempfile
        >>> net = nn.Linear(2, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "net.pth"
        ...     torch.save({**nn.Linear(2, 3).state_dict(), "fc.bias": torch.zeros(1)}, file)
        ...     load_encoder_weights(net, file)
        ['fc.bias']
    """
    path = Path(path).expanduser()
    weights, skipped = _encoder_part(_read(_weight_file(path)))
    own = encoder.state_dict()
    unknown = [name for name in weights if name not in own]
    foreign = [name for name in unknown if name.split(".")[0] not in _CLASSIFIERS]
    _check_shapes(weights, own, path)
    # Files older than PyTorch 0.4.1 do not count batches; only momentum=None needs the count.
    missing = [n for n in own if n not in weights and not n.endswith("num_batches_tracked")]
    for names, what in ((missing, "lacks"), (foreign, "has, and this encoder lacks,")):
        if names:
            raise ConfigError(
                f"Expected weights of this encoder in '{path}', which {what} {len(names)} of them "
                f"({_some(names)}): choose the encoder that the file was made with."
            )
    encoder.load_state_dict({name: weights.get(name, own[name]) for name in own})
    return sorted([*skipped, *unknown])


def to_torchvision(encoder: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a ResNet as torchvision names and shapes them, without a classifier.

    Args:
        encoder: a `ResNet` with the standard stem and three channels.

    Returns:
        Contiguous copies on the CPU; torchvision's network of the same name loads them with
        `load_state_dict(weights, strict=False)` and misses `fc.weight` and `fc.bias` only.

    Raises:
        ConfigError: torchvision has no such network.

    Example:
        >>> len(to_torchvision(ResNet("resnet18")))
        120
    """
    if not isinstance(encoder, ResNet):
        raise ConfigError(
            f"Expected a ResNet for torchvision, got {type(encoder).__name__}: torchvision has no "
            "such network; its weights are in the run's model/weights.safetensors."
        )
    if encoder.stem != "standard" or encoder.channels != 3:
        raise ConfigError(
            "Expected the standard stem and 3 channels for torchvision, whose conv1.weight is "
            f"(64, 3, 7, 7), got {tuple(encoder.conv1.weight.shape)}: train with stem 'standard' "
            "and 3 channels."
        )
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in encoder.state_dict().items()
    }


def _weight_file(path: Path) -> Path:
    if path.is_dir():
        candidates = [path / folder / "weights.safetensors" for folder in ("model", "checkpoint")]
        found = next((file for file in candidates if file.is_file()), None)
        if found is None:
            raise ConfigError(
                f"Expected a run with weights, got the folder '{path}' without "
                "model/weights.safetensors or checkpoint/weights.safetensors."
            )
        return found
    if not path.is_file():
        raise ConfigError(f"Expected a file of weights or a run's folder, got '{path}': not found.")
    return path


def _read(path: Path) -> dict[str, Tensor]:
    import pickle
    import zipfile

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        KeyError,
    ) as error:
        raise ConfigError(
            f"Expected a file of tensors (.pth or .safetensors), got '{path}', which is something "
            "else or damaged: save the network's state dictionary, or fetch the file again."
        ) from error  # without torch's words, which advise to let the file run code
    # Training scripts, timm's too, put the weights beside other things.
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ConfigError(f"Expected a state dictionary in '{path}', got {type(content).__name__}.")
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ConfigError(f"Expected a state dictionary in '{path}', got one without tensors.")
    return tensors


def _encoder_part(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the encoder's weights by their own names, and the names of all others."""
    # DistributedDataParallel puts "module." before every name.
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    prefix = "encoder."
    if not any(name.startswith(prefix) for name in weights):
        return weights, []
    part = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    return part, [name for name in weights if not name.startswith(prefix)]


def _check_shapes(weights: dict[str, Tensor], own: dict[str, Tensor], path: Path) -> None:
    wrong = [n for n, w in weights.items() if n in own and w.shape != own[n].shape]
    if not wrong:
        return
    name = wrong[0]
    got, expected = tuple(weights[name].shape), tuple(own[name].shape)
    advice = "choose the encoder and the width that the file was made with."
    if len(wrong) == 1 and len(got) == len(expected) == 4:  # the first convolution alone
        if got[1] != expected[1]:
            advice = f"the file is for images of {got[1]} channels, this encoder for {expected[1]}."
        elif got[2:] != expected[2:]:
            advice = f"the file has a stem of {got[2]}x{got[3]}: choose the other 'stem'."
    raise ConfigError(
        f"Expected '{name}' of shape {expected} in '{path}', got {got} ({len(wrong)} of "
        f"{len(own)} differ): {advice}"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
