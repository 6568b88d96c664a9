"""Encoders by name, from timm, or brought along."""

from __future__ import annotations

import copy
import hashlib
from types import ModuleType

import torch
from torch import nn

from cognates.errors import CognatesError, ConfigError, MissingExtraError, nearest
from cognates.networks.convnet import ConvNet
from cognates.networks.mlp import MLP
from cognates.networks.resnet import DEPTHS, ResNet
from cognates.networks.spatial import SpatialConvNet, SpatialMLP, SpatialResNet

_BROUGHT: dict[str, nn.Module] = {}
"""Modules of the caller, by the name under which a configuration mentions them."""
_SPATIAL: dict[str, type[SpatialConvNet] | type[SpatialMLP] | type[SpatialResNet]] = {
    "vae-convnet": SpatialConvNet,
    "vae-mlp": SpatialMLP,
    "vae-resnet": SpatialResNet,
}
_SMALL = 64
"""Largest image size, in pixels, for which the stem `auto` is the small one."""


def encoder_names() -> list[str]:
    """Return the names of the encoders that are built in; `timm:NAME` are all of timm's.

    Example:
        >>> encoder_names()[:3], encoder_names()[-3:]
        (['convnet', 'mlp', 'resnet18'], ['vae-convnet', 'vae-mlp', 'vae-resnet'])
    """
    return ["convnet", "mlp", *DEPTHS, *_SPATIAL]


def build_encoder(
    name: str, *, channels: int, image_size: int, stem: str = "auto", width: int | None = None
) -> tuple[nn.Module, int]:
    """Make an encoder with random weights, drawn from torch's global generator.

    Args:
        name: one of `encoder_names()`, `timm:NAME` (needs the extra `timm`), or what `bring`
            returned in this process.
        channels: of the images, at least 1.
        image_size: height and width of the images in pixels, at least 1.
        stem: for the ResNets `standard`, `small` or `auto` (small up to 64 pixels); otherwise
            `auto`.
        width: convnet: channels of the first stage (default 32); mlp: features of every layer
            (default 512); otherwise None.

    Returns:
        A module (n, channels, image_size, image_size) -> (n, d), and d.

    Raises:
        ConfigError: the name is unknown (the nearest one is offered) or a setting does not go with
            it.
        MissingExtraError: timm is asked for and not installed.

    Example:
        >>> encoder, width = build_encoder("convnet", channels=1, image_size=28)
        >>> encoder(torch.zeros(2, 1, 28, 28)).shape, width
        (torch.Size([2, 256]), 256)
    """
    if channels < 1 or image_size < 1:
        raise ConfigError(
            f"Expected at least 1 channel and 1 pixel, got {channels} channels and images of size "
            f"{image_size}."
        )
    if stem not in ("auto", "standard", "small"):
        raise ConfigError(f"Expected the stem auto, standard or small, got '{stem}'.")
    if stem != "auto" and name not in DEPTHS:
        raise ConfigError(
            f"Expected the stem 'auto' for the encoder '{name}', got '{stem}': only ResNets have a "
            "choice of stem."
        )
    if width is not None and name not in ("convnet", "mlp"):
        raise ConfigError(
            f"Expected no 'width' for the encoder '{name}', got {width}: only convnet and mlp have "
            "one to choose."
        )
    if name in DEPTHS:
        small = stem == "small" or (stem == "auto" and image_size <= _SMALL)
        network = ResNet(name, channels=channels, stem="small" if small else "standard")
    elif name == "convnet":
        network = ConvNet(channels=channels, width=32 if width is None else width)
    elif name == "mlp":
        network = MLP(
            channels=channels, image_size=image_size, width=512 if width is None else width
        )
    elif name in _SPATIAL:
        network = _SPATIAL[name](channels=channels, image_size=image_size)
    elif name.startswith("custom:"):
        if name not in _BROUGHT:
            raise ConfigError(
                f"Expected the module '{name}' that the run was started with, got "
                f"{' and '.join(sorted(_BROUGHT)) or 'none'}: pass it again, as in "
                "cognates.load(path, encoder=module)."
            )
        network = copy.deepcopy(_BROUGHT[name])
        return as_encoder(network, channels=channels, image_size=image_size)
    elif name.startswith("timm:"):
        network = _timm_network(name.removeprefix("timm:"), channels, image_size)
        return as_encoder(network, channels=channels, image_size=image_size)
    else:
        raise ConfigError(
            f"Expected a known encoder, got '{name}': {nearest(name, encoder_names())}, timm:NAME."
        )
    return network, network.width


