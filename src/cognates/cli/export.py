"""`cognates export`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cognates.cli.options import File, OptionalFile, RunFolder
from cognates.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Command:
    """Write an encoder's weights for another library.

    torchvision: a state dict that torchvision's ResNet of the same name loads with strict=False,
    everything but the classifier. The suffix decides the format: .safetensors, or .pth.
    """

    path: RunFolder
    """The folder of a finished run."""
    to: Literal["torchvision"]
    """The library."""
    out: File
    """The file to write."""
    plugin: OptionalFile = None
    """The file of a method that is not of the library; the run's own copy is RUN/plugin.py."""

    def run(self) -> None:
        """Write the file."""
        from cognates.evaluation.store import replace
        from cognates.model import Model
        from cognates.networks import to_torchvision

        out = Path(self.out)
        if out.suffix not in (".safetensors", ".pth", ".pt"):
            raise ConfigError(f"Expected a file ending in .safetensors or .pth, got '{out}'.")
        model = Model.read(self.path, device="cpu", plugin=self.plugin)
        tensors = to_torchvision(model.encoder)
        tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
        if out.suffix == ".safetensors":
            import safetensors.torch

            data = safetensors.torch.save(tensors)
        else:
            import torch

            buffer = io.BytesIO()
            torch.save(tensors, buffer)
            data = buffer.getvalue()
        replace(out, lambda file: file.write(data))
        print(f"{len(tensors)} tensors: {out}")
