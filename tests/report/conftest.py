"""Fake run directories for the report."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fake_run():
    """Return the module `fake_run`: `fake_run.write(folder, ...)` makes a run directory."""
    spec = importlib.util.spec_from_file_location(
        "cognates_fake_run", Path(__file__).with_name("fake_run.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