def bring(module: nn.Module) -> str:
    """Make a module of the caller's known in this process and return its name for `build_encoder`.

    A copy is taken: an encoder that is built starts from the weights that `module` has now. The
    name says which class it is and, by a digest, of which parts and shapes; a record with it cannot
    be built in a process where the module was not brought.

    Raises:
        ConfigError: another class of this name and these parts was brought before.

    Example:
        >>> bring(nn.Flatten())
        'custom:Flatten-7dce9aad'
    """
    name = f"custom:{type(module).__name__}-{_structure(module)}"
    known = _BROUGHT.get(name)
    if known is not None and _home(known) != _home(module):
        raise ConfigError(
            f"Expected classes of different names for different encoders, got {_home(known)} and "
            f"{_home(module)} with the same parts: rename one of them."
        )
    _BROUGHT[name] = copy.deepcopy(module)
    return name


def as_encoder(module: nn.Module, *, channels: int, image_size: int) -> tuple[nn.Module, int]:
    """Accept any module as an encoder and find out how wide its output is.

    The width is that of the output for two black images, in eval mode and without a gradient;
    afterwards every submodule is in its former mode. (Attributes such as timm's `num_features` are
    not trusted: for some networks they name the width before the last layer.)

    Args:
        module: (n, channels, image_size, image_size) -> (n, d).
        channels: of the images, at least 1.
        image_size: height and width of the images in pixels, at least 1.

    Returns:
        `module` itself, and d.

    Raises:
        ConfigError: the module does not take such images, or returns something else.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        >>> as_encoder(net, channels=3, image_size=2)[1]
        5
    """
    parameter = next(module.parameters(), torch.zeros(()))
    images = torch.zeros(
        (2, channels, image_size, image_size), dtype=parameter.dtype, device=parameter.device
    )
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            output = module(images)
    except CognatesError:
        raise
    except Exception as error:
        raise ConfigError(
            f"Expected an encoder that takes images of shape {tuple(images.shape)}, got "
            f"{type(error).__name__} from {type(module).__name__}: {error}"
        ) from error
    finally:
        for part, training in modes:
            part.training = training
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != 2:
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ConfigError(
            f"Expected an encoder that returns (n, d), got {got} from {type(module).__name__} for "
            "n = 2: pool and flatten its output, and remove its classifier."
        )
    return module, output.shape[1]


def _structure(module: nn.Module) -> str:
    """Return a digest of a module's parts and of the names and shapes of its weights."""
    parts = [(name, type(part).__name__) for name, part in module.named_modules()]
    shapes = [
        # A lazy module has no shape before its first forward pass.
        (name, None if nn.parameter.is_lazy(tensor) else tuple(tensor.shape))
        for name, tensor in module.state_dict(keep_vars=True).items()
    ]
    return hashlib.blake2b(repr((parts, shapes)).encode(), digest_size=4).hexdigest()


def _home(module: nn.Module) -> str:
    # Not the class itself: a notebook's cell that runs again makes a new one.
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _timm_network(name: str, channels: int, image_size: int) -> nn.Module:
    timm = _import_timm()
    settings: dict[str, object] = {"pretrained": False, "num_classes": 0, "in_chans": channels}
    try:
        network = timm.create_model(name, **settings)
        recorded = getattr(network, "pretrained_cfg", None) or {}
        fixed = recorded.get("fixed_input_size", False)
        if fixed and tuple(recorded["input_size"][-2:]) != (image_size, image_size):
            # A vision transformer has position embeddings for one size.
            network = timm.create_model(name, img_size=image_size, **settings)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        known = timm.list_models()
        if name.split(".")[0] not in known:
            raise ConfigError(
                f"Expected a model of timm, got '{name}': {_nearest_three(name, known)}."
            ) from error
        raise ConfigError(
            f"Expected a model of timm that takes {channels} channels of {image_size} pixels, got "
            f"'{name}', which does not: {error}"
        ) from error
    return network


def _import_timm() -> ModuleType:
    try:
        import timm  # pyright: ignore[reportMissingImports]  (an extra)
    except ImportError as error:
        raise MissingExtraError(
            "Expected timm for an encoder 'timm:NAME', got no such package: install it with "
            "pip install 'cognates[timm]'."
        ) from error
    except RuntimeError as error:
        # torchvision registers compiled operators, and fails so beside another build of torch.
        raise MissingExtraError(
            f"Expected a timm that imports, got '{error}': install the torchvision that belongs to "
            f"torch {torch.__version__}."
        ) from error
    return timm


def _nearest_three(name: str, known: list[str]) -> str:
    # `errors.nearest` lists all that is known, and timm knows more than a thousand.
    import difflib

    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}" if close else "timm.list_models() lists them"
