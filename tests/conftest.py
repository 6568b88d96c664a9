"""What all tests share: seeds, one thread, the `../shared` folder and real processes."""

import importlib
import importlib.util
import random
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed():
    """Seed every global generator, so that a test is the same alone and in company."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (scikit-learn draws from it where no seed is given)
    torch.manual_seed(0)
    return 0


@pytest.fixture(scope="session")
def shared():
    """Return the folder of reference material beside the repository, or skip."""
    folder = Path(__file__).parents[1] / ".." / "shared"
    if not folder.is_dir():
        pytest.skip("there is no ../shared folder")
    return folder.resolve()


@pytest.fixture(scope="session")
def run_processes():
    """Return `run(function, *arguments, world=2, timeout=60.0)`; see `processes.py`."""
    spec = importlib.util.spec_from_file_location(
        "cognates_test_processes", Path(__file__).with_name("processes.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run


@pytest.fixture(scope="session")
def torchvision():
    """Import torchvision, also where its compiled part does not fit a torch without CUDA."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield importlib.import_module("torchvision")
            return
        except ImportError:
            pytest.skip("torchvision is not installed")
        except RuntimeError:
            for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
        # The two operators whose schema torchvision's Python part expects when it is imported.
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        yield importlib.import_module("torchvision")
