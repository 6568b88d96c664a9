"""Self-supervised image representations that know how sure they are.

```python
import cognates

run = cognates.train("vi-simsiam", data="folder:photos", out="runs/photos", epochs=50)
model = cognates.load("runs/photos")
representation, uncertainty = model.embed(images)
```

Names are imported when they are first used, so `import cognates` costs milliseconds and loads no
numerical library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cognates import (
        data,
        distributions,
        evaluation,
        kernels,
        methods,
        networks,
        objectives,
        recipes,
        report,
        training,
    )
    from cognates.api import Model, Run, evaluate, load, train
    from cognates.config import RunConfig
    from cognates.errors import CognatesError
    from cognates.fitting import fit_uncertainty
    from cognates.types import Embedding, Features, Result

__version__ = "0.1.0"

_NAMES = {
    "CognatesError": "cognates.errors",
    "Embedding": "cognates.types",
    "Features": "cognates.types",
    "Model": "cognates.api",
    "Result": "cognates.types",
    "Run": "cognates.api",
    "RunConfig": "cognates.config",
    "evaluate": "cognates.api",
    "fit_uncertainty": "cognates.fitting",
    "load": "cognates.api",
    "train": "cognates.api",
}
_SUBPACKAGES = (
    "data",
    "distributions",
    "evaluation",
    "kernels",
    "methods",
    "networks",
    "objectives",
    "recipes",
    "report",
    "training",
)

__all__ = [
    "CognatesError",
    "Embedding",
    "Features",
    "Model",
    "Result",
    "Run",
    "RunConfig",
    "__version__",
    "data",
    "distributions",
    "evaluate",
    "evaluation",
    "fit_uncertainty",
    "kernels",
    "load",
    "methods",
    "networks",
    "objectives",
    "recipes",
    "report",
    "train",
    "training",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for."""
    if name in _NAMES:
        value: object = getattr(importlib.import_module(_NAMES[name]), name)
    elif name in _SUBPACKAGES:
        value = importlib.import_module(f"cognates.{name}")
    else:
        raise AttributeError(f"module 'cognates' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
